//! Runs an experiment: recover → relabel → validate → report for every cell of its matrix, doing no piece of work twice.
//!
//! Each piece is a [`stage`], a pure function of its configuration, the hashes of what it reads, and the seed; a rerun finds what is complete
//! and continues what was interrupted. No stage starts on a bundle that was not verified in exactly the state in which it lies on disk.

pub mod figures;
pub mod files;
pub mod plan;
pub mod stage;

mod clock;
mod contents;
mod fit;
mod identity;
mod lock;
mod maker;
mod matrix;
mod memory;
mod pieces;
mod real;
mod results;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::config::{ConfigError, Experiment, Labels, RecoverConfig, RelabelConfig};
use crate::data::DataError;
use crate::own::{self, OwnError};
use crate::report::{self, ReportError, Results};
use crate::teacher::{Bundle, BundleError};

pub use maker::{Failed, Failure, Maker, RecoverTask, RelabelTask, Task, ValidateTask, WholeTask, WorkedOff};
use matrix::{Line, Origin, Set, lines};
use pieces::{Images, Labelled, Mode, Pieces};
use plan::Plan;
use real::{Real, Shelf};
use stage::{StageError, Tell, fill};

/// Why an experiment could not be run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("the resolved experiment can't be written as YAML: {0}")]
    Yaml(#[from] serde_yaml::Error),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Stage(#[from] StageError),
    /// What stopped whoever was to make a stage.
    #[error(transparent)]
    Make(#[from] Failure),
    #[error(transparent)]
    Report(#[from] ReportError),
    #[error(transparent)]
    Own(#[from] OwnError),
    #[error("{}: {what}", path.display())]
    Misfit { path: PathBuf, what: String },
    #[error("{}: {what}; remove the directory and run again", path.display())]
    Damaged { path: PathBuf, what: String },
    #[error(
        "{key} needs {needed} training images of every class, but `{class}` of {data} has {found}: lower `ipc`, or leave it out"
    )]
    TooFew { key: String, needed: u64, class: String, data: String, found: u64 },
    #[error("this needs real data, but the experiment has `data: none`; name a data set")]
    NoData,
    #[error("the experiment is not complete: {} is missing; `scdd run` makes it", missing.display())]
    Incomplete { missing: PathBuf },
    /// More than one thing is wrong, and all of it is said.
    #[error("{} things are wrong:{}", .0.len(), .0.iter().map(|one| format!("\n  {one}")).collect::<String>())]
    Several(Vec<RunError>),
    /// Nothing that was asked for could be made.
    #[error("nothing could be made that the experiment is about; the first failure: {first}")]
    AllFailed { first: String },
}

/// All that is in `results`, or all that is wrong.
fn every<T>(results: impl Iterator<Item = Result<T, RunError>>) -> Result<Vec<T>, RunError> {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(one) => good.push(one),
            Err(RunError::Several(more)) => bad.extend(more),
            // What has not been made yet is no fault; the first is enough.
            Err(one @ RunError::Incomplete { .. }) if bad.is_empty() => return Err(one),
            Err(one) => bad.push(one),
        }
    }
    match bad.len() {
        0 => Ok(good),
        1 => Err(bad.remove(0)),
        _ => Err(RunError::Several(bad)),
    }
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
    /// The stages that could not be made; they have been told.
    pub failed: Failed,
}

/// Where and how an experiment is run.
pub struct Setting<'a> {
    /// Stages go to `output/stages`, the report to `output/<experiment's name>`.
    pub output: &'a Path,
    pub goal: Goal,
    /// Makes missing stages; without it, the first one that is missing is an error.
    pub maker: Option<&'a dyn Maker>,
    /// Receives what the user ought to know at once.
    pub tell: Tell<'a>,
}

/// The experiment with every key explicit, in its report's directory.
pub const RESOLVED: &str = "experiment.yaml";

/// Runs `experiment` as far as the setting's goal. A stage that fails costs those alone that need it.
///
/// # Errors
/// What stops everything; all that was finished before stays, and the next run goes on from there.
pub fn run(experiment: &Experiment, setting: &Setting) -> Result<Finished, RunError> {
    let home = setting.output.join(&experiment.name);
    if setting.goal == Goal::Report {
        // Not after hours of work.
        own::check(&home.join(RESOLVED))?;
        report::check(&home)?;
    }
    let bundles = load_bundles(experiment)?;
    let (experiment, mut remarks) = identity::unified(experiment, &bundles)?;
    let experiment = &experiment;
    let real = real_data(experiment, &bundles, &Shelf::default())?;
    let WorkedOff { remarks: told, failed } = match setting.maker {
        Some(maker) => {
            let pieces = prepare(experiment, &bundles, real.as_deref(), setting.output, Mode::Make(maker))?;
            name_all(experiment, &bundles, &pieces, setting.goal)?;
            maker.work_off(pieces.into_tasks())?
        }
        None => WorkedOff::default(),
    };
    remarks.extend(told);
    let pieces = prepare(experiment, &bundles, real.as_deref(), setting.output, Mode::Find(&failed))?;
    let all = name_all(experiment, &bundles, &pieces, setting.goal)?;
    let mut directories = all.directories(setting.goal);
    directories.retain(|directory| !failed.contains_key(directory));
    if let Some(first) = failed.values().next().filter(|_| directories.is_empty()) {
        return Err(RunError::AllFailed { first: first.clone() });
    }
    let resolved = experiment.to_yaml()?;
    let results = results::collect(experiment, resolved.clone(), &bundles, &pieces, &all)?;
    if setting.goal == Goal::Report {
        fill(&home, setting.tell, |home| {
            own::write(&home.join(RESOLVED), &resolved)?;
            report::write(&results, home)?;
            Ok::<_, RunError>(())
        })?;
        directories = BTreeSet::from([home]);
    }
    remarks.extend(pieces.into_remarks());
    // Several stages say the same, and in whichever order they end.
    remarks.sort();
    remarks.dedup();
    Ok(Finished { directories: directories.into_iter().collect(), results, remarks, failed })
}

/// A distilled set of images with its soft labels, complete on disk.
pub struct DistilledSet {
    /// Names it among the experiment's sets.
    pub name: String,
    /// The method's name in the experiment, and its settings.
    pub method: (String, RecoverConfig),
    /// The bundle that the images were recovered from, as the experiment names it.
    pub teacher: PathBuf,
    /// Images per class.
    pub ipc: u32,
    pub seed: u64,
    /// The ImageFolder.
    pub folder: PathBuf,
    /// Identifies how it was made: the hash of configuration, teacher and seed.
    pub key: String,
    /// The stores of soft labels: name, labelling bundle, file.
    pub labels: Vec<(String, PathBuf, PathBuf)>,
}

/// Every distilled set of `experiment`, each once, and the bundles that they came from.
///
/// # Errors
/// When one of them, or of its labels, is not complete below `output`.
pub fn distilled_sets(experiment: &Experiment, output: &Path) -> Result<(Vec<DistilledSet>, Bundles), RunError> {
    let bundles = load_bundles(experiment)?;
    let experiment = &identity::unified(experiment, &bundles)?.0;
    let names = identity::Names::of(&bundles);
    let real = real_data(experiment, &bundles, &Shelf::default())?;
    let none = Failed::new();
    let pieces = prepare(experiment, &bundles, real.as_deref(), output, Mode::Find(&none))?;
    let mut sets: Vec<DistilledSet> = Vec::new();
    for made in make(experiment, &bundles, &pieces, Goal::Relabel)? {
        let Origin::Distilled { teacher, method } = made.line.origin else { continue };
        let folder = made.images.folder();
        let known = sets.iter().position(|set| set.folder == folder).unwrap_or_else(|| {
            let (ipc, seed) = (made.line.ipc, made.line.seed);
            sets.push(DistilledSet {
                name: format!("{method}-from-{}-ipc{ipc}-seed{seed}", names.get(teacher)),
                method: (method.to_owned(), experiment.methods[method].clone()),
                teacher: teacher.to_owned(),
                ipc,
                seed,
                folder,
                key: made.images.key().to_owned(),
                labels: Vec::new(),
            });
            sets.len() - 1
        });
        if let Some(labels) = made.labels.as_ref().filter(|_| made.line.labels == Labels::Soft) {
            let name = format!("{}-by-{}", made.line.protocol, names.get(made.line.labeller));
            let entry = (name, made.line.labeller.to_owned(), labels.file());
            if !sets[known].labels.contains(&entry) {
                sets[known].labels.push(entry);
            }
        }
    }
    drop(pieces);
    Ok((sets, bundles))
}

/// Says what runs would do; several experiments on the same data read it once.
#[derive(Default)]
pub struct Planner {
    shelf: Shelf,
}

impl Planner {
    /// What [`run`] would do with stages below `output`; nothing is made.
    ///
    /// # Errors
    /// When the experiment's bundles or data cannot be read or do not fit each other.
    pub fn plan(&self, experiment: &Experiment, output: &Path, goal: Goal) -> Result<Plan, RunError> {
        let bundles = load_bundles(experiment)?;
        let experiment = &identity::unified(experiment, &bundles)?.0;
        let real = real_data(experiment, &bundles, &self.shelf)?;
        let pieces = prepare(experiment, &bundles, real.as_deref(), output, Mode::List)?;
        name_all(experiment, &bundles, &pieces, goal)?;
        Ok(Plan { name: experiment.name.clone(), stages: pieces.into_plan()? })
    }

    /// The hashes of the experiment's networks.
    ///
    /// # Errors
    /// When one of them can't be read.
    pub fn networks(&self, experiment: &Experiment) -> Result<BTreeSet<String>, RunError> {
        Ok(load_bundles(experiment)?.into_values().map(|bundle| bundle.hash).collect())
    }
}

fn stages_in(output: &Path) -> PathBuf {
    output.join("stages")
}

fn real_data(experiment: &Experiment, bundles: &Bundles, shelf: &Shelf) -> Result<Option<Rc<Real>>, RunError> {
    Ok(shelf.get(&experiment.data, bundles[&experiment.teachers[0]].image_shape())?)
}

fn prepare<'a>(
    experiment: &Experiment,
    bundles: &Bundles,
    real: Option<&'a Real>,
    output: &Path,
    mode: Mode<'a>,
) -> Result<Pieces<'a>, RunError> {
    let pieces = Pieces::new(real, &stages_in(output), mode);
    fit::check(experiment, bundles, pieces.test())?.into_iter().for_each(|remark| pieces.remark(Some(remark)));
    every(bundles.values().map(|bundle| pieces.verify(bundle)))?;
    Ok(pieces)
}

/// All that an experiment consists of.
struct All<'a> {
    recovered: Vec<Recovered<'a>>,
    rows: Vec<Made<'a>>,
    whole: Vec<Whole<'a>>,
}

impl All<'_> {
    /// The directories that `goal` is about.
    fn directories(&self, goal: Goal) -> BTreeSet<PathBuf> {
        let mut found: BTreeSet<PathBuf> = self.rows.iter().filter_map(|row| row.directory(goal)).collect();
        // Without students the images are all that there is.
        if goal == Goal::Recover || self.rows.is_empty() {
            found.extend(self.recovered.iter().map(|one| one.images.directory.clone()));
        }
        found.extend(self.whole.iter().map(|row| row.directory.clone()));
        found
    }
}

/// Asks for every stage of the experiment as far as `goal`.
fn name_all<'a>(
    experiment: &'a Experiment,
    bundles: &'a Bundles,
    pieces: &Pieces<'a>,
    goal: Goal,
) -> Result<All<'a>, RunError> {
    if goal >= Goal::Relabel {
        measure_teachers(experiment, bundles, pieces)?;
    }
    Ok(All {
        recovered: recover(experiment, bundles, pieces)?,
        rows: make(experiment, bundles, pieces, goal)?,
        whole: make_whole(experiment, bundles, pieces, goal)?,
    })
}

/// Measures the teachers whose classes students learn, on real test images: a wrong order of classes shows there, and nowhere else.
fn measure_teachers<'a>(experiment: &'a Experiment, bundles: &'a Bundles, pieces: &Pieces<'a>) -> Result<(), RunError> {
    let teachers = experiment.teachers.iter().map(PathBuf::as_path);
    let all: BTreeSet<&Path> = teachers.chain(experiment.labellers()).chain(experiment.ensembles()).collect();
    every(all.into_iter().map(|path| pieces.measure(&bundles[path]))).map(drop)
}

/// One set of synthetic images, and by verifier the directory of what it sees in them.
struct Recovered<'a> {
    set: Set<'a>,
    images: Images,
    verified: Vec<(&'a Path, PathBuf)>,
}

/// Asks for every set of synthetic images, and what its verifiers see in it.
fn recover<'a>(
    experiment: &'a Experiment,
    bundles: &'a Bundles,
    pieces: &Pieces<'a>,
) -> Result<Vec<Recovered<'a>>, RunError> {
    let recover = |set: Set<'a>| {
        let method = &experiment.methods[set.method];
        let images = recover_set(experiment, bundles, pieces, set)?;
        let verify = |path: &'a PathBuf| Ok((path.as_path(), pieces.verifier(&images, &bundles[path], set.seed)?));
        let verified = method.verifier.iter().map(verify).collect::<Result<_, RunError>>()?;
        Ok(Recovered { set, images, verified })
    };
    matrix::sets(experiment).into_iter().map(recover).collect()
}

fn recover_set<'a>(
    experiment: &Experiment,
    bundles: &'a Bundles,
    pieces: &Pieces<'a>,
    set: Set,
) -> Result<Images, RunError> {
    let method = &experiment.methods[set.method];
    let others = method.committee.iter().flat_map(|committee| &committee.teachers);
    let others = others.map(|path| &bundles[path]).collect();
    pieces.recover(&bundles[set.teacher], others, (set.method, method), set.ipc, set.seed)
}

/// One row's stages, as far as the goal asked for them.
struct Made<'a> {
    line: Line<'a>,
    images: Images,
    labels: Option<Labelled>,
    /// The directory of the trained student.
    student: Option<PathBuf>,
}

impl Made<'_> {
    /// The directory that `goal` is about.
    fn directory(&self, goal: Goal) -> Option<PathBuf> {
        match goal {
            Goal::Recover => Some(self.images.directory.clone()),
            Goal::Relabel => self.labels.as_ref().map(|labels| labels.directory.clone()),
            Goal::Validate | Goal::Report => self.student.clone(),
        }
    }
}

/// Asks for every row of the experiment as far as `goal`.
fn make<'a>(
    experiment: &'a Experiment,
    bundles: &'a Bundles,
    pieces: &Pieces<'a>,
    goal: Goal,
) -> Result<Vec<Made<'a>>, RunError> {
    lines(experiment).into_iter().map(|line| make_row(experiment, bundles, pieces, goal, line)).collect()
}

fn make_row<'a>(
    experiment: &'a Experiment,
    bundles: &'a Bundles,
    pieces: &Pieces<'a>,
    goal: Goal,
    line: Line<'a>,
) -> Result<Made<'a>, RunError> {
    let (ipc, seed, protocol) = (line.ipc, line.seed, &experiment.protocols[line.protocol]);
    let images = match line.origin {
        Origin::Distilled { teacher, method } => {
            recover_set(experiment, bundles, pieces, Set { teacher, method, ipc, seed })?
        }
        Origin::Real(choice) => pieces.real(choice, ipc, seed)?,
        Origin::Crops => pieces.crops(&bundles[line.labeller], ipc, seed)?,
    };
    if goal < Goal::Relabel {
        return Ok(Made { line, images, labels: None, student: None });
    }
    let labels = match line.labels {
        Labels::Soft => {
            let answering = answering(bundles, line.labeller, &protocol.relabel);
            Some(pieces.relabel(&images, answering, &protocol.relabel, seed)?)
        }
        Labels::Hard => None,
    };
    let mut student = None;
    if goal >= Goal::Validate {
        student = Some(pieces.validate(&images, labels.as_ref(), &bundles[line.student], protocol, seed)?);
    }
    Ok(Made { line, images, labels, student })
}

/// A student trained on the whole real training set.
struct Whole<'a> {
    protocol: &'a str,
    student: &'a Path,
    seed: u64,
    directory: PathBuf,
    images: u64,
}

/// The rows of the whole training set, if the experiment asks for them and the goal is that far.
fn make_whole<'a>(
    experiment: &'a Experiment,
    bundles: &'a Bundles,
    pieces: &Pieces<'a>,
    goal: Goal,
) -> Result<Vec<Whole<'a>>, RunError> {
    let mut rows = Vec::new();
    let Some(whole) = experiment.whole_real.filter(|_| goal >= Goal::Validate) else { return Ok(rows) };
    for (name, protocol) in &experiment.protocols {
        for (student, &seed) in experiment.students.iter().flat_map(|s| experiment.seeds.iter().map(move |n| (s, n))) {
            let (directory, images) = pieces.whole(&bundles[student], protocol, whole, seed)?;
            rows.push(Whole { protocol: name, student, seed, directory, images });
        }
    }
    Ok(rows)
}

/// Every bundle that the experiment names, by its path there; so indexing with a path of the experiment cannot fail.
pub type Bundles = BTreeMap<PathBuf, Bundle>;

/// The teachers that label together with `labeller`, it first, and their weights.
fn answering<'a>(bundles: &'a Bundles, labeller: &Path, relabel: &RelabelConfig) -> Vec<(&'a Bundle, f64)> {
    let (own, others): (Vec<_>, Vec<_>) = relabel.ensemble.iter().partition(|member| member.bundle == labeller);
    let first = (&bundles[labeller], own.first().map_or(1.0, |member| member.weight));
    [first].into_iter().chain(others.iter().map(|member| (&bundles[&member.bundle], member.weight))).collect()
}

fn load_bundles(experiment: &Experiment) -> Result<Bundles, RunError> {
    let paths = experiment.teachers.iter().chain(&experiment.students).map(PathBuf::as_path);
    let committees = experiment.methods.values().filter_map(|method| method.committee.as_ref());
    let members = committees.flat_map(|committee| &committee.teachers).map(PathBuf::as_path);
    let verifiers = experiment.methods.values().flat_map(|method| &method.verifier).map(PathBuf::as_path);
    let labellers = experiment.labellers().into_iter().chain(experiment.ensembles());
    let paths: BTreeSet<&Path> = paths.chain(members).chain(labellers).chain(verifiers).collect();
    let load = |path: &Path| Ok((path.to_path_buf(), Bundle::load(path)?));
    Ok(every(paths.into_iter().map(load))?.into_iter().collect())
}
