//! `scdd run` and its parts `recover`, `relabel`, `validate`: runs one experiment file up to the
//! requested stage.

use scdd_cli::{CommandOutcome, ExperimentArgs, Global, ShardedArgs, report::print};

use super::{interrupt, open_runtime, progress};
use crate::{StopRequest, Worker};
use scdd_data::place::printable;
use scdd_experiment::report;
use scdd_experiment::run::{self, Goal, RunError};

/// Runs the experiment up to `goal`.
pub fn run(
    command: &ExperimentArgs,
    global: &Global,
    goal: Goal,
) -> anyhow::Result<CommandOutcome> {
    let experiment = command.load()?;
    let (progress, runtime) = (progress::progress(global), open_runtime(global)?);
    let stop = StopRequest::default();
    let worker = Worker::new(&runtime, progress.as_ref(), &experiment, command.jobs, stop.clone())?;
    let run = run::Run::open(&experiment, &command.output, goal, teller(global))?;
    let graph = run.graph()?;
    let _announced = run.announce()?;
    let signals = interrupt::stop_on_signals(stop, progress.clone())?;
    let outcome = match worker.make_all(&graph, run.store()) {
        Err(RunError::Stopped) => {
            signals.say_farewell(&command.output, progress.as_ref());
            return Ok(CommandOutcome::Stopped);
        }
        made => made?,
    };
    let finished = run.finish(&graph, outcome, &|what| progress.tell(what))?;
    for remark in &finished.remarks {
        eprintln!("note: {}", printable(remark));
    }
    let outcome =
        if finished.failed.is_empty() { CommandOutcome::Done } else { CommandOutcome::CheckFailed };
    if goal == Goal::Report {
        print(global, &finished.results, Some(&command.output.join(&experiment.name)))?;
        return Ok(outcome);
    }
    if global.json {
        let summaries = report::summaries(&finished.results.rows);
        let found = serde_json::json!({
            "directories": finished.directories, "summaries": summaries, "failed": finished.failed
        });
        println!("{}", serde_json::to_string_pretty(&found)?);
    } else {
        finished.directories.iter().for_each(|directory| println!("{}", directory.display()));
    }
    Ok(outcome)
}

/// What says in a line that data are read for long.
fn teller(global: &Global) -> fn(&str) {
    if global.quiet { |_| () } else { |what| eprintln!("{what}") }
}

/// Makes a shard of what `goal` adds to the goal before it.
pub fn shard(command: &ShardedArgs, global: &Global, goal: Goal) -> anyhow::Result<CommandOutcome> {
    let arguments = &command.experiment;
    let experiment = arguments.load()?;
    let Some(shard) = command.shard(&experiment)? else {
        return run(arguments, global, goal);
    };
    let (progress, runtime) = (progress::progress(global), open_runtime(global)?);
    let stop = StopRequest::default();
    let signals = interrupt::stop_on_signals(stop.clone(), progress.clone())?;
    let worker = Worker::new(&runtime, progress.as_ref(), &experiment, arguments.jobs, stop)?;
    let run = run::Run::open(&experiment, &arguments.output, goal, teller(global))?;
    let graph = run.graph()?;
    let _announced = run.announce()?;
    match worker.make_shard(&graph, run.store(), shard) {
        Err(RunError::Stopped) => {
            signals.say_farewell(&arguments.output, progress.as_ref());
            Ok(CommandOutcome::Stopped)
        }
        Err(RunError::Incomplete { missing }) => {
            let missing = printable(&missing.display().to_string());
            progress.tell(&format!("{shard} needs {missing}, which is not complete yet"));
            Ok(CommandOutcome::Incomplete)
        }
        Err(error) => Err(error.into()),
        Ok(outcome) if outcome.failed.is_empty() => {
            progress.tell(&format!("{shard} is complete"));
            Ok(CommandOutcome::Done)
        }
        Ok(_) => Ok(CommandOutcome::CheckFailed),
    }
}
