//! Shards: an experiment's units of work, divided among processes that do not wait for each other.
//!
//! A unit is a batch of a recovery, a stored epoch of a relabelling, or a student. Units are
//! numbered in the order of the graph, and shard `i` of `N` makes those whose number is `i` modulo
//! `N`. What is there is read from the stages themselves, so a shard that runs again makes only
//! what it lacks, and two processes at one shard harm nothing.

use std::collections::BTreeSet;
use std::fs;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::graph::StageGraph;
use super::inputs::Inputs;
use super::real::DatasetCache;
use super::stages::{NodeId, Task};
use super::{Goal, RunError, stages_in};
use crate::config::Experiment;
use scdd_artifacts::atomic;
use scdd_artifacts::files;
use scdd_artifacts::stage::{Found, Stage, StageError, StageStore, create_directories};

/// The folder of the frozen divisions below an output directory.
const FOLDER: &str = "shards";
const VERSION: u32 = 1;
/// The variables in which schedulers tell a process of an array its number: Slurm's job arrays, and
/// Kubernetes' indexed jobs. How many there are, they do not tell reliably.
const NUMBERS: [&str; 2] = ["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX"];

/// The number of a shard as it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShardNumber {
    Auto,
    Is(u32),
}

impl ShardNumber {
    /// Reads a number or `auto`.
    ///
    /// # Errors
    /// What is expected instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => text.parse().map(Self::Is).map_err(|_| "a whole number or `auto`".into()),
        }
    }

    /// The number, for `auto` from the scheduler's variables, of which `variable` gives the values.
    ///
    /// # Errors
    /// When no scheduler tells it.
    fn resolve(self, variable: impl Fn(&str) -> Option<String>) -> Result<u32, String> {
        if let Self::Is(number) = self {
            return Ok(number);
        }
        let Some((name, value)) = NUMBERS.iter().find_map(|name| Some((name, variable(name)?)))
        else {
            return Err(format!(
                "`--shard auto` needs a scheduler's {}: give the shard's number instead",
                NUMBERS.join(" or ")
            ));
        };
        value.parse().map_err(|_| format!("{name} is `{value}`, expected a shard's number"))
    }
}

/// One of `count` shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// Below `count`.
    number: u32,
    count: NonZeroU32,
}

impl Shard {
    /// Shard `number` of `count`, for `auto` as the process's environment says.
    ///
    /// # Errors
    /// When there is no such shard.
    pub fn new(number: ShardNumber, count: NonZeroU32) -> Result<Self, String> {
        let number = number.resolve(|name| std::env::var(name).ok())?;
        if number >= count.get() {
            return Err(format!(
                "there is no shard {number} of {count}: shards are 0 to {}",
                count.get() - 1
            ));
        }
        Ok(Self { number, count })
    }

    /// Whether this shard makes the unit.
    pub fn has(self, unit: u64) -> bool {
        unit % u64::from(self.count.get()) == u64::from(self.number)
    }
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "shard {} of {}", self.number, self.count)
    }
}

/// The units of one stage: a range of consecutive numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageUnits {
    pub node: NodeId,
    /// The number of its first unit.
    pub first: u64,
    pub count: u64,
}

/// The goal whose shards make `task`; `None` for stages that are not divided, which are made by
/// whoever needs them first.
fn divided(task: &Task) -> Option<Goal> {
    match task {
        Task::Recover(_) => Some(Goal::Recover),
        Task::Relabel(_) => Some(Goal::Relabel),
        Task::Validate(_) | Task::Whole(_) => Some(Goal::Validate),
        _ => None,
    }
}

/// The number of the units of `task`; 0 if it is not divided.
pub(super) fn units_of(task: &Task) -> u64 {
    match task {
        Task::Recover(task) => task.batches(),
        Task::Relabel(task) => task.config.epochs_to_store().into(),
        Task::Validate(_) | Task::Whole(_) => 1,
        _ => 0,
    }
}

impl StageGraph<'_> {
    /// The units of the goal; the report's are those of the students.
    pub fn units(&self) -> Vec<StageUnits> {
        let goal = self.goal().min(Goal::Validate);
        let mut first = 0;
        let mut units = Vec::new();
        for (node, found) in self.nodes().filter(|(_, node)| divided(&node.task) == Some(goal)) {
            let count = units_of(&found.task);
            units.push(StageUnits { node, first, count });
            first += count;
        }
        units
    }

    /// The shards of `count` that lack a unit in `store`.
    ///
    /// # Errors
    /// When a stage's directory holds other work.
    pub fn missing_shards(
        &self,
        store: &StageStore,
        count: NonZeroU32,
    ) -> Result<BTreeSet<u32>, StageError> {
        let mut missing = BTreeSet::new();
        for units in self.units() {
            let node = self.node(units.node);
            store.look_again(&node.stage);
            if matches!(store.look(&node.stage)?, Found::Complete(_)) {
                continue;
            }
            let is_there = parts(store, &node.stage, &node.task);
            let lacks = (0..units.count).filter(|&part| !is_there(part as usize));
            missing
                .extend(lacks.map(|part| ((units.first + part) % u64::from(count.get())) as u32));
        }
        Ok(missing)
    }

    /// The open stages of which `shard` makes units, and the undivided open stages that they need.
    ///
    /// # Errors
    /// When a stage of an earlier goal is not complete, or a stage's directory holds other work.
    pub fn of_shard(&self, shard: Shard, store: &StageStore) -> Result<Vec<NodeId>, RunError> {
        let open: BTreeSet<NodeId> = self.open(store)?.into_iter().collect();
        let is_own =
            |units: &StageUnits| (units.first..units.first + units.count).any(|u| shard.has(u));
        let own = self.units().into_iter().filter(is_own).map(|units| units.node);
        let targets: BTreeSet<NodeId> = own.filter(|node| open.contains(node)).collect();
        let (mut wanted, mut next) = (BTreeSet::new(), Vec::from_iter(targets.iter().copied()));
        while let Some(id) = next.pop() {
            if !open.contains(&id) || !wanted.insert(id) {
                continue;
            }
            let node = self.node(id);
            if divided(&node.task).is_some() && !targets.contains(&id) {
                return Err(RunError::Incomplete { missing: node.directory.clone() });
            }
            next.extend(&node.needs);
        }
        Ok(wanted.into_iter().collect())
    }
}

/// Says of each part of an incomplete stage whether it is there.
fn parts(store: &StageStore, stage: &Stage, task: &Task) -> impl Fn(usize) -> bool {
    let work = store.join(stage).filter(|_| task.has_parts());
    let is_relabelling = matches!(task, Task::Relabel(_));
    if let Some(work) = &work {
        work.look_again("");
        work.look_again(files::CURVES);
    }
    move |part| {
        work.as_ref().is_some_and(|work| match is_relabelling {
            true => work.has(files::label_epoch(part as u32)) || work.has(files::LABELS),
            false => work.has(files::curve(part)),
        })
    }
}

/// The division of an experiment at an output directory. It is written once, so that all processes
/// divide alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Division {
    version: u32,
    experiment: String,
    /// The hash of the experiment with every key explicit.
    blake3: String,
    pub shards: NonZeroU32,
}

impl Division {
    /// The file of the division of the experiment `name` below `output`.
    pub fn path(output: &Path, name: &str) -> PathBuf {
        output.join(FOLDER).join(format!("{name}.json"))
    }

    /// The division of `experiment` at `output`: the frozen one, or one into `shards`.
    ///
    /// # Errors
    /// When the frozen one is another, there is none and no `shards`, or it can't be read.
    pub fn settle(
        experiment: &Experiment,
        output: &Path,
        shards: Option<NonZeroU32>,
    ) -> Result<Self, RunError> {
        let (name, path) = (&experiment.name, Self::path(output, &experiment.name));
        let what = match (Self::frozen(experiment, output)?, shards) {
            (Some(frozen), None) => return Ok(frozen),
            (Some(frozen), Some(shards)) if shards == frozen.shards => return Ok(frozen),
            (Some(frozen), Some(_)) => format!(
                "`{name}` is divided into {} shards: leave out `--shards`, or remove this file to divide anew",
                frozen.shards
            ),
            (None, Some(shards)) => return Self::of(experiment, shards),
            (None, None) => {
                format!("`{name}` is not divided yet: say into how many shards, by `--shards N`")
            }
        };
        Err(RunError::Misfit { path, what })
    }

    /// Like [`settle`](Self::settle), and written, unless it is frozen already.
    ///
    /// # Errors
    /// Also when it can't be written.
    pub fn freeze(
        experiment: &Experiment,
        output: &Path,
        shards: Option<NonZeroU32>,
    ) -> Result<Self, RunError> {
        let settled = Self::settle(experiment, output, shards)?;
        let path = Self::path(output, &experiment.name);
        create_directories(atomic::parent(&path))?;
        let text = format!("{:#}\n", serde_json::json!(settled));
        atomic::write_new(&path, text.as_bytes()).map_err(|source| StageError::Io {
            action: "write",
            path,
            source,
        })?;
        // Another process may have been first.
        Self::settle(experiment, output, shards)
    }

    /// The frozen division of `experiment` at `output`, if there is one.
    ///
    /// # Errors
    /// When it is of another configuration, or can't be read.
    pub fn frozen(experiment: &Experiment, output: &Path) -> Result<Option<Self>, RunError> {
        let path = Self::path(output, &experiment.name);
        let misfit = |what: String| RunError::Misfit { path: path.clone(), what };
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StageError::Io { action: "read", path, source }.into()),
        };
        let frozen: Self = serde_json::from_slice(&text)
            .map_err(|error| misfit(format!("{error}: remove this file to divide anew")))?;
        if frozen != Self::of(experiment, frozen.shards)? {
            return Err(misfit(format!(
                "`{}` was divided with another configuration: use that one, or remove this file to divide anew",
                frozen.experiment
            )));
        }
        Ok(Some(frozen))
    }

    fn of(experiment: &Experiment, shards: NonZeroU32) -> Result<Self, RunError> {
        let blake3 = blake3::hash(experiment.to_yaml()?.as_bytes()).to_hex().to_string();
        Ok(Self { version: VERSION, experiment: experiment.name.clone(), blake3, shards })
    }
}

/// A goal that is divided, and what is missing of it.
#[derive(Debug)]
pub struct OpenGoal {
    pub goal: Goal,
    /// The shards that lack a unit.
    pub missing: BTreeSet<u32>,
}

/// The goals of `experiment` at `output` that are not complete, in their order.
///
/// # Errors
/// When its bundles or data can't be read or don't match, or a stage's directory holds other work.
pub fn open_goals(
    experiment: &Experiment,
    output: &Path,
    count: NonZeroU32,
) -> Result<Vec<OpenGoal>, RunError> {
    let inputs = Inputs::open(experiment, &DatasetCache::default())?;
    let store = StageStore::new(stages_in(output));
    let mut open = Vec::new();
    for goal in [Goal::Recover, Goal::Relabel, Goal::Validate] {
        let graph = StageGraph::build(&inputs, &store, goal)?;
        let missing = graph.missing_shards(&store, count)?;
        if !graph.units().is_empty() && !graph.open(&store)?.is_empty() {
            open.push(OpenGoal { goal, missing });
        }
    }
    Ok(open)
}

/// Shards as Slurm's `--array` takes them: `0-3,7`.
pub fn array(shards: &BTreeSet<u32>) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &shard in shards {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == shard => *last = shard,
            _ => runs.push((shard, shard)),
        }
    }
    let run = |(first, last): &(u32, u32)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    runs.iter().map(run).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_what_the_scheduler_says() {
        let resolve = |known: &[(&str, &str)]| {
            let known: Vec<(String, String)> =
                known.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            ShardNumber::Auto.resolve(move |name| {
                known.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
            })
        };
        assert_eq!(resolve(&[("SLURM_ARRAY_TASK_ID", "7"), ("JOB_COMPLETION_INDEX", "1")]), Ok(7));
        assert_eq!(resolve(&[("JOB_COMPLETION_INDEX", "1")]), Ok(1));
        assert!(resolve(&[]).unwrap_err().contains("SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX"));
        assert!(resolve(&[("SLURM_ARRAY_TASK_ID", "x")]).unwrap_err().contains("is `x`"));
        assert_eq!(ShardNumber::parse("3"), Ok(ShardNumber::Is(3)));
        assert!(ShardNumber::parse("-1").is_err());
    }

    #[test]
    fn every_unit_has_one_shard() {
        let count = NonZeroU32::new(3).unwrap();
        let shards = [0, 1, 2].map(|n| Shard::new(ShardNumber::Is(n), count).unwrap());
        for unit in 0..10 {
            assert_eq!(shards.iter().filter(|shard| shard.has(unit)).count(), 1);
        }
        let error = Shard::new(ShardNumber::Is(3), count).unwrap_err();
        assert_eq!(error, "there is no shard 3 of 3: shards are 0 to 2");
    }

    #[test]
    fn shards_are_written_as_slurm_takes_them() {
        let of = |shards: &[u32]| array(&shards.iter().copied().collect());
        assert_eq!(of(&[0, 1, 2, 3, 7]), "0-3,7");
        assert_eq!(of(&[2, 7]), "2,7");
        assert_eq!(of(&[]), "");
    }

    #[test]
    fn a_division_is_frozen() {
        let dir = tempfile::tempdir().unwrap();
        let load = |ipc: u32| {
            let text = format!("name: x\ndata: none\nteachers: a\nipc: {ipc}\n");
            Experiment::from_yaml(&text, Path::new("x.yaml"), &[]).unwrap()
        };
        let freeze = |ipc, shards| {
            Division::freeze(&load(ipc), dir.path(), NonZeroU32::new(shards))
                .map(|division| division.shards.get())
                .map_err(|error| error.to_string())
        };
        assert!(freeze(1, 0).unwrap_err().ends_with("by `--shards N`"));
        assert_eq!((freeze(1, 4), freeze(1, 4), freeze(1, 0)), (Ok(4), Ok(4), Ok(4)));
        assert!(freeze(1, 8).unwrap_err().contains("`x` is divided into 4 shards"));
        assert!(freeze(2, 4).unwrap_err().contains("another configuration"));
        fs::write(Division::path(dir.path(), "x"), "{").unwrap();
        assert!(freeze(1, 4).unwrap_err().ends_with("remove this file to divide anew"));
    }
}
