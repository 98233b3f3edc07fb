//! The command line: options of all commands, and one file for each command that needs no network.
//! The other commands are parsed here and handed to the worker as a [`WorkerCommand`].
//!
//! Only this crate and the worker's commands print. Exit codes: 0 done, 1 a check or some rows of
//! an experiment failed, 2 bad usage, configuration or input, 3 other shards must be made first, 75
//! stopped with its state kept.

mod clean;
mod completions;
mod devices;
pub mod doctor;
mod export_set;
mod gate;
mod launch;
mod log;
mod man;
mod networks;
mod ops;
mod pack;
mod pipe;
pub mod report;
mod run;
mod schema;
mod status;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use scdd_data::place::printable;
use scdd_experiment::run::Goal;

use networks::Doctor;
pub use networks::{Calibrate, Inspect, Verify};
use run::RunArgs;
pub use run::{ExperimentArgs, ShardedArgs};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  a check failed, or some rows of an experiment
  2  bad usage, configuration or input
  3  other shards must be made first
  75 stopped by a signal with its state kept; the same command goes on";

/// The exit code of stopped work that can go on (`EX_TEMPFAIL` of sysexits.h), on which a
/// scheduler may be told to start it again.
const STOPPED: u8 = 75;

/// The exit code of work that needs what other shards have not made yet.
const INCOMPLETE: u8 = 3;

/// Distils an image data set into a few synthetic images per class, using only a pretrained
/// network.
#[derive(Parser)]
#[command(name = "scdd", bin_name = "scdd", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of all subcommands.
#[derive(Args)]
pub struct Global {
    /// Print results as JSON on standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// The ONNX Runtime library, instead of ORT_DYLIB_PATH or the checkout's Python environment
    #[arg(long, global = true, value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,
    /// Report no progress
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Report used resources on standard error: directories of stages, locks, libraries, the device
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

#[derive(Subcommand)]
enum Command {
    Doctor(Doctor),
    Ops(ops::Ops),
    Verify(Verify),
    Calibrate(Calibrate),
    Inspect(Inspect),
    /// Recover the synthetic images of an experiment, and choose the real images of its baselines
    Recover(ShardedArgs),
    /// Recover as needed, then store the teachers' soft labels
    Relabel(ShardedArgs),
    /// Recover and relabel as needed, then train and test the students
    Validate(ShardedArgs),
    Report(report::Report),
    /// Run a whole experiment: recover, relabel, validate, report; complete stages are kept
    Run(RunArgs),
    Gate(gate::Gate),
    Launch(launch::Launch),
    Status(status::Status),
    Watch(watch::Watch),
    Clean(clean::Clean),
    ExportSet(export_set::ExportSet),
    Pack(pack::Pack),
    Schema(schema::Schema),
    Completions(completions::Completions),
    Man(man::Man),
}

/// A command that needs networks.
pub enum WorkerCommand {
    Doctor,
    Verify(Verify),
    Calibrate(Calibrate),
    Inspect(Inspect),
    /// Run an experiment up to a goal.
    Run(ExperimentArgs, Goal),
    /// Make a shard of what a goal adds to the one before it.
    Shard(ShardedArgs, Goal),
}

/// The outcome of a subcommand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandOutcome {
    Done,
    /// A check or some rows of an experiment failed; the findings are printed.
    CheckFailed,
    /// Other shards must be made first.
    Incomplete,
    /// A signal stopped it, its state is kept, and the same command goes on.
    Stopped,
}

/// Runs the command in the process's arguments, with `worker` if it needs networks. Must be called
/// before any thread starts.
pub fn main(
    worker: impl FnOnce(&Global, WorkerCommand) -> anyhow::Result<CommandOutcome>,
) -> ExitCode {
    pipe::die_of_broken_pipes();
    let Cli { global, command } = Cli::parse();
    if global.verbose {
        log::listen();
    }
    match run(&global, command, worker) {
        Ok(CommandOutcome::Done) => ExitCode::SUCCESS,
        Ok(CommandOutcome::CheckFailed) => ExitCode::from(1),
        Ok(CommandOutcome::Incomplete) => ExitCode::from(INCOMPLETE),
        Ok(CommandOutcome::Stopped) => ExitCode::from(STOPPED),
        Err(error) => {
            eprintln!("error: {}", printable(&describe(&error)));
            ExitCode::from(2)
        }
    }
}

fn run(
    global: &Global,
    command: Command,
    worker: impl FnOnce(&Global, WorkerCommand) -> anyhow::Result<CommandOutcome>,
) -> anyhow::Result<CommandOutcome> {
    let work = match command {
        Command::Ops(command) => return command.run(global),
        Command::Report(command) => return command.run(global),
        Command::Launch(command) => return command.run(global),
        Command::Status(command) => return command.run(global),
        Command::Watch(command) => return command.run(global),
        Command::ExportSet(command) => return command.run(global),
        Command::Pack(command) => return command.run(global),
        Command::Clean(command) => return command.run(global),
        Command::Schema(command) => return command.run(),
        Command::Completions(command) => return command.run(),
        Command::Man(command) => return command.run(global),
        Command::Recover(command) => command.to_goal(Goal::Recover),
        Command::Relabel(command) => command.to_goal(Goal::Relabel),
        Command::Validate(command) => command.to_goal(Goal::Validate),
        Command::Gate(command) => {
            if let Some(outcome) = command.check(global)? {
                return Ok(outcome);
            }
            let goal = command.goal();
            WorkerCommand::Run(command.experiment, goal)
        }
        Command::Run(RunArgs { experiment, devices })
            if !devices.is_empty() && !experiment.dry_run =>
        {
            // The faults of its file are told once.
            experiment.load()?;
            return devices::run(&devices);
        }
        Command::Run(command) => WorkerCommand::Run(command.experiment, Goal::Report),
        Command::Calibrate(command) => WorkerCommand::Calibrate(command),
        Command::Inspect(command) => WorkerCommand::Inspect(command),
        Command::Verify(command) => WorkerCommand::Verify(command),
        Command::Doctor(_) => WorkerCommand::Doctor,
    };
    match work {
        WorkerCommand::Run(run, goal) if run.dry_run => run.plan(global, goal),
        work => worker(global, work),
    }
}

/// The error and its causes on one line. Causes that a message quotes already are omitted.
fn describe(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |said, cause| match said.as_str() {
        "" => cause,
        _ if said.contains(&cause) => said,
        _ => format!("{said}: {cause}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let error = anyhow::anyhow!("disk full")
            .context("cannot write x: disk full; free some space")
            .context("run");
        assert_eq!(describe(&error), "run: cannot write x: disk full; free some space");
        assert_eq!(describe(&anyhow::anyhow!("a").context("b")), "b: a");
    }
}
