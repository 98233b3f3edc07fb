//! Notes the progress of a stage now and then, for other processes to look at.

use std::time::{Duration, Instant};

use scdd_artifacts::stage::{Stage, StageProgress, StageStore};
use scdd_distill::progress::{Activity, Progress};

/// The interval between two notes. Each takes some milliseconds.
const NOTE_EVERY: Duration = Duration::from_secs(2);

/// Passes the progress of a stage on, and notes it in the store.
pub struct RecordedProgress<'a> {
    pub inner: &'a dyn Progress,
    pub store: &'a StageStore,
    pub stage: &'a Stage,
}

impl Progress for RecordedProgress<'_> {
    fn start<'a>(&'a self, label: &str, total: u64, unit: &str) -> Box<dyn Activity + 'a> {
        let inner = self.inner.start(label, total, unit);
        let (unit, started) = (unit.to_owned(), Instant::now());
        let progress = StageProgress { done: 0, total, unit, first: 0, seconds: 0.0 };
        Box::new(RecordedActivity { inner, of: self, progress, started, noted: None })
    }

    fn tell(&self, what: &str) {
        self.inner.tell(what);
    }
}

struct RecordedActivity<'a> {
    inner: Box<dyn Activity + 'a>,
    of: &'a RecordedProgress<'a>,
    progress: StageProgress,
    started: Instant,
    noted: Option<Instant>,
}

impl Activity for RecordedActivity<'_> {
    fn at(&mut self, done: u64, note: &str) {
        self.inner.at(done, note);
        if self.noted.is_none() {
            self.progress.first = done.saturating_sub(1);
        }
        if self.noted.is_some_and(|noted| noted.elapsed() < NOTE_EVERY) {
            return;
        }
        self.noted = Some(Instant::now());
        self.progress.done = done;
        self.progress.seconds = self.started.elapsed().as_secs_f64();
        // Without a note only onlookers know less.
        let _ = self.of.store.note_progress(self.of.stage, &self.progress);
    }

    fn finish(self: Box<Self>, note: &str) {
        self.inner.finish(note);
    }
}
