//! Runs an experiment: recover → relabel → validate → report for every cell of its matrix, doing no piece of work twice.
//!
//! Each piece is a [`stage`], a pure function of its configuration, the hashes of what it reads, and the seed; a rerun finds what is complete
//! and continues what was interrupted. No stage starts on a bundle that was not verified in exactly the state in which it lies on disk.

pub mod stage;

mod pieces;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::config::{Baseline, Experiment};
use crate::data::{DataError, Dataset};
use crate::progress::Progress;
use crate::recover::RecoverError;
use crate::relabel::RelabelError;
use crate::report::{self, Grid, Labels, Method, Recovery, ReportError, Results, Row, Seconds};
use crate::teacher::{Bundle, BundleError, Role, Runtime, RuntimeError};
use crate::validate::ValidateError;

use pieces::{Images, Pieces};
use stage::{StageError, Timing, write_atomic};

/// Why an experiment could not be run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("the resolved experiment can't be written as YAML: {0}")]
    Yaml(#[from] serde_yaml::Error),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error(transparent)]
    Recover(#[from] RecoverError),
    #[error(transparent)]
    Relabel(#[from] RelabelError),
    #[error(transparent)]
    Validate(#[from] ValidateError),
    #[error(transparent)]
    Report(#[from] ReportError),
    #[error("bundle `{bundle}` failed its verification{}; `scdd verify` shows every check", .divergence.as_ref().map_or(String::new(), |d| format!(": {d}")))]
    Unverified { bundle: String, divergence: Option<String> },
    #[error("{}: {what}", path.display())]
    Misfit { path: PathBuf, what: String },
    #[error("{}: {what}; remove the directory and run again", path.display())]
    Damaged { path: PathBuf, what: String },
    #[error("this needs real data, but the experiment has `data: none`; name a data set")]
    NoData,
    #[error("the experiment is not complete: {} is missing; `scdd run` makes it", missing.display())]
    Incomplete { missing: PathBuf },
    #[error("CUDA was asked for (`device: cuda`), but libtorch finds no CUDA device; use `device: cpu` or `auto`")]
    NoCuda,
}

/// How far an experiment is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Goal {
    /// Every set of images.
    Recover,
    /// Their labels too.
    Relabel,
    /// Trained and tested students too.
    Validate,
    /// The report too.
    Report,
}

/// What a run left.
pub struct Finished {
    /// The complete directories of the goal's stage, sorted; with [`Goal::Report`] that of the report.
    pub directories: Vec<PathBuf>,
    /// Empty of rows unless the goal was at least [`Goal::Validate`].
    pub results: Results,
    /// Remarks that the user ought to see, such as a fallback that was taken.
    pub remarks: Vec<String>,
}

/// Where and how an experiment is run.
pub struct Setting<'a> {
    /// Stages go to `output/stages`, the report to `output/<experiment's name>`.
    pub output: &'a Path,
    pub goal: Goal,
    /// Whether missing stages are made. If not, the first one that is missing is an error.
    pub make: bool,
    pub runtime: &'a Runtime,
    pub progress: &'a dyn Progress,
}

/// Runs `experiment` as far as the setting's goal.
///
/// # Errors
/// The first thing that went wrong; everything that was finished before stays, and the next run goes on from there.
pub fn run(experiment: &Experiment, setting: &Setting) -> Result<Finished, RunError> {
    let bundles = load_bundles(experiment)?;
    let stages = setting.output.join("stages");
    let pieces = Pieces::new(experiment, &stages, setting.make, setting.runtime, setting.progress)?;
    check_fit(experiment, &bundles, pieces.test())?;
    for bundle in bundles.values() {
        pieces.verify(bundle)?;
    }
    let resolved = experiment.to_yaml()?;
    let results = empty_results(experiment, resolved.clone(), &pieces, &bundles);
    let mut collected =
        Collected { pieces: &pieces, bundles: &bundles, goal: setting.goal, results, directories: BTreeSet::new() };
    collected.recoveries(experiment)?;
    collected.cells(experiment)?;
    collected.baselines(experiment)?;
    let Collected { results, mut directories, .. } = collected;
    if setting.goal == Goal::Report {
        let home = setting.output.join(&experiment.name);
        write_atomic(&home.join("experiment.yaml"), resolved.as_bytes())?;
        report::write(&results, &home)?;
        directories = BTreeSet::from([home]);
    }
    Ok(Finished { directories: directories.into_iter().collect(), results, remarks: pieces.into_remarks() })
}

type Bundles = BTreeMap<PathBuf, Bundle>;

fn load_bundles(experiment: &Experiment) -> Result<Bundles, RunError> {
    let relabel = experiment.teachers.iter().flat_map(|t| experiment.relabel_teachers.of(t));
    let paths = experiment.teachers.iter().cloned().chain(relabel).chain(experiment.students.iter().cloned());
    let paths = paths.chain(experiment.recover.verifier.iter().cloned());
    let mut bundles = Bundles::new();
    for path in paths {
        if !bundles.contains_key(&path) {
            bundles.insert(path.clone(), Bundle::load(&path)?);
        }
    }
    Ok(bundles)
}

/// Networks must have the data's channels, size and classes, and the part that the experiment gives them.
fn check_fit(experiment: &Experiment, bundles: &Bundles, test: Option<&Dataset>) -> Result<(), RunError> {
    for (path, bundle) in bundles {
        let misfit = |what: String| Err(RunError::Misfit { path: path.clone(), what });
        let is_student = experiment.students.contains(path);
        if is_student != (bundle.manifest.role == Role::Student) {
            let (part, role) = if is_student { ("student", "teacher") } else { ("teacher", "student") };
            return misfit(format!("is a {role} bundle, the experiment names it as a {part}"));
        }
        let (shape, classes) = (bundle.image_shape(), bundle.manifest.classes.len());
        if experiment.teachers.contains(path) {
            check_teacher(experiment, bundles, bundle, test).or_else(misfit)?;
        }
        let labels = experiment.teachers.iter().any(|t| experiment.relabel_teachers.of(t).contains(path));
        let labels = labels && !experiment.students.is_empty();
        if let Some(why) = bundle.without_classifier().filter(|_| labels) {
            return misfit(format!("can't label images: {why}. Or name other teachers under `relabel_teachers`"));
        }
        let only_verifies = experiment.recover.verifier.contains(path) && !takes_part(experiment, path);
        let Some(test) = test.filter(|_| !only_verifies) else { continue };
        let data = [test.channels, test.height, test.width];
        if shape != data {
            return misfit(format!("takes images of {shape:?} [channels, height, width], {} has {data:?}", test.name));
        }
        if classes != test.classes.len() && !bundle.manifest.is_features_only() {
            return misfit(format!("has {classes} classes, {} has {}", test.name, test.classes.len()));
        }
    }
    Ok(())
}

/// Whether the network at `path` has a part in the distillation itself.
fn takes_part(experiment: &Experiment, path: &PathBuf) -> bool {
    let labels = |teacher: &PathBuf| experiment.relabel_teachers.of(teacher).contains(path);
    experiment.teachers.contains(path) || experiment.students.contains(path) || experiment.teachers.iter().any(labels)
}

/// The teacher knows the classes that are to be recovered, and its verifiers know just as many.
fn check_teacher(
    experiment: &Experiment,
    bundles: &Bundles,
    teacher: &Bundle,
    test: Option<&Dataset>,
) -> Result<(), String> {
    let features_only = teacher.manifest.is_features_only();
    let classes = match test.filter(|_| features_only) {
        Some(test) => test.classes.len(),
        None if features_only => return Err("has no classifier, and `data: none` gives no classes either".into()),
        None => teacher.manifest.classes.len(),
    };
    if features_only && !experiment.recover.verifier.is_empty() {
        return Err("has no classifier, so its images belong to no class that a verifier could tell".into());
    }
    let asked = experiment.recover.classes.iter().flatten();
    if let Some(class) = asked.copied().find(|&class| class as usize >= classes) {
        return Err(format!("has {classes} classes, `recover.classes` asks for class {class}"));
    }
    for path in &experiment.recover.verifier {
        let Some(verifier) = bundles.get(path) else { continue };
        let (own, its) = (teacher.image_shape()[0], verifier.image_shape()[0]);
        let known = verifier.manifest.classes.len();
        if (own, classes) != (its, known) {
            return Err(format!(
                "has {own} channels and {classes} classes, its verifier {} has {its} and {known}",
                path.display()
            ));
        }
    }
    Ok(())
}

fn empty_results(experiment: &Experiment, resolved: String, pieces: &Pieces, bundles: &Bundles) -> Results {
    let named = bundles.values().find(|b| !b.manifest.is_features_only());
    let mut classes = named.map(|b| b.manifest.classes.clone()).unwrap_or_default();
    if let Some(chosen) = &experiment.recover.classes {
        let kept = |index: usize| chosen.contains(&(index as u32));
        classes = classes.into_iter().enumerate().filter(|(index, _)| kept(*index)).map(|(_, name)| name).collect();
    }
    Results {
        name: experiment.name.clone(),
        data: pieces.test().map_or("no real data".into(), |test| test.name.clone()),
        classes,
        test_images: pieces.test().map_or(0, Dataset::len),
        experiment: resolved,
        ..Results::default()
    }
}

/// Gathers the report's rows while the stages run.
struct Collected<'a> {
    pieces: &'a Pieces<'a>,
    bundles: &'a Bundles,
    goal: Goal,
    results: Results,
    /// Of the goal's stage.
    directories: BTreeSet<PathBuf>,
}

impl<'a> Collected<'a> {
    fn bundle(&self, path: &Path) -> Result<&'a Bundle, RunError> {
        self.bundles.get(path).ok_or_else(|| RunError::Misfit { path: path.into(), what: "was not loaded".into() })
    }

    /// Every set of synthetic images, and what the verifiers see in it.
    fn recoveries(&mut self, experiment: &Experiment) -> Result<(), RunError> {
        for path in &experiment.teachers {
            let teacher = self.bundle(path)?;
            for (&ipc, &seed) in
                experiment.ipc.iter().flat_map(|ipc| experiment.seeds.iter().map(move |seed| (ipc, seed)))
            {
                let images = self.pieces.recover(teacher, ipc, seed)?;
                self.directory(Goal::Recover, &images.directory);
                self.note_recovery(experiment, &images, teacher, ipc, seed)?;
            }
        }
        Ok(())
    }

    fn cells(&mut self, experiment: &Experiment) -> Result<(), RunError> {
        for cell in experiment.cells() {
            let teacher = self.bundle(&cell.teacher)?;
            let images = self.pieces.recover(teacher, cell.ipc, cell.seed)?;
            let name = teacher.name().to_owned();
            let row = Row { teacher: Some(name), ..blank_row(Method::Scdd, cell.ipc, cell.seed) };
            self.soft_row(row, &images, &cell.relabel_teacher, &cell.student)?;
        }
        Ok(())
    }

    /// Real images, under the labels of every relabel teacher and under their own.
    fn baselines(&mut self, experiment: &Experiment) -> Result<(), RunError> {
        let mut labellers: Vec<PathBuf> =
            experiment.teachers.iter().flat_map(|t| experiment.relabel_teachers.of(t)).collect();
        labellers.sort();
        labellers.dedup();
        for (&ipc, &seed) in experiment.ipc.iter().flat_map(|ipc| experiment.seeds.iter().map(move |seed| (ipc, seed)))
        {
            if experiment.baselines.is_empty() {
                continue;
            }
            let images = self.pieces.random_real(ipc, seed)?;
            self.directory(Goal::Recover, &images.directory);
            self.note_grid(Method::RandomReal, &images, None, ipc, seed);
            for student in &experiment.students {
                let row = || blank_row(Method::RandomReal, ipc, seed);
                if experiment.baselines.contains(&Baseline::RandomRealSoft) {
                    for labeller in &labellers {
                        self.soft_row(row(), &images, labeller, student)?;
                    }
                }
                if experiment.baselines.contains(&Baseline::RandomRealHard)
                    && let Some(labeller) = labellers.first()
                {
                    self.hard_row(row(), &images, labeller, student)?;
                }
            }
        }
        Ok(())
    }

    fn directory(&mut self, stage: Goal, directory: &Path) {
        if stage == self.goal {
            self.directories.insert(directory.into());
        }
    }

    fn soft_row(&mut self, row: Row, images: &Images, labeller: &Path, student: &Path) -> Result<(), RunError> {
        let relabel_teacher = Some(self.bundle(labeller)?.name().to_owned());
        self.row(Row { relabel_teacher, labels: Labels::Soft, ..row }, images, labeller, student)
    }

    /// Hard labels need a relabelling only for its views, which are the same whichever teacher answered.
    fn hard_row(&mut self, row: Row, images: &Images, labeller: &Path, student: &Path) -> Result<(), RunError> {
        self.row(Row { labels: Labels::Hard, ..row }, images, labeller, student)
    }

    fn row(&mut self, row: Row, images: &Images, labeller: &Path, student: &Path) -> Result<(), RunError> {
        if self.goal < Goal::Relabel {
            return Ok(());
        }
        let labels = self.pieces.relabel(images, self.bundle(labeller)?, row.seed)?;
        self.directory(Goal::Relabel, &labels.directory);
        if self.goal < Goal::Validate {
            return Ok(());
        }
        let student = self.bundle(student)?;
        let is_hard = row.labels == Labels::Hard;
        let (training, directory) = self.pieces.validate(images, &labels, student, is_hard, row.seed)?;
        let student = student.name().to_owned();
        self.directory(Goal::Validate, &directory);
        let seconds = |dir: &Path| Timing::read(dir).map(|t| t.seconds);
        let row = Row {
            student,
            last_accuracy: training.last,
            best_accuracy: training.best,
            seconds: Seconds {
                recover: if row.method == Method::Scdd { seconds(&images.directory) } else { None },
                relabel: if row.labels == Labels::Soft { seconds(&labels.directory) } else { None },
                validate: seconds(&directory),
            },
            curve: training.curve.iter().map(train_point).collect(),
            ..row
        };
        self.results.rows.push(row);
        Ok(())
    }

    fn note_recovery(
        &mut self,
        experiment: &Experiment,
        images: &Images,
        teacher: &Bundle,
        ipc: u32,
        seed: u64,
    ) -> Result<(), RunError> {
        let curve = self.pieces.recovery_curve(images)?;
        let verify = |path: &PathBuf| {
            let verifier = self.bundle(path)?;
            let accuracy = self.pieces.verifier(images, teacher, verifier, seed)?;
            Ok(report::Verified { verifier: verifier.name().into(), accuracy })
        };
        let verified = experiment.recover.verifier.iter().map(verify).collect::<Result<_, RunError>>()?;
        let name = teacher.name();
        self.results.recoveries.push(Recovery { teacher: name.into(), ipc, seed, curve, verified });
        self.note_grid(Method::Scdd, images, Some(name), ipc, seed);
        Ok(())
    }

    fn note_grid(&mut self, method: Method, images: &Images, teacher: Option<&str>, ipc: u32, seed: u64) {
        let folder = images.folder();
        self.results.grids.push(Grid { method, teacher: teacher.map(Into::into), ipc, seed, folder });
    }
}

fn blank_row(method: Method, ipc: u32, seed: u64) -> Row {
    Row {
        method,
        teacher: None,
        relabel_teacher: None,
        student: String::new(),
        ipc,
        labels: Labels::Soft,
        seed,
        last_accuracy: 0.0,
        best_accuracy: 0.0,
        seconds: Seconds::default(),
        curve: Vec::new(),
    }
}

fn train_point(epoch: &crate::validate::Epoch) -> report::TrainPoint {
    report::TrainPoint { epoch: epoch.epoch, train_loss: epoch.loss, test_accuracy: epoch.accuracy }
}
