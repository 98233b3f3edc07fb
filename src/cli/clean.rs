//! `scdd clean`: removes stages that no experiment needs.

use std::path::PathBuf;

use anyhow::ensure;

use super::status::load;
use super::{CommandOutcome, Global, describe};
use scdd_artifacts::stage::StageError;
use scdd_experiment::run::Goal;
use scdd_experiment::run::plan::{Needed, Planner, remove, unneeded};

/// List the stages that none of the given experiments needs; with --yes, remove them
#[derive(clap::Args)]
pub struct Clean {
    /// The experiments to keep: their YAML files, or directories of reports
    #[arg(required = true, value_name = "EXPERIMENT")]
    experiments: Vec<PathBuf>,
    /// The output directory; stages are in DIR/stages
    #[arg(long, value_name = "DIR", default_value = "runs")]
    output: PathBuf,
    /// Remove the listed stages
    #[arg(long)]
    yes: bool,
}

impl Clean {
    pub fn run(self, global: &Global) -> anyhow::Result<CommandOutcome> {
        let needed = self.needed()?;
        let mut found = unneeded(&self.output, &needed)?;
        if self.yes {
            let removed =
                found.into_iter().map(|stage| Ok(remove(&self.output, &stage)?.then_some(stage)));
            found = removed.filter_map(Result::transpose).collect::<Result<_, StageError>>()?;
        }
        if global.json {
            println!(
                "{}",
                serde_json::to_string_pretty(
                    &serde_json::json!({"removed": self.yes, "stages": found})
                )?
            );
            return Ok(outcome(&needed));
        }
        found.iter().for_each(|stage| {
            println!("{:>10}  {}", megabytes(stage.bytes), stage.directory.display())
        });
        let (count, sum) = (found.len(), megabytes(found.iter().map(|stage| stage.bytes).sum()));
        match (count, self.yes) {
            (0, _) => println!("every stage is needed"),
            (_, true) => println!("removed {count} stages, {sum}"),
            (_, false) => {
                println!(
                    "{count} stages, {sum}, are not needed: the same command with --yes removes them"
                )
            }
        }
        Ok(outcome(&needed))
    }

    /// The stages that the experiments need. If an experiment's stages can't be listed, for example
    /// because its data were moved, all stages of its networks are kept.
    fn needed(&self) -> anyhow::Result<Needed> {
        let (planner, mut needed) = (Planner::default(), Needed::default());
        let mut wrong = Vec::new();
        for path in &self.experiments {
            let experiment = match load(path) {
                Ok(experiment) => experiment,
                Err(error) => {
                    wrong.push(describe(&error));
                    continue;
                }
            };
            match planner.plan(&experiment, &self.output, Goal::Report) {
                Ok(plan) => {
                    needed.stages.extend(plan.stages.into_iter().map(|stage| stage.directory))
                }
                Err(error) => {
                    needed.networks.extend(planner.networks(&experiment)?);
                    let error = describe(&error.into());
                    eprintln!(
                        "note: {}: {error}; so every stage of its networks is kept",
                        path.display()
                    );
                }
            }
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(needed)
    }
}

fn outcome(needed: &Needed) -> CommandOutcome {
    if needed.networks.is_empty() { CommandOutcome::Done } else { CommandOutcome::CheckFailed }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
