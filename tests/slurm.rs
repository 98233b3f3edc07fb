//! `scdd launch slurm` on a real Slurm of two nodes, with tasks that are killed, nodes that are
//! lost, and time that is nearly up.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::assert::OutputAssertExt;
use common::slurm::{Cluster, is_here, is_pending, parent, send, wait};
use common::{CACHE, bundle, contents, root, small_data, tiny_experiment};
use predicates::str::contains;
use serde_json::Value;

/// An experiment at an output directory, whose name needs quotes, and a cluster.
struct Launched {
    cluster: Cluster,
    data: tempfile::TempDir,
    dir: tempfile::TempDir,
    experiment: PathBuf,
    /// Overrides of the experiment's recovery.
    recovery: &'static [&'static str],
    output: PathBuf,
}

impl Launched {
    /// With these overrides of the recovery; `None` where there is no Slurm.
    fn new(recovery: &'static [&'static str]) -> Option<Self> {
        if !is_here() {
            return None;
        }
        let (data, dir) = (small_data(200, 100), tempfile::tempdir().unwrap());
        let more = "device: cpu\nbaselines: []\n";
        let experiment = tiny_experiment(dir.path(), &bundle("resnet18-w16-moco-v2"), more);
        let output = dir.path().join("the output");
        Some(Self { cluster: Cluster::start(), data, dir, experiment, recovery, output })
    }

    fn scdd(&self, arguments: &[&str], output: &Path) -> std::process::Command {
        let mut command = self.cluster.command(assert_cmd::cargo::cargo_bin!("scdd"));
        command.current_dir(root()).env(CACHE.0, CACHE.1).env("SCDD_DATA", self.data.path());
        // Tasks share two cores.
        command.env("RAYON_NUM_THREADS", "1").env("OMP_NUM_THREADS", "1");
        command.args(arguments).arg(&self.experiment).arg("--output").arg(output);
        command.args(self.recovery.iter().flat_map(|key| ["--set", key]));
        command
    }

    fn launch(&self, more: &[&str]) -> std::process::Command {
        let mut command = self.scdd(&["launch", "slurm"], &self.output);
        command.args(["--gpus", "1", "--json"]).args(more);
        command
    }

    /// Submits, and returns the jobs.
    fn submit(&self, more: &[&str]) -> Vec<LaunchedJob> {
        let output = self.launch(more).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let job = |job: &Value| LaunchedJob {
            id: job["id"].as_u64().unwrap(),
            name: text(&job["job"]),
            array: text(&job["array"]),
        };
        found["jobs"].as_array().unwrap().iter().map(job).collect()
    }

    fn logs(&self) -> PathBuf {
        self.output.join("slurm/tiny")
    }

    /// Waits for the last of `jobs`, and compares everything with the run of one process.
    fn assert_complete(&self, jobs: &[LaunchedJob]) {
        let last = jobs.last().unwrap();
        let states = self.cluster.ended(last.id);
        assert_eq!(states, ["COMPLETED"], "{}", self.all_logs());
        let alone = self.dir.path().join("alone");
        self.scdd(&["run"], &alone).assert().success();
        for folder in ["stages", "tiny"] {
            let [found, expected] = [&self.output, &alone].map(|dir| contents(&dir.join(folder)));
            let mut found = found.into_iter().filter(|(name, _)| !name.starts_with(".failures"));
            for (name, expected) in expected {
                let (found, bytes) = found.next().unwrap();
                assert!(found == name && bytes == expected, "{} differs", name.display());
            }
            assert_eq!(found.next().map(|(name, _)| name), None);
        }
    }

    fn all_logs(&self) -> String {
        let files = fs::read_dir(self.logs()).unwrap().flatten().map(|file| file.path());
        let logs = files.filter(|path| path.extension().is_some_and(|kind| kind == "log"));
        logs.map(|log| format!("{}:\n{}", log.display(), fs::read_to_string(&log).unwrap()))
            .collect()
    }

    /// Waits until the recovery is under way.
    fn await_recovery(&self) {
        wait("the recovery", || {
            let stages = fs::read_dir(self.output.join("stages/recover")).ok()?;
            stages.flatten().find(|stage| stage.path().join("timing.json").exists())
        });
    }

    /// Waits until the task runs, and returns its process and its node.
    fn await_task(&self, job: u64, task: u32) -> (i32, String) {
        wait(&format!("task {task} of {job}"), || {
            let pid = *self.cluster.processes(job, task).first()?;
            let name = format!("{job}_{task}");
            let node = self.cluster.ask("squeue", &["-h", "-j", &name, "-o", "%N"])?;
            Some((pid, node.trim().to_owned())).filter(|(_, node)| !node.is_empty())
        })
    }
}

struct LaunchedJob {
    id: u64,
    name: String,
    array: String,
}

fn described(jobs: &[LaunchedJob]) -> Vec<(&str, &str)> {
    jobs.iter().map(|job| (job.name.as_str(), job.array.as_str())).collect()
}

/// Three batches of some seconds each.
const BATCHES: &[&str] = &["recover.iterations=100"];
/// One batch of some seconds.
const ONE_BATCH: &[&str] = &["recover.iterations=150", "recover.batch_size=20"];

#[test]
fn six_shards_on_two_nodes_leave_the_bytes_of_one_process() {
    let Some(launched) = Launched::new(&[]) else { return };
    // Prompt refusals leave nothing in the queue.
    launched.launch(&["--shards", "1002"]).assert().code(2).stderr(contains("at most 1001"));
    let no_partition = launched.launch(&["--shards", "6", "--partition", "none"]).assert();
    no_partition
        .code(2)
        .stderr(contains("`sbatch` refused: "))
        .stderr(contains("invalid partition"));
    launched.launch(&["--resume"]).assert().code(2).stderr(contains("was not launched in"));
    let jobs = launched.submit(&["--shards", "6"]);
    let expected = [
        ("recover", "0-2"),
        ("recover-gate", ""),
        ("relabel", "0-3"),
        ("relabel-gate", ""),
        ("validate", "0"),
        ("validate-gate", ""),
    ];
    assert_eq!(described(&jobs), expected);
    launched.launch(&["--resume"]).assert().code(2).stderr(contains("still in the queue"));
    launched.assert_complete(&jobs);
    assert_eq!(launched.cluster.states(jobs[0].id), ["COMPLETED"; 3]);
    launched.launch(&["--resume", "--shards", "5"]).assert().code(2).stderr(contains("6 shards"));
    launched.launch(&[]).assert().code(2).stderr(contains("`--resume` submits what is missing"));
    launched.launch(&["--resume"]).assert().success().stdout(contains("nothing is missing"));
}

#[test]
fn a_killed_task_is_named_and_alone_submitted_again() {
    let Some(launched) = Launched::new(BATCHES) else { return };
    let jobs = launched.submit(&["--shards", "3"]);
    let (victim, _) = launched.await_task(jobs[0].id, 1);
    send(libc::SIGKILL, victim);
    assert_eq!(launched.cluster.ended(jobs[0].id), ["COMPLETED", "COMPLETED", "FAILED"]);
    assert_eq!(launched.cluster.ended(jobs[1].id), ["FAILED"]);
    let log = launched.cluster.await_log(&launched.logs(), "recover-gate-", "missing");
    assert!(log.contains("missing of 3 shards: 1\n"), "{log}");
    let cancelled = launched.cluster.ended(jobs[2].id);
    assert!(cancelled.iter().all(|state| state == "CANCELLED"), "{cancelled:?}");
    wait("the queue", || launched.cluster.ask("squeue", &["-h"]).filter(String::is_empty));
    let again = launched.submit(&["--resume"]);
    assert_eq!(described(&again)[..2], [("recover", "1"), ("recover-gate", "")]);
    launched.assert_complete(&again);
}

#[test]
fn the_tasks_of_a_lost_node_run_on_another() {
    let Some(mut launched) = Launched::new(BATCHES) else { return };
    let jobs = launched.submit(&["--shards", "3"]);
    let tasks: Vec<_> = (0..3).map(|task| launched.await_task(jobs[0].id, task)).collect();
    let lost = tasks[0].1.clone();
    launched.cluster.kill_daemon(&lost);
    for (pid, _) in tasks.iter().filter(|(_, node)| *node == lost) {
        send(libc::SIGKILL, parent(*pid));
        send(libc::SIGKILL, *pid);
    }
    launched.cluster.give_up(&lost);
    assert_eq!(launched.cluster.ended(jobs[0].id), ["COMPLETED"; 3], "{}", launched.all_logs());
    let first = format!("{}_0", jobs[0].id);
    let job = launched.cluster.ask("scontrol", &["show", "job", &first]).unwrap();
    assert!(job.contains("Restarts=1"), "{job}");
    launched.assert_complete(&jobs);
}

#[test]
fn a_task_whose_time_is_nearly_up_goes_on_where_it_was() {
    let Some(launched) = Launched::new(ONE_BATCH) else { return };
    let jobs = launched.submit(&["--shards", "1"]);
    let (process, _) = launched.await_task(jobs[0].id, 0);
    launched.await_recovery();
    // It rests until the signal is there, however fast it is and however slow Slurm.
    send(libc::SIGSTOP, process);
    let task = format!("{}_0", jobs[0].id);
    launched.cluster.ask("scancel", &["--batch", "--signal=USR1", &task]).unwrap();
    wait("the signal", || is_pending(libc::SIGUSR1, process).then_some(()));
    send(libc::SIGCONT, process);
    let log = launched.cluster.await_log(&launched.logs(), "recover-", "is requeued");
    assert!(log.contains("SIGUSR1: stopping") && log.contains(&format!("job {task} is requeued")));
    let stages = fs::read_dir(launched.output.join("stages/recover")).unwrap().flatten();
    let kept = stages.filter(|stage| stage.path().join("batch-00000.under-way").exists());
    assert_eq!(kept.count(), 1, "the state of the batch is kept");
    launched.assert_complete(&jobs);
    let job = launched.cluster.ask("scontrol", &["show", "job", &task]).unwrap();
    assert!(job.contains("Restarts=1"), "{job}");
}

#[test]
fn a_task_that_outlives_its_lost_node_does_no_harm() {
    let Some(mut launched) = Launched::new(ONE_BATCH) else { return };
    let jobs = launched.submit(&["--shards", "1"]);
    let (old, node) = launched.await_task(jobs[0].id, 0);
    launched.await_recovery();
    // It rests until the other runs, however fast it is.
    send(libc::SIGSTOP, old);
    launched.cluster.kill_daemon(&node);
    launched.cluster.give_up(&node);
    let both = wait("both tasks", || {
        let pids = launched.cluster.processes(jobs[0].id, 0);
        Some(pids).filter(|pids| pids.len() == 2)
    });
    assert!(both.contains(&old), "{both:?} beside {old}");
    launched.cluster.await_log(&launched.logs(), "recover-", "waiting for process");
    send(libc::SIGCONT, old);
    launched.assert_complete(&jobs);
}
