//! Arguments of `scdd run` and its parts (`recover`, `relabel`, `validate`), and their plan:
//! `--dry-run`.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

use super::{CommandOutcome, Global, WorkerCommand};
use scdd_artifacts::stage::State;
use scdd_data::place::printable;
use scdd_experiment::config::{ConfigError, Experiment};
use scdd_experiment::report;
use scdd_experiment::run::Goal;
use scdd_experiment::run::plan::{Planned, Planner, RunPlan};
use scdd_experiment::run::shards::{Division, Shard, ShardNumber};

/// Arguments of all commands on an experiment.
#[derive(clap::Args)]
pub struct ExperimentArgs {
    /// The experiment's YAML file
    #[arg(value_name = "EXPERIMENT.yaml")]
    experiment: PathBuf,
    /// Override a key, for example --set recover.iterations=100
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// The output directory: stages go to DIR/stages, the report to DIR/<experiment's name>
    #[arg(long, value_name = "DIR", default_value = "runs")]
    pub output: PathBuf,
    /// Make at most N stages at once; by default as many as the CPU has cores and memory for;
    /// always one with CUDA
    #[arg(long, short, value_name = "N")]
    pub jobs: Option<NonZeroUsize>,
    /// Print the plan only: every stage, whether it is complete, and its expected cost
    #[arg(long)]
    pub dry_run: bool,
}

impl ExperimentArgs {
    /// The experiment with its overrides.
    pub fn load(&self) -> Result<Experiment, ConfigError> {
        Experiment::load(&self.experiment, &self.overrides)
    }

    /// Prints the plan of a run of the experiment up to `goal`.
    pub fn plan(self, global: &Global, goal: Goal) -> anyhow::Result<CommandOutcome> {
        print_plan(global, &Planner::by_description().plan(&self.load()?, &self.output, goal)?)
    }
}

/// Arguments of `scdd run`.
#[derive(clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub experiment: ExperimentArgs,
    /// Run one process on each of these GPUs, for example 0,1,2,3; they share all stages
    #[arg(long, value_name = "GPU,…", value_delimiter = ',')]
    pub devices: Vec<String>,
}

/// Arguments of the commands that can be divided among processes.
#[derive(clap::Args)]
pub struct ShardedArgs {
    #[command(flatten)]
    pub experiment: ExperimentArgs,
    /// Divide the work into N shards, of which this process makes one and waits for no other. N is
    /// kept in DIR/shards, and may be left out from then on
    #[arg(long, value_name = "N", requires = "shard")]
    shards: Option<NonZeroU32>,
    /// The shard to make, from 0 to N-1; `auto` is the scheduler's: SLURM_ARRAY_TASK_ID or
    /// JOB_COMPLETION_INDEX
    #[arg(long, value_name = "I|auto", value_parser = ShardNumber::parse)]
    shard: Option<ShardNumber>,
}

impl ShardedArgs {
    /// The work up to `goal`, or the shard of it.
    pub fn to_goal(self, goal: Goal) -> WorkerCommand {
        match self.shard {
            Some(_) if !self.experiment.dry_run => WorkerCommand::Shard(self, goal),
            _ => WorkerCommand::Run(self.experiment, goal),
        }
    }

    /// The shard of `experiment` that is asked for, if one is.
    pub fn shard(&self, experiment: &Experiment) -> anyhow::Result<Option<Shard>> {
        let Some(number) = self.shard else { return Ok(None) };
        let division = Division::freeze(experiment, &self.experiment.output, self.shards)?;
        Ok(Some(Shard::new(number, division.shards).map_err(anyhow::Error::msg)?))
    }
}

fn print_plan(global: &Global, plan: &RunPlan) -> anyhow::Result<CommandOutcome> {
    plan.remarks.iter().for_each(|remark| eprintln!("note: {}", printable(remark)));
    let (seconds, passes) = plan.remaining();
    if global.json {
        let found =
            serde_json::json!({"plan": plan, "seconds": seconds, "passes_never_timed": passes});
        println!("{}", serde_json::to_string_pretty(&found)?);
        return Ok(CommandOutcome::Done);
    }
    for stage in &plan.stages {
        println!(
            "{:<9} {:<12} {:>16}  {}",
            stage.stage,
            state(stage.state),
            cost(stage),
            directory_name(stage)
        );
    }
    let (all, complete) = (plan.stages.len(), plan.count(State::Complete));
    println!("\n{all} stages, {complete} complete; the others: {}", total(seconds, passes));
    if let Some(disk) = disk(plan) {
        println!("on disk: {disk}");
    }
    if let Some(units) = units(plan) {
        println!("shards divide: {units}");
    }
    Ok(CommandOutcome::Done)
}

/// The expected bytes of what is open, by kind, such as `30.30 GB of soft labels, 7.53 GB of
/// images`.
fn disk(plan: &RunPlan) -> Option<String> {
    let kinds = [
        ("soft labels", &["relabel"][..]),
        ("images before compression", &["recover", "real"][..]),
        ("students", &["validate"][..]),
    ];
    let of = |(what, stages): (&str, &[&str])| {
        let open = plan.open().filter(|stage| stages.contains(&stage.stage.as_str()));
        let bytes: u64 = open.map(|stage| stage.bytes).sum();
        (bytes > 0).then(|| format!("{:.2} GB of {what}", bytes as f64 / 1e9))
    };
    let parts: Vec<String> = kinds.into_iter().filter_map(of).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// What shards divide of what is open, such as `1000 batches to recover, 300 epochs to label`.
fn units(plan: &RunPlan) -> Option<String> {
    let kinds = [
        ("batches to recover", &["recover"][..]),
        ("epochs to label", &["relabel"][..]),
        ("students", &["validate", "whole"][..]),
    ];
    let of = |(what, stages): (&str, &[&str])| {
        let open = plan.open().filter(|stage| stages.contains(&stage.stage.as_str()));
        let units: u64 = open.map(|stage| stage.units).sum();
        (units > 0).then(|| format!("{units} {what}"))
    };
    let parts: Vec<String> = kinds.into_iter().filter_map(of).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn directory_name(stage: &Planned) -> String {
    stage.directory.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

pub fn state(state: State) -> &'static str {
    match state {
        State::Complete => "complete",
        State::Damaged => "damaged",
        State::Running => "running",
        State::Interrupted => "interrupted",
        State::Missing => "missing",
    }
}

fn cost(stage: &Planned) -> String {
    match (stage.state, stage.seconds, stage.passes) {
        (State::Complete, _, _) | (_, None, 0) => "–".to_string(),
        (_, Some(seconds), _) => format!("≈ {}", report::duration(seconds)),
        (_, None, passes) => format!("{passes} passes"),
    }
}

/// The remaining cost, such as `≈ 12 min`; work without a measured time is given in images through
/// a network.
pub fn total(seconds: f64, passes: u64) -> String {
    let untimed =
        format!("{passes} passes (images through a network), of which none was timed here yet");
    match (seconds > 0.0, passes) {
        (true, 0) => format!("≈ {}", report::duration(seconds)),
        (false, 0) => "nothing to compute".to_string(),
        (false, _) => untimed,
        (true, _) => format!("≈ {}, and {untimed}", report::duration(seconds)),
    }
}
