//! `scdd run` and its parts: `recover`, `relabel`, `validate`. One experiment file, taken as far as asked.

use scdd_core::cli::{Global, Outcome, Run, report::print};

use super::{open_runtime, progress};
use crate::engine::Engine;
use crate::report;
use crate::run::{self, Goal, Setting};

/// Takes the experiment to `goal`.
pub fn run(command: &Run, global: &Global, goal: Goal) -> anyhow::Result<Outcome> {
    let experiment = command.load()?;
    let (progress, runtime) = (progress::progress(global.quiet), open_runtime(global)?);
    let engine = Engine::new(&runtime, progress.as_ref(), experiment.device, command.jobs)?;
    let finished = run::run(&experiment, &Setting { output: &command.output, goal, maker: Some(&engine) })?;
    for remark in &finished.remarks {
        eprintln!("note: {remark}");
    }
    if goal == Goal::Report {
        return print(global, &finished.results, Some(&command.output.join(&experiment.name)));
    }
    if global.json {
        let summaries = report::summaries(&finished.results.rows);
        let found = serde_json::json!({"directories": finished.directories, "summaries": summaries});
        println!("{}", serde_json::to_string_pretty(&found)?);
    } else {
        finished.directories.iter().for_each(|directory| println!("{}", directory.display()));
    }
    Ok(Outcome::Done)
}
