//! A Slurm cluster of two nodes on this machine's loopback, with two make-believe GPUs each.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const NODES: [&str; 2] = ["n1", "n2"];

/// One cluster at a time, so that tests don't take each other's cores.
static ALONE: Mutex<()> = Mutex::new(());

/// Stops with all its jobs when it is dropped.
pub struct Cluster {
    home: tempfile::TempDir,
    daemons: BTreeMap<String, Child>,
    _alone: MutexGuard<'static, ()>,
}

/// Whether Slurm can be started here; if not, that is said. With `CI` set it must be so.
pub fn is_here() -> bool {
    let programs = ["munged", "slurmctld", "slurmd", "sbatch", "unshare"];
    let has = |program: &&str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let usual = [PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")];
        std::env::split_paths(&path).chain(usual).any(|folder| folder.join(program).is_file())
    };
    let missing: Vec<_> = programs.into_iter().filter(|program| !has(program)).collect();
    // SAFETY: the call reads a number.
    let is_root = unsafe { libc::geteuid() } == 0;
    let why = match (missing.is_empty(), is_root) {
        (true, true) => return true,
        (true, false) => "only root can start Slurm's daemons".to_owned(),
        (false, _) => format!("{} is missing", missing.join(", ")),
    };
    assert!(std::env::var_os("CI").is_none(), "the tests of Slurm can't run: {why}");
    eprintln!("skipped: the tests of Slurm can't run: {why}");
    false
}

impl Cluster {
    pub fn start() -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        // Sockets of munge need a short path.
        let home = tempfile::Builder::new().prefix("slurm-").tempdir_in("/tmp").unwrap();
        let mut cluster = Self { home, daemons: BTreeMap::new(), _alone: alone };
        cluster.configure();
        cluster.run_daemons();
        cluster
    }

    pub fn path(&self) -> &Path {
        self.home.path()
    }

    fn configure(&self) {
        let home = self.path().display().to_string();
        for folder in ["etc", "state", "log", "run", "munge", "spool/n1", "spool/n2"] {
            fs::create_dir_all(self.path().join(folder)).unwrap();
        }
        let munge = self.path().join("munge");
        let key: Vec<u8> = (0..1024u32).map(|n| (n * 7919 % 251) as u8).collect();
        fs::write(munge.join("munge.key"), key).unwrap();
        for (path, mode) in [(munge.clone(), 0o700), (munge.join("munge.key"), 0o400)] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            fs::set_permissions(path, mode).unwrap();
        }
        // Free ports, held until all three are known.
        let held = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [control, first, second] = held.map(|held| held.local_addr().unwrap().port());
        let node = |name: &str, port: u16| {
            format!(
                "NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=1000 \
                 Gres=gpu:2 State=UNKNOWN\n"
            )
        };
        let config = format!(
            "ClusterName=test\nSlurmctldHost=localhost(127.0.0.1)\nSlurmctldPort={control}\nSlurmUser=root\n\
             SlurmdUser=root\nAuthType=auth/munge\nAuthInfo=socket={home}/run/munge.sock,cred_expire=5\n\
             CredType=cred/munge\nCommunicationParameters=NoInAddrAny,NoCtldInAddrAny\n\
             ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nSwitchType=switch/none\nMpiDefault=none\n\
             SelectType=select/cons_tres\nSelectTypeParameters=CR_Core\nSchedulerType=sched/backfill\n\
             SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0,batch_sched_delay=0\n\
             ReturnToService=2\nJobAcctGatherType=jobacct_gather/none\n\
             AccountingStorageType=accounting_storage/none\nJobCompType=jobcomp/filetxt\n\
             JobCompLoc={home}/log/jobcomp.txt\nMailProg=/bin/true\nStateSaveLocation={home}/state\n\
             SlurmdSpoolDir={home}/spool/%n\nSlurmctldPidFile={home}/run/slurmctld.pid\n\
             SlurmdPidFile={home}/run/slurmd-%n.pid\nSlurmctldLogFile={home}/log/slurmctld.log\n\
             SlurmdLogFile={home}/log/slurmd-%n.log\nKillWait=2\nMinJobAge=600\nSlurmctldTimeout=10\n\
             SlurmdTimeout=10\nGresTypes=gpu\n{}{}\
             PartitionName=main Nodes=ALL Default=YES MaxTime=60 State=UP\n",
            node("n1", first),
            node("n2", second)
        );
        fs::write(self.path().join("etc/slurm.conf"), config).unwrap();
        // Any character devices stand in for GPUs.
        let gpus = "NodeName=n[1-2] Name=gpu File=/dev/tty[0-1]\n";
        fs::write(self.path().join("etc/gres.conf"), gpus).unwrap();
    }

    fn run_daemons(&mut self) {
        let of = |name: &str| self.path().join(name).display().to_string();
        let munged = [
            "munged".to_owned(),
            "--force".into(),
            "--foreground".into(),
            format!("--key-file={}", of("munge/munge.key")),
            format!("--socket={}", of("run/munge.sock")),
            format!("--pid-file={}", of("run/munged.pid")),
            format!("--log-file={}", of("log/munged.log")),
            format!("--seed-file={}", of("munge/seed")),
        ];
        let (socket, config) = (of("run/munge.sock"), of("etc/slurm.conf"));
        self.run_daemon("munged", &munged);
        wait("munged", || Path::new(&socket).exists().then_some(()));
        let daemon = |words: &[&str]| {
            // The daemons look up their own host's name, which has an address here for certain.
            let first = ["unshare", "--uts", "sh", "-c", "hostname localhost && exec \"$@\"", "sh"];
            let last = ["-f", config.as_str()];
            let words = first.iter().chain(words).chain(&last);
            words.map(|word| (*word).to_owned()).collect::<Vec<_>>()
        };
        self.run_daemon("slurmctld", &daemon(&["slurmctld", "-D"]));
        for node in NODES {
            self.run_daemon(node, &daemon(&["slurmd", "-D", "-N", node]));
        }
        wait("the nodes", || {
            let states = self.ask("sinfo", &["-h", "-N", "-o", "%t"])?;
            (states.lines().filter(|state| *state == "idle").count() == 2).then_some(())
        });
    }

    fn run_daemon(&mut self, name: &str, words: &[String]) {
        let log = File::create(self.path().join(format!("log/{name}.out"))).unwrap();
        let mut command = self.command(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.daemons.insert(name.to_owned(), command.spawn().unwrap());
    }

    /// A command that finds this cluster, and the daemons.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(program);
        command.env("SLURM_CONF", self.path().join("etc/slurm.conf"));
        command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
        command
    }

    /// What a client of Slurm answers, unless it fails.
    pub fn ask(&self, program: &str, arguments: &[&str]) -> Option<String> {
        let output = self.command(program).args(arguments).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// The states of the tasks of `job`, each once they have one: `COMPLETED`, `FAILED`, ….
    pub fn states(&self, job: u64) -> Vec<String> {
        let (all, job) =
            (self.ask("squeue", &["-h", "-r", "-t", "all", "-o", "%F %T"]), job.to_string());
        let all = all.unwrap_or_default();
        let own = all.lines().filter_map(|line| line.split_once(' ')).filter(|one| one.0 == job);
        own.map(|(_, state)| state.to_owned()).collect()
    }

    /// Waits until every task of `job` has ended, and returns their states, sorted.
    pub fn ended(&self, job: u64) -> Vec<String> {
        let open = ["PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "SUSPENDED"];
        let mut states = wait(&format!("job {job}"), || {
            let states = self.states(job);
            let is_open = |state: &String| open.contains(&state.as_str());
            (!states.is_empty() && !states.iter().any(is_open)).then_some(states)
        });
        states.sort();
        states
    }

    /// The processes of `scdd` that are the task `task` of the array `job`.
    pub fn processes(&self, job: u64, task: u32) -> Vec<i32> {
        let wanted = [format!("SLURM_ARRAY_JOB_ID={job}"), format!("SLURM_ARRAY_TASK_ID={task}")];
        let is_task = |pid: &i32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            let has =
                |one: &String| environment.split(|byte| *byte == 0).any(|v| v == one.as_bytes());
            name.starts_with("scdd") && self.has(*pid) && wanted.iter().all(has)
        };
        pids().into_iter().filter(is_task).collect()
    }

    /// Whether the process belongs to this cluster.
    fn has(&self, pid: i32) -> bool {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let config = format!("SLURM_CONF={}", self.path().join("etc/slurm.conf").display());
        environment.split(|byte| *byte == 0).any(|variable| variable == config.as_bytes())
    }

    /// Kills the daemon of `node`, but none of its tasks.
    pub fn kill_daemon(&mut self, node: &str) {
        let mut daemon = self.daemons.remove(node).unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    /// Tells the cluster at once that `node` is lost.
    pub fn give_up(&self, node: &str) {
        let name = format!("nodename={node}");
        self.ask("scontrol", &["update", &name, "state=down", "reason=lost"]).unwrap();
    }

    /// Waits until a file that begins with `name` in `folder` holds `text`, and returns all of it.
    pub fn await_log(&self, folder: &Path, name: &str, text: &str) -> String {
        wait(&format!("`{text}` in {name}*"), || {
            let files = fs::read_dir(folder).into_iter().flatten().flatten();
            let mut logs = files.filter(|file| {
                let found = file.file_name().to_string_lossy().into_owned();
                found.starts_with(name) && found.ends_with(".log")
            });
            logs.find_map(|log| {
                let log = fs::read(log.path()).ok()?;
                Some(String::from_utf8_lossy(&log).into_owned()).filter(|log| log.contains(text))
            })
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.ask("scancel", &["-u", "root"]);
        // Jobs and their step daemons, also those whose node was given up, then the daemons.
        for pid in pids().into_iter().filter(|pid| self.has(*pid)) {
            send(libc::SIGKILL, pid);
        }
        for daemon in self.daemons.values_mut() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// The processes of this machine.
fn pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The parent of the process: for a job's shell or program, the step daemon.
pub fn parent(pid: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().parse().unwrap()
}

/// Sends the signal to the process, if it still is there.
pub fn send(signal: i32, pid: i32) {
    // SAFETY: the call takes two numbers.
    unsafe { libc::kill(pid, signal) };
}

/// Whether the signal waits for the process, which is stopped.
pub fn is_pending(signal: i32, pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
    let pending = pending.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    pending.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// Waits until `look` finds something.
pub fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited for {what} in vain");
        std::thread::sleep(LOOK_EVERY);
    }
}
