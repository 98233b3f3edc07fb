//! A worker of `benches/gpu/run.py`. It does one kind of work once per line on standard input, and
//! prints the milliseconds of each repetition, which end when the device has computed everything.
//!
//! `gpu <work> <cpu|cuda> <fp32|tf32|bf16> <batch> <times> <teacher> [student]`. The work is
//! `gradient` (of the synthesis loss; `times` evaluations), `recover` (`times` steps on one batch,
//! views and optimiser included), `relabel` or `train` (`times` batches, the teacher with the
//! statistics of the batch). The first output line is JSON and describes the worker.

#[path = "../setting/mod.rs"]
mod setting;
#[path = "../worker/mod.rs"]
mod worker;

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use ndarray::Array4;
use rand_chacha::ChaCha8Rng;
use scdd::config::{Experiment, RecoverConfig};
use scdd::data::{DataError, Dataset, Resample, Shift, Size, View};
use scdd::labels::LabelStore;
use scdd::progress::Silent;
use scdd::recover::{Point, Recover};
use scdd::relabel::{LabelPlace, Relabel, Teachers};
use scdd::synthesis::{PlanOptions, SynthesisPlan};
use scdd::teacher::{Bundle, Network as _, Runtime};
use scdd::threads::Threads;
use scdd::validate::{Forgetful, Student, TrainingData, TrainingLabels};
use scdd::views::Views;
use scdd::{cuda, rng};
use serde_json::json;
use tch::{Device, Kind, Tensor};

/// Steps of a recovery before its time is taken.
const WARM_UP: u32 = 3;
/// The recipe's shift of 32 pixels, as a part of its 224.
const SHIFT: usize = 7;

fn main() -> Result<()> {
    // SAFETY: main has just begun and has started no thread.
    unsafe { scdd::worker::memory::keep_freed() };
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [work, device, precision, batch, times, teacher, student @ ..] = args.as_slice() else {
        println!("gpu: a worker of benches/gpu/run.py; nothing to do by itself");
        return Ok(());
    };
    let load = |path: &String| Bundle::load(Path::new(path));
    let bench = Bench {
        device: open(device, precision)?,
        bf16: precision == "bf16",
        tf32: precision != "fp32",
        batch: batch.parse().context("the batch")?,
        times: times.parse().context("the times")?,
        teacher: load(teacher)?,
    };
    match work.as_str() {
        "gradient" => bench.gradient(),
        "recover" => bench.recover(),
        "relabel" => bench.relabel(),
        "train" => bench.train(&load(student.first().context("`train` needs a student")?)?),
        other => bail!("unknown work {other}"),
    }
}

fn open(device: &str, precision: &str) -> Result<Device> {
    if device == "cpu" {
        return Ok(Device::Cpu);
    }
    cuda::load()?;
    cuda::set_precision(precision != "fp32").map_err(anyhow::Error::msg)?;
    Ok(Device::Cuda(0))
}

struct Bench {
    device: Device,
    bf16: bool,
    tf32: bool,
    batch: u32,
    times: u32,
    teacher: Bundle,
}

impl Bench {
    /// Waits until the device has computed everything.
    fn wait(&self) {
        if let Device::Cuda(number) = self.device {
            tch::Cuda::synchronize(number as i64);
        }
    }

    fn options(&self) -> PlanOptions {
        PlanOptions { device: self.device, bf16: self.bf16, ..PlanOptions::default() }
    }

    /// The classes of a batch, in turn.
    fn classes(&self) -> Vec<u32> {
        (0..self.batch).map(|i| i % self.teacher.manifest.classes.len() as u32).collect()
    }

    fn gradient(&self) -> Result<()> {
        let shape = self.teacher.image_shape().map(|side| side as i64);
        let shape = [i64::from(self.batch), shape[0], shape[1], shape[2]];
        let classes: Vec<i64> = self.classes().into_iter().map(i64::from).collect();
        let targets = Tensor::from_slice(&classes).to_device(self.device);
        // A pattern that other programs make as easily: they check that they compute the same.
        let input = Tensor::arange(shape.iter().product::<i64>(), (Kind::Double, Device::Cpu));
        let input = (input * 0.7).sin().to_kind(Kind::Float).reshape(shape).to_device(self.device);
        let objective = self.teacher.objective(0.01, 10.0, self.device);
        let mut plan =
            SynthesisPlan::compile(&self.teacher.graph, &objective, shape, self.options())?;
        let found = plan.evaluate(&input, &targets)?;
        let norm = f64::try_from(found.gradient.norm())?;
        let about = json!({ "loss": found.loss, "gradient_norm": norm });
        worker::serve(&about, || {
            for _ in 0..self.times {
                plan.evaluate_unread(&input, Some(&targets))?;
            }
            self.wait();
            Ok(())
        })
    }

    fn recover(&self) -> Result<()> {
        let config = recover_config(WARM_UP + self.times + 1)?;
        let recover = Recover::new(&self.teacher, &config, self.options())?;
        let [channels, height, width] = self.teacher.image_shape();
        let start = Array4::zeros((self.batch as usize, channels, height, width));
        let (size, classes) = (Size { height, width }, self.classes());
        worker::serve_timed(&json!({}), || {
            let mut stream = rng::stream(0, "bench/views", 0);
            let (mut began, mut ended) = (Instant::now(), Instant::now());
            let mut views = |step| {
                // The last step also measures gradients, once in a recovery of thousands of steps.
                if step == WARM_UP || step == WARM_UP + self.times {
                    self.wait();
                    (began, ended) = (ended, Instant::now());
                }
                (0..self.batch).map(|_| view(&mut stream, size)).collect()
            };
            recover.optimise(start.clone(), &classes, &mut views, &mut |_: Point| ())?;
            Ok(ended - began)
        })
    }

    fn relabel(&self) -> Result<()> {
        let folder = tempfile::tempdir()?;
        self.labelling(&folder.path().join("labels.scdd"), |label| worker::serve(&json!({}), label))
    }

    /// Gives `work` a function that labels `times` batches into the store `path`, by libtorch,
    /// which computes statistics of batches.
    fn labelling(
        &self,
        path: &Path,
        work: impl FnOnce(&mut dyn FnMut() -> Result<()>) -> Result<()>,
    ) -> Result<()> {
        let keys = format!("batch_size: {}, teacher_bn: batch", self.batch);
        let (protocol, runtime) = (setting::protocol(&keys)?, Runtime::open(None)?);
        let place = LabelPlace { tensors: self.device, tf32: self.tf32 };
        let bundles = [(&self.teacher, 1.0)];
        let threads = Threads::all();
        let mut teachers =
            Teachers::open(&bundles, &runtime, &protocol.relabel, place, &threads, &|_| ())?;
        let relabel = Relabel { config: &protocol.relabel, formation: 1, seed: 0, key: "bench" };
        let images = self.images();
        work(&mut || Ok(relabel.run(&images, &mut teachers, path, &Silent, &mut |_| Ok(()))?))
    }

    /// The images of `times` batches.
    fn images(&self) -> Dataset {
        setting::noise(&self.teacher, (self.batch * self.times) as usize, 0)
    }

    fn train(&self, bundle: &Bundle) -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("labels.scdd");
        self.labelling(&path, |label| label())?;
        let labels = LabelStore::open(&path)?;
        let protocol = setting::protocol(&format!("batch_size: {}", self.batch))?;
        let images = self.images();
        let test = setting::noise(&self.teacher, 1, 1);
        let mut student = Student::new(bundle, 0, self.device, Threads::all())?;
        let [_, height, width] = bundle.image_shape();
        let views = Views::new(&protocol.relabel, 1, 0, &images, Size { height, width });
        let data = TrainingData { images: &images, views, labels: TrainingLabels::OfViews(labels) };
        worker::serve(&json!({}), || {
            student.train(&data, &test, &protocol.validate, &mut Forgetful, &Silent)?;
            self.wait();
            Ok(())
        })
    }
}

/// SRe2L's recipe for ImageNet, this many steps long.
fn recover_config(iterations: u32) -> Result<RecoverConfig> {
    let text = format!(
        "name: bench\ndata: none\nteachers: t\nstudents: []\nipc: 1\nrecover: {{preset: sre2l-imagenet, iterations: {iterations}}}\n"
    );
    let experiment = Experiment::from_yaml(&text, Path::new("bench.yaml"), &[])?;
    experiment.methods.into_values().next().context("the experiment has no method")
}

/// The view of one image as that recipe draws it.
fn view(stream: &mut ChaCha8Rng, size: Size) -> Result<Resample, DataError> {
    let crop = View::random_resized_crop(stream, size, (0.08, 1.0), (0.75, 4.0 / 3.0))?;
    let crop = crop.with_random_flip(stream, 0.5);
    let shift = Shift::random(stream, (size.height / SHIFT) as u16);
    Ok(Resample::new(&crop, size, size)?.roll_output(shift))
}
