//! `scdd export-set`: exports distilled sets in common formats.

use std::path::PathBuf;

use super::status::load;
use super::{CommandOutcome, Global};
use scdd_experiment::export::{Format, export};
use scdd_experiment::run::distilled::distilled_sets;

/// Export every distilled set of a complete experiment: images, soft labels, and a data card
#[derive(clap::Args)]
pub struct ExportSet {
    /// The experiment's YAML file, or the directory of its report
    #[arg(value_name = "EXPERIMENT")]
    experiment: PathBuf,
    /// The format of the images
    #[arg(long = "as", value_name = "FORMAT")]
    format: Format,
    /// The target directory, with a subdirectory per set
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// The output directory; stages are in DIR/stages
    #[arg(long, value_name = "DIR", default_value = "runs")]
    output: PathBuf,
}

impl ExportSet {
    pub fn run(self, global: &Global) -> anyhow::Result<CommandOutcome> {
        let experiment = load(&self.experiment)?;
        let (sets, bundles) = distilled_sets(&experiment, &self.output)?;
        let data = serde_json::to_value(experiment.data.kind)?;
        let data = data.as_str().unwrap_or_default();
        let written = sets.iter().map(|set| export(set, &bundles, data, self.format, &self.to));
        let written = written.collect::<Result<Vec<_>, _>>()?;
        if global.json {
            println!(
                "{}",
                serde_json::to_string_pretty(&serde_json::json!({"directories": written}))?
            );
        } else {
            written.iter().for_each(|directory| println!("{}", directory.display()));
        }
        Ok(CommandOutcome::Done)
    }
}
