//! `scdd status`: the state of experiments.

use std::path::{Path, PathBuf};

use anyhow::Context;
use indexmap::{IndexMap, IndexSet};
use serde_json::{Value, json};

use super::run::{state, total};
use super::{CommandOutcome, Global, describe};
use scdd_artifacts::stage::State;
use scdd_data::place::printable;
use scdd_experiment::config::Experiment;
use scdd_experiment::run::plan::{Other, Planner, RunPlan, others};
use scdd_experiment::run::{Goal, RESOLVED};

/// Print the complete, running, interrupted and missing stages of each experiment
#[derive(clap::Args)]
pub struct Status {
    /// Experiment files, or directories of reports; by default every report in the output
    /// directory, and all other stages
    #[arg(value_name = "EXPERIMENT")]
    experiments: Vec<PathBuf>,
    /// The output directory of stages and reports
    #[arg(long, value_name = "DIR", default_value = "runs")]
    output: PathBuf,
}

impl Status {
    pub fn run(self, global: &Global) -> anyhow::Result<CommandOutcome> {
        let is_all = self.experiments.is_empty();
        let experiments = if is_all { reports(&self.output)? } else { self.experiments };
        let planner = Planner::without_reading();
        let (mut plans, mut unknown) = (Vec::new(), Vec::new());
        for path in experiments {
            match load(&path).and_then(|one| Ok(planner.plan(&one, &self.output, Goal::Report)?)) {
                Ok(plan) => plans.push(plan),
                Err(error) => unknown.push((path, describe(&error))),
            }
        }
        let others = if is_all { others(&self.output, &plans)? } else { Vec::new() };
        if global.json {
            let unknown: Vec<Value> = unknown
                .iter()
                .map(|(path, error)| json!({"experiment": path, "error": error}))
                .collect();
            let found =
                json!({"experiments": plans, "unreadable": unknown, "other_stages": others});
            println!("{}", serde_json::to_string_pretty(&found)?);
        } else {
            plans.iter().for_each(print_plan);
            unknown
                .iter()
                .for_each(|(path, error)| println!("{}: can't be told: {error}", path.display()));
            print_others(&others, &self.output, &plans, unknown.is_empty());
        }
        Ok(if unknown.is_empty() { CommandOutcome::Done } else { CommandOutcome::CheckFailed })
    }
}

fn print_plan(plan: &RunPlan) {
    let (seconds, passes) = plan.remaining();
    let all = || plan.stages.iter().map(|stage| (stage.stage.as_str(), stage.state));
    plan.remarks.iter().for_each(|remark| eprintln!("note: {}", printable(remark)));
    println!("{}: {}", plan.name, counts(all().map(|(_, state)| state)));
    for kind in all().map(|(kind, _)| kind).collect::<IndexSet<_>>() {
        println!(
            "  {kind:<9} {}",
            counts(all().filter(|one| one.0 == kind).map(|(_, state)| state))
        );
    }
    if plan.open().next().is_some() {
        println!("  to do: {}", total(seconds, passes));
    }
    for failure in plan.open().filter_map(|stage| stage.failure.as_deref()) {
        println!("  failed: {}", printable(failure));
    }
}

/// Prints stages of other experiments, counted by kind, and incomplete ones by name.
fn print_others(others: &[Other], output: &Path, plans: &[RunPlan], are_known: bool) {
    let is_all = plans.is_empty() && are_known;
    // Keys of stages that read unread images are not known.
    let is_certain = are_known && plans.iter().all(|plan| plan.remarks.is_empty());
    let mut kinds: IndexMap<&str, Vec<&Other>> = IndexMap::new();
    others.iter().for_each(|one| kinds.entry(&one.stage).or_default().push(one));
    let output = output.display();
    match (others.is_empty(), is_all) {
        (true, false) => return,
        (true, true) => println!("nothing is in {output} yet"),
        (false, true) => {
            println!("no experiment has its report in {output} yet; the stages there:")
        }
        (false, false) if is_certain => println!("stages that none of these needs:"),
        (false, false) => println!("stages that none of these is known to need:"),
    }
    for (kind, stages) in kinds {
        println!("  {kind:<9} {}", counts(stages.iter().map(|stage| stage.state)));
        for stage in stages.iter().filter(|stage| stage.state != State::Complete) {
            let name = stage.directory.file_name().unwrap_or_default().to_string_lossy();
            println!("            {}: {name}", state(stage.state));
        }
    }
    if !others.is_empty() {
        println!("  what an experiment still lacks: scdd status EXPERIMENT.yaml --output {output}");
    }
}

/// The resolved experiments beside reports below `output`, sorted.
fn reports(output: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let list = || {
        std::fs::read_dir(output)?
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<Vec<_>>>()
    };
    let found =
        list().with_context(|| format!("cannot look for reports in {}", output.display()))?;
    let mut found: Vec<PathBuf> =
        found.into_iter().filter(|path| path.join(RESOLVED).is_file()).collect();
    found.sort();
    Ok(found)
}

/// Loads an experiment from its YAML file or its report's directory.
pub fn load(path: &Path) -> anyhow::Result<Experiment> {
    let file = if path.is_dir() { path.join(RESOLVED) } else { path.to_path_buf() };
    Ok(Experiment::load(&file, &[])?)
}

/// For example `5 complete, 1 running`.
fn counts(found: impl Iterator<Item = State>) -> String {
    let found: Vec<State> = found.collect();
    let count = |wanted: State| found.iter().filter(|state| **state == wanted).count();
    let states =
        [State::Complete, State::Damaged, State::Running, State::Interrupted, State::Missing];
    let counted = states
        .into_iter()
        .map(|wanted| (count(wanted), state(wanted)))
        .filter(|(count, _)| *count > 0);
    counted.map(|(count, state)| format!("{count} {state}")).collect::<Vec<_>>().join(", ")
}
