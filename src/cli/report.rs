//! `scdd report`: the report of a complete experiment, written again.

use std::path::PathBuf;

use super::{Global, Outcome};
use crate::config::Experiment;
use crate::report;
use crate::run::{self, Goal, Setting};

/// Write the report of a complete experiment again; makes nothing else
#[derive(clap::Args)]
pub struct Report {
    /// The experiment's YAML file
    #[arg(value_name = "EXPERIMENT.yaml")]
    experiment: PathBuf,
    /// Override a key, for example --set name=other
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Where the stages are: in DIR/stages; the report goes to DIR/<experiment's name>
    #[arg(long, value_name = "DIR", default_value = "runs")]
    output: PathBuf,
}

impl Report {
    pub fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let experiment = Experiment::load(&self.experiment, &self.overrides)?;
        let finished = run::run(&experiment, &Setting { output: &self.output, goal: Goal::Report, means: None })?;
        let home = self.output.join(&experiment.name);
        print(global, &finished.results, &home)
    }
}

/// The table, and where the page is.
pub fn print(global: &Global, results: &report::Results, home: &std::path::Path) -> anyhow::Result<Outcome> {
    if global.json {
        let found = serde_json::json!({"directories": [home], "summaries": report::summaries(&results.rows)});
        println!("{}", serde_json::to_string_pretty(&found)?);
    } else {
        println!("{}", report::table(results));
        println!("report: {}", home.join("report.html").display());
    }
    Ok(Outcome::Done)
}
