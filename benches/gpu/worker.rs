//! A worker of `benches/gpu/run.py`. It does one kind of work once per line on standard input, and
//! prints the milliseconds of each repetition, which end when the device has computed everything.
//!
//! `gpu <work> <cpu|cuda> <fp32|tf32|bf16> <batch> <times> <teacher> [student]`. The work is
//! `gradient` (of the synthesis loss; `times` evaluations), `recover` (`times` steps on one batch,
//! views and optimiser included), `relabel` or `train` (`times` batches, the teacher with the
//! statistics of the batch). The first output line is JSON and describes the worker. `compare`
//! times nothing: its one line says how far labels and a student's epoch are from those of the CPU.

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
use scdd::relabel::{AnsweringPlaces, LabelPlace, Relabel, Teachers};
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
/// Keys of `relabel`: labels by libtorch, with statistics of the batch, and by ONNX Runtime.
const BY_TORCH: &str = "teacher_bn: batch";
const BY_RUNTIME: &str = "teacher_bn: running";
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
        "train" | "compare" => {
            let student = load(student.first().context("the work needs a student")?)?;
            if work == "train" { bench.train(&student) } else { bench.compare(&student) }
        }
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
        let path = folder.path().join("labels.scdd");
        self.labelling(self.device, BY_TORCH, &path, |label| worker::serve(&json!({}), label))
            .map(|_| ())
    }

    /// Gives `work` a function that labels `times` batches on `device` into the store `path`, with
    /// these `keys` of `relabel`. Returns where the teacher answered.
    fn labelling(
        &self,
        device: Device,
        keys: &str,
        path: &Path,
        work: impl FnOnce(&mut dyn FnMut() -> Result<()>) -> Result<()>,
    ) -> Result<AnsweringPlaces> {
        let keys = format!("batch_size: {}, {keys}", self.batch);
        let (protocol, runtime) = (setting::protocol(&keys)?, Runtime::open(None)?);
        let place = LabelPlace { tensors: device, tf32: self.tf32 };
        let bundles = [(&self.teacher, 1.0)];
        let threads = Threads::all();
        let mut teachers =
            Teachers::open(&bundles, &runtime, &protocol.relabel, place, &threads, &|_| ())?;
        let relabel = Relabel { config: &protocol.relabel, formation: 1, seed: 0, key: "bench" };
        let (images, places) = (self.images(), teachers.places());
        work(&mut || Ok(relabel.run(&images, &mut teachers, path, &Silent, &mut |_| Ok(()))?))?;
        Ok(places)
    }

    /// The images of `times` batches.
    fn images(&self) -> Dataset {
        setting::noise(&self.teacher, (self.batch * self.times) as usize, 0)
    }

    fn train(&self, bundle: &Bundle) -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("labels.scdd");
        self.labelling(self.device, BY_TORCH, &path, |label| label())?;
        self.training(self.device, bundle, LabelStore::open(&path)?, |train| {
            worker::serve(&json!({}), || train().map(|_| ()))
        })
    }

    /// Gives `work` a function that trains a student on `device` for an epoch on these `labels`,
    /// and returns its loss.
    fn training<T>(
        &self,
        device: Device,
        bundle: &Bundle,
        labels: LabelStore,
        work: impl FnOnce(&mut dyn FnMut() -> Result<f64>) -> Result<T>,
    ) -> Result<T> {
        let protocol = setting::protocol(&format!("batch_size: {}", self.batch))?;
        let images = self.images();
        let test = setting::noise(&self.teacher, 1, 1);
        let mut student = Student::new(bundle, 0, device, Threads::all())?;
        let [_, height, width] = bundle.image_shape();
        let views = Views::new(&protocol.relabel, 1, 0, &images, Size { height, width });
        let data = TrainingData { images: &images, views, labels: TrainingLabels::OfViews(labels) };
        work(&mut || {
            let validate = &protocol.validate;
            let trained = student.train(&data, &test, validate, &mut Forgetful, &Silent)?;
            self.wait();
            Ok(trained.curve.first().context("no epoch was trained")?.loss)
        })
    }

    /// Compares labels and a student's epoch on the device with those on the CPU.
    fn compare(&self, bundle: &Bundle) -> Result<()> {
        let folder = tempfile::tempdir()?;
        let labelled = |device: Device, name: &str, keys: &str| {
            let path = folder.path().join(name);
            let keys = format!("{keys}, dtype: f32");
            let places = self.labelling(device, &keys, &path, |label| label())?;
            Ok::<_, anyhow::Error>((LabelStore::open(&path)?, places))
        };
        let provider = if self.device == Device::Cpu { "cpu" } else { "auto" };
        let by_runtime = |provider: &str| format!("{BY_RUNTIME}, provider: {provider}");
        let (there, places) = labelled(self.device, "there", &by_runtime(provider))?;
        let (here, _) = labelled(Device::Cpu, "here", &by_runtime("cpu"))?;
        let runtime = self.apart(&there, &here)?;
        let (there, _) = labelled(self.device, "there by torch", BY_TORCH)?;
        let (here, _) = labelled(Device::Cpu, "here by torch", BY_TORCH)?;
        let torch = self.apart(&there, &here)?;
        let loss = |device, labels| self.training(device, bundle, labels, |train| train());
        let (there, here) = (loss(self.device, there)?, loss(Device::Cpu, here)?);
        let about = json!({
            "onnx_runtime_on": format!("{places:?}"),
            "labels by ONNX Runtime": runtime,
            "labels by libtorch": torch,
            "a student's epoch": (there / here - 1.0).abs(),
        });
        println!("{about}");
        Ok(())
    }

    /// How far the logits of two stores are apart, in the L2 norm, relatively.
    fn apart(&self, there: &LabelStore, here: &LabelStore) -> Result<f64> {
        let (mut difference, mut norm) = (0.0, 0.0);
        for batch in 0..self.times as usize {
            let (there, here) = (there.get(0, batch)?.logits, here.get(0, batch)?.logits);
            for (there, here) in there.iter().zip(&here) {
                difference += f64::from(there - here).powi(2);
                norm += f64::from(*here).powi(2);
            }
        }
        Ok((difference / norm).sqrt())
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
