//! How long work tells how far it is. The library reports here; only the command line prints.

/// Receives the progress of several pieces of work at once.
pub trait Progress: Sync {
    /// Work called `label` begins; it has `total` units (`unit`: "it", "batch", "epoch" …).
    fn start<'a>(&'a self, label: &str, total: u64, unit: &str) -> Box<dyn Activity + 'a>;
    /// Something that the user ought to know at once.
    fn tell(&self, what: &str);
}

/// Receives the progress of one piece of work.
pub trait Activity {
    /// `done` units are through; `note` is the newest figure of interest.
    fn at(&mut self, done: u64, note: &str);
    /// The work is finished.
    fn finish(self: Box<Self>, note: &str);
}

/// Tells nobody.
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
