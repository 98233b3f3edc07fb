//! The progress of stages under way, for other processes to look at. It is no part of a stage: it
//! lies beside the locks, and nothing but what people see depends on it.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Stage, StageError, StageStore, write_atomic};

/// How far a stage is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageProgress {
    /// Finished units of `total`.
    pub done: u64,
    pub total: u64,
    /// What is counted: `it`, `epoch`.
    pub unit: String,
    /// The units that were finished when this process began; above 0 if it goes on where an
    /// earlier one was stopped.
    pub first: u64,
    /// Wall-clock seconds since then.
    pub seconds: f64,
}

impl StageProgress {
    /// The finished share, 0..=1.
    pub fn fraction(&self) -> f64 {
        (self.done as f64 / self.total.max(1) as f64).min(1.0)
    }

    /// The expected wall-clock seconds to the end at the rate so far; `None` before there is one.
    pub fn seconds_left(&self) -> Option<f64> {
        let done = self.done.saturating_sub(self.first);
        let left = self.total.saturating_sub(self.done) as f64;
        (done > 0).then(|| self.seconds / done as f64 * left)
    }
}

impl StageStore {
    /// Notes how far `stage` is.
    ///
    /// # Errors
    /// When the note can't be written.
    pub fn note_progress(&self, stage: &Stage, progress: &StageProgress) -> Result<(), StageError> {
        write_atomic(&self.progress_path(stage), json!(progress).to_string().as_bytes())
    }

    /// How far `stage` was when it was noted last. Only of a running stage does it hold.
    pub fn progress(&self, stage: &Stage) -> Option<StageProgress> {
        serde_json::from_slice(&fs::read(self.progress_path(stage)).ok()?).ok()
    }

    /// Forgets how far `stage` is. What can't be removed is looked at by nobody.
    pub(super) fn forget_progress(&self, stage: &Stage) {
        let _ = fs::remove_file(self.progress_path(stage));
    }

    fn progress_path(&self, stage: &Stage) -> PathBuf {
        PathBuf::from(format!("{}.progress", self.lock_path(&self.path(stage)).display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_goes_by_the_rate_of_this_process() {
        let progress = |done, first| StageProgress {
            done,
            total: 100,
            unit: "it".into(),
            first,
            seconds: 30.0,
        };
        assert_eq!(
            (progress(75, 0).fraction(), progress(75, 0).seconds_left()),
            (0.75, Some(10.0))
        );
        assert_eq!(progress(75, 60).seconds_left(), Some(50.0));
        assert_eq!(progress(60, 60).seconds_left(), None);
        assert_eq!(progress(120, 0).seconds_left(), Some(0.0));
    }
}
