//! `scdd gate`: whether all shards are there.

use std::collections::BTreeSet;

use anyhow::Context;
use serde_json::json;

use super::{CommandOutcome, ExperimentArgs, Global};
use scdd_experiment::run::shards::{Division, array};
use scdd_experiment::run::{Goal, Run};

/// Check that all shards of a command are there, and complete their stages; after `validate` also
/// write the report
#[derive(clap::Args)]
pub struct Gate {
    /// The command whose shards are checked
    #[arg(value_name = "recover|relabel|validate")]
    of: ShardedGoal,
    #[command(flatten)]
    pub experiment: ExperimentArgs,
}

/// A command that can be divided into shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ShardedGoal {
    Recover,
    Relabel,
    Validate,
}

impl Gate {
    /// What is left to do when all shards are there.
    pub fn goal(&self) -> Goal {
        match self.of {
            ShardedGoal::Recover => Goal::Recover,
            ShardedGoal::Relabel => Goal::Relabel,
            ShardedGoal::Validate => Goal::Report,
        }
    }

    /// Prints the missing shards. `None` if there are none.
    pub fn check(&self, global: &Global) -> anyhow::Result<Option<CommandOutcome>> {
        let (experiment, output) = (self.experiment.load()?, &self.experiment.output);
        let division = Division::freeze(&experiment, output, None)?;
        let run = Run::open(&experiment, output, self.goal(), |what| eprintln!("{what}"))?;
        let graph = run.graph()?;
        let missing = graph.missing_shards(run.store(), division.shards)?;
        if missing.is_empty() {
            return Ok(None);
        }
        let failures: BTreeSet<String> = graph.known_failures(run.store())?.into_values().collect();
        if global.json {
            let found =
                json!({"shards": division.shards, "missing": missing, "failures": failures});
            println!("{}", serde_json::to_string_pretty(&found).context("the missing shards")?);
        } else {
            println!("missing of {} shards: {}", division.shards, array(&missing));
            failures.iter().for_each(|failure| println!("failed: {failure}"));
        }
        Ok(Some(CommandOutcome::Incomplete))
    }
}
