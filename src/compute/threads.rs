//! The processor's cores, shared evenly by the stages that are under way.
//!
//! A stage on few threads of its own is worth more than its part of a stage on all of them: small networks leave a second thread too little to do.
//! Plans ask for the share again at every step, so that a stage that is left alone has all cores from its next step on. Results do not depend on it.
//! What libtorch and ONNX Runtime compute outside plans has the threads that it would have alone: their number can show in its rounding.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::{ThreadPool, ThreadPoolBuilder};

/// Cores, and the stages under way on them.
#[derive(Debug)]
pub struct Cores {
    count: usize,
    under_way: AtomicUsize,
    /// Stages that have not yet shown how much memory they take.
    fresh: AtomicUsize,
}

thread_local! {
    /// The stage that this thread makes.
    static STAGE: RefCell<Option<Stage>> = const { RefCell::new(None) };
}

struct Stage {
    cores: Arc<Cores>,
    is_fresh: Cell<bool>,
    /// By their number of threads.
    pools: BTreeMap<usize, Arc<ThreadPool>>,
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

    /// Whether every stage under way has had its first progress, so that it holds most of the memory that it needs.
    pub fn are_settled(&self) -> bool {
        self.fresh.load(Ordering::Acquire) == 0
    }

    /// How many threads each of the stages under way has.
    fn share(&self) -> usize {
        (self.count / self.under_way.load(Ordering::Relaxed).max(1)).max(1)
    }
}

/// This thread makes a stage until this is dropped.
pub struct Making(PhantomData<*const ()>);

impl Making {
    /// On a share of `cores`.
    pub fn on(cores: &Arc<Cores>) -> Self {
        cores.under_way.fetch_add(1, Ordering::Relaxed);
        cores.fresh.fetch_add(1, Ordering::Relaxed);
        let stage = Stage { cores: cores.clone(), is_fresh: Cell::new(true), pools: BTreeMap::new() };
        STAGE.set(Some(stage));
        Self(PhantomData)
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        settle();
        if let Some(stage) = STAGE.take() {
            stage.cores.under_way.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// This thread's stage holds most of the memory that it needs.
pub fn settle() {
    STAGE.with_borrow(|stage| {
        if let Some(stage) = stage.as_ref().filter(|stage| stage.is_fresh.replace(false)) {
            stage.cores.fresh.fetch_sub(1, Ordering::Release);
        }
    });
}

/// Does `work` on as many threads as this thread's stage has now, and on one of those itself, so that its parallel parts begin without waking a thread.
pub fn on_share<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let torch = tch::get_num_threads();
    let there = move || {
        let _as_here = TorchThreads::set(torch);
        work()
    };
    match pool() {
        Some(pool) => pool.install(there),
        None => rayon::scope(|_| there()),
    }
}

/// The threads of the share; none where the stage has all cores, or threads can't be started.
fn pool() -> Option<Arc<ThreadPool>> {
    STAGE.with_borrow_mut(|stage| {
        let stage = stage.as_mut()?;
        let threads = stage.cores.share();
        if threads >= stage.cores.count {
            return None;
        }
        let pool = match stage.pools.entry(threads) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Arc::new(ThreadPoolBuilder::new().num_threads(threads).build().ok()?)),
        };
        Some(pool.clone())
    })
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
        let first = Making::on(&cores);
        assert_eq!((cores.share(), on_share(rayon::current_thread_index).is_some()), (6, true));
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                let _second = Making::on(&cores);
                assert!(!cores.are_settled());
                settle();
                settle();
                (cores.share(), on_share(rayon::current_num_threads))
            });
            assert_eq!(second.join().unwrap(), (3, 3));
        });
        assert_eq!((cores.share(), cores.are_settled()), (6, false));
        drop(first);
        assert!(cores.are_settled() && cores.are_idle());
    }

    #[test]
    fn libtorch_has_as_many_threads_there_as_here() {
        let cores = Cores::new(2);
        cores.under_way.fetch_add(1, Ordering::Relaxed);
        let _making = Making::on(&cores);
        let own = tch::get_num_threads();
        for torch in [1, 3] {
            tch::set_num_threads(torch);
            assert_eq!(on_share(|| (rayon::current_num_threads(), tch::get_num_threads())), (1, torch));
        }
        tch::set_num_threads(own);
    }
}
