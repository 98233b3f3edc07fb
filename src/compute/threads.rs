//! The processor's cores, shared evenly by the running stages.
//!
//! Small networks do not keep many threads busy, so two stages on half the cores each are faster
//! than one after the other on all cores. A stage asks for its share at every step, so a stage that
//! remains alone uses all cores from its next step on. Results do not depend on the share.
//!
//! Operations of libtorch outside of plans (those of the replica) keep libtorch's own number of
//! threads, which can show in their rounding.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

/// The cores, and how many stages hold a lease of them.
#[derive(Debug)]
pub struct Cores {
    count: usize,
    under_way: AtomicUsize,
    /// Stages that may not yet have reached their peak memory.
    fresh: AtomicUsize,
}

impl Cores {
    /// `count` cores without any running stage.
    pub fn new(count: usize) -> Arc<Self> {
        Arc::new(Self { count, under_way: AtomicUsize::new(0), fresh: AtomicUsize::new(0) })
    }

    /// Whether no stage is running.
    pub fn are_idle(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) == 0
    }

    /// Whether every running stage has made its first progress, so that it holds most of the memory
    /// that it needs.
    pub fn are_settled(&self) -> bool {
        self.fresh.load(Ordering::Acquire) == 0
    }

    /// The threads for a stage that starts now. The stage's lease ends when the last clone is
    /// dropped.
    pub fn lend(self: &Arc<Self>) -> Threads {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        self.fresh.fetch_add(1, Ordering::Relaxed);
        let (is_fresh, pools) = (AtomicBool::new(true), Mutex::default());
        Threads(Some(Arc::new(CoreLease { cores: self.clone(), is_fresh, pools })))
    }

    /// The number of threads of each running stage.
    fn share(&self) -> usize {
        (self.count / self.under_way.load(Ordering::Relaxed).max(1)).max(1)
    }
}

/// One stage's share of the cores.
struct CoreLease {
    cores: Arc<Cores>,
    is_fresh: AtomicBool,
    /// Thread pools by their number of threads.
    pools: Mutex<BTreeMap<usize, Arc<ThreadPool>>>,
}

impl CoreLease {
    fn settle(&self) {
        if self.is_fresh.swap(false, Ordering::Relaxed) {
            self.cores.fresh.fetch_sub(1, Ordering::Release);
        }
    }

    /// The thread pool of the share; `None` where the stage has all cores, or threads can't be
    /// started.
    fn pool(&self) -> Option<Arc<ThreadPool>> {
        let threads = self.cores.share();
        if threads >= self.cores.count {
            return None;
        }
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let pool = match pools.entry(threads) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                new.insert(Arc::new(ThreadPoolBuilder::new().num_threads(threads).build().ok()?))
            }
        };
        Some(pool.clone())
    }
}

impl Drop for CoreLease {
    fn drop(&mut self) {
        self.settle();
        self.cores.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The threads that one stage computes on. Clones refer to the same threads.
#[derive(Clone, Default)]
pub struct Threads(Option<Arc<CoreLease>>);

impl Threads {
    /// All cores, for work that runs alone.
    pub fn all() -> Self {
        Self::default()
    }

    /// The present number of threads.
    pub fn count(&self) -> usize {
        self.0.as_ref().map_or_else(rayon::current_num_threads, |lease| lease.cores.share())
    }

    /// Reports that the stage holds most of the memory that it needs.
    pub fn reached_peak(&self) {
        if let Some(lease) = &self.0 {
            lease.settle();
        }
    }

    /// Runs `work` inside this stage's thread pool, so that its parallel parts start without waking
    /// a thread.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let torch = tch::get_num_threads();
        let there = move || {
            let _as_here = TorchThreads::set(torch);
            work()
        };
        match self.0.as_ref().and_then(|lease| lease.pool()) {
            Some(pool) => pool.install(there),
            None => rayon::scope(|_| there()),
        }
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "Threads({})", self.count())
    }
}

/// Sets libtorch's number of threads in this thread, and restores it when dropped.
pub struct TorchThreads {
    former: i32,
}

impl TorchThreads {
    /// Sets the number to `threads`.
    pub fn set(threads: i32) -> Self {
        let former = tch::get_num_threads();
        if former != threads {
            tch::set_num_threads(threads);
        }
        Self { former }
    }
}

impl Drop for TorchThreads {
    fn drop(&mut self) {
        if tch::get_num_threads() != self.former {
            tch::set_num_threads(self.former);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_the_stages_under_way() {
        let cores = Cores::new(6);
        let first = cores.lend();
        assert_eq!((first.count(), first.run(rayon::current_thread_index).is_some()), (6, true));
        let second = cores.lend();
        assert!(!cores.are_settled());
        for threads in [&first, &second] {
            threads.reached_peak();
            threads.reached_peak();
            assert_eq!((threads.count(), threads.run(rayon::current_num_threads)), (3, 3));
        }
        assert!(cores.are_settled());
        drop(second.clone());
        assert_eq!(first.count(), 3, "a clone is no stage of its own");
        drop(second);
        assert_eq!(first.count(), 6);
        drop(first);
        assert!(cores.are_settled() && cores.are_idle());
        assert_eq!(Threads::all().count(), rayon::current_num_threads());
    }

    #[test]
    fn libtorch_has_as_many_threads_there_as_here() {
        let cores = Cores::new(2);
        let (threads, _other) = (cores.lend(), cores.lend());
        let own = tch::get_num_threads();
        for torch in [1, 3] {
            tch::set_num_threads(torch);
            let found = threads.run(|| (rayon::current_num_threads(), tch::get_num_threads()));
            assert_eq!(found, (1, torch));
        }
        tch::set_num_threads(own);
    }
}
