//! Makes stages several at once, each on its share of the processor, as far as there is memory.

use std::collections::BTreeSet;
use std::error::Error;
use std::io::{self, ErrorKind};
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use sysinfo::{MemoryRefreshKind, ProcessRefreshKind, ProcessesToUpdate, RefreshKind, System};

use crate::progress::{Piece, Progress};
use crate::run::{Failed, RunError, Task, WorkedOff};
use crate::share::{self, Cores, Making};

/// Between two looks whether a waiting stage can begin.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Does all `tasks`, each after those that it needs, at most `lanes` at once. A task that fails is told at once, and ends
/// those alone that need it.
///
/// # Errors
/// Where the system refuses what every task asks for, such as room on the disk; no further one is begun after that.
pub fn work_off(tasks: Vec<Task>, lanes: NonZeroUsize, progress: &dyn Progress) -> Result<WorkedOff, RunError> {
    let lanes = lanes.get().min(tasks.len());
    Queue::new(tasks, Memory::new(), progress).work_off(lanes)
}

/// Tasks, and how far they are.
struct Queue<'a, M> {
    progress: &'a dyn Progress,
    cores: Arc<Cores>,
    state: Mutex<State<'a, M>>,
    changed: Condvar,
}

struct State<'a, M> {
    waiting: Vec<Task<'a>>,
    /// What waiting tasks and those under way will leave.
    missing: BTreeSet<PathBuf>,
    /// What ends the whole run.
    failure: Option<RunError>,
    done: WorkedOff,
    memory: M,
}

impl<'a, M: Room + Send> Queue<'a, M> {
    fn new(tasks: Vec<Task<'a>>, memory: M, progress: &'a dyn Progress) -> Self {
        let missing = tasks.iter().map(|task| task.directory.clone()).collect();
        let state = State { waiting: tasks, missing, failure: None, done: WorkedOff::default(), memory };
        let cores = Cores::new(rayon::current_num_threads());
        Self { progress, cores, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn work_off(self, lanes: usize) -> Result<WorkedOff, RunError> {
        let torch = tch::get_num_threads();
        thread::scope(|scope| {
            for _ in 0..lanes {
                scope.spawn(|| {
                    // A new thread has as many as some other was last given.
                    tch::set_num_threads(torch);
                    while let Some((task, making)) = self.next() {
                        self.make(task, making);
                    }
                });
            }
        });
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.failure.map_or(Ok(state.done), Err)
    }

    fn lock(&self) -> MutexGuard<'_, State<'a, M>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next task, once it can begin, which it hereby does; none when there is nothing left for another lane.
    fn next(&self) -> Option<(Task<'a>, Making)> {
        let mut state = self.lock();
        while !state.waiting.is_empty() {
            if let Some(ready) = state.ready().filter(|_| self.has_room(&mut state)) {
                return Some((state.waiting.remove(ready), Making::on(&self.cores)));
            }
            let waited = self.changed.wait_timeout(state, LOOK_EVERY);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        None
    }

    /// Whether a further stage can begin beside those under way.
    fn has_room(&self, state: &mut State<M>) -> bool {
        self.cores.are_idle() || self.cores.are_settled() && state.memory.has_room()
    }

    /// Makes the stage of `task`, on this thread.
    fn make(&self, task: Task<'a>, making: Making) {
        let (directory, title) = (task.directory.clone(), task.title.clone());
        let made = catch_unwind(AssertUnwindSafe(|| task.make()));
        let mut state = self.lock();
        drop(making);
        state.missing.remove(&directory);
        match made {
            Ok(Ok(remark)) => state.done.remarks.extend(remark),
            Ok(Err(error)) if !ends_all(&error) => {
                let reason = format!("{title}: {error}");
                self.progress.tell(&format!("error: {reason}"));
                state.fail(directory, reason);
            }
            Ok(Err(error)) => {
                state.waiting.clear();
                if !self.cores.are_idle() {
                    self.progress.tell(&format!("error: {error}; the run ends with the stages that are under way"));
                }
                state.failure.get_or_insert(error);
            }
            Err(panic) => {
                state.waiting.clear();
                drop(state);
                self.changed.notify_all();
                resume_unwind(panic);
            }
        }
        self.changed.notify_all();
    }
}

impl<M> State<'_, M> {
    /// Which waiting task is the first that has all that it needs.
    fn ready(&self) -> Option<usize> {
        self.waiting.iter().position(|task| task.needs.iter().all(|need| !self.missing.contains(need)))
    }

    /// The stage at `directory` failed for this `reason`, and with it all that wait for it.
    fn fail(&mut self, directory: PathBuf, reason: String) {
        self.done.failed.insert(directory, reason.clone());
        while let Some(place) = self.waiting.iter().position(|task| needs_one_of(task, &self.done.failed)) {
            let task = self.waiting.remove(place);
            self.missing.remove(&task.directory);
            self.done.failed.insert(task.directory, reason.clone());
        }
    }
}

fn needs_one_of(task: &Task, failed: &Failed) -> bool {
    task.needs.iter().any(|need| failed.contains_key(need))
}

/// Whether the system refuses what every other task asks for too.
fn ends_all(error: &RunError) -> bool {
    let chain = std::iter::successors(Some(error as &dyn Error), |error| (*error).source());
    let mut kinds = chain.filter_map(|error| Some(error.downcast_ref::<io::Error>()?.kind()));
    let is_for_all = |kind| {
        use ErrorKind::{FileTooLarge, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        matches!(kind, FileTooLarge | PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull)
    };
    kinds.any(is_for_all)
}

/// Says whether there is memory for a further stage beside those under way, which hold most of what they need.
trait Room {
    fn has_room(&mut self) -> bool;
}

/// What the system says of memory.
struct Memory(System);

impl Memory {
    fn new() -> Self {
        Self(System::new())
    }
}

impl Room for Memory {
    /// As much as this process holds can still be had, or the system does not tell.
    fn has_room(&mut self) -> bool {
        let Ok(own) = sysinfo::get_current_pid() else { return true };
        self.0.refresh_specifics(RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram()));
        let which = ProcessesToUpdate::Some(&[own]);
        self.0.refresh_processes_specifics(which, false, ProcessRefreshKind::nothing().with_memory().without_tasks());
        if self.0.total_memory() == 0 {
            return true;
        }
        let group = self.0.cgroup_limits().map(|group| group.total_memory.saturating_sub(group.rss));
        let free = group.into_iter().fold(self.0.available_memory(), u64::min);
        self.0.process(own).is_none_or(|process| free >= process.memory())
    }
}

/// Tells on, and notes when the stage of this thread has come so far that it holds most of the memory that it needs.
pub struct Noting<'a>(pub &'a dyn Progress);

impl Progress for Noting<'_> {
    fn start<'a>(&'a self, label: &str, total: u64, unit: &str) -> Box<dyn Piece + 'a> {
        Box::new(Noted(self.0.start(label, total, unit)))
    }

    fn tell(&self, what: &str) {
        self.0.tell(what);
    }
}

struct Noted<'a>(Box<dyn Piece + 'a>);

impl Piece for Noted<'_> {
    fn at(&mut self, done: u64, note: &str) {
        share::settle();
        self.0.at(done, note);
    }

    fn finish(self: Box<Self>, note: &str) {
        self.0.finish(note);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::data::DataError;
    use crate::progress::Silent;
    use crate::run::Failure;
    use crate::run::stage::StageError;

    impl Room for bool {
        fn has_room(&mut self) -> bool {
            *self
        }
    }

    /// What happened, in order: `+` and a name where a task began, `-` where it ended.
    #[derive(Default)]
    struct Log(Mutex<Vec<String>>);

    impl Log {
        fn note(&self, what: String) {
            self.0.lock().unwrap().push(what);
        }

        /// Settles, as with its first progress, and goes on once there is the note `until`; fails with a name in capitals.
        fn task<'a>(&'a self, name: &'a str, needs: &[&str], until: &'a str) -> Task<'a> {
            let make = move || {
                self.note(format!("+{name}"));
                share::settle();
                let end = Instant::now() + Duration::from_secs(60);
                while !self.0.lock().unwrap().iter().any(|note| note == until) {
                    assert!(Instant::now() < end, "no {until}");
                    thread::sleep(Duration::from_millis(1));
                }
                self.note(format!("-{name}"));
                let is_bad = name.chars().all(char::is_uppercase);
                let failed = || RunError::Data(DataError::Mismatch(name.to_owned()));
                if is_bad { Err(failed()) } else { Ok(Some(format!("made {name}"))) }
            };
            Task::new(format!("make {name}"), name.into(), needs.iter().map(PathBuf::from).collect(), make)
        }

        fn notes(self) -> Vec<String> {
            self.0.into_inner().unwrap()
        }
    }

    fn work_off(room: bool, lanes: usize, tasks: Vec<Task>) -> Result<WorkedOff, RunError> {
        Queue::new(tasks, room, &Silent).work_off(lanes)
    }

    #[test]
    fn a_task_waits_for_what_it_needs_and_the_next_one_goes_first() {
        let log = Log::default();
        let tasks = vec![
            log.task("a", &["there"], "+c"),
            log.task("b", &["a"], "+b"),
            log.task("c", &[], "+b"),
            log.task("d", &["b", "c"], "+d"),
        ];
        let mut remarks = work_off(true, 2, tasks).unwrap().remarks;
        remarks.sort();
        assert_eq!(remarks, ["made a", "made b", "made c", "made d"]);
        let notes = log.notes();
        assert_eq!(notes[..4], ["+a", "+c", "-a", "+b"]);
        assert_eq!(notes[6..], ["+d", "-d"]);
    }

    #[test]
    fn one_lane_or_no_memory_means_one_after_the_other_in_order() {
        for (room, lanes) in [(true, 1), (false, 3)] {
            let log = Log::default();
            let tasks = vec![log.task("a", &[], "+a"), log.task("b", &[], "+b"), log.task("c", &["a"], "+c")];
            assert_eq!(work_off(room, lanes, tasks).unwrap().remarks, ["made a", "made b", "made c"]);
            assert_eq!(log.notes(), ["+a", "-a", "+b", "-b", "+c", "-c"]);
        }
    }

    #[test]
    fn a_failure_ends_what_needs_it_and_nothing_else() {
        for lanes in [1, 2] {
            let log = Log::default();
            let tasks = vec![
                log.task("A", &[], "+A"),
                log.task("b", &["A"], "+b"),
                log.task("c", &[], "+c"),
                log.task("d", &["b"], "+d"),
                log.task("e", &["c"], "+e"),
                log.task("f", &["c", "d"], "+f"),
            ];
            let WorkedOff { mut remarks, failed } = work_off(true, lanes, tasks).unwrap();
            remarks.sort();
            assert_eq!(remarks, ["made c", "made e"]);
            assert_eq!(failed.keys().map(|path| path.to_str().unwrap()).collect::<Vec<_>>(), ["A", "b", "d", "f"]);
            assert!(failed.values().all(|reason| reason.starts_with("make A: ")), "{failed:?}");
        }
        assert!(work_off(true, 2, Vec::new()).unwrap().failed.is_empty());
    }

    #[test]
    fn after_a_full_disk_nothing_is_begun_and_what_is_under_way_ends() {
        let log = Log::default();
        let full = || {
            log.note("+full".into());
            share::settle();
            while !log.0.lock().unwrap().iter().any(|note| note == "+b") {
                thread::sleep(Duration::from_millis(1));
            }
            let source = io::Error::from(ErrorKind::StorageFull);
            // As a stage's own error arrives: in a box.
            let failure: Failure = Box::new(StageError::Io { action: "write", path: "x".into(), source });
            log.note("-full".into());
            Err(RunError::Make(failure))
        };
        let tasks = vec![
            Task::new("fill".into(), "full".into(), vec![], full),
            log.task("b", &[], "-full"),
            log.task("c", &["b"], "+c"),
        ];
        let failure = work_off(true, 2, tasks).unwrap_err().to_string();
        assert!(failure.contains("free some space"), "{failure}");
        assert_eq!(log.notes(), ["+full", "+b", "-full", "-b"]);
    }

    #[test]
    #[should_panic(expected = "a scoped thread panicked")]
    fn a_panic_ends_the_run() {
        let fail = || -> Result<Option<String>, RunError> { panic!("on purpose") };
        let tasks = vec![
            Task::new("a".into(), "a".into(), vec![], fail),
            Task::new("b".into(), "b".into(), vec!["a".into()], || Ok(None)),
        ];
        let _ = work_off(true, 2, tasks);
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
