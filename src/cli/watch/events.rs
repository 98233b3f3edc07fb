//! What changes in runs: as lines for people, and as events for programs, one JSON object per line.
//! `docs/experiments.md` describes the events.

use std::io::{Write, stdout};

use scdd_artifacts::stage::StageProgress;
use scdd_data::place::printable;
use scdd_experiment::run::watch::{Standing, WatchedRun, WatchedStage};
use serde_json::{Value, json};

use super::{Onlooker, outcome, summary};

/// Knows where every stage stood at the last look.
#[derive(Default)]
struct Changes {
    before: Option<Vec<Vec<Standing>>>,
}

impl Changes {
    /// The stages that stand elsewhere than at the last look, with the number of their run. `None`
    /// at the first look.
    fn next<'a>(&mut self, runs: &'a [WatchedRun]) -> Option<Vec<(usize, &'a WatchedStage)>> {
        let now = |run: &WatchedRun| run.matrix.stages.iter().map(|stage| stage.standing).collect();
        let before = self.before.replace(runs.iter().map(now).collect())?;
        let of_run = |(number, (run, before)): (usize, (&'a WatchedRun, &Vec<Standing>))| {
            let pairs = run.matrix.stages.iter().zip(before);
            let changed = pairs.filter(|(stage, before)| stage.standing != **before);
            changed.map(|(stage, _)| (number, stage)).collect::<Vec<_>>()
        };
        Some(runs.iter().zip(&before).enumerate().flat_map(of_run).collect())
    }
}

/// A line per change.
#[derive(Default)]
pub struct ChangeLines(Changes);

impl Onlooker for ChangeLines {
    fn show(&mut self, runs: &[WatchedRun]) -> anyhow::Result<()> {
        let is_over = runs.iter().all(|run| run.processes == 0);
        let mut out = stdout().lock();
        match self.0.next(runs) {
            None => {
                for run in runs {
                    writeln!(out, "{}: {}", run.matrix.name, summary(run)?)?;
                }
                return Ok(());
            }
            Some(changes) => {
                for (number, stage) in changes {
                    let run = &runs[number];
                    writeln!(out, "{}: {}; {}", run.matrix.name, said(stage), summary(run)?)?;
                }
            }
        }
        if is_over {
            for run in runs {
                writeln!(out, "{}: {}", run.matrix.name, outcome(run))?;
            }
        }
        Ok(())
    }
}

fn said(stage: &WatchedStage) -> String {
    let what = match stage.standing {
        Standing::Done => "done",
        Standing::Running => "begun",
        Standing::Waiting => "left",
        Standing::Failed => "failed",
    };
    let reason = stage.failure.as_deref().map_or(String::new(), |why| format!(" ({why})"));
    printable(&format!("{what}: {}{reason}", stage.title))
}

/// A JSON object per event.
#[derive(Default)]
pub struct Events {
    changes: Changes,
    progress: Vec<Value>,
}

impl Onlooker for Events {
    fn show(&mut self, runs: &[WatchedRun]) -> anyhow::Result<()> {
        let mut events = Vec::new();
        match self.changes.next(runs) {
            None => events.extend(runs.iter().map(begin)),
            Some(changes) => {
                let event = |(number, stage): (usize, &WatchedStage)| {
                    let mut event = described(stage);
                    event["event"] = "stage".into();
                    event["experiment"] = runs[number].matrix.name.clone().into();
                    event
                };
                events.extend(changes.into_iter().map(event));
            }
        }
        let progress = runs.iter().map(progress).collect::<anyhow::Result<Vec<_>>>()?;
        if progress != self.progress {
            events.extend(progress.iter().cloned());
            self.progress = progress;
        }
        if runs.iter().all(|run| run.processes == 0) {
            let end = |run: &WatchedRun| json!({"event": "end", "experiment": run.matrix.name, "outcome": outcome(run)});
            events.extend(runs.iter().map(end));
        }
        let mut out = stdout().lock();
        events.iter().try_for_each(|event| writeln!(out, "{event}"))?;
        Ok(out.flush()?)
    }
}

fn begin(run: &WatchedRun) -> Value {
    let stages: Vec<Value> = run.matrix.stages.iter().map(described).collect();
    json!({"event": "begin", "experiment": run.matrix.name, "stages": stages})
}

fn described(stage: &WatchedStage) -> Value {
    let mut found = json!({
        "stage": stage.stage.kind(),
        "title": stage.title,
        "directory": stage.directory,
        "standing": stage.standing,
    });
    if let Some(failure) = &stage.failure {
        found["failure"] = failure.clone().into();
    }
    found
}

fn progress(run: &WatchedRun) -> anyhow::Result<Value> {
    let left = run.time_left()?;
    let running = run.matrix.stages.iter().filter(|stage| stage.standing == Standing::Running);
    let under_way = running.map(|stage| match &stage.progress {
        None => json!({"title": stage.title}),
        Some(progress) => {
            let StageProgress { done, total, unit, .. } = progress;
            let seconds = progress.seconds_left();
            json!({"title": stage.title, "done": done, "total": total, "unit": unit, "seconds_left": seconds})
        }
    });
    Ok(json!({
        "event": "progress",
        "experiment": run.matrix.name,
        "done": run.matrix.count(Standing::Done),
        "running": run.matrix.count(Standing::Running),
        "waiting": run.matrix.count(Standing::Waiting),
        "failed": run.matrix.count(Standing::Failed),
        "seconds_left": left.seconds,
        "untimed": left.untimed,
        "under_way": under_way.collect::<Vec<_>>(),
    }))
}
