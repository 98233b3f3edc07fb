//! Slurm's own programs.

use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};

/// Without an answering cluster the programs try for minutes.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The standard output of `program`.
///
/// # Errors
/// Its own message when it fails, and when it is missing or does not answer.
fn ask(program: &str, arguments: &[String]) -> anyhow::Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| {
        format!("cannot start `{program}`: run this where Slurm is, such as a cluster's login node")
    })?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    // Read beside, so that a long answer does not fill the pipe.
    let (stdout, stderr) = (thread::spawn(|| read(stdout)), thread::spawn(|| read(stderr)));
    let end = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= end {
            child.kill()?;
            child.wait()?;
            bail!("`{program}` gave no answer in a minute: does `sinfo` show the cluster here?");
        }
        thread::sleep(LOOK_EVERY);
    };
    let text = |read: thread::JoinHandle<String>| read.join().map_err(|_| anyhow!("no answer"));
    let (stdout, stderr) = (text(stdout)?, text(stderr)?);
    ensure!(status.success(), "`{program}` refused: {}", stderr.trim());
    Ok(stdout)
}

fn read(stream: Option<impl Read>) -> String {
    let mut text = Vec::new();
    if let Some(mut stream) = stream {
        // What can't be read is missing in a message only.
        let _ = stream.read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// The largest number of tasks of a job array.
pub fn max_array_size() -> anyhow::Result<u32> {
    let config = ask("scontrol", &["show".into(), "config".into()])?;
    max_in(&config).context("`scontrol show config` names no MaxArraySize")
}

fn max_in(config: &str) -> Option<u32> {
    let line = config.lines().find(|line| line.starts_with("MaxArraySize"))?;
    line.split('=').nth(1)?.trim().parse().ok()
}

/// Submits the job file `script` with these further `options`. Returns the job's number.
pub fn submit(script: &str, options: Vec<String>) -> anyhow::Result<u64> {
    let mut arguments = vec!["--parsable".to_owned()];
    arguments.extend(options);
    arguments.push(script.to_owned());
    let said = ask("sbatch", &arguments)?;
    parse_id(&said).with_context(|| format!("`sbatch` named no job: {}", said.trim()))
}

/// The number in sbatch's answer: `12` or `12;cluster`.
fn parse_id(said: &str) -> Option<u64> {
    said.trim().split(';').next()?.parse().ok()
}

/// Those of `jobs` that are waiting or running.
pub fn in_queue(jobs: &[u64]) -> anyhow::Result<Vec<u64>> {
    let said = ask("squeue", &["--noheader".into(), "--format=%F".into()])?;
    let queued: Vec<u64> = said.lines().filter_map(|line| line.trim().parse().ok()).collect();
    Ok(jobs.iter().copied().filter(|job| queued.contains(job)).collect())
}

/// Cancels `jobs`.
pub fn cancel(jobs: &[u64]) -> anyhow::Result<()> {
    ask("scancel", &jobs.iter().map(ToString::to_string).collect::<Vec<_>>()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_understood() {
        assert_eq!(
            (parse_id("12\n"), parse_id("12;main\n"), parse_id("no")),
            (Some(12), Some(12), None)
        );
        let config = "MailProg = /bin/mail\nMaxArraySize            = 1001\nMaxBatchRequeue = 5\n";
        assert_eq!((max_in(config), max_in("")), (Some(1001), None));
    }

    #[test]
    fn programs_that_are_missing_or_fail_are_named() {
        let missing = format!("{:#}", ask("no-such-sbatch", &[]).unwrap_err());
        assert!(missing.starts_with("cannot start `no-such-sbatch`: run this where Slurm is"));
        let failed = ask("sh", &["-c".into(), "echo nothing fits >&2; exit 1".into()]).unwrap_err();
        assert_eq!(failed.to_string(), "`sh` refused: nothing fits");
    }
}
