//! The processor's cores, lent evenly to the stages under way.
//!
//! Small networks leave a second thread too little to do, so a stage on some cores of its own is
//! worth more than its part of a stage on all of them. Who computes asks for the share again at
//! every step: a stage that is left alone has all cores from its next step on. Results do not
//! depend on the share.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

/// Cores, and the stages that hold a lease of them.
#[derive(Debug)]
pub struct Cores {
    count: usize,
    under_way: AtomicUsize,
    /// Stages that have not yet shown how much memory they take.
    fresh: AtomicUsize,
}

impl Cores {
    /// All of them idle.
    pub fn new(count: usize) -> Arc<Self> {
        Arc::new(Self { count, under_way: AtomicUsize::new(0), fresh: AtomicUsize::new(0) })
    }

    /// Whether no stage is under way.
    pub fn are_idle(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) == 0
    }

    /// Whether every stage under way has had its first progress, so that it holds most of the
    /// memory that it needs.
    pub fn are_settled(&self) -> bool {
        self.fresh.load(Ordering::Acquire) == 0
    }

    /// The threads of a stage that begins now. It ends when the last clone of them is dropped.
    pub fn lend(self: &Arc<Self>) -> Threads {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        self.fresh.fetch_add(1, Ordering::Relaxed);
        let (is_fresh, pools) = (AtomicBool::new(true), Mutex::default());
        Threads(Some(Arc::new(CoreLease { cores: self.clone(), is_fresh, pools })))
    }

    /// How many threads each of the stages under way has.
    fn share(&self) -> usize {
        (self.count / self.under_way.load(Ordering::Relaxed).max(1)).max(1)
    }
}

/// One stage's share of the cores.
struct CoreLease {
    cores: Arc<Cores>,
    is_fresh: AtomicBool,
    /// By their number of threads.
    pools: Mutex<BTreeMap<usize, Arc<ThreadPool>>>,
}

impl CoreLease {
    fn settle(&self) {
        if self.is_fresh.swap(false, Ordering::Relaxed) {
            self.cores.fresh.fetch_sub(1, Ordering::Release);
        }
    }

    /// The threads of the share; none where the stage has all cores, or threads can't be started.
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

/// The threads that one stage computes on. Clones are the same threads.
#[derive(Clone, Default)]
pub struct Threads(Option<Arc<CoreLease>>);

impl Threads {
    /// Every core, for work beside which there is none.
    pub fn all() -> Self {
        Self::default()
    }

    /// How many there are now.
    pub fn count(&self) -> usize {
        self.0.as_ref().map_or_else(rayon::current_num_threads, |lease| lease.cores.share())
    }

    /// The stage holds most of the memory that it needs.
    pub fn reached_peak(&self) {
        if let Some(lease) = &self.0 {
            lease.settle();
        }
    }

    /// Does `work` on these threads, and on one of them itself, so that its parallel parts begin
    /// without waking a thread.
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

/// libtorch's number of threads in this thread; the former one returns when this is dropped.
pub struct TorchThreads {
    former: i32,
}

impl TorchThreads {
    /// From now on `threads`.
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
