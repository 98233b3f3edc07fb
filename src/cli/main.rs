//! The `scdd` program. It runs commands that need no network. For all other commands it becomes
//! `scdd-worker` with the same arguments, with the environment that libtorch needs.
//!
//! libtorch contains OpenMP, which reads its settings before `main`. By default, threads that wait
//! for a descheduled thread spin. That makes small networks several times slower if other programs
//! use the cores, so waiting threads are set to yield.

use std::ffi::CString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::anyhow;
use scdd_cli::doctor::{self, Finding};
use scdd_cli::{CommandOutcome, Global, WorkerCommand};

/// The directory of libtorch at build time, where `scdd-worker` looks for it. A build without the
/// feature `torch` knows none.
#[cfg(feature = "torch")]
const TORCH: Option<&str> = Some(concat!(env!("SCDD_SITE_PACKAGES"), "/torch/lib"));
#[cfg(not(feature = "torch"))]
const TORCH: Option<&str> = None;
const LIBRARY: &str =
    if cfg!(target_os = "macos") { "libtorch_cpu.dylib" } else { "libtorch_cpu.so" };

fn main() -> ExitCode {
    scdd_cli::main(work)
}

fn work(global: &Global, work: WorkerCommand) -> anyhow::Result<CommandOutcome> {
    let scdd = std::env::current_exe();
    // An installed program is in site-packages/scdd/bin.
    let beside =
        scdd.as_ref().ok().and_then(|path| Some(path.ancestors().nth(3)?.join("torch/lib")));
    let is_beside = beside.is_some_and(|torch| torch.join(LIBRARY).is_file());
    let built_with = TORCH.filter(|_| !is_beside);
    if let Some(why) = built_with.and_then(|torch| torch_is_missing(torch, LIBRARY)) {
        return match work {
            WorkerCommand::Doctor => {
                doctor::print(global, &[Finding::new("libtorch", Err::<String, _>(why))])
            }
            _ => Err(anyhow!("{why}")),
        };
    }
    let failure = match scdd {
        Ok(scdd) => start(Command::new(scdd.with_file_name("scdd-worker"))),
        Err(error) => error,
    };
    let remedy = if TORCH.is_none() {
        "; this scdd was built without torch, `make build` builds both"
    } else {
        ""
    };
    Err(anyhow!("cannot start scdd-worker, which belongs beside scdd: {failure}{remedy}"))
}

/// Explains why the system's loader can't start `scdd-worker`; its own message is hard to
/// understand.
fn torch_is_missing(torch: &str, library: &str) -> Option<String> {
    if Path::new(torch).join(library).is_file() || can_be_loaded(library) {
        return None;
    }
    Some(format!(
        "libtorch is no longer in {torch}, where it was when scdd was built: the checkout or its Python environment \
         was moved or removed. Run `make build` in the checkout, which installs and builds what is missing"
    ))
}

/// Whether the loader finds `library` elsewhere, for example by LD_LIBRARY_PATH.
fn can_be_loaded(library: &str) -> bool {
    let Ok(name) = CString::new(library) else { return false };
    // SAFETY: the name is a string that outlives the call. Loading runs the library's initialisers,
    // as starting `scdd-worker` would.
    !unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_LAZY) }.is_null()
}

/// Replaces this process. Returns only on failure.
fn start(mut worker: Command) -> std::io::Error {
    if std::env::var_os("OMP_WAIT_POLICY").is_none() {
        worker.env("OMP_WAIT_POLICY", "passive");
    }
    let torch = TORCH.unwrap_or("no place that is known");
    tracing::debug!("starting {}, built with libtorch in {torch}", worker.get_program().display());
    worker.args(std::env::args_os().skip(1)).exec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_was_moved_is_missed() {
        assert_eq!(TORCH.and_then(|torch| torch_is_missing(torch, LIBRARY)), None);
        assert_eq!(
            torch_is_missing("/nowhere", "libc.so.6"),
            None,
            "the loader finds it elsewhere"
        );
        let why = torch_is_missing("/nowhere/torch/lib", "libno-such-library.so").unwrap();
        assert!(
            why.starts_with("libtorch is no longer in /nowhere/torch/lib")
                && why.contains("make build"),
            "{why}"
        );
    }
}
