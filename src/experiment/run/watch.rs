//! A run as onlookers see it: where every stage stands, and the time that is left.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use indexmap::{IndexMap, IndexSet};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::graph::StageGraph;
use super::inputs::Inputs;
use super::matrix::{ImageSetSpec, Origin, RowSpec};
use super::plan::Rates;
use super::real::DatasetCache;
use super::stages::{RecoveryNodes, RowNodes, images::Images};
use super::{Goal, RunError};
use crate::config::Experiment;
use scdd_artifacts::stage::{AnnouncedRun, Stage, StageError, StageProgress, StageStore};

/// What a process announces of the experiment that it runs.
#[derive(Serialize, Deserialize)]
struct RunRecord {
    /// With every key resolved, as YAML.
    experiment: String,
    goal: Goal,
    /// The directory that its relative paths start from.
    directory: PathBuf,
}

/// The announcement of a run of `experiment` up to `goal` by this process.
///
/// # Errors
/// When the experiment can't be written as YAML.
pub(super) fn record(experiment: &Experiment, goal: Goal) -> Result<Value, RunError> {
    let directory = std::env::current_dir().unwrap_or_default();
    Ok(json!(RunRecord { experiment: experiment.to_yaml()?, goal, directory }))
}

/// Where a stage stands in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    Done,
    /// A process is at it.
    Running,
    Waiting,
    /// It failed in this run, or needs one that did.
    Failed,
}

/// A stage of a run.
#[derive(Debug, Clone)]
pub struct WatchedStage {
    pub stage: Stage,
    pub directory: PathBuf,
    /// What is done: `recover method a from teacher b, ipc 10, seed 0`.
    pub title: String,
    /// The places of the stages that it needs, all before its own.
    pub needs: Vec<usize>,
    pub standing: Standing,
    /// How far it is, while it runs.
    pub progress: Option<StageProgress>,
    /// Why it failed, if it did so itself.
    pub failure: Option<String>,
}

/// Stages of one origin of images and one size, over all seeds, students and labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedRow {
    pub name: String,
    /// The places of the stages that make images, labels and students.
    pub cells: [Vec<usize>; 3],
}

/// The time that a run still takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TimeLeft {
    /// Expected wall-clock seconds of all stages whose kind has been timed.
    pub seconds: f64,
    /// The number of unfinished stages whose kind has not.
    pub untimed: usize,
}

/// The stages of an experiment, and its matrix.
pub struct StageMatrix {
    /// The experiment's name.
    pub name: String,
    /// Each after those that it needs.
    pub stages: Vec<WatchedStage>,
    pub rows: Vec<WatchedRow>,
}

impl StageMatrix {
    /// The number of stages of this standing.
    pub fn count(&self, standing: Standing) -> usize {
        self.stages.iter().filter(|stage| stage.standing == standing).count()
    }
}

/// A run that is watched.
pub struct WatchedRun {
    pub matrix: StageMatrix,
    /// The number of processes at it.
    pub processes: usize,
    store: StageStore,
    announced: AnnouncedRun,
}

impl WatchedRun {
    /// Opens a run that was announced in `store`; `enter` is called with the directory that its
    /// relative paths start from.
    ///
    /// # Errors
    /// When its record, its networks or its data can't be read.
    pub fn open(
        store: StageStore,
        announced: AnnouncedRun,
        enter: impl FnOnce(&Path) -> std::io::Result<()>,
    ) -> Result<Self, RunError> {
        let unreadable =
            |what: String| RunError::Unwatchable { name: announced.name.clone(), what };
        let RunRecord { experiment, goal, directory } =
            serde_json::from_value(announced.record.clone())
                .map_err(|e| unreadable(e.to_string()))?;
        enter(&directory).map_err(|e| unreadable(format!("{}: {e}", directory.display())))?;
        let experiment = Experiment::from_yaml(&experiment, Path::new(&announced.name), &[])?;
        let inputs = Inputs::open(&experiment, &DatasetCache::default())?;
        let graph = StageGraph::build(&inputs, &store, goal)?;
        let stage = |(_, node): (_, &super::stages::StageNode)| WatchedStage {
            stage: node.stage.clone(),
            directory: node.directory.clone(),
            title: node.title.clone(),
            needs: node.needs.iter().map(|need| need.0).collect(),
            standing: Standing::Waiting,
            progress: None,
            failure: None,
        };
        let (stages, rows) = (graph.nodes().map(stage).collect(), rows(&inputs, &graph));
        let name = announced.name.clone();
        let matrix = StageMatrix { name, stages, rows };
        let mut run = Self { matrix, processes: 0, store, announced };
        run.look()?;
        Ok(run)
    }

    /// Looks where every stage stands now.
    ///
    /// # Errors
    /// When a lock can't be looked at.
    pub fn look(&mut self) -> Result<(), StageError> {
        self.processes = self.announced.processes()?;
        for place in 0..self.matrix.stages.len() {
            let (before, rest) = self.matrix.stages.split_at_mut(place);
            let stage = &mut rest[0];
            let store = &self.store;
            stage.progress = None;
            stage.failure = None;
            let failed = store.failed_at(&stage.stage).is_some_and(|at| at >= self.announced.since);
            let lacks = stage.needs.iter().any(|&need| before[need].standing == Standing::Failed);
            stage.standing = if stage.directory.exists() {
                Standing::Done
            } else if store.is_being_made(&stage.directory)? {
                stage.progress = store.progress(&stage.stage);
                Standing::Running
            } else if failed {
                stage.failure = store.failure(&stage.stage);
                Standing::Failed
            } else if lacks {
                Standing::Failed
            } else {
                Standing::Waiting
            };
        }
        Ok(())
    }

    /// The time that all unfinished stages take, shared by the processes that run them.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn time_left(&self) -> Result<TimeLeft, StageError> {
        let rates = Rates::read(&self.store)?;
        Ok(time_left(&self.matrix.stages, self.processes, &|stage| rates.seconds(stage)))
    }
}

/// As [`WatchedRun::time_left`]; `timed` is what a stage takes going by finished ones. Both count
/// a stage that shares its processor with others by its share, so that they add up.
fn time_left(
    stages: &[WatchedStage],
    processes: usize,
    timed: &dyn Fn(&Stage) -> Option<f64>,
) -> TimeLeft {
    let of = |standing| stages.iter().filter(move |stage| stage.standing == standing);
    let at_once = of(Standing::Running).count().max(1) as f64;
    let mut left = TimeLeft { seconds: 0.0, untimed: 0 };
    let mut pace: BTreeMap<&str, f64> = BTreeMap::new();
    for running in of(Standing::Running) {
        let progress = running.progress.as_ref();
        let open = progress.map_or(1.0, |progress| 1.0 - progress.fraction());
        let own = progress.and_then(StageProgress::seconds_left).map(|seconds| seconds / at_once);
        match own.or_else(|| timed(&running.stage).map(|seconds| seconds * open)) {
            Some(seconds) => {
                left.seconds += seconds;
                let passes = running.stage.passes() as f64 * open;
                if passes > 0.0 {
                    pace.insert(running.stage.kind(), seconds / passes);
                }
            }
            None => left.untimed += usize::from(running.stage.passes() > 0),
        }
    }
    for waiting in of(Standing::Waiting) {
        let passes = waiting.stage.passes();
        let by_pace = || pace.get(waiting.stage.kind()).map(|seconds| seconds * passes as f64);
        match timed(&waiting.stage).or_else(by_pace) {
            Some(seconds) => left.seconds += seconds,
            None => left.untimed += usize::from(passes > 0),
        }
    }
    left.seconds /= processes.max(1) as f64;
    left
}

/// The rows of the matrix, in the order of the experiment.
fn rows(inputs: &Inputs, graph: &StageGraph) -> Vec<WatchedRow> {
    let mut rows: IndexMap<String, [IndexSet<usize>; 3]> = IndexMap::new();
    let of_images = |images: &Images| [images.recovery.0, images.node.0];
    for RecoveryNodes { spec: ImageSetSpec { teacher, method, ipc, .. }, images, .. } in
        &graph.stages.recoveries
    {
        let teacher = inputs.bundles[*teacher].name();
        let row = rows.entry(format!("ipc {ipc}: {method} from {teacher}")).or_default();
        row[0].extend(of_images(images));
    }
    for RowNodes { spec, images, labels, recognised, student } in &graph.stages.rows {
        let row = rows.entry(row_name(inputs, spec)).or_default();
        row[0].extend(of_images(images));
        row[1].extend(recognised.map(|recognised| recognised.0));
        row[1].extend(labels.as_ref().map(|labels| labels.node.0));
        row[2].extend(student.map(|student| student.0));
    }
    let places = |set: IndexSet<usize>| set.into_iter().collect();
    rows.into_iter().map(|(name, cells)| WatchedRow { name, cells: cells.map(places) }).collect()
}

fn row_name(inputs: &Inputs, spec: &RowSpec) -> String {
    let bundle = |path: &Path| inputs.bundles[path].name().to_owned();
    let source = match spec.origin {
        Origin::Distilled { teacher, method } => format!("{method} from {}", bundle(teacher)),
        Origin::Finished(name) => name.to_owned(),
        Origin::Real(choice) => choice.method().replace('_', " "),
        Origin::Crops => format!("RDED crops by {}", bundle(spec.labeller)),
    };
    format!("ipc {}: {source}", spec.ipc)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(kind: &str, standing: Standing, progress: Option<(u64, f64)>) -> WatchedStage {
        let stage = Stage::new(kind, 1, "x", &json!({}), BTreeMap::new(), 0).unwrap();
        let progress = progress.map(|(done, seconds)| StageProgress {
            done,
            total: 100,
            unit: "it".into(),
            first: 0,
            seconds,
        });
        WatchedStage {
            stage: stage.of_passes(1000),
            directory: PathBuf::new(),
            title: kind.into(),
            needs: Vec::new(),
            standing,
            progress,
            failure: None,
        }
    }

    #[test]
    fn what_waits_takes_what_its_kind_took() {
        use Standing::{Done, Failed, Running, Waiting};
        let stages = [
            stage("recover", Done, None),
            // 30 seconds are left at the rate of one of two, so 15 of the machine.
            stage("recover", Running, Some((50, 30.0))),
            // Nothing noted yet: by the finished ones.
            stage("validate", Running, None),
            stage("recover", Waiting, None),
            stage("validate", Waiting, None),
            stage("relabel", Waiting, None),
            stage("validate", Failed, None),
        ];
        let timed = |stage: &Stage| (stage.kind() == "validate").then_some(8.0);
        // The waiting recovery has twice the passes of the half that is left.
        let expected = 15.0 + 8.0 + 30.0 + 8.0;
        let left = |processes| time_left(&stages, processes, &timed);
        assert_eq!(left(1), TimeLeft { seconds: expected, untimed: 1 });
        assert_eq!(left(2).seconds, expected / 2.0);
    }
}
