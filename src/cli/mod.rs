//! The command line: one file per subcommand, each of which parses, calls the library and prints. Nothing else in the crate prints.
//!
//! Exit codes: 0 done, 1 a check failed, 2 bad usage, configuration or input.

mod calibrate;
mod clean;
mod data;
mod doctor;
mod export_set;
mod inspect;
mod ops;
mod progress;
mod report;
mod run;
mod schema;
mod status;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::progress::Progress;
use crate::run::Goal;
use crate::teacher::{Runtime, RuntimeError};

/// Distils an image data set into a few synthetic images per class, out of nothing but a pretrained network.
#[derive(Parser)]
#[command(name = "scdd", bin_name = "scdd", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every subcommand.
#[derive(Args)]
pub struct Global {
    /// Print results as JSON on standard output
    #[arg(long, global = true)]
    json: bool,
    /// ONNX Runtime's library, instead of ORT_DYLIB_PATH or the checkout's Python environment
    #[arg(long, global = true, value_name = "FILE")]
    onnxruntime: Option<PathBuf>,
    /// Report no progress
    #[arg(short, long, global = true)]
    quiet: bool,
}

impl Global {
    fn runtime(&self) -> Result<Runtime, RuntimeError> {
        Runtime::open(self.onnxruntime.as_deref())
    }

    fn progress(&self) -> Box<dyn Progress> {
        progress::progress(self.quiet)
    }
}

#[derive(Subcommand)]
enum Command {
    Doctor(doctor::Doctor),
    Ops(ops::Ops),
    Verify(verify::Verify),
    Calibrate(calibrate::Calibrate),
    Inspect(inspect::Inspect),
    /// Recover the synthetic images of an experiment, and draw the real ones of its baselines
    Recover(run::Run),
    /// Recover as needed, then store the teachers' soft labels
    Relabel(run::Run),
    /// Recover and relabel as needed, then train and test the students
    Validate(run::Run),
    Report(report::Report),
    /// Run a whole experiment: recover, relabel, validate, report; what is complete is not done again
    Run(run::Run),
    Status(status::Status),
    Clean(clean::Clean),
    ExportSet(export_set::ExportSet),
    Schema(schema::Schema),
}

/// What a subcommand found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// A check failed; what was checked is printed.
    CheckFailed,
}

/// Runs the command that the process's arguments name.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Calibrate(command) => command.run(&cli.global),
        Command::Inspect(command) => command.run(&cli.global),
        Command::Ops(command) => command.run(&cli.global),
        Command::Recover(command) => command.run(&cli.global, Goal::Recover),
        Command::Relabel(command) => command.run(&cli.global, Goal::Relabel),
        Command::Validate(command) => command.run(&cli.global, Goal::Validate),
        Command::Report(command) => command.run(&cli.global),
        Command::Run(command) => command.run(&cli.global, Goal::Report),
        Command::Status(command) => command.run(&cli.global),
        Command::ExportSet(command) => command.run(&cli.global),
        Command::Clean(command) => command.run(&cli.global),
        Command::Schema(command) => command.run(),
        Command::Verify(command) => command.run(&cli.global),
        Command::Doctor(command) => command.run(&cli.global),
    };
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::CheckFailed) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {}", describe(&error));
            ExitCode::from(2)
        }
    }
}

/// The error and its causes on one line, without the causes that a message already quotes.
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
        let error = anyhow::anyhow!("disk full").context("cannot write x: disk full; free some space").context("run");
        assert_eq!(describe(&error), "run: cannot write x: disk full; free some space");
        assert_eq!(describe(&anyhow::anyhow!("a").context("b")), "b: a");
    }
}
