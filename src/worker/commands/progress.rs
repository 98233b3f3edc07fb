//! Progress output on standard error: on a terminal a bar per job, with rate and time left;
//! elsewhere plain lines.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use scdd_cli::Global;

use scdd_distill::progress::{Activity, Progress, Silent};

/// The interval between two plain lines about one job.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Bars, lines, or only urgent messages, as the arguments ask. With a log on, there are no bars,
/// because log lines would break them.
pub fn progress(global: &Global) -> Arc<dyn Progress + Send + Sync> {
    match (global.quiet, std::io::stderr().is_terminal() && !global.verbose) {
        (true, _) => Arc::new(Quiet),
        (false, true) => Arc::new(Bars(MultiProgress::new())),
        (false, false) => Arc::new(Lines),
    }
}

struct Quiet;

impl Progress for Quiet {
    fn start<'a>(&'a self, _: &str, _: u64, _: &str) -> Box<dyn Activity + 'a> {
        Box::new(Silent)
    }

    fn tell(&self, what: &str) {
        eprintln!("{what}");
    }
}

struct Bars(MultiProgress);

impl Progress for Bars {
    fn start<'a>(&'a self, label: &str, total: u64, unit: &str) -> Box<dyn Activity + 'a> {
        let template = format!(
            "{{prefix}} {{bar:24}} {{pos}}/{{len}} {unit} {{per_sec}} {{eta}} left  {{msg}}"
        );
        let style = ProgressStyle::with_template(&template)
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar =
            self.0.add(ProgressBar::new(total)).with_style(style).with_prefix(label.to_owned());
        Box::new(Bar { bar, all: &self.0 })
    }

    fn tell(&self, what: &str) {
        self.0.suspend(|| eprintln!("{what}"));
    }
}

struct Bar<'a> {
    bar: ProgressBar,
    all: &'a MultiProgress,
}

impl Activity for Bar<'_> {
    fn at(&mut self, done: u64, note: &str) {
        self.bar.set_message(note.to_owned());
        self.bar.set_position(done);
    }

    fn finish(self: Box<Self>, note: &str) {
        let line = done_line(&self.bar.prefix(), self.bar.elapsed(), note);
        self.bar.finish_and_clear();
        // Printed above the bars of running jobs; between them the next redraw would erase it.
        self.all.suspend(|| eprintln!("{line}"));
    }
}

struct Lines;

impl Progress for Lines {
    fn start<'a>(&'a self, label: &str, total: u64, unit: &str) -> Box<dyn Activity + 'a> {
        let now = Instant::now();
        let (label, unit) = (label.to_owned(), unit.to_owned());
        Box::new(ProgressLine { label, unit, total, first: None, started: now, printed: now })
    }

    fn tell(&self, what: &str) {
        eprintln!("{what}");
    }
}

struct ProgressLine {
    label: String,
    unit: String,
    total: u64,
    /// The unit at which this process started; above 0 if it resumes an interrupted run.
    first: Option<u64>,
    started: Instant,
    printed: Instant,
}

impl Activity for ProgressLine {
    fn at(&mut self, done: u64, note: &str) {
        let first = *self.first.get_or_insert(done.saturating_sub(1));
        if self.printed.elapsed() < LINE_EVERY {
            return;
        }
        self.printed = Instant::now();
        let rate = done.saturating_sub(first) as f64 / self.started.elapsed().as_secs_f64();
        let left = self.total.saturating_sub(done) as f64 / rate.max(1e-9);
        let Self { label, unit, total, .. } = self;
        eprintln!("{label}: {done}/{total} {unit}, {rate:.1} {unit}/s, {left:.0} s left  {note}");
    }

    fn finish(self: Box<Self>, note: &str) {
        eprintln!("{}", done_line(&self.label, self.started.elapsed(), note));
    }
}

fn done_line(label: &str, elapsed: Duration, note: &str) -> String {
    let gap = if note.is_empty() { "" } else { "  " };
    format!("{label}: done in {:.1} s{gap}{note}", elapsed.as_secs_f64())
}
