//! The pieces of an experiment as stages: what each depends on, and what it leaves in its directory.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rand::seq::SliceRandom;
use serde_json::json;

use super::RunError;
use super::figures::{Accuracy, Auto, Item, Point, Training};
use super::files::{self, ACCURACY, AUTO, FOLDER, LABELS, MEASURED, TRAINING, VERDICT, read_json, write_images};
use super::maker::{Failed, Maker, RecoverTask, RelabelTask, Task, ValidateTask, WholeTask};
use super::matrix::Choice;
use super::plan::{Planned, Rates};
use super::real::{Hashed, Real};
use super::stage::{Found, Stage, Store, WorkDir};
use crate::config::{BnWeight, LabelDtype, Mix, Protocol, RecoverConfig, RelabelConfig, Start, WholeReal};
use crate::data::{Dataset, png};
use crate::report::{RDED_CROPS, RecoverPoint};
use crate::rng;
use crate::teacher::{Bundle, Measured};

/// Raise a stage's number whenever its code gives other bytes for the same input.
const VERIFY: u32 = 1;
const MEASURE: u32 = 1;
const BALANCE: u32 = 1;
const RECOVER: u32 = 2;
const REAL: u32 = 1;
const SUBSET: u32 = 1;
const VERIFIER: u32 = 1;
const RELABEL: u32 = 1;
const WHOLE: u32 = 2;
const VALIDATE: u32 = 2;

/// The preset of the baseline of crops.
const CROPS: &str = "rded-cifar100";

/// A set of images: complete on disk, or to be made.
pub struct Images {
    /// The stage's directory.
    pub directory: PathBuf,
    /// The stage's key.
    key: String,
    /// Names the set in the directories of what is made from it.
    name: String,
    /// Names the set to people: its method, teacher, images per class and seed.
    title: String,
    /// How many images.
    pub count: u64,
    /// The directory of the stage that recovered them, perhaps among others; their own, where none did.
    pub recovery: PathBuf,
    /// How many images that stage recovered.
    pub recovered: u64,
    /// How many small images per row and column each is a mosaic of.
    formation: u16,
}

impl Images {
    /// The ImageFolder inside it.
    pub fn folder(&self) -> PathBuf {
        self.directory.join(FOLDER)
    }

    /// Identifies how it was made.
    pub fn key(&self) -> &str {
        &self.key
    }
}

/// A relabelling: complete on disk, or to be made.
pub struct Labelled {
    pub directory: PathBuf,
    key: String,
    teacher: String,
}

impl Labelled {
    /// The label store.
    pub fn file(&self) -> PathBuf {
        self.directory.join(LABELS)
    }

    /// Bytes of the label store.
    pub fn bytes(&self) -> Option<u64> {
        Some(std::fs::metadata(self.file()).ok()?.len())
    }
}

/// A stage that measures what `r_bn: auto` is.
struct Balance {
    directory: PathBuf,
    key: String,
}

impl Balance {
    fn read(&self) -> Result<Auto, RunError> {
        read_json(&self.directory.join(AUTO))
    }
}

/// What happens to a stage.
pub enum Mode<'a> {
    /// It becomes a task, unless it is complete. What others can't be named without is made right away.
    Make(&'a dyn Maker),
    /// It is looked for; where it is not complete, that is an error, unless it is known to have failed.
    Find(&'a Failed),
    /// It is listed. Directories that stages are given need not exist.
    List,
}

/// Lists or finds the stages of one experiment.
pub struct Pieces<'a> {
    store: Store,
    mode: Mode<'a>,
    /// `None` where the experiment has no real data.
    real: Option<&'a Real>,
    remarks: RefCell<Vec<String>>,
    listed: RefCell<Vec<Stage>>,
    tasks: RefCell<Vec<Task<'a>>>,
}

impl<'a> Pieces<'a> {
    /// On this `real` data; stages go below `root`.
    pub fn new(real: Option<&'a Real>, root: &Path, mode: Mode<'a>) -> Self {
        let (remarks, listed, tasks) = Default::default();
        Self { store: Store::new(root), mode, real, remarks, listed, tasks }
    }

    /// The real test set, if there is real data.
    pub fn test(&self) -> Option<&'a Dataset> {
        self.real.map(|real| &real.test.set)
    }

    /// What identifies the test set and, where some stage reads it, the training set.
    pub fn data_hashes(&self) -> [Option<String>; 2] {
        let hash = |set: Option<&Hashed>| set.map(|set| set.hash.clone());
        [hash(self.real.map(|real| &real.test)), hash(self.real.and_then(Real::read_train))]
    }

    fn real_data(&self) -> Result<&'a Real, RunError> {
        self.real.ok_or(RunError::NoData)
    }

    /// What the user ought to be told; some of it more than once.
    pub fn into_remarks(self) -> Vec<String> {
        let of_data = self.real.map(Real::remarks).unwrap_or_default();
        [self.remarks.into_inner(), of_data].concat()
    }

    /// What is to be made, each stage once, in the order in which they were asked for.
    pub fn into_tasks(self) -> Vec<Task<'a>> {
        self.tasks.into_inner()
    }

    /// Every stage that was asked for, once, in that order, as far as nothing is made.
    pub fn into_plan(self) -> Result<Vec<Planned>, RunError> {
        let rates = Rates::read(&self.store)?;
        let mut planned: Vec<Planned> = Vec::new();
        for stage in self.listed.into_inner() {
            let stage = rates.plan(&self.store, &stage)?;
            if planned.iter().all(|known| known.directory != stage.directory) {
                planned.push(stage);
            }
        }
        Ok(planned)
    }

    /// The directory of `stage`, called `title`, which `work` makes, giving a remark, once there is what it `needs`.
    fn obtain(
        &self,
        stage: &Stage,
        title: String,
        needs: Vec<PathBuf>,
        work: impl FnOnce(&WorkDir, &dyn Maker) -> Result<Option<String>, RunError> + Send + 'a,
    ) -> Result<PathBuf, RunError> {
        let Mode::Make(maker) = self.mode else { return self.look_for(stage) };
        let (directory, mut tasks) = (self.store.path(stage), self.tasks.borrow_mut());
        let is_complete = matches!(self.store.look(stage)?, Found::Complete(_));
        if !is_complete && tasks.iter().all(|task| task.directory != directory) {
            let (store, stage) = (self.store.clone(), stage.clone());
            let make = move || {
                let mut remark = None;
                store.run(&stage, &|what| maker.tell(what), |dir| {
                    remark = work(dir, maker)?;
                    Ok::<_, RunError>(())
                })?;
                Ok(remark)
            };
            tasks.push(Task::new(title, directory.clone(), needs, make));
        }
        Ok(directory)
    }

    /// As [`obtain`](Self::obtain), of a stage that is made right away.
    fn obtain_now(
        &self,
        stage: &Stage,
        work: impl FnOnce(&WorkDir, &dyn Maker) -> Result<(), RunError>,
    ) -> Result<PathBuf, RunError> {
        match self.mode {
            Mode::Make(maker) => self.store.run(stage, &|what| maker.tell(what), |dir| work(dir, maker)),
            Mode::Find(_) | Mode::List => self.look_for(stage),
        }
    }

    /// Where `stage` is, which nobody is to make.
    fn look_for(&self, stage: &Stage) -> Result<PathBuf, RunError> {
        let directory = self.store.path(stage);
        match self.mode {
            Mode::List => self.listed.borrow_mut().push(stage.clone()),
            _ if self.has_failed(&directory).is_some() => {}
            _ => return self.store.find(stage)?.ok_or(RunError::Incomplete { missing: directory }),
        }
        Ok(directory)
    }

    /// Why the stage whose result would be at `directory` could not be made, if so.
    pub fn has_failed(&self, directory: &Path) -> Option<&'a str> {
        match self.mode {
            Mode::Find(failed) => failed.get(directory).map(String::as_str),
            Mode::Make(_) | Mode::List => None,
        }
    }

    fn train(&self) -> Result<&'a Hashed, RunError> {
        Ok(self.real_data()?.train()?)
    }

    /// Verifies `bundle` in the state in which it was loaded, unless that was done before.
    pub fn verify(&self, bundle: &Bundle) -> Result<(), RunError> {
        let inputs = inputs([("bundle", &bundle.hash)]);
        let stage = Stage::new("verify", VERIFY, bundle.name(), &json!({}), inputs, 0)?.of_passes(1);
        let directory = self.obtain_now(&stage, |work, maker| Ok(maker.verify(work, bundle)?))?;
        if matches!(self.mode, Mode::List) {
            return Ok(());
        }
        // A verdict that someone edited is not one.
        let verdict: serde_json::Value = read_json(&directory.join(VERDICT))?;
        if verdict["hash"] != json!(bundle.hash) {
            return Err(RunError::Damaged { path: directory, what: "holds the verdict on another bundle".into() });
        }
        Ok(())
    }

    /// Measures `teacher`, if it has a classifier, on the real test set, unless that was done before; without real data there is nothing to measure.
    ///
    /// # Errors
    /// When it numbers its classes in another order than the data, or is far from what its manifest says.
    pub fn measure(&self, teacher: &Bundle) -> Result<(), RunError> {
        let Some(Hashed { set: test, hash }) = self.real.map(|real| &real.test) else { return Ok(()) };
        if teacher.manifest.is_features_only() {
            return Ok(());
        }
        let inputs = inputs([("teacher", &teacher.hash), ("test", hash)]);
        let passes = Measured::images_of(test.len(), test.classes.len());
        let stage = Stage::new("measure", MEASURE, teacher.name(), &json!({}), inputs, 0)?.of_passes(passes as u64);
        let directory = self.obtain_now(&stage, |work, maker| Ok(maker.measure(work, teacher, test)?))?;
        if !matches!(self.mode, Mode::List) {
            let measured: Measured = read_json(&directory.join(MEASURED))?;
            let judged = measured.judge(&teacher.manifest, &test.name, &test.classes);
            let misfit = |what| RunError::Misfit { path: teacher.dir.clone(), what };
            self.remark(judged.map_err(misfit)?.map(|remark| format!("`{}` {remark}", teacher.name())));
        }
        Ok(())
    }

    /// `ipc` images per class recovered as the method says from `teacher`, and from the `others` that its committee names.
    /// Such a method is its name and its settings.
    pub fn recover(
        &self,
        teacher: &'a Bundle,
        others: Vec<&'a Bundle>,
        (method, config): (&str, &RecoverConfig),
        ipc: u32,
        seed: u64,
    ) -> Result<Images, RunError> {
        self.remark(teacher.manifest.is_features_only().then(|| {
            format!(
                "`{}` has no classifier: cross entropy is off, its images are recovered from its statistics alone",
                teacher.name()
            )
        }));
        if let Some(whole) = config.subset_of.filter(|&whole| whole != ipc) {
            let config = RecoverConfig { subset_of: None, ..config.clone() };
            let whole = (self.recover(teacher, others, (method, &config), whole, seed)?, whole);
            return self.subset(whole, ipc);
        }
        let config = RecoverConfig { subset_of: None, ..config.clone() };
        let name = format!("{}-ipc{ipc}-seed{seed}", teacher.name());
        let title = format!("method `{method}` from teacher `{}`, ipc {ipc}, seed {seed}", teacher.name());
        // Who verifies the images afterwards changes nothing in them.
        let config = RecoverConfig { verifier: Vec::new(), ..config };
        let (classes, chosen) = (self.classes_of(teacher), self.chosen_classes(teacher, &config));
        let identity = match teacher.manifest.is_features_only() {
            // The classes are the data's, so the teacher's hash does not hold them.
            true => json!({"recover": config, "ipc": ipc, "classes": classes}),
            false => json!({"recover": config, "ipc": ipc}),
        };
        let count = chosen.len() as u64 * u64::from(ipc);
        let data = if config.is_data_free() { None } else { Some(self.train()?) };
        if let Some(data) = data {
            enough(&data.set, "`recover.start`", images_needed(&config, ipc))?;
        }
        let balance = self.balance(teacher, method, &config)?;
        let mut inputs = inputs([("teacher", &teacher.hash)]);
        inputs.extend(others.iter().zip(2..).map(|(other, i)| (format!("teacher {i}"), other.hash.clone())));
        inputs.extend(data.map(|data| ("data".to_owned(), data.hash.clone())));
        inputs.extend(balance.iter().map(|balance| ("balance".to_owned(), balance.key.clone())));
        let scored = match config.start {
            Start::Crops { images, crops, .. } => chosen.len() as u64 * u64::from(images) * u64::from(crops),
            Start::Clusters { images } => chosen.len() as u64 * u64::from(images),
            Start::Noise { .. } | Start::Real { .. } => 0,
        };
        let stage = Stage::new("recover", RECOVER, &name, &identity, inputs, seed)?
            .of_passes(scored + 2 * count * u64::from(config.iterations));
        let (data, formation) = (data.map(|data| &data.set), config.formation);
        let mut task = RecoverTask { teacher, others, config, data, classes, chosen, ipc, seed };
        let needs = balance.iter().map(|balance| balance.directory.clone()).collect();
        let directory = self.obtain(&stage, format!("recover {title}"), needs, move |work, maker| {
            if let Some(balance) = &balance {
                task.config.r_bn = BnWeight::Fixed(balance.read()?.r_bn);
            }
            Ok(maker.recover(work, &task)?)
        })?;
        Ok(Images {
            recovery: directory.clone(),
            directory,
            key: stage.key(),
            name,
            title,
            count,
            recovered: count,
            formation,
        })
    }

    /// The first `ipc` images per class of a recovered set of more.
    fn subset(&self, (whole, of): (Images, u32), ipc: u32) -> Result<Images, RunError> {
        let name = format!("{}-first{ipc}", whole.name);
        let title = format!("{}, the first {ipc} of each class", whole.title);
        let stage = Stage::new("subset", SUBSET, &name, &json!({"ipc": ipc}), inputs([("images", &whole.key)]), 0)?;
        let (folder, needs) = (whole.folder(), vec![whole.directory.clone()]);
        let directory = self.obtain(&stage, format!("take {title}"), needs, move |work, _| {
            copy_first(work, &folder, ipc)?;
            Ok(None)
        })?;
        let count = whole.count / u64::from(of) * u64::from(ipc);
        Ok(Images { directory, key: stage.key(), name, title, count, ..whole })
    }

    /// `ipc` crops of training images per class, those that `judge` recognises best: RDED as published for small images, which optimises nothing.
    pub fn crops(&self, judge: &'a Bundle, ipc: u32, seed: u64) -> Result<Images, RunError> {
        let mut config = RecoverConfig::of_preset(CROPS)?;
        if let Start::Crops { images, .. } = &mut config.start {
            *images = (*images).max(ipc);
        }
        enough(&self.train()?.set, "the baseline `rded_crops`", images_needed(&config, ipc))?;
        self.recover(judge, Vec::new(), (RDED_CROPS, &config), ipc, seed)
    }

    /// What `r_bn: auto` stands for with `teacher`, where a method asks for it.
    fn balance(&self, teacher: &'a Bundle, method: &str, config: &RecoverConfig) -> Result<Option<Balance>, RunError> {
        // Each teacher of a committee has its own.
        if config.r_bn != BnWeight::Auto || config.committee.is_some() {
            return Ok(None);
        }
        let stage = Stage::new("balance", BALANCE, teacher.name(), config, inputs([("teacher", &teacher.hash)]), 0)?
            .of_passes(4 * u64::from(config.batch_size));
        let (key, config) = (stage.key(), config.clone());
        let title = format!("balance the loss terms of method `{method}` with teacher `{}`", teacher.name());
        let directory = self.obtain(&stage, title, Vec::new(), move |work, maker| {
            maker.balance(work, teacher, &config)?;
            Ok(None)
        })?;
        let balance = Balance { directory, key };
        if matches!(self.mode, Mode::Find(_)) && self.has_failed(&balance.directory).is_none() {
            self.remark(Some(format!("`recover.r_bn: auto` is, with {}, {}", teacher.name(), balance.read()?)));
        }
        Ok(Some(balance))
    }

    /// The classes of what is recovered from `teacher`: its own, or the data's where it knows none.
    fn classes_of(&self, teacher: &'a Bundle) -> &'a [String] {
        match self.test().filter(|_| teacher.manifest.is_features_only()) {
            Some(test) => &test.classes,
            None => &teacher.manifest.classes,
        }
    }

    /// The classes to recover from `teacher`, ascending.
    fn chosen_classes(&self, teacher: &'a Bundle, config: &RecoverConfig) -> Vec<u32> {
        config.classes(self.classes_of(teacher).len() as u32)
    }

    /// How many of the recovered images the network `verifier` puts into their classes; the stage's directory.
    pub fn verifier(&self, images: &Images, verifier: &'a Bundle, seed: u64) -> Result<PathBuf, RunError> {
        let name = format!("{}-by-{}", images.name, verifier.name());
        let inputs = inputs([("images", &images.key), ("verifier", &verifier.hash)]);
        let stage = Stage::new("verifier", VERIFIER, &name, &json!({}), inputs, seed)?.of_passes(images.count);
        let folder = images.folder();
        let title = format!("verify {} by `{}`", images.title, verifier.name());
        self.obtain(&stage, title, vec![images.directory.clone()], move |work, maker| {
            maker.accuracy(work, &folder, verifier)?;
            Ok(None)
        })
    }

    /// What [`Pieces::verifier`] left in `directory`.
    pub fn accuracy(&self, directory: &Path) -> Result<Accuracy, RunError> {
        read_json(&directory.join(ACCURACY))
    }

    /// The objective of a recovery, step by step, averaged over its batches (weighted equally).
    pub fn recovery_curve(&self, images: &Images) -> Result<Vec<RecoverPoint>, RunError> {
        let mut sums: BTreeMap<u32, (f64, f64, f64, f64)> = BTreeMap::new();
        for number in 0.. {
            let path = images.recovery.join(files::curve(number));
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

    /// `ipc` real training images per class.
    pub fn real(&self, choice: Choice, ipc: u32, seed: u64) -> Result<Images, RunError> {
        let Hashed { set: train, hash } = self.train()?;
        let (name, identity, seed) = match choice {
            Choice::Random => (format!("{}-ipc{ipc}-seed{seed}", train.name), json!({"ipc": ipc}), seed),
            Choice::NearestMean => {
                let name = format!("{}-nearest-mean-ipc{ipc}", train.name);
                (name, json!({"ipc": ipc, "choice": choice.method()}), 0)
            }
        };
        let key = format!("the baseline `{}`", choice.method());
        enough(train, &key, u64::from(ipc))?;
        let count = train.classes.len() as u64 * u64::from(ipc);
        let stage = Stage::new("real", REAL, &name, &identity, inputs([("data", hash)]), seed)?;
        let title = format!("`{}`, ipc {ipc}, seed {seed}", choice.method());
        let directory = self.obtain(&stage, format!("draw {title}"), Vec::new(), move |work, _| {
            let (items, indices): (Vec<Item>, Vec<usize>) = chosen(train, choice, ipc, seed).into_iter().unzip();
            let pixels: Vec<u8> = indices.iter().flat_map(|&i| train.image(i).unwrap_or_default().to_vec()).collect();
            write_images(work, &train.classes, &items, &pixels, [train.channels, train.height, train.width])?;
            Ok(None)
        })?;
        let (recovery, name) = (directory.clone(), format!("real-{name}"));
        Ok(Images { directory, key: stage.key(), name, title, count, recovery, recovered: count, formation: 1 })
    }

    /// The soft labels of `images` by `teachers`, at least one, each with its weight in the mean.
    pub fn relabel(
        &self,
        images: &Images,
        teachers: Vec<(&'a Bundle, f64)>,
        config: &'a RelabelConfig,
        seed: u64,
    ) -> Result<Labelled, RunError> {
        let (teacher, others) = (teachers[0].0, &teachers[1..]);
        let together = if others.is_empty() { String::new() } else { format!("+{}", others.len()) };
        let name = format!("{}-by-{}{together}", images.name, teacher.name());
        let mut inputs = inputs([("images", &images.key), ("teacher", &teacher.hash)]);
        inputs.extend((1..).zip(others).map(|(number, (other, _))| (format!("teacher {number}"), other.hash.clone())));
        let stage = Stage::new("relabel", RELABEL, &name, config, inputs, seed)?
            .of_passes(images.count * u64::from(config.stored_epochs.unwrap_or(config.epochs)));
        let (key, teacher) = (stage.key(), format!("{}{together}", teacher.name()));
        let (name, formation) = (images.name.clone(), images.formation);
        let task = RelabelTask { name, images: images.folder(), formation, teachers, config, seed, key: key.clone() };
        let title = format!("relabel {} by teacher `{teacher}`", images.title);
        let needs = vec![images.directory.clone()];
        let directory = self.obtain(&stage, title, needs, move |work, maker| Ok(maker.relabel(work, &task)?))?;
        Ok(Labelled { directory, key, teacher })
    }

    /// Notes what the user ought to be told.
    pub fn remark(&self, remark: Option<String>) {
        self.remarks.borrow_mut().extend(remark);
    }

    /// A student trained on `images` under `protocol` with soft `labels`, or, without any, on the images' own classes; the
    /// stage's directory.
    pub fn validate(
        &self,
        images: &Images,
        labels: Option<&Labelled>,
        student: &'a Bundle,
        protocol: &Protocol,
        seed: u64,
    ) -> Result<PathBuf, RunError> {
        let (config, kind) = match labels {
            Some(labels) => (protocol.validate.clone(), format!("by-{}", labels.teacher)),
            None => (protocol.validate.hard(), "hard".to_owned()),
        };
        let name = format!("{}-{kind}-{}", images.name, student.name());
        let Hashed { set: test, hash: test_hash } = &self.real_data()?.test;
        let mut inputs = inputs([("images", &images.key), ("student", &student.hash), ("test", test_hash)]);
        let identity = match labels {
            Some(labels) => {
                inputs.insert("labels".into(), labels.key.clone());
                json!(config)
            }
            None => json!({"views": protocol.relabel.drawn(), "validate": config}),
        };
        let epochs = protocol.relabel.epochs;
        let tests = u64::from(epochs.div_ceil(config.evaluate_every)) * test.len() as u64;
        let stage = Stage::new("validate", VALIDATE, &name, &identity, inputs, seed)?
            .of_passes(3 * images.count * u64::from(epochs) + tests);
        let needs = [Some(&images.directory), labels.map(|labels| &labels.directory)].into_iter().flatten().cloned();
        let kind = labels.map_or("hard labels".to_owned(), |labels| format!("labels by `{}`", labels.teacher));
        let title = format!("train student `{}` on {}, {kind}", student.name(), images.title);
        let name = format!("{}{}", images.name, if labels.is_none() { ", hard labels" } else { "" });
        let task = ValidateTask {
            name,
            images: images.folder(),
            views: protocol.relabel.clone(),
            formation: images.formation,
            labels: labels.map(Labelled::file),
            student,
            test,
            config,
            seed,
        };
        self.obtain(&stage, title, needs.collect(), move |work, maker| {
            maker.validate(work, &task)?;
            Ok(None)
        })
    }

    /// A student trained on the whole real training set with hard labels; the stage's directory, and how many images that are.
    pub fn whole(
        &self,
        student: &'a Bundle,
        protocol: &Protocol,
        whole: WholeReal,
        seed: u64,
    ) -> Result<(PathBuf, u64), RunError> {
        let Hashed { set: train, hash } = self.train()?;
        let WholeReal { epochs, batch_size } = whole;
        let views = RelabelConfig {
            epochs,
            batch_size,
            mix: Mix::None {},
            dtype: LabelDtype::F16,
            top_k: None,
            stored_epochs: None,
            ..protocol.relabel.clone()
        };
        let config = protocol.validate.hard();
        let name = format!("{}-whole-{}", train.name, student.name());
        let RelabelConfig { crop, flip, .. } = &views;
        let seen = json!({"epochs": epochs, "batch_size": batch_size, "crop": crop, "flip": flip});
        let identity = json!({"views": seen, "validate": config});
        let Hashed { set: test, hash: test_hash } = &self.real_data()?.test;
        let inputs = inputs([("data", hash), ("student", &student.hash), ("test", test_hash)]);
        let count = train.len() as u64;
        let tests = u64::from(epochs.div_ceil(config.evaluate_every)) * test.len() as u64;
        let stage = Stage::new("whole", WHOLE, &name, &identity, inputs, seed)?
            .of_passes(3 * count * u64::from(epochs) + tests);
        let task = WholeTask { student, train, test, views, config, seed };
        let title = format!("train student `{}` on the whole training set, seed {seed}", student.name());
        let directory = self.obtain(&stage, title, Vec::new(), move |work, maker| {
            maker.whole(work, &task)?;
            Ok(None)
        })?;
        Ok((directory, count))
    }

    /// How the training in `directory`, which [`Pieces::validate`] or [`Pieces::whole`] gave, went.
    pub fn training(&self, directory: &Path) -> Result<Training, RunError> {
        read_json(&directory.join(TRAINING))
    }
}

/// How many training images of each class the start of `ipc` images needs.
fn images_needed(config: &RecoverConfig, ipc: u32) -> u64 {
    let of_each = |side: u64, count: u32| u64::from(ipc) * side.pow(2) * u64::from(count);
    match config.start {
        Start::Noise { .. } => 0,
        Start::Real { mean_of } => of_each(config.formation.into(), mean_of),
        Start::Clusters { .. } => of_each(config.formation.into(), 1),
        Start::Crops { factor, .. } => of_each(factor.into(), 1),
    }
}

/// Checks that `train` has as many images of each class as `key` needs.
fn enough(train: &Dataset, key: &str, needed: u64) -> Result<(), RunError> {
    let mut counts = vec![0u64; train.classes.len()];
    // Labels are below the number of classes.
    train.labels.iter().for_each(|&label| counts[label as usize] += 1);
    match train.classes.iter().zip(counts).filter(|(_, found)| *found < needed).min_by_key(|(_, found)| *found) {
        None => Ok(()),
        Some((class, found)) => {
            let (key, class, data) = (key.into(), class.clone(), train.name.clone());
            Err(RunError::TooFew { key, needed, class, data, found })
        }
    }
}

/// Copies the first `count` images of each class of the ImageFolder `folder`, which recover wrote.
fn copy_first(work: &WorkDir, folder: &Path, count: u32) -> Result<(), RunError> {
    let damaged = |path: &Path, e: std::io::Error| RunError::Damaged { path: path.into(), what: e.to_string() };
    for class in std::fs::read_dir(folder).map_err(|e| damaged(folder, e))? {
        let class = class.map_err(|e| damaged(folder, e))?.file_name();
        for number in 0..count as usize {
            let image = folder.join(&class).join(png::file_name(number));
            let bytes = std::fs::read(&image).map_err(|e| damaged(&image, e))?;
            work.write(Path::new(FOLDER).join(&class).join(png::file_name(number)), &bytes)?;
        }
    }
    Ok(())
}

/// The training images that `choice` takes, as items of the new set and indices of the old one.
fn chosen(train: &Dataset, choice: Choice, ipc: u32, seed: u64) -> Vec<(Item, usize)> {
    let mut chosen = Vec::new();
    for class in 0..train.classes.len() as u32 {
        let mut own: Vec<usize> = (0..train.len()).filter(|&i| train.labels[i] == class).collect();
        match choice {
            Choice::Random => own.shuffle(&mut rng::stream(seed, "real/choice", class.into())),
            Choice::NearestMean => sort_by_distance_to_mean(train, &mut own),
        }
        let items = (0..ipc).map(|number| Item { class, number });
        chosen.extend(items.zip(own));
    }
    chosen
}

/// Sorts images of one class by the Euclidean distance of their pixels to the mean image; of equals the first of the data set comes first.
fn sort_by_distance_to_mean(train: &Dataset, own: &mut [usize]) {
    let pixels = |index: usize| train.image(index).unwrap_or_default().iter().map(|&pixel| f64::from(pixel));
    let mut mean = vec![0.0; train.channels * train.height * train.width];
    for &index in own.iter() {
        mean.iter_mut().zip(pixels(index)).for_each(|(sum, pixel)| *sum += pixel / own.len() as f64);
    }
    let distance = |index: usize| pixels(index).zip(&mean).map(|(pixel, mean)| (pixel - mean).powi(2)).sum::<f64>();
    let mut sorted: Vec<(f64, usize)> = own.iter().map(|&index| (distance(index), index)).collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    own.iter_mut().zip(sorted).for_each(|(place, (_, index))| *place = index);
}

fn inputs<const N: usize>(pairs: [(&str, &String); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(name, hash)| (name.to_owned(), hash.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Fit, Source};
    use crate::in_repository;

    /// The key of images for data of these classes; `r_bn` is the method's.
    fn key_of_images(teacher: &Bundle, classes: &[&str], r_bn: BnWeight) -> String {
        let test = Dataset {
            name: "x".into(),
            images: vec![0; classes.len()],
            labels: (0..classes.len() as u32).collect(),
            channels: 1,
            height: 1,
            width: 1,
            classes: classes.iter().map(|&class| class.to_owned()).collect(),
        };
        // Nobody reads the training set.
        let unread = tempfile::Builder::new().suffix(".npz").tempfile().unwrap();
        let real = Real::of_test(Source::open(unread.path()).unwrap(), Fit::Exact, test);
        let pieces = Pieces::new(Some(&real), Path::new("nowhere"), Mode::List);
        let config = RecoverConfig { r_bn, ..RecoverConfig::of_preset("sre2l-cifar100").unwrap() };
        pieces.recover(teacher, Vec::new(), ("m", &config), 1, 0).unwrap().key
    }

    #[test]
    fn images_of_a_teacher_without_classes_are_of_the_datas() {
        let fixed = BnWeight::Fixed(1.0);
        let features = Bundle::load(&in_repository("tests/goldens/features-only")).unwrap();
        let key = |classes: &[&str]| key_of_images(&features, classes, fixed);
        assert_eq!(key(&["a", "b"]), key(&["a", "b"]));
        assert_ne!(key(&["a", "b"]), key(&["a", "b", "c"]), "a set of two classes is no set of three");
        assert_ne!(key(&["a", "b"]), key(&["b", "a"]));
        let own = Bundle::load(&in_repository("onnx/fashion-mnist/resnet18-w16-moco-v2")).unwrap();
        assert_eq!(key_of_images(&own, &["a"], fixed), key_of_images(&own, &["b", "c"], fixed));
        assert_ne!(key_of_images(&own, &["a"], fixed), key_of_images(&own, &["a"], BnWeight::Auto));
    }

    #[test]
    fn real_images_are_chosen_by_class() {
        // One pixel each: class 0 has 0, 10, 20, 90 (mean 30), class 1 has 5, 7 (mean 6).
        let train = Dataset {
            name: "x".into(),
            images: vec![0, 5, 10, 20, 7, 90],
            labels: vec![0, 1, 0, 0, 1, 0],
            channels: 1,
            height: 1,
            width: 1,
            classes: vec!["a".into(), "b".into()],
        };
        let nearest: Vec<(u32, u32, usize)> = chosen(&train, Choice::NearestMean, 3, 9)
            .into_iter()
            .map(|(item, index)| (item.class, item.number, index))
            .collect();
        assert_eq!(nearest, [(0, 0, 3), (0, 1, 2), (0, 2, 0), (1, 0, 1), (1, 1, 4)]);
        let random = |seed| chosen(&train, Choice::Random, 2, seed);
        assert_eq!(random(1), random(1));
        assert!((2..20).any(|seed| random(seed) != random(1)));
        assert!(random(1).iter().all(|(item, index)| train.labels[*index] == item.class));
    }
}
