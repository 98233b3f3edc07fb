//! The command line: one file per subcommand, each of which parses, calls the library and prints. Nothing else in the crate prints.
//!
//! Exit codes: 0 done, 1 a check failed, 2 bad usage, configuration or input.

mod progress;
mod run;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::progress::Progress;
use crate::teacher::{Runtime, RuntimeError};

/// Distils an image data set into a few synthetic images per class, out of nothing but a pretrained network.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
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
    Run(run::Run),
    Verify(verify::Verify),
}

/// What a subcommand found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// A check failed; what was checked is printed.
    CheckFailed,
}

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Run(command) => command.run(&cli.global),
        Command::Verify(command) => command.run(&cli.global),
    };
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::CheckFailed) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
