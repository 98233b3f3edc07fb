//! The tables of results: a row per images, labels and student.

use serde::Serialize;

use super::figures::{Figure, training_figures};
use super::{duration, kind, thousands};
use crate::report::chart::strip;
use crate::report::summary::{Comparison, Summary, comparisons, groups, stat, summaries};
use crate::report::text::{
    block_title, difference, labels, percent, protocols, score, size, summary_images,
};
use crate::report::{Results, Row, failed};

/// One student at one IPC: its rows and their training curves.
#[derive(Serialize)]
pub(super) struct Table {
    title: String,
    student: String,
    ipc: u32,
    protocol: String,
    has_real: bool,
    real_images: String,
    scale: String,
    rows: Vec<HtmlRow>,
    failed: Vec<HtmlFailedRow>,
    rankings: Vec<RankingRow>,
    comparisons: Vec<ComparisonRow>,
    figures: Vec<Figure>,
}

#[derive(Serialize)]
struct HtmlRow {
    /// The number of its line in charts.
    line: usize,
    images: String,
    data_free: bool,
    /// `soft` or `hard`.
    kind: &'static str,
    labels: String,
    label_probability: Option<String>,
    seeds: String,
    last: String,
    top5: Option<String>,
    best: String,
    difference: Option<String>,
    strip: String,
    cost: String,
    order: RowOrder,
}

/// The numbers by which rows are sorted.
#[derive(Serialize)]
struct RowOrder {
    last: f64,
    best: f64,
    difference: Option<f64>,
    seconds: f64,
}

/// A row that could not be made.
#[derive(Serialize)]
pub(super) struct HtmlFailedRow {
    images: String,
    data_free: bool,
    labels: String,
    seeds: usize,
}

/// The reasons of failures, and the tables that have no other rows.
#[derive(Serialize)]
pub(super) struct Failures {
    /// Each reason with the number of rows that failed for it.
    reasons: Vec<(String, usize)>,
    tables: Vec<(String, Vec<HtmlFailedRow>)>,
}

/// DD-Ranking's scores of one row.
#[derive(Serialize)]
struct RankingRow {
    images: String,
    labels: String,
    hard: String,
    hlr: String,
    ior: String,
    lrs: String,
    ars: String,
}

/// The comparison of two rows.
#[derive(Serialize)]
struct ComparisonRow {
    first: String,
    second: String,
    difference: String,
    order: f64,
}

pub(super) fn tables(results: &Results) -> Vec<Table> {
    let summaries = summaries(&results.rows);
    let protocols = protocols(&summaries);
    let pairs: Vec<(Summary, Vec<&Row>)> =
        summaries.into_iter().zip(groups(&results.rows)).collect();
    let blocks = pairs.chunk_by(|(a, _), (b, _)| a.same_block(b));
    let comparisons = comparisons(&results.rows);
    blocks.map(|block| table(block, &comparisons, protocols, results)).collect()
}

pub(super) fn failures(results: &Results) -> Failures {
    let own = failed::blocks_of_their_own(&results.failed, &summaries(&results.rows));
    let reasons = failed::reasons(&results.failed);
    Failures {
        reasons: reasons.into_iter().map(|(reason, rows)| (reason.to_owned(), rows)).collect(),
        tables: own
            .into_iter()
            .map(|(title, lines)| (title, lines.into_iter().map(failed_row).collect()))
            .collect(),
    }
}

fn failed_row(line: failed::FailedLine) -> HtmlFailedRow {
    let failed::FailedLine { images, data_free, labels, seeds } = line;
    HtmlFailedRow { images, data_free, labels, seeds: seeds.len() }
}

fn table(
    block: &[(Summary, Vec<&Row>)],
    comparisons: &[Comparison],
    protocols: usize,
    results: &Results,
) -> Table {
    let first = &block[0].0;
    let here = |c: &&Comparison| {
        (&c.student, c.ipc, &c.protocol) == (&first.student, first.ipc, &first.protocol)
    };
    let accuracies = || block.iter().flat_map(|(_, rows)| rows.iter().map(|row| row.last_accuracy));
    // The range spans whole tenths around all seeds, so that strips within a table are comparable.
    let low = (accuracies().fold(1.0, f64::min) * 10.0).floor() / 10.0;
    let high = ((accuracies().fold(0.0, f64::max) * 10.0).ceil() / 10.0).max(low + 0.1);
    let row = |(line, (summary, rows)): (usize, &(Summary, Vec<&Row>))| {
        table_row(line, summary, rows, low, high)
    };
    Table {
        title: block_title(first, protocols),
        student: first.student.clone(),
        ipc: first.ipc,
        protocol: first.protocol.clone(),
        has_real: block.iter().any(|(summary, _)| !summary.data_free),
        real_images: thousands(first.ipc as usize * results.classes.len()),
        scale: format!("{:.0} to {:.0} %", 100.0 * low, 100.0 * high),
        rows: block.iter().enumerate().map(row).collect(),
        failed: failed::lines(&results.failed, first).into_iter().map(failed_row).collect(),
        rankings: block.iter().filter_map(|(summary, _)| ranking_row(summary)).collect(),
        comparisons: comparisons.iter().filter(here).map(comparison_row).collect(),
        figures: training_figures(block),
    }
}

fn table_row(line: usize, summary: &Summary, rows: &[&Row], low: f64, high: f64) -> HtmlRow {
    let values: Vec<f64> = rows.iter().map(|row| row.last_accuracy).collect();
    let versus = summary.versus_random_real.as_ref();
    HtmlRow {
        line,
        images: summary_images(summary),
        data_free: summary.data_free,
        kind: kind(summary.labels),
        labels: labels(summary),
        label_probability: summary.label_probability.map(|stat| format!("{:.2}", stat.mean)),
        seeds: summary.seeds.len().to_string(),
        last: percent(summary.last),
        top5: summary.top5.map(percent),
        best: percent(summary.best),
        difference: versus.map(difference),
        strip: strip(&values, summary.last.mean, low, high, line),
        cost: cost(summary, rows),
        order: RowOrder {
            last: summary.last.mean,
            best: summary.best.mean,
            difference: versus.map(|difference| difference.stat.mean),
            seconds: rows.iter().flat_map(|row| row.cost.stages()).map(|t| t.seconds).sum(),
        },
    }
}

fn ranking_row(summary: &Summary) -> Option<RankingRow> {
    let ranking = summary.ranking?;
    Some(RankingRow {
        images: summary_images(summary),
        labels: labels(summary),
        hard: ranking.hard.map_or("–".to_string(), percent),
        hlr: score(ranking.hlr),
        ior: score(Some(ranking.ior)),
        lrs: score(ranking.lrs),
        ars: score(ranking.ars),
    })
}

fn comparison_row(comparison: &Comparison) -> ComparisonRow {
    let [first, second] = comparison.rows.clone();
    let order = comparison.difference.stat.mean;
    ComparisonRow { first, second, difference: difference(&comparison.difference), order }
}

/// Time per stage, memory and label size.
fn cost(summary: &Summary, rows: &[&Row]) -> String {
    let memory = summary.peak_bytes.map(|bytes| format!("memory {}", size(bytes)));
    let labels = summary.label_bytes.map(|bytes| format!("stored labels {}", size(bytes)));
    let parts = [Some(seconds(rows)).filter(|text| !text.is_empty()), memory, labels];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
}

type SecondsOf = fn(&Row) -> Option<f64>;

/// Mean seconds per seed and stage.
fn seconds(rows: &[&Row]) -> String {
    let stages: [(&str, SecondsOf); 3] = [
        ("images", |row| row.cost.recover.as_ref().map(|timing| timing.seconds)),
        ("labels", |row| row.cost.relabel.as_ref().map(|timing| timing.seconds)),
        ("student", |row| row.cost.validate.as_ref().map(|timing| timing.seconds)),
    ];
    let part = |(name, of): (&str, SecondsOf)| {
        let values: Vec<f64> = rows.iter().filter_map(|row| of(row)).collect();
        (!values.is_empty()).then(|| format!("{name} {}", duration(stat(&values).mean)))
    };
    stages.into_iter().filter_map(part).collect::<Vec<_>>().join(" · ")
}
