//! Time and memory of stages that run at the same time in one process. Each moment is divided
//! evenly among the running stages, so that their times add up to the total. Memory is the highest
//! amount that the process held meanwhile.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::memory;

/// The clock of the stages that share it. Clones are the same clock.
#[derive(Debug, Clone, Default)]
pub struct Clock(Arc<Mutex<ClockState>>);

/// Advances with real time while one stage runs, at half the rate with two, and so on.
#[derive(Debug, Default)]
struct ClockState {
    seconds: f64,
    read: Option<Instant>,
    /// The peak of memory so far, by the number of a running stage.
    peaks: BTreeMap<u64, Option<u64>>,
    /// The number of the next stage.
    number: u64,
}

/// A running stage. It ends when this is dropped.
#[derive(Debug)]
pub struct Begun {
    clock: Clock,
    /// The clock's seconds at the start.
    at: f64,
    number: u64,
}

impl Clock {
    /// Starts a stage.
    pub fn begin(&self) -> Begun {
        let mut state = self.read();
        state.note(memory::peak());
        if state.peaks.is_empty() {
            memory::give_back();
        }
        memory::reset_peak();
        let number = state.begin();
        Begun { clock: self.clone(), at: state.seconds, number }
    }

    /// Locks the state and brings it up to date.
    fn read(&self) -> MutexGuard<'_, ClockState> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(before) = state.read.replace(now) {
            state.pass((now - before).as_secs_f64());
        }
        state
    }
}

impl Begun {
    /// The stage's share of the wall-clock seconds since its start.
    pub fn seconds(&self) -> f64 {
        self.clock.read().seconds - self.at
    }

    /// Peak of the process's resident memory since the stage's start, in bytes; `None` if the
    /// system does not report it.
    pub fn peak(&self) -> Option<u64> {
        let mut state = self.clock.read();
        state.note(memory::peak());
        state.peaks.get(&self.number).copied().flatten()
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.clock.read().peaks.remove(&self.number);
    }
}

impl ClockState {
    /// Starts a stage and returns its number.
    fn begin(&mut self) -> u64 {
        self.number += 1;
        self.peaks.insert(self.number, None);
        self.number
    }

    fn pass(&mut self, seconds: f64) {
        self.seconds += seconds / self.peaks.len().max(1) as f64;
    }

    /// Raises the peak of every running stage to `peak`, the process's peak since the last stage
    /// began.
    fn note(&mut self, peak: Option<u64>) {
        self.peaks.values_mut().for_each(|known| *known = (*known).max(peak));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_add_up_to_the_time_that_passed() {
        let mut clock = ClockState::default();
        let (one, begun) = (clock.begin(), clock.seconds);
        clock.pass(3.0);
        let (_, other_begun) = (clock.begin(), clock.seconds);
        clock.pass(4.0);
        clock.peaks.remove(&one);
        let first = clock.seconds - begun;
        clock.pass(1.0);
        assert_eq!((first, clock.seconds - other_begun), (5.0, 3.0));
    }

    #[test]
    fn a_peak_is_of_those_under_way() {
        let mut clock = ClockState::default();
        clock.note(Some(9));
        let one = clock.begin();
        clock.note(Some(5));
        let two = clock.begin();
        clock.note(Some(3));
        assert_eq!((clock.peaks[&one], clock.peaks[&two]), (Some(5), Some(3)));
        clock.note(None);
        assert_eq!(clock.peaks.remove(&one), Some(Some(5)));
        clock.note(Some(4));
        assert_eq!(clock.peaks[&two], Some(4));
    }
}
