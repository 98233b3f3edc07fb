//! `scdd status`: how far experiments are.

use std::path::{Path, PathBuf};

use anyhow::Context;
use indexmap::IndexSet;

use super::run::{state, total};
use super::{Global, Outcome};
use crate::config::Experiment;
use crate::run::plan::Plan;
use crate::run::stage::State;
use crate::run::{Goal, Planner, RESOLVED};

/// Say for each experiment what is complete, running, interrupted and missing
#[derive(clap::Args)]
pub struct Status {
    /// Experiment files, or directories of reports; by default every report in the output directory
    #[arg(value_name = "EXPERIMENT")]
    experiments: Vec<PathBuf>,
    /// Where the stages and reports are
    #[arg(long, value_name = "DIR", default_value = "runs")]
    output: PathBuf,
}

impl Status {
    pub fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let experiments = if self.experiments.is_empty() { reports(&self.output)? } else { self.experiments };
        let plans = plans(&experiments, &self.output)?;
        if global.json {
            println!("{}", serde_json::to_string_pretty(&plans)?);
            return Ok(Outcome::Done);
        }
        for plan in &plans {
            let (seconds, passes) = plan.remaining();
            println!("{}: {}", plan.name, counts(plan, None));
            for kind in plan.stages.iter().map(|stage| &stage.stage).collect::<IndexSet<_>>() {
                println!("  {kind:<9} {}", counts(plan, Some(kind)));
            }
            if plan.open().next().is_some() {
                println!("  to do: {}", total(seconds, passes));
            }
        }
        Ok(Outcome::Done)
    }
}

/// The resolved experiments that lie beside reports below `output`, sorted.
fn reports(output: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let list = || std::fs::read_dir(output)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>();
    let found = list().with_context(|| format!("cannot look for reports in {}", output.display()))?;
    let mut found: Vec<PathBuf> = found.into_iter().filter(|path| path.join(RESOLVED).is_file()).collect();
    found.sort();
    Ok(found)
}

/// What each experiment, a YAML file or a report's directory, needs for its report.
pub fn plans(experiments: &[PathBuf], output: &Path) -> anyhow::Result<Vec<Plan>> {
    let planner = Planner::default();
    experiments.iter().map(|path| Ok(planner.plan(&load(path)?, output, Goal::Report)?)).collect()
}

/// An experiment by its YAML file or its report's directory.
pub fn load(path: &Path) -> anyhow::Result<Experiment> {
    let file = if path.is_dir() { path.join(RESOLVED) } else { path.to_path_buf() };
    Ok(Experiment::load(&file, &[])?)
}

/// Such as `5 complete, 1 running`, of all stages or of one kind.
fn counts(plan: &Plan, kind: Option<&str>) -> String {
    let count = |wanted: State| {
        let stages = plan.stages.iter().filter(|stage| kind.is_none_or(|kind| stage.stage == kind));
        stages.filter(|stage| stage.state == wanted).count()
    };
    let states = [State::Complete, State::Running, State::Interrupted, State::Missing];
    let counted = states.into_iter().map(|wanted| (count(wanted), state(wanted))).filter(|(count, _)| *count > 0);
    counted.map(|(count, state)| format!("{count} {state}")).collect::<Vec<_>>().join(", ")
}
