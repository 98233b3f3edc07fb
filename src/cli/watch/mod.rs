//! `scdd watch`: looks on while experiments are run.
//!
//! On a terminal the picture is drawn in place; elsewhere there is a line per change. With `--json`
//! there is an [event](events) per line.

mod events;
mod picture;

use std::io::{IsTerminal, stdout};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};

use super::{CommandOutcome, Global};
use scdd_artifacts::stage::{AnnouncedRun, StageStore};
use scdd_experiment::run::stages_in;
use scdd_experiment::run::watch::{Standing, WatchedRun};

/// The interval between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Look on while experiments are run, from another terminal: the stages that are done, running,
/// waiting and failed, and the time that is left; ends with the runs
#[derive(clap::Args)]
pub struct Watch {
    /// The output directory of the runs, or an experiment's directory in it; of runs that have all
    /// ended, the last one is shown
    #[arg(value_name = "DIR", default_value = "runs")]
    directory: PathBuf,
}

impl Watch {
    pub fn run(self, global: &Global) -> anyhow::Result<CommandOutcome> {
        let mut runs = self.open()?;
        let mut onlooker: Box<dyn Onlooker> = match (global.json, is_terminal()) {
            (true, _) => Box::new(events::Events::default()),
            (false, true) => Box::new(picture::Picture::default()),
            (false, false) => Box::new(events::ChangeLines::default()),
        };
        loop {
            let is_over = runs.iter().all(|run| run.processes == 0);
            onlooker.show(&runs)?;
            if is_over {
                break;
            }
            std::thread::sleep(LOOK_EVERY);
            runs.iter_mut().try_for_each(WatchedRun::look)?;
        }
        let is_complete = runs.iter().all(|run| outcome(run) == "complete");
        Ok(if is_complete { CommandOutcome::Done } else { CommandOutcome::CheckFailed })
    }

    /// The runs that are under way, or else the last one.
    fn open(&self) -> anyhow::Result<Vec<WatchedRun>> {
        let (output, store, mut known) = self.announced()?;
        let mut living = Vec::new();
        for run in &known {
            if run.processes()? > 0 {
                living.push(run.clone());
            }
        }
        if living.is_empty() {
            known.sort_by_key(|run| run.since);
            living.extend(known.pop());
        }
        if living.is_empty() {
            bail!(
                "no experiment was run in {0} yet: start one with `scdd run EXPERIMENT.yaml --output {0}`",
                output.display()
            );
        }
        let open = |run: AnnouncedRun| {
            let name = run.name.clone();
            WatchedRun::open(store.clone(), run, |home| std::env::set_current_dir(home))
                .with_context(|| format!("cannot watch `{name}`"))
        };
        living.into_iter().map(open).collect()
    }

    /// The output directory, its store, and the announced runs that are meant.
    fn announced(&self) -> anyhow::Result<(PathBuf, StageStore, Vec<AnnouncedRun>)> {
        // Runs have relative paths that start elsewhere.
        let directory = std::path::absolute(&self.directory)
            .with_context(|| format!("cannot find {}", self.directory.display()))?;
        let in_output = |output: &Path| StageStore::new(stages_in(output));
        if let (Some(output), Some(name)) = (directory.parent(), directory.file_name()) {
            let store = in_output(output);
            let mut known = store.announced()?;
            known.retain(|run| *run.name == *name);
            if !known.is_empty() {
                return Ok((output.to_owned(), store, known));
            }
        }
        let store = in_output(&directory);
        let known = store.announced()?;
        Ok((directory, store, known))
    }
}

/// Shows runs, again and again.
trait Onlooker {
    fn show(&mut self, runs: &[WatchedRun]) -> anyhow::Result<()>;
}

fn is_terminal() -> bool {
    let is_dumb = std::env::var_os("TERM").is_none_or(|name| name == "dumb");
    stdout().is_terminal() && !is_dumb
}

/// How a run that ended did so.
fn outcome(run: &WatchedRun) -> &'static str {
    let (all, done) = (run.matrix.stages.len(), run.matrix.count(Standing::Done));
    match run.matrix.count(Standing::Failed) {
        0 if done == all => "complete",
        0 => "stopped",
        _ => "failed",
    }
}

/// For example `12 of 34 stages done, 2 running, 1 failed, ≈ 4 min left`.
fn summary(run: &WatchedRun) -> anyhow::Result<String> {
    let count = |standing| run.matrix.count(standing);
    let mut text = format!("{} of {} stages done", count(Standing::Done), run.matrix.stages.len());
    for (standing, name) in [(Standing::Running, "running"), (Standing::Failed, "failed")] {
        if count(standing) > 0 {
            text += &format!(", {} {name}", count(standing));
        }
    }
    if run.processes == 0 {
        return Ok(format!("{text}, {}", outcome(run)));
    }
    Ok(format!("{text}, {}", time_left(run)?))
}

/// For example `≈ 4 min left`.
fn time_left(run: &WatchedRun) -> anyhow::Result<String> {
    let left = run.time_left()?;
    let seconds = scdd_experiment::report::duration(left.seconds);
    Ok(match (left.seconds > 0.0, left.untimed) {
        (true, 0) => format!("≈ {seconds} left"),
        (true, untimed) => format!("≈ {seconds} left without {untimed} never timed"),
        (false, 0) => "nearly done".to_owned(),
        (false, _) => "time left not known yet".to_owned(),
    })
}
