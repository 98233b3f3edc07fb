//! Progress reports of long work. The library reports through these traits; only the command line
//! prints.

/// Receives the progress of several jobs at once.
pub trait Progress: Sync {
    /// Starts the job `label`, which has `total` units (`unit`: "it", "batch", "epoch" …).
    fn start<'a>(&'a self, label: &str, total: u64, unit: &str) -> Box<dyn Activity + 'a>;
    /// Tells the user something at once.
    fn tell(&self, what: &str);
}

/// Receives the progress of one job.
pub trait Activity {
    /// `done` units are finished; `note` is the newest figure of interest.
    fn at(&mut self, done: u64, note: &str);
    /// The job is finished.
    fn finish(self: Box<Self>, note: &str);
}

/// Discards all reports.
pub struct Silent;

impl Progress for Silent {
    fn start<'a>(&'a self, _: &str, _: u64, _: &str) -> Box<dyn Activity + 'a> {
        Box::new(Silent)
    }

    fn tell(&self, _: &str) {}
}

impl Activity for Silent {
    fn at(&mut self, _: u64, _: &str) {}
    fn finish(self: Box<Self>, _: &str) {}
}
