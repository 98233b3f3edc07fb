//! `scdd run` and its parts: `recover`, `relabel`, `validate`, `report`. One experiment file, taken as far as asked.

use std::path::PathBuf;

use super::{Global, Outcome};
use crate::config::Experiment;
use crate::report;
use crate::run::{self, Goal, Setting};

/// What every command on an experiment takes.
#[derive(clap::Args)]
pub struct Run {
    /// The experiment's YAML file
    #[arg(value_name = "EXPERIMENT.yaml")]
    experiment: PathBuf,
    /// Override a key, for example --set recover.iterations=100
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Where results go: stages in DIR/stages, the report in DIR/<experiment's name>
    #[arg(long, value_name = "DIR", default_value = "runs")]
    output: PathBuf,
}

impl Run {
    /// Takes the experiment to `goal`; without `make` from what is complete alone.
    pub fn run(self, global: &Global, goal: Goal, make: bool) -> anyhow::Result<Outcome> {
        let experiment = Experiment::load(&self.experiment, &self.overrides)?;
        let (progress, runtime) = (global.progress(), global.runtime()?);
        let setting = Setting { output: &self.output, goal, make, runtime: &runtime, progress: progress.as_ref() };
        let finished = run::run(&experiment, &setting)?;
        for remark in &finished.remarks {
            eprintln!("note: {remark}");
        }
        let summaries = report::summaries(&finished.results.rows);
        if global.json {
            let found = serde_json::json!({"directories": finished.directories, "summaries": summaries});
            println!("{}", serde_json::to_string_pretty(&found)?);
            return Ok(Outcome::Done);
        }
        if goal == Goal::Report {
            println!("{}", report::table(&finished.results));
            println!("report: {}", self.output.join(&experiment.name).join("report.html").display());
        } else {
            finished.directories.iter().for_each(|directory| println!("{}", directory.display()));
        }
        Ok(Outcome::Done)
    }
}
