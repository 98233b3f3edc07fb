//! The plan of a run: every stage that an experiment needs, its state, and its expected cost.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::graph::StageGraph;
use super::inputs::{Inputs, load_bundles};
use super::real::DatasetCache;
use super::stages::{StageNode, size};
use super::{Goal, RunError, shards, stages_in};
use crate::config::Experiment;
use scdd_artifacts::stage::{Stage, StageError, StageStore, State, Timing, bytes_in};

/// One stage of an experiment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Planned {
    /// The kind of work: `verify`, `measure`, `balance`, `recover`, `verifier`, `real`, `subset`,
    /// `import`, `recognise`, `relabel`, `validate`, `whole`.
    pub stage: String,
    /// The directory of its result, whether or not it exists.
    pub directory: PathBuf,
    pub state: State,
    /// Images through a network, counted as forward passes. A backward pass counts as one more, or
    /// two if weights are trained. 0 without a network.
    pub passes: u64,
    /// Expected seconds, from finished stages of the same kind with the same network, else with any
    /// network; `None` if there are none. Work that an interrupted stage has done is not
    /// subtracted.
    pub seconds: Option<f64>,
    /// Expected bytes of its result: pixels before compression, all soft labels, a student's
    /// parameters.
    pub bytes: u64,
    /// The number of units that shards make apart: batches, stored epochs, or the student. 0 if it
    /// is not divided.
    pub units: u64,
    /// Why the last attempt failed, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// All stages of an experiment, each once, in an order in which they can be made.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunPlan {
    /// The experiment's name.
    pub name: String,
    pub stages: Vec<Planned>,
    /// Notes for the user about data that were not read, so that the plan is provisional.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
}

impl RunPlan {
    /// The number of stages in `state`.
    pub fn count(&self, state: State) -> usize {
        self.stages.iter().filter(|stage| stage.state == state).count()
    }

    /// The stages that a run would make.
    pub fn open(&self) -> impl Iterator<Item = &Planned> {
        self.stages.iter().filter(|stage| stage.state != State::Complete)
    }

    /// Expected seconds of all open stages with an estimate, and the passes of those without.
    pub fn remaining(&self) -> (f64, u64) {
        // `sum` of nothing would be −0.
        let seconds =
            self.open().filter_map(|stage| stage.seconds).fold(0.0, |sum, seconds| sum + seconds);
        (
            seconds,
            self.open().filter(|stage| stage.seconds.is_none()).map(|stage| stage.passes).sum(),
        )
    }
}

/// Plans runs. Experiments on the same data read it once.
#[derive(Default)]
pub struct Planner {
    datasets: DatasetCache,
}

impl Planner {
    /// Plans without reading images that no run has read yet.
    pub fn without_reading() -> Self {
        Self { datasets: DatasetCache::without_reading() }
    }

    /// The same, but a known data set need not be there: what it would cost follows from its
    /// description.
    pub fn by_description() -> Self {
        Self { datasets: DatasetCache::by_description() }
    }

    /// Plans a run of `experiment` up to `goal` with stages below `output`; makes nothing.
    ///
    /// # Errors
    /// When the experiment's bundles or data can't be read or don't match.
    pub fn plan(
        &self,
        experiment: &Experiment,
        output: &Path,
        goal: Goal,
    ) -> Result<RunPlan, RunError> {
        let (inputs, store) =
            (Inputs::open(experiment, &self.datasets)?, StageStore::new(stages_in(output)));
        let graph = StageGraph::build(&inputs, &store, goal)?;
        let rates = Rates::read(&store)?;
        let stages =
            graph.nodes().map(|(_, node)| rates.plan(&store, node)).collect::<Result<_, _>>()?;
        Ok(RunPlan { name: experiment.name.clone(), stages, remarks: inputs.unread() })
    }

    /// The hashes of the experiment's networks.
    ///
    /// # Errors
    /// When a network can't be read.
    pub fn networks(&self, experiment: &Experiment) -> Result<BTreeSet<String>, RunError> {
        Ok(load_bundles(experiment)?.into_values().map(|bundle| bundle.hash).collect())
    }
}

/// Measured seconds per pass of finished stages.
#[derive(Debug, Default)]
pub(super) struct Rates {
    /// By kind and network: seconds and passes.
    known: BTreeMap<(String, String), (f64, u64)>,
}

impl Rates {
    /// Reads the timing of every complete stage of `store`.
    pub fn read(store: &StageStore) -> Result<Self, StageError> {
        let mut rates = Self::default();
        for (kind, directory) in store.all()? {
            let (Some(timing), Some(network)) =
                (Timing::read(&directory), Stage::network_in(&directory))
            else {
                continue;
            };
            if let Some(passes) = timing.passes.filter(|passes| *passes > 0) {
                let sum = rates.known.entry((kind, network)).or_default();
                *sum = (sum.0 + timing.seconds, sum.1 + passes);
            }
        }
        Ok(rates)
    }

    /// The expected seconds of `stage`.
    pub fn seconds(&self, stage: &Stage) -> Option<f64> {
        let own = stage
            .network()
            .and_then(|network| self.known.get(&(stage.kind().to_string(), network)).copied());
        let of_kind = || {
            let all = self
                .known
                .iter()
                .filter(|((kind, _), _)| kind == stage.kind())
                .map(|(_, sum)| *sum);
            all.reduce(|a, b| (a.0 + b.0, a.1 + b.1))
        };
        own.or_else(of_kind)
            .map(|(seconds, passes)| seconds / passes as f64 * stage.passes() as f64)
    }

    /// The state and expected cost of the stage of `node`; makes nothing.
    fn plan(&self, store: &StageStore, node: &StageNode) -> Result<Planned, StageError> {
        let stage = &node.stage;
        let state = store.state(stage)?;
        let open = state != State::Complete;
        Ok(Planned {
            stage: stage.kind().to_string(),
            directory: store.path(stage),
            state,
            passes: stage.passes(),
            bytes: size::bytes(&node.task, stage.passes()),
            units: shards::units_of(&node.task),
            seconds: if open { self.seconds(stage) } else { None },
            failure: if open { store.failure(stage) } else { None },
        })
    }
}

/// A directory of the store that no given plan needs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Unneeded {
    pub directory: PathBuf,
    pub bytes: u64,
}

/// A stage of the store that belongs to no given plan.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Other {
    /// The kind of work.
    pub stage: String,
    pub directory: PathBuf,
    pub state: State,
}

/// The stages below `output` that none of `plans` needs, sorted by kind and name.
pub fn others(output: &Path, plans: &[RunPlan]) -> Result<Vec<Other>, StageError> {
    let store = StageStore::new(stages_in(output));
    let needed: BTreeSet<&Path> =
        plans.iter().flat_map(|plan| &plan.stages).map(|stage| stage.directory.as_path()).collect();
    let all = store
        .all()?
        .into_iter()
        .filter(|(_, directory)| !needed.contains(&*StageStore::final_name(directory)));
    let other = |(stage, directory): (String, PathBuf)| {
        let state = store.state_of(&directory)?;
        Ok(Other { stage, directory, state })
    };
    all.map(other).collect()
}

/// The stages to keep.
#[derive(Debug, Default)]
pub struct Needed {
    /// Stages by their directories.
    pub stages: BTreeSet<PathBuf>,
    /// Networks by hash. If there are any, every stage that may belong to one of them is kept too.
    pub networks: BTreeSet<String>,
}

impl Needed {
    fn has(&self, directory: &Path) -> bool {
        let of_networks = || match Stage::network_in(directory) {
            Some(network) => self.networks.contains(&network),
            None => !self.networks.is_empty(),
        };
        self.stages.contains(&StageStore::final_name(directory)) || of_networks()
    }
}

/// The stages below `output` that are not `needed`, sorted, without those that another process is
/// making.
pub fn unneeded(output: &Path, needed: &Needed) -> Result<Vec<Unneeded>, StageError> {
    let store = StageStore::new(stages_in(output));
    let mut found = Vec::new();
    for (_, directory) in store.all()? {
        let complete = StageStore::final_name(&directory);
        if !needed.has(&directory)
            && !store.is_being_made(&complete)?
            && let Some(bytes) = size_of(&directory)?
        {
            found.push(Unneeded { bytes, directory });
        }
    }
    found.sort_by(|a, b| a.directory.cmp(&b.directory));
    Ok(found)
}

/// The bytes in `directory`; `None` if it no longer exists because the stage was finished and
/// renamed meanwhile.
fn size_of(directory: &Path) -> Result<Option<u64>, StageError> {
    match bytes_in(directory) {
        Err(_) if !directory.exists() => Ok(None),
        found => found.map(Some),
    }
}

/// Removes a stage's directory and never leaves a part of it under its name. Returns false if a
/// process is making the stage, or has finished it meanwhile.
pub fn remove(output: &Path, unneeded: &Unneeded) -> Result<bool, StageError> {
    StageStore::new(stages_in(output)).remove(&unneeded.directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_that_was_finished_meanwhile_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "12345").unwrap();
        assert_eq!(size_of(dir.path()).unwrap(), Some(5));
        assert_eq!(size_of(&dir.path().join("x.partial")).unwrap(), None);
        assert!(size_of(&dir.path().join("file")).is_err());
    }
}
