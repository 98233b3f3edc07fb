//! A worker of `benches/peers.py`. It relabels images, or trains a student on them, once per line
//! on standard input, and prints the milliseconds of each repetition. The images are noise;
//! everything else is as in a run: augmented views, CutMix, the label store.
//!
//! `stages <relabel|train> <teacher bundle> <student bundle> <images> <batch>`; the first output
//! line is JSON and describes the worker.

mod worker;

use std::path::Path;

use anyhow::{Context, Result, bail};
use rand::RngExt;
use scdd::config::{Experiment, Protocol};
use scdd::data::{Dataset, Size};
use scdd::labels::LabelStore;
use scdd::progress::Silent;
use scdd::relabel::{LabelPlace, Relabel, Teachers};
use scdd::rng;
use scdd::teacher::{Bundle, Runtime};
use scdd::threads::Threads;
use scdd::validate::{Forgetful, Student, TrainingData};
use scdd::views::Views;
use tch::Device;

fn main() -> Result<()> {
    // SAFETY: main has just begun and has started no thread.
    unsafe { scdd::worker::memory::keep_freed() };
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [work, teacher, student, count, batch] = args.as_slice() else {
        println!("stages: a worker of benches/peers.py; nothing to do by itself");
        return Ok(());
    };
    let (teacher, student_bundle) =
        (Bundle::load(Path::new(teacher))?, Bundle::load(Path::new(student))?);
    let (images, protocol) = (noise(&teacher, count.parse()?, 0), protocol(batch)?);
    let threads = Threads::all();
    let runtime = Runtime::open(None)?;
    let bundles = [(&teacher, 1.0)];
    let place = LabelPlace { tensors: Device::Cpu, tf32: false };
    let mut teachers =
        Teachers::open(&bundles, &runtime, &protocol.relabel, place, &threads, &|_| ())?;
    let relabel = Relabel { config: &protocol.relabel, formation: 1, seed: 0, key: "bench" };
    let folder = tempfile::tempdir()?;
    let labels = folder.path().join("labels.scdd");
    relabel.run(&images, &mut teachers, &labels, &Silent, &mut |_| Ok(()))?;
    let about = serde_json::json!({ "work": work, "images": count });
    match work.as_str() {
        "relabel" => {
            let again = folder.path().join("again.scdd");
            worker::serve(&about, || {
                Ok(relabel.run(&images, &mut teachers, &again, &Silent, &mut |_| Ok(()))?)
            })
        }
        "train" => {
            let labels = LabelStore::open(&labels)?;
            let mut student = Student::new(&student_bundle, 0, Device::Cpu, threads.clone())?;
            let test = noise(&teacher, 1, 1);
            let [_, height, width] = student_bundle.image_shape();
            let views = Views::new(&protocol.relabel, 1, 0, &images, Size { height, width });
            let data = TrainingData { images: &images, views, labels: Some(&labels) };
            let mut train =
                || student.train(&data, &test, &protocol.validate, &mut Forgetful, &Silent);
            train()?;
            worker::serve(&about, || Ok(train().map(drop)?))
        }
        other => bail!("unknown work {other}"),
    }
}

/// The default protocol, one epoch long.
fn protocol(batch: &str) -> Result<Protocol> {
    let text = format!(
        "name: bench\ndata: fashion-mnist\nteachers: t\nstudents: s\nipc: 1\nrelabel: {{epochs: 1, batch_size: {batch}}}\n"
    );
    let experiment = Experiment::from_yaml(&text, Path::new("bench.yaml"), &[])?;
    experiment.protocols.into_values().next().context("the experiment has no protocol")
}

fn noise(bundle: &Bundle, count: usize, seed: u64) -> Dataset {
    let [channels, height, width] = bundle.image_shape();
    let mut stream = rng::stream(seed, "bench/noise", 0);
    let classes = bundle.manifest.classes.clone();
    Dataset {
        name: "noise".into(),
        images: (0..count * channels * height * width)
            .map(|_| stream.random())
            .collect::<Vec<u8>>()
            .into(),
        labels: (0..count as u32).map(|i| i % classes.len() as u32).collect(),
        channels,
        height,
        width,
        classes,
    }
}
