//! A worker of `benches/peers.py`. It relabels images, or trains a student on them, once per line
//! on standard input, and prints the milliseconds of each repetition. The images are noise;
//! everything else is as in a run: augmented views, CutMix, the label store.
//!
//! `stages <relabel|train> <teacher bundle> <student bundle> <images> <batch>`; the first output
//! line is JSON and describes the worker.

mod setting;
mod worker;

use std::path::Path;

use anyhow::{Result, bail};
use scdd::data::Size;
use scdd::labels::LabelStore;
use scdd::progress::Silent;
use scdd::relabel::{LabelPlace, Relabel, Teachers};
use scdd::teacher::{Bundle, Runtime};
use scdd::threads::Threads;
use scdd::validate::{Forgetful, Student, TrainingData, TrainingLabels};
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
    let (images, protocol) = (
        setting::noise(&teacher, count.parse()?, 0),
        setting::protocol(&format!("batch_size: {batch}"))?,
    );
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
            let test = setting::noise(&teacher, 1, 1);
            let [_, height, width] = student_bundle.image_shape();
            let views = Views::new(&protocol.relabel, 1, 0, &images, Size { height, width });
            let data =
                TrainingData { images: &images, views, labels: TrainingLabels::OfViews(labels) };
            let mut train =
                || student.train(&data, &test, &protocol.validate, &mut Forgetful, &Silent);
            train()?;
            worker::serve(&about, || Ok(train().map(drop)?))
        }
        other => bail!("unknown work {other}"),
    }
}
