//! An experiment as data: its inputs, the graph of its stages, and the results of finished stages.
//!
//! ```text
//! Experiment ─► Inputs ─► StageGraph ─► (a worker makes its stages) ─► Outcome ─► Results, report
//! ```
//!
//! Each stage is a pure function of its configuration, the hashes of its inputs, and the seed. A
//! rerun therefore finds complete stages and continues interrupted ones. Every stage needs the
//! verification of its bundles in exactly their state on disk. This module makes no stage and calls
//! no worker.

pub mod distilled;
pub mod finished;
pub mod graph;
pub mod opened;
pub mod plan;
pub mod real;
pub mod shards;
pub mod stages;
pub mod watch;

mod fit;
mod identity;
mod inputs;
mod matrix;
mod recovery;
mod remarks;
mod results;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, Experiment};
use crate::report::{self, ReportError, Results};
use scdd_artifacts::bundle::BundleError;
use scdd_artifacts::files::FileError;
use scdd_artifacts::labels::StoreError;
use scdd_artifacts::own::{self, OwnError};
use scdd_data::DataError;

use graph::StageGraph;
pub use inputs::{Bundles, Inputs};
pub use matrix::RealChoice;
use real::DatasetCache;
use scdd_artifacts::stage::{Announcement, StageError, StageStore, Tell, fill};
use stages::NodeId;

/// Why a stage could not be made.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Why stages could not be made. A stage that needs a failed one has the same reason.
pub type Failed = BTreeMap<NodeId, String>;

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
    Labels(#[from] StoreError),
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error(transparent)]
    File(#[from] FileError),
    /// A stage could not be made.
    #[error(transparent)]
    Make(#[from] Failure),
    #[error(transparent)]
    Report(#[from] ReportError),
    #[error(transparent)]
    Own(#[from] OwnError),
    #[error("{}: {what}", path.display())]
    Misfit { path: PathBuf, what: String },
    /// What a run announced of itself can't be used.
    #[error("the record of the run of `{name}` can't be used ({what}): start the run again")]
    Unwatchable { name: String, what: String },
    #[error(
        "{key} needs {needed} training images of every class, but `{class}` of {data} has {found}: lower `ipc`, or leave it out"
    )]
    TooFew { key: String, needed: u64, class: String, data: String, found: u64 },
    #[error("this needs real data, but the experiment has `data: none`; name a data set")]
    NoData,
    #[error("the experiment is not complete: {} is missing; `scdd run` makes it", missing.display())]
    Incomplete { missing: PathBuf },
    /// Several errors, all of which are reported.
    #[error("{} things are wrong:{}", .0.len(), .0.iter().map(|one| format!("\n  {one}")).collect::<String>())]
    Several(Vec<RunError>),
    /// The run was asked to stop. The same command goes on.
    #[error("stopped as asked; the same command goes on")]
    Stopped,
    /// None of the requested results could be made.
    #[error("nothing could be made of the requested results; the first failure: {first}")]
    AllFailed { first: String },
}

/// All values of `results`, or all errors.
fn every<T>(results: impl Iterator<Item = Result<T, RunError>>) -> Result<Vec<T>, RunError> {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(one) => good.push(one),
            Err(RunError::Several(more)) => bad.extend(more),
            // A missing stage is no fault, so the first one suffices.
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

/// The last stage of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// All sets of images.
    Recover,
    /// Also their labels.
    Relabel,
    /// Also trained and tested students.
    Validate,
    /// Also the report.
    Report,
}

/// The outcome of a graph's stages.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Remarks for the user; some may be repeated.
    pub remarks: Vec<String>,
    pub failed: Failed,
}

/// The results of a run.
pub struct Finished {
    /// The complete directories of the goal's stage, sorted; with [`Goal::Report`] the report's
    /// directory.
    pub directories: Vec<PathBuf>,
    /// Without rows, unless the goal was at least [`Goal::Validate`].
    pub results: Results,
    /// Remarks for the user, for example about a fallback.
    pub remarks: Vec<String>,
    /// Why stages could not be made, by the directories of their results.
    pub failed: BTreeMap<PathBuf, String>,
}

/// The file of the experiment with every key explicit, in its report's directory.
pub const RESOLVED: &str = "experiment.yaml";

/// An experiment that is ready to run: all inputs are available, and its report can be written.
pub struct Run {
    inputs: Inputs,
    store: StageStore,
    goal: Goal,
    /// The directory of the report.
    home: PathBuf,
}

impl Run {
    /// Opens `experiment` for a run up to `goal`. Stages are in `output/stages`, the report in the
    /// directory of `output` with the experiment's name. `tell` gets a line before a long reading
    /// of data.
    ///
    /// # Errors
    /// When bundles or data can't be read or don't match, or the report would replace a file of the
    /// user.
    pub fn open(
        experiment: &Experiment,
        output: &Path,
        goal: Goal,
        tell: fn(&str),
    ) -> Result<Self, RunError> {
        let home = output.join(&experiment.name);
        if goal == Goal::Report {
            // Checked now, not after hours of work.
            own::check(&home.join(RESOLVED))?;
            report::check(&home)?;
        }
        let inputs = Inputs::open(experiment, &DatasetCache::telling(tell))?;
        Ok(Self { inputs, store: StageStore::new(stages_in(output)), goal, home })
    }

    /// The store of the stages.
    pub fn store(&self) -> &StageStore {
        &self.store
    }

    /// Announces that this process makes the experiment, so that others can look on.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn announce(&self) -> Result<Announcement, RunError> {
        let experiment = &self.inputs.experiment;
        Ok(self.store.announce(&experiment.name, &watch::record(experiment, self.goal)?)?)
    }

    /// The stages that the goal needs.
    ///
    /// # Errors
    /// When the experiment needs something that its inputs lack, or its training set can't be read.
    pub fn graph(&self) -> Result<StageGraph<'_>, RunError> {
        StageGraph::build(&self.inputs, &self.store, self.goal)
    }

    /// Collects the results of the finished stages of `graph`; `outcome` lists the failed ones.
    /// Writes the report if that is the goal.
    ///
    /// # Errors
    /// When a stage is missing though it did not fail, a stage is damaged, or the report can't be
    /// written.
    pub fn finish(
        &self,
        graph: &StageGraph,
        outcome: Outcome,
        tell: Tell,
    ) -> Result<Finished, RunError> {
        let Outcome { mut remarks, failed } = outcome;
        graph.require_complete(&self.store, &failed)?;
        let directory = |id: NodeId| graph.node(id).directory.clone();
        let made = graph.targets().into_iter().filter(|id| !failed.contains_key(id));
        let mut directories: Vec<PathBuf> = made.map(directory).collect();
        directories.sort();
        if let Some(first) = failed.values().next().filter(|_| directories.is_empty()) {
            return Err(RunError::AllFailed { first: first.clone() });
        }
        let resolved = self.inputs.experiment.to_yaml()?;
        let results = results::collect(&self.inputs, resolved.clone(), graph, &failed)?;
        if self.goal == Goal::Report {
            fill(&self.home, tell, |home| {
                own::write(&home.join(RESOLVED), &resolved)?;
                report::write(&results, home)?;
                Ok::<_, RunError>(())
            })?;
            directories = vec![self.home.clone()];
        }
        remarks.extend(self.inputs.remarks());
        remarks.extend(graph.stages.remarks.iter().cloned());
        remarks.extend(remarks::remarks(&self.inputs.experiment, graph, &failed)?);
        // Several stages may give the same remark, in any order.
        remarks.sort();
        remarks.dedup();
        let failed = failed.into_iter().map(|(id, reason)| (directory(id), reason)).collect();
        Ok(Finished { directories, results, remarks, failed })
    }

    /// Like [`finish`](Self::finish), without making stages: incomplete stages must be known to
    /// have failed.
    ///
    /// # Errors
    /// The first missing stage.
    pub fn collect(&self, tell: Tell) -> Result<Finished, RunError> {
        let graph = self.graph()?;
        let outcome = Outcome { failed: graph.known_failures(&self.store)?, ..Outcome::default() };
        self.finish(&graph, outcome, tell)
    }
}

/// The directory of the stages below `output`.
pub fn stages_in(output: &Path) -> PathBuf {
    output.join("stages")
}
