//! Failed rows. The table shows them as failed, with their reasons below it.

use std::collections::BTreeSet;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::text::{self, HEADINGS, aligned};
use super::{Labels, Summary};

/// A student that could not be trained, or, without students, a set of images that could not be
/// made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FailedRow {
    /// As in [`Row`](super::Row).
    pub method: String,
    pub data_free: bool,
    pub teacher: Option<String>,
    pub ipc: u32,
    pub seed: u64,
    /// The student, if one was to be trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trained: Option<Trained>,
    /// The stage that failed, and why.
    pub reason: String,
}

/// A student's settings besides its images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trained {
    /// The student network.
    pub student: String,
    pub protocol: String,
    pub labels: Labels,
    /// The teacher that was to label; `None` with hard labels.
    pub relabel_teacher: Option<String>,
}

/// Rows of one block that differ only in the seed.
pub(super) struct FailedLine {
    pub images: String,
    pub data_free: bool,
    pub labels: String,
    pub seeds: Vec<u64>,
}

impl FailedRow {
    /// The student, IPC and protocol that define a table.
    fn block(&self) -> Option<(&str, u32, &str)> {
        self.trained
            .as_ref()
            .map(|trained| (trained.student.as_str(), self.ipc, trained.protocol.as_str()))
    }
}

/// The failed rows of the table that contains the row `known`.
pub(super) fn lines(failed: &[FailedRow], known: &Summary) -> Vec<FailedLine> {
    let here = (known.student.as_str(), known.ipc, known.protocol.as_str());
    grouped(failed.iter().filter(|one| one.block() == Some(here)))
}

fn grouped<'a>(failed: impl Iterator<Item = &'a FailedRow>) -> Vec<FailedLine> {
    let mut lines: IndexMap<(String, String), FailedLine> = IndexMap::new();
    for one in failed {
        let images = text::images(&one.method, one.teacher.as_deref());
        let labels = one.trained.as_ref().map_or("–".to_owned(), |trained| {
            text::labels_of(
                trained.labels,
                one.teacher.as_deref(),
                trained.relabel_teacher.as_deref(),
            )
        });
        let line = FailedLine {
            images: images.clone(),
            data_free: one.data_free,
            labels: labels.clone(),
            seeds: Vec::new(),
        };
        lines.entry((images, labels)).or_insert(line).seeds.push(one.seed);
    }
    lines.into_values().collect()
}

/// The cells in a table of [`HEADINGS`].
pub(super) fn cells(line: &FailedLine) -> [String; HEADINGS.len()] {
    let mut cells = HEADINGS.map(|_| "–".to_owned());
    cells[0].clone_from(&line.images);
    cells[1] = if line.data_free { "yes" } else { "no" }.to_owned();
    cells[2].clone_from(&line.labels);
    cells[3] = line.seeds.len().to_string();
    cells[4] = "failed".to_owned();
    cells
}

/// Tables of failed rows only, with titles and lines.
pub(super) fn blocks_of_their_own(
    failed: &[FailedRow],
    all: &[Summary],
) -> Vec<(String, Vec<FailedLine>)> {
    let known: BTreeSet<_> =
        all.iter().map(|one| (one.student.as_str(), one.ipc, one.protocol.as_str())).collect();
    let blocks: BTreeSet<_> =
        failed.iter().filter_map(FailedRow::block).filter(|block| !known.contains(block)).collect();
    let block = |(student, ipc, protocol): (&str, u32, &str)| {
        let own = failed.iter().filter(|one| one.block() == Some((student, ipc, protocol)));
        (format!("{}, protocol {protocol}", text::student_title(student, ipc)), grouped(own))
    };
    blocks.into_iter().map(block).collect()
}

/// Every reason once, with the number of rows that failed for it.
pub(super) fn reasons(failed: &[FailedRow]) -> Vec<(&str, usize)> {
    let mut reasons: IndexMap<&str, usize> = IndexMap::new();
    failed.iter().for_each(|one| *reasons.entry(&one.reason).or_default() += 1);
    reasons.into_iter().collect()
}

/// The terminal's text about failures outside the tables; empty without failures.
pub(super) fn table(failed: &[FailedRow], all: &[Summary]) -> String {
    let mut text = String::new();
    for (title, lines) in blocks_of_their_own(failed, all) {
        let mut table = vec![HEADINGS.map(str::to_string)];
        table.extend(lines.iter().map(cells));
        text += &format!("{title}, test accuracy in %\n{}\n", aligned(&table));
    }
    for (reason, rows) in reasons(failed) {
        text += &format!("failed ({rows} row{}): {reason}\n", if rows == 1 { "" } else { "s" });
    }
    text
}
