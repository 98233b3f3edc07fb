//! Runs several jobs at once, each on its share of the cores, as far as memory allows.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::io::{self, ErrorKind};
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use sysinfo::{MemoryRefreshKind, ProcessRefreshKind, ProcessesToUpdate, RefreshKind, System};

use scdd_artifacts::stage::Wait;
use scdd_compute::threads::{Cores, Threads};
use scdd_distill::progress::{Activity, Progress};
use scdd_experiment::run::stages::NodeId;
use scdd_experiment::run::{Failed, Outcome, RunError};

use super::StopRequest;

/// The interval at which waiting jobs are checked.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The interval between two attempts at a stage that another process is at.
const ATTEMPT_EVERY: Duration = Duration::from_millis(250);

/// A stage to be made.
#[derive(Debug, Clone)]
pub struct Job {
    pub id: NodeId,
    /// The job's name in error messages.
    pub title: String,
    /// The stages that must be complete first. Those that are not jobs are complete already.
    pub needs: Vec<NodeId>,
}

/// The outcome of an attempt at a job.
#[derive(Debug)]
pub enum Made {
    /// The stage is complete. The text is a remark for the user.
    Complete(Option<String>),
    /// Another process is at the stage: who, and at what.
    Elsewhere(String),
}

/// Makes the stage of a job on these threads.
type Make<'a> = &'a (dyn Fn(NodeId, &Threads) -> Result<Made, RunError> + Sync);

/// Runs `make` for all `jobs`, each after the jobs that it needs, at most `lanes` at once. A
/// failure is reported at once, and skips only the jobs that depend on the failed one. A job that
/// another process is at comes last, and is tried again until it is complete or free.
///
/// # Errors
/// When `stop` is asked for before all are made, or a failure would hit every job, such as a full
/// disk; no job starts after it.
pub fn work_off(
    jobs: Vec<Job>,
    lanes: NonZeroUsize,
    progress: &dyn Progress,
    stop: &StopRequest,
    make: Make,
) -> Result<Outcome, RunError> {
    let lanes = lanes.get().min(jobs.len());
    Queue::new(jobs, Memory::new(), progress, stop, make).work_off(lanes)
}

/// The jobs and their state.
struct Queue<'a, M> {
    progress: &'a dyn Progress,
    stop: &'a StopRequest,
    make: Make<'a>,
    cores: Arc<Cores>,
    state: Mutex<QueueState<M>>,
    changed: Condvar,
}

struct QueueState<M> {
    waiting: Vec<Job>,
    /// The stages of waiting and running jobs.
    missing: BTreeSet<NodeId>,
    /// The waiting jobs that another process is at, and when to try them again.
    elsewhere: BTreeMap<NodeId, (Wait, Instant)>,
    /// Whether no other job begins.
    has_ended: bool,
    /// The error that ends the whole run.
    failure: Option<RunError>,
    done: Outcome,
    memory: M,
}

impl<'a, M: Room + Send> Queue<'a, M> {
    fn new(
        jobs: Vec<Job>,
        memory: M,
        progress: &'a dyn Progress,
        stop: &'a StopRequest,
        make: Make<'a>,
    ) -> Self {
        let missing = jobs.iter().map(|job| job.id).collect();
        let state = QueueState {
            waiting: jobs,
            missing,
            elsewhere: BTreeMap::new(),
            has_ended: false,
            failure: None,
            done: Outcome::default(),
            memory,
        };
        let cores = Cores::new(rayon::current_num_threads());
        Self { progress, stop, make, cores, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn work_off(self, lanes: usize) -> Result<Outcome, RunError> {
        let torch = tch::get_num_threads();
        thread::scope(|scope| {
            for _ in 0..lanes {
                scope.spawn(|| {
                    // libtorch gives a new thread the number that any other thread set last.
                    tch::set_num_threads(torch);
                    while let Some((job, threads)) = self.next() {
                        self.make(job, threads);
                    }
                });
            }
        });
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.failure.map_or(Ok(state.done), Err)
    }

    fn lock(&self) -> MutexGuard<'_, QueueState<M>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a job can start, and starts it: takes it from the queue and lends it cores.
    /// `None` when no jobs are left.
    fn next(&self) -> Option<(Job, Threads)> {
        let mut state = self.lock();
        while !state.waiting.is_empty() {
            if self.stop.is_asked() {
                state.end(RunError::Stopped);
                break;
            }
            if let Some(ready) = state.ready().filter(|_| self.has_room(&mut state)) {
                return Some((state.waiting.remove(ready), self.cores.lend()));
            }
            let waited = self.changed.wait_timeout(state, LOOK_EVERY);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        None
    }

    /// Whether another job can start beside the running ones.
    fn has_room(&self, state: &mut QueueState<M>) -> bool {
        self.cores.are_idle() || self.cores.are_settled() && state.memory.has_room()
    }

    /// Runs `job` on `threads`.
    fn make(&self, job: Job, threads: Threads) {
        let made = catch_unwind(AssertUnwindSafe(|| (self.make)(job.id, &threads)));
        let mut state = self.lock();
        drop(threads);
        match made {
            Ok(Ok(Made::Complete(remark))) => {
                state.missing.remove(&job.id);
                state.done.remarks.extend(remark);
            }
            Ok(Ok(Made::Elsewhere(whom))) => {
                if let Some(report) = state.put_back(job, &whom) {
                    self.progress.tell(&report);
                }
            }
            Ok(Err(RunError::Stopped)) => state.end(RunError::Stopped),
            Ok(Err(error)) if !ends_all(&error) => {
                let reason = format!("{}: {error}", job.title);
                self.progress.tell(&format!("error: {reason}"));
                state.fail(job.id, reason);
            }
            Ok(Err(error)) => {
                if !self.cores.are_idle() {
                    self.progress
                        .tell(&format!("error: {error}; the run ends when the running stages end"));
                }
                state.end(error);
            }
            Err(panic) => {
                state.begin_no_other();
                drop(state);
                self.changed.notify_all();
                resume_unwind(panic);
            }
        }
        self.changed.notify_all();
    }
}

impl<M> QueueState<M> {
    /// The index of the first waiting job whose needs are complete, and that no other process was
    /// at a moment ago.
    fn ready(&self) -> Option<usize> {
        let is_elsewhere = |job: &Job| {
            self.elsewhere.get(&job.id).is_some_and(|(_, again)| Instant::now() < *again)
        };
        self.waiting.iter().position(|job| {
            job.needs.iter().all(|need| !self.missing.contains(need)) && !is_elsewhere(job)
        })
    }

    /// Puts `job`, which another process is at, behind the others, unless the run ends. Returns
    /// what to report.
    fn put_back(&mut self, job: Job, whom: &str) -> Option<String> {
        if self.has_ended {
            return None;
        }
        let again = Instant::now() + ATTEMPT_EVERY;
        let (wait, at) = self.elsewhere.entry(job.id).or_insert_with(|| (Wait::begin(), again));
        *at = again;
        self.waiting.push(job);
        wait.report(whom)
    }

    /// Ends the run for `reason`. The first one counts, but a failure more than a stop.
    fn end(&mut self, reason: RunError) {
        self.begin_no_other();
        if self.failure.as_ref().is_none_or(|known| matches!(known, RunError::Stopped)) {
            self.failure = Some(reason);
        }
    }

    /// Lets no other job begin.
    fn begin_no_other(&mut self) {
        self.has_ended = true;
        self.waiting.clear();
    }

    /// Marks the job `id` as failed for this `reason`, and all waiting jobs that depend on it.
    fn fail(&mut self, id: NodeId, reason: String) {
        self.missing.remove(&id);
        self.done.failed.insert(id, reason.clone());
        while let Some(place) =
            self.waiting.iter().position(|job| needs_one_of(job, &self.done.failed))
        {
            let job = self.waiting.remove(place);
            self.missing.remove(&job.id);
            self.done.failed.insert(job.id, reason.clone());
        }
    }
}

fn needs_one_of(job: &Job, failed: &Failed) -> bool {
    job.needs.iter().any(|need| failed.contains_key(need))
}

/// Whether the error would hit every other job too.
pub fn ends_all(error: &RunError) -> bool {
    let chain = std::iter::successors(Some(error as &dyn Error), |error| (*error).source());
    let mut kinds = chain.filter_map(|error| Some(error.downcast_ref::<io::Error>()?.kind()));
    let is_for_all = |kind| {
        use ErrorKind::{
            FileTooLarge, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull,
        };
        matches!(
            kind,
            FileTooLarge | PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull
        )
    };
    kinds.any(is_for_all)
}

/// Says whether memory suffices for another stage. The running ones must already hold most of the
/// memory that they need.
trait Room {
    fn has_room(&mut self) -> bool;
}

/// The system's memory figures.
struct Memory(System);

impl Memory {
    fn new() -> Self {
        Self(System::new())
    }
}

impl Room for Memory {
    /// Whether as much memory is free as this process holds. Also true if the system does not
    /// report it.
    fn has_room(&mut self) -> bool {
        let Ok(own) = sysinfo::get_current_pid() else { return true };
        self.0.refresh_specifics(
            RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram()),
        );
        let which = ProcessesToUpdate::Some(&[own]);
        self.0.refresh_processes_specifics(
            which,
            false,
            ProcessRefreshKind::nothing().with_memory().without_tasks(),
        );
        if self.0.total_memory() == 0 {
            return true;
        }
        let group =
            self.0.cgroup_limits().map(|group| group.total_memory.saturating_sub(group.rss));
        let free = group.into_iter().fold(self.0.available_memory(), u64::min);
        self.0.process(own).is_none_or(|process| free >= process.memory())
    }
}

/// Passes progress on. At a stage's first progress it reports to the stage's threads that the stage
/// holds most of the memory that it needs.
pub struct MemoryAwareProgress<'a>(pub &'a dyn Progress, pub Threads);

impl Progress for MemoryAwareProgress<'_> {
    fn start<'a>(&'a self, label: &str, total: u64, unit: &str) -> Box<dyn Activity + 'a> {
        Box::new(MemoryAwareActivity(self.0.start(label, total, unit), &self.1))
    }

    fn tell(&self, what: &str) {
        self.0.tell(what);
    }
}

struct MemoryAwareActivity<'a>(Box<dyn Activity + 'a>, &'a Threads);

impl Activity for MemoryAwareActivity<'_> {
    fn at(&mut self, done: u64, note: &str) {
        self.1.reached_peak();
        self.0.at(done, note);
    }

    fn finish(self: Box<Self>, note: &str) {
        self.0.finish(note);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scdd_artifacts::stage::StageError;
    use scdd_data::DataError;
    use scdd_distill::progress::Silent;
    use scdd_experiment::run::Failure;

    impl Room for bool {
        fn has_room(&mut self) -> bool {
            *self
        }
    }

    /// Jobs: their names, the jobs that they need, and the note that each waits for. A job with a
    /// name in capitals fails; `!` fails with a full disk,
    /// `stop` stops the run, and `elsewhere` is another process's until that note exists.
    struct Jobs(Vec<(&'static str, &'static [&'static str], &'static str)>, Mutex<Vec<String>>);

    impl Jobs {
        fn new(jobs: &[(&'static str, &'static [&'static str], &'static str)]) -> Self {
            Self(jobs.to_vec(), Mutex::default())
        }

        /// Names that are not jobs get the number after the last job.
        fn id(&self, name: &str) -> NodeId {
            NodeId(self.0.iter().position(|job| job.0 == name).unwrap_or(self.0.len()))
        }

        fn work_off(&self, room: bool, lanes: usize) -> Result<Outcome, RunError> {
            let job = |&(name, needs, _): &(&'static str, &[&'static str], _)| Job {
                id: self.id(name),
                title: format!("make {name}"),
                needs: needs.iter().map(|need| self.id(need)).collect(),
            };
            let (jobs, stop) = (self.0.iter().map(job).collect(), StopRequest::default());
            Queue::new(jobs, room, &Silent, &stop, &|id, threads| self.make(id, threads, &stop))
                .work_off(lanes)
        }

        /// Reports the peak memory, as a stage does at its first progress, and returns once the
        /// note that the job waits for exists.
        fn make(
            &self,
            NodeId(place): NodeId,
            threads: &Threads,
            stop: &StopRequest,
        ) -> Result<Made, RunError> {
            let (name, _, until) = self.0[place];
            if name == "elsewhere" && !self.1.lock().unwrap().iter().any(|note| note == until) {
                return Ok(Made::Elsewhere("another, which is at it".into()));
            }
            self.note(format!("+{name}"));
            threads.reached_peak();
            let end = Instant::now() + Duration::from_secs(60);
            while !self.1.lock().unwrap().iter().any(|note| note == until) {
                assert!(Instant::now() < end, "no {until}");
                thread::sleep(Duration::from_millis(1));
            }
            self.note(format!("-{name}"));
            if name == "!" {
                let source = io::Error::from(ErrorKind::StorageFull);
                // A stage's own error also arrives in a box.
                let failure: Failure =
                    Box::new(StageError::Io { action: "write", path: "x".into(), source });
                return Err(RunError::Make(failure));
            }
            if name == "stop" {
                stop.ask();
                return Err(RunError::Stopped);
            }
            let is_bad = name.chars().all(char::is_uppercase);
            let failed = || RunError::Data(DataError::Mismatch(name.to_owned()));
            if is_bad { Err(failed()) } else { Ok(Made::Complete(Some(format!("made {name}")))) }
        }

        fn note(&self, what: String) {
            self.1.lock().unwrap().push(what);
        }

        /// The events in order: `+` and the name when a job started, `-` and the name when it
        /// ended.
        fn notes(self) -> Vec<String> {
            self.1.into_inner().unwrap()
        }
    }

    #[test]
    fn a_job_waits_for_what_it_needs_and_the_next_one_goes_first() {
        let jobs = Jobs::new(&[
            ("a", &["there"], "+c"),
            ("b", &["a"], "+b"),
            ("c", &[], "+b"),
            ("d", &["b", "c"], "+d"),
        ]);
        let mut remarks = jobs.work_off(true, 2).unwrap().remarks;
        remarks.sort();
        assert_eq!(remarks, ["made a", "made b", "made c", "made d"]);
        let notes = jobs.notes();
        assert_eq!(notes[..4], ["+a", "+c", "-a", "+b"]);
        assert_eq!(notes[6..], ["+d", "-d"]);
    }

    #[test]
    fn one_lane_or_no_memory_means_one_after_the_other_in_order() {
        for (room, lanes) in [(true, 1), (false, 3)] {
            let jobs = Jobs::new(&[("a", &[], "+a"), ("b", &[], "+b"), ("c", &["a"], "+c")]);
            assert_eq!(jobs.work_off(room, lanes).unwrap().remarks, ["made a", "made b", "made c"]);
            assert_eq!(jobs.notes(), ["+a", "-a", "+b", "-b", "+c", "-c"]);
        }
    }

    #[test]
    fn a_failure_ends_what_needs_it_and_nothing_else() {
        for lanes in [1, 2] {
            let jobs = Jobs::new(&[
                ("A", &[], "+A"),
                ("b", &["A"], "+b"),
                ("c", &[], "+c"),
                ("d", &["b"], "+d"),
                ("e", &["c"], "+e"),
                ("f", &["c", "d"], "+f"),
            ]);
            let Outcome { mut remarks, failed } = jobs.work_off(true, lanes).unwrap();
            remarks.sort();
            assert_eq!(remarks, ["made c", "made e"]);
            assert_eq!(
                failed.keys().copied().collect::<Vec<_>>(),
                ["A", "b", "d", "f"].map(|name| jobs.id(name))
            );
            assert!(failed.values().all(|reason| reason.starts_with("make A: ")), "{failed:?}");
        }
        assert!(Jobs::new(&[]).work_off(true, 2).unwrap().failed.is_empty());
    }

    #[test]
    fn after_a_full_disk_nothing_is_begun_and_what_is_under_way_ends() {
        let jobs = Jobs::new(&[("!", &[], "+b"), ("b", &[], "-!"), ("c", &["b"], "+c")]);
        let failure = jobs.work_off(true, 2).unwrap_err().to_string();
        assert!(failure.contains("free some space"), "{failure}");
        assert_eq!(jobs.notes(), ["+!", "+b", "-!", "-b"]);
    }

    #[test]
    fn after_a_stop_nothing_is_begun_and_what_is_under_way_ends() {
        for lanes in [1, 2] {
            let jobs =
                Jobs::new(&[("stop", &[], "+stop"), ("b", &["stop"], "+b"), ("c", &[], "+c")]);
            assert!(matches!(jobs.work_off(true, lanes), Err(RunError::Stopped)));
            assert!(!jobs.notes().contains(&"+b".to_owned()));
        }
    }

    #[test]
    fn a_run_that_ends_comes_back_to_nothing_and_says_its_failure() {
        let jobs = Jobs::new(&[("elsewhere", &[], "never"), ("!", &[], "+!")]);
        let failure = jobs.work_off(true, 2).unwrap_err().to_string();
        assert!(failure.contains("free some space"), "{failure}");
        let jobs = Jobs::new(&[("stop", &[], "+!"), ("!", &[], "-stop")]);
        let failure = jobs.work_off(true, 2).unwrap_err().to_string();
        assert!(failure.contains("free some space"), "{failure}");
    }

    #[test]
    fn what_another_process_is_at_waits_and_the_others_go_on() {
        for lanes in [1, 2] {
            let jobs = Jobs::new(&[
                ("elsewhere", &[], "-c"),
                ("b", &["elsewhere"], "+b"),
                ("c", &[], "+c"),
            ]);
            let remarks = jobs.work_off(true, lanes).unwrap().remarks;
            assert_eq!(remarks, ["made c", "made elsewhere", "made b"]);
        }
    }

    #[test]
    #[should_panic(expected = "a scoped thread panicked")]
    fn a_panic_ends_the_run() {
        let job = |place: usize, needs| Job { id: NodeId(place), title: "x".into(), needs };
        let make = |NodeId(place), _: &Threads| -> Result<Made, RunError> {
            assert!(place > 0, "on purpose");
            Ok(Made::Complete(None))
        };
        let jobs = vec![job(0, vec![]), job(1, vec![NodeId(0)])];
        let _ = Queue::new(jobs, true, &Silent, &StopRequest::default(), &make).work_off(2);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_system_tells_of_memory() {
        let mut memory = Memory::new();
        memory.has_room();
        let own = sysinfo::get_current_pid().unwrap();
        assert!(memory.0.available_memory() > 0 && memory.0.process(own).unwrap().memory() > 0);
    }
}
