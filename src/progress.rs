//! How long work tells how far it is. The library reports here; only the command line prints.

/// Receives the progress of one piece of work after another.
pub trait Progress {
    /// Work called `label` begins; it has `total` units (`unit`: "it", "batch", "epoch" …).
    fn start(&self, label: &str, total: u64, unit: &str);
    /// `done` units are through; `note` is the newest figure of interest.
    fn at(&self, done: u64, note: &str);
    /// The work is finished.
    fn finish(&self, note: &str);
}

/// Tells nobody.
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _: &str, _: u64, _: &str) {}
    fn at(&self, _: u64, _: &str) {}
    fn finish(&self, _: &str) {}
}
