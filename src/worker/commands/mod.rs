//! The commands that need networks. Each has one file, which calls the library and prints. Their
//! arguments, and all other commands, are in [`scdd_cli`].

mod calibrate;
mod data;
mod doctor;
mod inspect;
mod interrupt;
mod progress;
mod requeue;
mod run;
mod verify;

use std::process::ExitCode;

use scdd_cli::{CommandOutcome, Global, WorkerCommand};

use scdd_distill::teacher::{Runtime, RuntimeError};
use scdd_kernels::Isa;

/// Runs the command given by the process's arguments.
pub fn main() -> ExitCode {
    scdd_cli::main(work)
}

fn work(global: &Global, work: WorkerCommand) -> anyhow::Result<CommandOutcome> {
    Isa::limit().map_err(anyhow::Error::msg)?;
    match work {
        WorkerCommand::Doctor => doctor::run(global),
        WorkerCommand::Verify(command) => verify::run(&command, global),
        WorkerCommand::Calibrate(command) => calibrate::run(command, global),
        WorkerCommand::Inspect(command) => inspect::run(&command, global),
        WorkerCommand::Run(command, goal) => run::run(&command, global, goal),
        WorkerCommand::Shard(command, goal) => run::shard(&command, global, goal),
    }
}

fn open_runtime(global: &Global) -> Result<Runtime, RuntimeError> {
    Runtime::open(global.onnxruntime.as_deref())
}
