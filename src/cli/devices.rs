//! `scdd run --devices`: one process for each GPU of this machine, which share the stages.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

use anyhow::{Context, anyhow};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use super::{CommandOutcome, STOPPED};

const OPTION: &str = "--devices";
/// The variable that shows a process some of the GPUs.
const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

/// Makes all stages by a process on each of `devices`, then collects the results in this one. The
/// processes share stages and parts of them, so when one ends early the others do its work.
///
/// # Errors
/// When a process can't be started.
pub fn run(devices: &[String]) -> anyhow::Result<CommandOutcome> {
    let program = std::env::current_exe().context("the program's own path")?;
    let arguments = without_devices(std::env::args_os().skip(1));
    let command = |device: &str| {
        let mut command = Command::new(&program);
        command.args(&arguments).env(VISIBLE, device);
        command
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let share = (cores / devices.len()).max(1).to_string();
    let mut children = Vec::new();
    for device in devices {
        let mut child = command(device);
        child.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        if std::env::var_os("RAYON_NUM_THREADS").is_none() {
            child.env("RAYON_NUM_THREADS", &share);
        }
        children.push((device, child.spawn().context("cannot start a process of scdd")?));
    }
    forward_signals(children.iter().map(|(_, child)| child.id()).collect())?;
    let mut has_stopped = false;
    thread::scope(|scope| {
        for (device, child) in &mut children {
            let stderr = child.stderr.take();
            scope.spawn(move || stderr.into_iter().for_each(|stderr| tell(device, stderr)));
        }
    });
    for (device, mut child) in children {
        let status = child.wait()?;
        has_stopped |= status.code() == Some(STOPPED.into());
        if let Some(how) = abnormal(status) {
            eprintln!("note: the process on device {device} ended by {how}");
        }
    }
    if has_stopped {
        return Ok(CommandOutcome::Stopped);
    }
    // What is left is next to nothing: the report, or what failed.
    Err(anyhow!("cannot start {}: {}", program.display(), command(&devices[0]).exec()))
}

/// How a process ended that can't say so itself.
fn abnormal(status: ExitStatus) -> Option<String> {
    let signal = std::os::unix::process::ExitStatusExt::signal(&status)?;
    Some(format!("signal {signal}"))
}

/// Prints the lines of a process with its device's name.
fn tell(device: &str, stderr: impl Read) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        eprintln!("[{device}] {line}");
    }
}

/// Sends the signals that stop a run to `processes`.
fn forward_signals(processes: Vec<u32>) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGUSR1])?;
    thread::spawn(move || {
        for signal in signals.forever() {
            for process in &processes {
                // SAFETY: the call takes two numbers. The processes are waited for at the end of
                // this program only, so that the numbers are theirs.
                unsafe { libc::kill(*process as libc::pid_t, signal) };
            }
        }
    });
    Ok(())
}

/// The arguments of this program without the option of devices.
fn without_devices(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let (mut kept, mut is_value) = (Vec::new(), false);
    for argument in arguments {
        let is_joined = argument.to_str().is_some_and(|text| {
            text.strip_prefix(OPTION).is_some_and(|rest| rest.starts_with('='))
        });
        let is_option = argument == OsStr::new(OPTION);
        if !is_option && !is_joined && !is_value {
            kept.push(argument);
        }
        is_value = is_option;
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_get_all_other_arguments() {
        let kept = |arguments: &[&str]| {
            let kept = without_devices(arguments.iter().map(OsString::from));
            kept.into_iter().map(|one| one.into_string().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(kept(&["run", "--devices", "0,1", "a.yaml"]), ["run", "a.yaml"]);
        assert_eq!(kept(&["run", "a.yaml", "--devices=0,1", "-q"]), ["run", "a.yaml", "-q"]);
        assert_eq!(kept(&["run", "--devices-x", "a"]), ["run", "--devices-x", "a"]);
    }
}
