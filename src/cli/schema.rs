//! `scdd schema`: the schema of experiment files, for editors.

use super::CommandOutcome;
use scdd_experiment::config;

/// Print the JSON schema of experiment files, which editors use to complete and check them
#[derive(clap::Args)]
pub struct Schema {}

impl Schema {
    pub fn run(self) -> anyhow::Result<CommandOutcome> {
        println!("{}", serde_json::to_string_pretty(&config::schema())?);
        Ok(CommandOutcome::Done)
    }
}
