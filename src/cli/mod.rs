//! The command line: one file per subcommand, each of which parses, calls the library and prints. Nothing else in the crate prints.
//!
//! Exit codes: 0 done, 1 a check failed, 2 bad usage, configuration or input.

mod doctor;
mod progress;
mod run;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::progress::Progress;
use crate::run::Goal;
use crate::teacher::{Runtime, RuntimeError};

/// Distils an image data set into a few synthetic images per class, out of nothing but a pretrained network.
#[derive(Parser)]
#[command(name = "scdd", version, max_term_width = 100)]
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
    Verify(verify::Verify),
    /// Recover the synthetic images of an experiment, and draw the real ones of its baselines
    Recover(run::Run),
    /// Recover as needed, then store the teachers' soft labels
    Relabel(run::Run),
    /// Recover and relabel as needed, then train and test the students
    Validate(run::Run),
    /// Write the report of a complete experiment again; makes nothing else
    Report(run::Run),
    /// Run a whole experiment: recover, relabel, validate, report; what is complete is not done again
    Run(run::Run),
}

/// What a subcommand found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// A check failed; what was checked is printed.
    CheckFailed,
}

/// `scdd`: checks the arguments, then becomes `scdd-engine` with the same ones.
///
/// Loading libtorch takes longer than many commands do, so the program that users start is not linked to it. And OpenMP, which libtorch brings,
/// reads its settings before `main`: where other programs share the cores, its default of spinning while it waits for a descheduled thread
/// makes small networks several times slower.
pub fn main() -> ExitCode {
    Cli::parse();
    let engine = std::env::current_exe().map(|scdd| scdd.with_file_name("scdd-engine"));
    let failed = engine.and_then(|engine| {
        let mut command = std::process::Command::new(&engine);
        command.args(std::env::args_os().skip(1));
        if std::env::var_os("OMP_WAIT_POLICY").is_none() {
            command.env("OMP_WAIT_POLICY", "passive");
        }
        Err::<(), _>(std::os::unix::process::CommandExt::exec(&mut command))
    });
    eprintln!(
        "error: cannot start scdd-engine, which belongs beside scdd: {}",
        failed.err().map_or(String::new(), |e| e.to_string())
    );
    ExitCode::from(2)
}

/// `scdd-engine`: runs the command.
pub fn engine() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Recover(command) => command.run(&cli.global, Goal::Recover, true),
        Command::Relabel(command) => command.run(&cli.global, Goal::Relabel, true),
        Command::Validate(command) => command.run(&cli.global, Goal::Validate, true),
        Command::Report(command) => command.run(&cli.global, Goal::Report, false),
        Command::Run(command) => command.run(&cli.global, Goal::Report, true),
        Command::Verify(command) => command.run(&cli.global),
        Command::Doctor(command) => command.run(&cli.global),
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
