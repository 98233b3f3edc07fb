//! What stages cost that are under way at once in one process: of each moment an even share, so that the costs of all add up to the time they took.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Of the stages that share it; clones are the same clock.
#[derive(Debug, Clone, Default)]
pub struct Clock(Arc<Mutex<State>>);

/// Runs as fast as time for one stage, half as fast for two, and so on.
#[derive(Debug, Default)]
struct State {
    under_way: u32,
    seconds: f64,
    read: Option<Instant>,
}

/// One stage is under way until this is dropped.
#[derive(Debug)]
pub struct Begun {
    clock: Clock,
    /// The clock's seconds at the start.
    at: f64,
    alone: bool,
}

impl Clock {
    /// A stage begins.
    pub fn begin(&self) -> Begun {
        let mut state = self.read();
        state.under_way += 1;
        Begun { clock: self.clone(), at: state.seconds, alone: state.under_way == 1 }
    }

    /// The state, brought up to date.
    fn read(&self) -> MutexGuard<'_, State> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(before) = state.read.replace(now) {
            state.pass((now - before).as_secs_f64());
        }
        state
    }
}

impl Begun {
    /// The stage's share of the wall-clock seconds since it began.
    pub fn seconds(&self) -> f64 {
        self.clock.read().seconds - self.at
    }

    /// Whether no other stage was under way when it began.
    pub fn was_alone(&self) -> bool {
        self.alone
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.clock.read().under_way -= 1;
    }
}

impl State {
    fn pass(&mut self, seconds: f64) {
        self.seconds += seconds / f64::from(self.under_way.max(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_add_up_to_the_time_that_passed() {
        let mut clock = State { under_way: 1, ..State::default() };
        let first = clock.seconds;
        clock.pass(3.0);
        clock.under_way = 2;
        let second = clock.seconds;
        clock.pass(4.0);
        let first = clock.seconds - first;
        clock.under_way = 1;
        clock.pass(1.0);
        let second = clock.seconds - second;
        assert_eq!((first, second), (5.0, 3.0));
    }
}
