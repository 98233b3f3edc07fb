//! `scdd run`: a whole experiment.

use std::path::PathBuf;

use super::{Global, Outcome};
use crate::config::Experiment;
use crate::report;
use crate::run;

/// Run an experiment: recover, relabel, validate and report for every cell; what is complete is not done again
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
    pub fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let experiment = Experiment::load(&self.experiment, &self.overrides)?;
        let progress = global.progress();
        let finished = run::run(&experiment, &self.output, &global.runtime()?, progress.as_ref())?;
        for remark in &finished.remarks {
            eprintln!("note: {remark}");
        }
        if global.json {
            let summaries = report::summaries(&finished.results.rows);
            println!(
                "{}",
                serde_json::to_string_pretty(&serde_json::json!({"report": finished.report, "summaries": summaries}))?
            );
        } else {
            println!("{}\nreport: {}", report::table(&finished.results), finished.report.display());
        }
        Ok(Outcome::Done)
    }
}
