//! The pieces of an experiment as stages: what each depends on, and what it leaves in its directory.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rand::seq::SliceRandom;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::RunError;
use super::stage::{Stage, Store, WorkDir};
use crate::config::{DataConfig, Device, Experiment, Loss, RecoverConfig, ValidateConfig};
use crate::data::{Dataset, Source, Split, png};
use crate::progress::Progress;
use crate::recover::{self, Accuracy, Item, Point, Recover};
use crate::relabel::{Relabel, Teachers, store};
use crate::replica::PlanOptions;
use crate::report::RecoverPoint;
use crate::rng;
use crate::teacher::{Bundle, Runtime, verify};
use crate::validate::{Lesson, Student, Training};

/// Raise a stage's number whenever its code gives other bytes for the same input.
const VERIFY: u32 = 1;
const RECOVER: u32 = 2;
const REAL: u32 = 1;
const VERIFIER: u32 = 1;
const RELABEL: u32 = 1;
const VALIDATE: u32 = 1;

const FOLDER: &str = "images";
const LABELS: &str = "labels.scdd";
const TRAINING: &str = "training.json";
const VERDICT: &str = "verdict.json";
const ACCURACY: &str = "accuracy.json";

/// A set of images that is complete on disk.
pub struct Images {
    /// The stage's directory.
    pub directory: PathBuf,
    /// The stage's key.
    key: String,
    /// Names the set in the directories of what is made from it.
    name: String,
}

impl Images {
    /// The ImageFolder inside it.
    pub fn folder(&self) -> PathBuf {
        self.directory.join(FOLDER)
    }
}

/// A complete relabelling.
pub struct Labelled {
    pub directory: PathBuf,
    key: String,
    teacher: String,
}

/// Runs stages for one experiment.
pub struct Pieces<'a> {
    experiment: &'a Experiment,
    store: Store,
    runtime: &'a Runtime,
    progress: &'a dyn Progress,
    /// Whether missing stages are made; else they are an error.
    make: bool,
    device: tch::Device,
    /// The real data and its test set, unless the experiment has none.
    real: Option<(Source, Dataset)>,
    /// Read only where a stage needs it.
    train: OnceCell<Dataset>,
    remarks: RefCell<Vec<String>>,
}

impl<'a> Pieces<'a> {
    pub fn new(
        experiment: &'a Experiment,
        root: &Path,
        make: bool,
        runtime: &'a Runtime,
        progress: &'a dyn Progress,
    ) -> Result<Self, RunError> {
        let source = match experiment.data {
            DataConfig::FashionMnist {} => Some(Source::find("fashion-mnist")?),
            DataConfig::None {} => None,
        };
        let test = source.as_ref().map(|source| Dataset::load(source, Split::Test)).transpose()?;
        let real = source.zip(test);
        let (train, remarks) = (OnceCell::new(), RefCell::default());
        let device = device(experiment.device)?;
        Ok(Self { experiment, store: Store::new(root), runtime, progress, make, device, real, train, remarks })
    }

    /// The real test set, if there is real data.
    pub fn test(&self) -> Option<&Dataset> {
        self.real.as_ref().map(|(_, test)| test)
    }

    /// What the user ought to be told.
    pub fn into_remarks(self) -> Vec<String> {
        self.remarks.into_inner()
    }

    /// The directory of `stage`, made by `work` unless it is complete.
    fn obtain(&self, stage: &Stage, work: impl FnOnce(&WorkDir) -> Result<(), RunError>) -> Result<PathBuf, RunError> {
        if self.make {
            return self.store.run(stage, work);
        }
        self.store.find(stage)?.ok_or_else(|| RunError::Incomplete { missing: self.store.path(stage) })
    }

    fn train(&self) -> Result<&Dataset, RunError> {
        if let Some(train) = self.train.get() {
            return Ok(train);
        }
        let (source, _) = self.real.as_ref().ok_or(RunError::NoData)?;
        let train = Dataset::load(source, Split::Train)?;
        Ok(self.train.get_or_init(|| train))
    }

    /// Identifies the real data by its content.
    fn data_hash(set: &Dataset) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&set.images);
        set.labels.iter().for_each(|label| {
            hasher.update(&label.to_le_bytes());
        });
        hasher.finalize().to_hex().to_string()
    }

    /// Verifies `bundle` in the state in which it was loaded, unless that was done before.
    pub fn verify(&self, bundle: &Bundle) -> Result<(), RunError> {
        let inputs = inputs([("bundle", &bundle.hash)]);
        let stage = Stage::new("verify", VERIFY, bundle.name(), &json!({}), inputs, 0)?;
        let directory = self.obtain(&stage, |work| {
            self.progress.start(&format!("verify {}", bundle.name()), 1, "bundle");
            let verdict = verify(bundle, self.runtime)?;
            if !verdict.passed() {
                return Err(RunError::Unverified { bundle: bundle.name().into(), divergence: verdict.divergence });
            }
            self.progress.finish("passed");
            write_json(work, VERDICT, &verdict)
        })?;
        // A verdict that someone edited is not one.
        let verdict: serde_json::Value = read_json(&directory.join(VERDICT))?;
        if verdict["hash"] != json!(bundle.hash) {
            return Err(RunError::Damaged { path: directory, what: "holds the verdict on another bundle".into() });
        }
        Ok(())
    }

    /// `ipc` images per class recovered from `teacher`.
    pub fn recover(&self, teacher: &Bundle, ipc: u32, seed: u64) -> Result<Images, RunError> {
        self.remark(teacher.manifest.is_features_only().then(|| {
            format!(
                "`{}` has no classifier: cross entropy is off, its images are recovered from its statistics alone",
                teacher.name()
            )
        }));
        let name = format!("{}-ipc{ipc}-seed{seed}", teacher.name());
        // Who verifies the images afterwards changes nothing in them.
        let recover = RecoverConfig { verifier: Vec::new(), ..self.experiment.recover.clone() };
        let config = json!({"recover": recover, "ipc": ipc});
        let stage = Stage::new("recover", RECOVER, &name, &config, inputs([("teacher", &teacher.hash)]), seed)?;
        let directory = self.obtain(&stage, |work| self.recover_into(work, teacher, ipc, seed))?;
        Ok(Images { directory, key: stage.key(), name })
    }

    /// The classes of what is recovered from `teacher`: its own, or the data's where it knows none.
    fn classes_of<'b>(&'b self, teacher: &'b Bundle) -> &'b [String] {
        match self.test().filter(|_| teacher.manifest.is_features_only()) {
            Some(test) => &test.classes,
            None => &teacher.manifest.classes,
        }
    }

    /// The classes to recover from `teacher`, ascending.
    fn chosen_classes(&self, teacher: &Bundle) -> Vec<u32> {
        self.experiment.recover.classes(self.classes_of(teacher).len() as u32)
    }

    fn recover_into(&self, work: &WorkDir, teacher: &Bundle, ipc: u32, seed: u64) -> Result<(), RunError> {
        let config = &self.experiment.recover;
        let recover = Recover::new(teacher, config, PlanOptions { device: self.device, ..PlanOptions::default() })?;
        let classes = self.classes_of(teacher);
        let batches = recover.batches(&self.chosen_classes(teacher), ipc, seed);
        let steps = u64::from(config.iterations);
        let label = format!("recover {}, {ipc} per class, seed {seed}", teacher.name());
        self.progress.start(&label, steps * batches.len() as u64, "it");
        for (number, items) in batches.iter().enumerate() {
            let done = steps * number as u64;
            let curve_file = curve_file(number);
            if work.has(&curve_file) {
                self.progress.at(done + steps, "");
                continue;
            }
            let mut curve = String::new();
            let images = recover.run(items, seed, &mut |point| {
                self.progress.at(done + u64::from(point.iteration) + 1, &format!("loss {:.2}", point.loss));
                curve.push_str(&json!(point).to_string());
                curve.push('\n');
            })?;
            let pixels = recover.normalization().to_pixels(&images)?;
            write_images(work, classes, items, &pixels, teacher.image_shape())?;
            // Written last: a batch whose curve is there is complete.
            work.write(&curve_file, curve.as_bytes())?;
        }
        self.progress.finish("");
        Ok(())
    }

    /// How many of the images recovered from `teacher` the network `verifier` puts into their classes.
    pub fn verifier(
        &self,
        images: &Images,
        teacher: &Bundle,
        verifier: &Bundle,
        seed: u64,
    ) -> Result<Accuracy, RunError> {
        let name = format!("{}-by-{}", images.name, verifier.name());
        let inputs = inputs([("images", &images.key), ("verifier", &verifier.hash)]);
        let stage = Stage::new("verifier", VERIFIER, &name, &json!({}), inputs, seed)?;
        let directory = self.obtain(&stage, |work| {
            let set = png::read_set(&images.folder())?;
            let classes = self.chosen_classes(teacher);
            write_json(work, ACCURACY, &recover::accuracy(verifier, self.runtime, &set, &classes)?)
        })?;
        read_json(&directory.join(ACCURACY))
    }

    /// The objective of a recovery, step by step, averaged over its batches (weighted equally).
    pub fn recovery_curve(&self, images: &Images) -> Result<Vec<RecoverPoint>, RunError> {
        let mut sums: BTreeMap<u32, (f64, f64, f64, f64)> = BTreeMap::new();
        for number in 0.. {
            let path = images.directory.join(curve_file(number));
            let Ok(text) = std::fs::read_to_string(&path) else { break };
            for line in text.lines() {
                let point: Point = serde_json::from_str(line)
                    .map_err(|e| RunError::Damaged { path: path.clone(), what: e.to_string() })?;
                let sum = sums.entry(point.iteration + 1).or_default();
                *sum = (sum.0 + 1.0, sum.1 + point.loss, sum.2 + point.ce, sum.3 + point.bn);
            }
        }
        let mean = |(iteration, (n, loss, ce, bn)): (u32, (f64, f64, f64, f64))| RecoverPoint {
            iteration,
            loss: loss / n,
            ce: ce / n,
            bn: bn / n,
        };
        Ok(sums.into_iter().map(mean).collect())
    }

    /// `ipc` random training images per class.
    pub fn random_real(&self, ipc: u32, seed: u64) -> Result<Images, RunError> {
        let train = self.train()?;
        let name = format!("{}-ipc{ipc}-seed{seed}", train.name);
        let hash = Self::data_hash(train);
        let stage = Stage::new("real", REAL, &name, &json!({"ipc": ipc}), inputs([("data", &hash)]), seed)?;
        let directory = self.obtain(&stage, |work| {
            let mut items = Vec::new();
            let mut pixels = Vec::new();
            for class in 0..train.classes.len() as u32 {
                let mut own: Vec<usize> = (0..train.len()).filter(|&i| train.labels[i] == class).collect();
                own.shuffle(&mut rng::stream(seed, "real/choice", class.into()));
                for (number, index) in own.into_iter().take(ipc as usize).enumerate() {
                    items.push(Item { class, number: number as u32 });
                    pixels.extend_from_slice(train.image(index).unwrap_or_default());
                }
            }
            write_images(work, &train.classes, &items, &pixels, [train.channels, train.height, train.width])
        })?;
        Ok(Images { directory, key: stage.key(), name: format!("real-{name}") })
    }

    /// The soft labels of `images` by `teacher`.
    pub fn relabel(&self, images: &Images, teacher: &Bundle, seed: u64) -> Result<Labelled, RunError> {
        let config = &self.experiment.relabel;
        let name = format!("{}-by-{}", images.name, teacher.name());
        let inputs = inputs([("images", &images.key), ("teacher", &teacher.hash)]);
        let stage = Stage::new("relabel", RELABEL, &name, config, inputs, seed)?;
        let key = stage.key();
        let directory = self.obtain(&stage, |work| {
            let set = png::read_set(&images.folder())?;
            let bundles = [(teacher, 1.0)];
            let (mut teachers, remark) = Teachers::open(&bundles, self.runtime, config, self.device)?;
            self.remark(remark);
            let relabel = Relabel { bundles: &bundles, config, seed, key: &key };
            Ok(relabel.run(&set, &mut teachers, &work.path().join(LABELS), self.progress)?)
        })?;
        Ok(Labelled { directory, key, teacher: teacher.name().into() })
    }

    fn remark(&self, remark: Option<String>) {
        let mut remarks = self.remarks.borrow_mut();
        if let Some(remark) = remark.filter(|r| !remarks.contains(r)) {
            remarks.push(remark);
        }
    }

    /// A student trained on `images`; gives how it went, and the stage's directory.
    pub fn validate(
        &self,
        images: &Images,
        labels: &Labelled,
        student: &Bundle,
        hard: bool,
        seed: u64,
    ) -> Result<(Training, PathBuf), RunError> {
        let config = ValidateConfig {
            loss: if hard { Loss::Ce {} } else { self.experiment.validate.loss },
            ..self.experiment.validate.clone()
        };
        let kind = if hard { "hard".into() } else { format!("by-{}", labels.teacher) };
        let name = format!("{}-{kind}-{}", images.name, student.name());
        let test = self.test().ok_or(RunError::NoData)?;
        let inputs = inputs([
            ("images", &images.key),
            ("labels", &labels.key),
            ("student", &student.hash),
            ("test", &Self::data_hash(test)),
        ]);
        let stage = Stage::new("validate", VALIDATE, &name, &config, inputs, seed)?;
        let directory = self.obtain(&stage, |work| {
            let set = png::read_set(&images.folder())?;
            let labels =
                store::Store::open(&labels.directory.join(LABELS)).map_err(crate::relabel::RelabelError::from)?;
            let mut fresh = Student::new(student, seed, self.device)?;
            let lesson = Lesson { images: &set, labels: &labels };
            let training = fresh.train(&lesson, test, &config, self.progress)?;
            work.write("student.safetensors", &fresh.checkpoint()?)?;
            write_json(work, TRAINING, &training)
        })?;
        Ok((read_json(&directory.join(TRAINING))?, directory))
    }
}

fn device(device: Device) -> Result<tch::Device, RunError> {
    let found = tch::Cuda::is_available();
    match device {
        Device::Cuda if !found => Err(RunError::NoCuda),
        Device::Cuda => Ok(tch::Device::Cuda(0)),
        Device::Auto if found => Ok(tch::Device::Cuda(0)),
        Device::Auto | Device::Cpu => Ok(tch::Device::Cpu),
    }
}

fn inputs<const N: usize>(pairs: [(&str, &String); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(name, hash)| (name.to_owned(), hash.clone())).collect()
}

fn curve_file(batch: usize) -> String {
    format!("curves/batch-{batch:05}.jsonl")
}

/// Writes each of `items` as a PNG of `images/<class>/`; `pixels` is `[N, C, H, W]`, a file appears whole or not at all.
fn write_images(
    work: &WorkDir,
    classes: &[String],
    items: &[Item],
    pixels: &[u8],
    shape: [usize; 3],
) -> Result<(), RunError> {
    let [channels, height, width] = shape;
    for (item, image) in items.iter().zip(pixels.chunks_exact(channels * height * width)) {
        let file = Path::new(FOLDER)
            .join(png::class_dir(item.class as usize, classes))
            .join(png::file_name(item.number as usize));
        work.write(file, &png::encode(image, channels, height, width)?)?;
    }
    Ok(())
}

fn write_json(work: &WorkDir, file: &str, value: &impl Serialize) -> Result<(), RunError> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| RunError::Damaged { path: work.path().join(file), what: e.to_string() })?;
    work.write(file, format!("{text}\n").as_bytes())?;
    Ok(())
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, RunError> {
    let damaged = |what: String| RunError::Damaged { path: path.into(), what };
    let text = std::fs::read_to_string(path).map_err(|e| damaged(e.to_string()))?;
    serde_json::from_str(&text).map_err(|e| damaged(e.to_string()))
}
