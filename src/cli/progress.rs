//! Progress for people: a bar with rate and time left on a terminal, plain lines elsewhere. Always on standard error.

use std::cell::RefCell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::progress::{Progress, Silent};

/// Between two plain lines about the same work.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// A bar, lines, or nothing (`quiet`).
pub fn progress(quiet: bool) -> Box<dyn Progress> {
    match (quiet, std::io::stderr().is_terminal()) {
        (true, _) => Box::new(Silent),
        (false, true) => Box::new(Bar::default()),
        (false, false) => Box::new(Lines::default()),
    }
}

#[derive(Default)]
struct Bar {
    current: RefCell<Option<(ProgressBar, String)>>,
}

impl Progress for Bar {
    fn start(&self, label: &str, total: u64, unit: &str) {
        let template = format!("{{prefix}} {{bar:24}} {{pos}}/{{len}} {unit} {{per_sec}} {{eta}} left  {{msg}}");
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(total).with_style(style).with_prefix(label.to_owned());
        *self.current.borrow_mut() = Some((bar, label.to_owned()));
    }

    fn at(&self, done: u64, note: &str) {
        if let Some((bar, _)) = &*self.current.borrow() {
            bar.set_message(note.to_owned());
            bar.set_position(done);
        }
    }

    fn finish(&self, note: &str) {
        if let Some((bar, label)) = self.current.borrow_mut().take() {
            let elapsed = bar.elapsed();
            bar.finish_and_clear();
            eprintln!("{}", done_line(&label, elapsed, note));
        }
    }
}

#[derive(Default)]
struct Lines {
    current: RefCell<Option<Line>>,
}

struct Line {
    label: String,
    unit: String,
    total: u64,
    /// Where this process began, which is not 0 when it continues an interrupted run.
    first: Option<u64>,
    started: Instant,
    printed: Instant,
}

impl Progress for Lines {
    fn start(&self, label: &str, total: u64, unit: &str) {
        let now = Instant::now();
        let (label, unit) = (label.to_owned(), unit.to_owned());
        *self.current.borrow_mut() = Some(Line { label, unit, total, first: None, started: now, printed: now });
    }

    fn at(&self, done: u64, note: &str) {
        if let Some(line) = &mut *self.current.borrow_mut() {
            line.at(done, note);
        }
    }

    fn finish(&self, note: &str) {
        if let Some(line) = self.current.borrow_mut().take() {
            eprintln!("{}", done_line(&line.label, line.started.elapsed(), note));
        }
    }
}

impl Line {
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
}

fn done_line(label: &str, elapsed: Duration, note: &str) -> String {
    let gap = if note.is_empty() { "" } else { "  " };
    format!("{label}: done in {:.1} s{gap}{note}", elapsed.as_secs_f64())
}
