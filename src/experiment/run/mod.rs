//! An experiment as data: what it reads, the graph of its stages, and what the finished stages say.
//!
//! ```text
//! Experiment ─► Inputs ─► StageGraph ─► (a worker makes its stages) ─► Outcome ─► Results, report
//! ```
//!
//! Each stage is a pure function of its configuration, the hashes of what it reads, and the seed.
//! So a rerun finds what is complete, and goes on with what was interrupted. Every stage needs the
//! verification of its bundles, in exactly the state in which they lie on disk. This module makes
//! no stage and calls no worker.

pub mod distilled;
pub mod graph;
pub mod plan;
pub mod stages;

mod fit;
mod identity;
mod inputs;
mod matrix;
mod real;
mod results;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::{ConfigError, Experiment};
use crate::report::{self, ReportError, Results};
use scdd_artifacts::bundle::BundleError;
use scdd_artifacts::files::FileError;
use scdd_artifacts::own::{self, OwnError};
use scdd_data::DataError;

use graph::{NodeId, StageGraph};
pub use inputs::{Bundles, Inputs};
pub use matrix::RealChoice;
use real::DatasetCache;
use scdd_artifacts::stage::{StageError, StageStore, Tell, fill};

/// Why a worker could not make a stage.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Why stages could not be made. A stage that needs one which failed has that one's reason.
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
    Stage(#[from] StageError),
    #[error(transparent)]
    File(#[from] FileError),
    /// Why a worker could not make a stage.
    #[error(transparent)]
    Make(#[from] Failure),
    #[error(transparent)]
    Report(#[from] ReportError),
    #[error(transparent)]
    Own(#[from] OwnError),
    #[error("{}: {what}", path.display())]
    Misfit { path: PathBuf, what: String },
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

/// What became of the stages of a graph.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Remarks for the user, some of them more than once.
    pub remarks: Vec<String>,
    pub failed: Failed,
}

/// What a run left.
pub struct Finished {
    /// The complete directories of the goal's stage, sorted; with [`Goal::Report`] that of the
    /// report.
    pub directories: Vec<PathBuf>,
    /// Empty of rows unless the goal was at least [`Goal::Validate`].
    pub results: Results,
    /// Remarks that the user ought to see, such as a fallback that was taken.
    pub remarks: Vec<String>,
    /// Why stages could not be made, by the directories where their results would be.
    pub failed: BTreeMap<PathBuf, String>,
}

/// The experiment with every key explicit, in its report's directory.
pub const RESOLVED: &str = "experiment.yaml";

/// An experiment that is ready to be run: everything that it reads is there, and its report can be
/// written.
pub struct Run {
    inputs: Inputs,
    store: StageStore,
    goal: Goal,
    /// The directory of the report.
    home: PathBuf,
}

impl Run {
    /// `experiment` up to `goal`. Stages are in `output/stages`, the report in the directory of
    /// `output` that is called as the experiment.
    ///
    /// # Errors
    /// When bundles or data can't be read or don't fit each other, or the report would replace a
    /// file of the user.
    pub fn open(experiment: &Experiment, output: &Path, goal: Goal) -> Result<Self, RunError> {
        let home = output.join(&experiment.name);
        if goal == Goal::Report {
            // Not after hours of work.
            own::check(&home.join(RESOLVED))?;
            report::check(&home)?;
        }
        let inputs = Inputs::open(experiment, &DatasetCache::default())?;
        Ok(Self { inputs, store: StageStore::new(stages_in(output)), goal, home })
    }

    /// Where the stages are.
    pub fn store(&self) -> &StageStore {
        &self.store
    }

    /// The stages that the goal needs.
    ///
    /// # Errors
    /// When the experiment asks for what its inputs don't have, or its training set can't be read.
    pub fn graph(&self) -> Result<StageGraph<'_>, RunError> {
        StageGraph::build(&self.inputs, &self.store, self.goal)
    }

    /// What the finished stages of `graph` say, whose others came to this `outcome`; writes the
    /// report if that is the goal.
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
        remarks.extend(graph.remarks.iter().cloned());
        remarks.extend(results::remarks(graph, &failed)?);
        // Several stages say the same, and in whichever order they end.
        remarks.sort();
        remarks.dedup();
        let failed = failed.into_iter().map(|(id, reason)| (directory(id), reason)).collect();
        Ok(Finished { directories, results, remarks, failed })
    }

    /// As [`finish`](Self::finish), where nobody makes anything: stages that are not complete must
    /// be known to have failed.
    ///
    /// # Errors
    /// Names the first stage that is missing.
    pub fn collect(&self, tell: Tell) -> Result<Finished, RunError> {
        let graph = self.graph()?;
        let outcome = Outcome { failed: graph.known_failures(&self.store)?, ..Outcome::default() };
        self.finish(&graph, outcome, tell)
    }
}

fn stages_in(output: &Path) -> PathBuf {
    output.join("stages")
}
