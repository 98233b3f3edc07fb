//! The `scdd` program: does by itself what needs no network. For all else it becomes `scdd-engine` with the same arguments, in an environment in
//! which libtorch runs well.
//!
//! OpenMP, which libtorch brings, reads its settings before `main`. Its default of spinning while it waits for a thread that was descheduled makes
//! small networks several times slower wherever other programs share the cores, so waiting threads are told to yield.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::anyhow;

fn main() -> ExitCode {
    scdd_core::cli::main(|_, _| {
        let failure = match std::env::current_exe() {
            Ok(scdd) => start(Command::new(scdd.with_file_name("scdd-engine"))),
            Err(error) => error,
        };
        Err(anyhow!("cannot start scdd-engine, which belongs beside scdd: {failure}"))
    })
}

/// Replaces this process; returns only where that fails.
fn start(mut engine: Command) -> std::io::Error {
    if std::env::var_os("OMP_WAIT_POLICY").is_none() {
        engine.env("OMP_WAIT_POLICY", "passive");
    }
    engine.args(std::env::args_os().skip(1)).exec()
}
