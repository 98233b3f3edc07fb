//! The results as plain text: a table for the terminal, and CSV.

use std::collections::{BTreeSet, HashSet};

use super::summary::{Comparison, Difference, Ranking, Stat, Summary, comparisons, summaries};
use super::{Labels, Recovery, ReportError, Results, Row, Verified, failed, recognised};
use crate::config::real_rows::{self, RDED_CROPS};

/// Percent with one decimal and the spread, such as `81.7 ± 0.3`.
pub(super) fn percent(stat: Stat) -> String {
    match stat.std {
        Some(std) => format!("{:.1} ± {:.1}", 100.0 * stat.mean, 100.0 * std),
        None => format!("{:.1}", 100.0 * stat.mean),
    }
}

/// Points with one decimal and a sign, with the interval if there is one, such as `−8.5 [−13.7,
/// −3.3]`.
pub(super) fn difference(difference: &Difference) -> String {
    let mean = signed(difference.stat.mean);
    match difference.interval {
        Some([low, high]) => format!("{mean} [{}, {}]", signed(low), signed(high)),
        None => mean,
    }
}

/// A fraction as points with one decimal and its sign.
fn signed(value: f64) -> String {
    let size = format!("{:.1}", 100.0 * value.abs());
    match value {
        _ if size == "0.0" => size,
        value if value > 0.0 => format!("+{size}"),
        _ => format!("−{size}"),
    }
}

/// Describes images by their origin, such as `distilled from resnet10` or `random real`.
pub(super) fn images(method: &str, teacher: Option<&str>) -> String {
    match teacher {
        Some(teacher) if method == RDED_CROPS => format!("RDED crops chosen by {teacher}"),
        Some(teacher) => format!("{method} from {teacher}"),
        None if real_rows::is_baseline(method) => method.replace('_', " "),
        None => method.to_owned(),
    }
}

/// The images of a summary.
pub(super) fn summary_images(summary: &Summary) -> String {
    images(&summary.method, summary.teacher.as_deref())
}

/// The common settings of a block of the table, such as `convnet3, 10 images per class`; with the
/// protocol if there are several.
pub(super) fn block_title(summary: &Summary, protocols: usize) -> String {
    let protocol =
        if protocols > 1 { format!(", protocol {}", summary.protocol) } else { String::new() };
    format!("{}{protocol}", student_title(&summary.student, summary.ipc))
}

/// For example `convnet3, 10 images per class`.
pub(super) fn student_title(student: &str, ipc: u32) -> String {
    format!("{student}, {ipc} image{} per class", if ipc == 1 { "" } else { "s" })
}

/// The number of protocols.
pub(super) fn protocols(summaries: &[Summary]) -> usize {
    summaries.iter().map(|summary| &summary.protocol).collect::<BTreeSet<_>>().len()
}

/// The labels of a summary, such as `soft, by resnet10`, or `soft, by the same` if that teacher
/// also gave the images.
pub(super) fn labels(summary: &Summary) -> String {
    labels_of(summary.labels, summary.teacher.as_deref(), summary.relabel_teacher.as_deref())
}

/// Labels of this kind for images from `teacher`.
pub(super) fn labels_of(
    labels: Labels,
    teacher: Option<&str>,
    relabel_teacher: Option<&str>,
) -> String {
    match (labels, relabel_teacher) {
        (Labels::Soft, Some(_)) if teacher == relabel_teacher => "soft, by the same".to_string(),
        (Labels::Soft, Some(teacher)) => format!("soft, by {teacher}"),
        (Labels::Soft, None) => "soft".to_string(),
        (Labels::Hard, _) => "hard".to_string(),
    }
}

/// The settings that distinguish a row from the others of its seed.
pub(super) fn row_name(row: &Row) -> String {
    // One row always gives one summary.
    let summary = &summaries(std::slice::from_ref(row))[0];
    format!(
        "{} / {} / {} / ipc {} / {}",
        summary_images(summary),
        labels(summary),
        row.student,
        row.ipc,
        row.protocol
    )
}

pub(super) const HEADINGS: [&str; 10] = [
    "images",
    "data-free",
    "labels",
    "seeds",
    "last epoch",
    "best*",
    "vs random real",
    "s/image",
    "memory",
    "label size",
];
/// Of the cells that [`verifier_cells`] gives.
pub(super) const VERIFIER_HEADINGS: [&str; 7] =
    ["set", "per class", "seed", "verifier", "images", "top-1", "top-5"];
const RANKING: [&str; 7] = ["images", "labels", "hard labels", "HLR", "IOR", "LRS", "ARS"];

/// Explains the table's figures.
pub(super) const SPREAD_NOTE: &str = "mean ± sample standard deviation over seeds; vs random real: the same seeds, the same labels, with the 95 % interval\n";
pub(super) const COST_NOTE: &str = "s/image: recovering; memory: the most that the program held meanwhile; label size: stored soft labels\n";
pub(super) const BEST_NOTE: &str =
    "* the highest of the tests during training: selected on the test set, so too good\n";

/// The accuracy table as plain text, one block per student and IPC, ending in its footnotes.
pub fn table(results: &Results) -> String {
    let mut text = String::new();
    let all = summaries(&results.rows);
    for block in all.chunk_by(Summary::same_block) {
        text += &format!("{}, test accuracy in %\n", block_title(&block[0], protocols(&all)));
        let mut lines = vec![HEADINGS.map(str::to_string)];
        lines.extend(block.iter().map(cells));
        lines.extend(failed::lines(&results.failed, &block[0]).iter().map(failed::cells));
        text += &aligned(&lines);
        text += &rankings(block);
        text.push('\n');
    }
    if !all.is_empty() {
        text += &differences(results);
        text += SPREAD_NOTE;
        text += &few_seeds(&all);
        text += COST_NOTE;
        if text.contains(RANKING[3]) {
            text += "HLR, IOR, LRS, ARS: DD-Ranking, as fractions; HLR and LRS need hard labels and the whole training set, ARS a protocol without augmentation\n";
        }
        text += BEST_NOTE;
    }
    text + &verifier_table(&results.recoveries)
        + &recognised::table(&results.recognised)
        + &failed::table(&results.failed, &all)
}

/// The verifiers' accuracies on each set of synthetic images; empty without verifiers.
fn verifier_table(recoveries: &[Recovery]) -> String {
    let found: Vec<_> = recoveries.iter().flat_map(verifier_cells).collect();
    if found.is_empty() {
        return String::new();
    }
    let mut lines = vec![VERIFIER_HEADINGS.map(str::to_string)];
    lines.extend(found);
    format!("recovered images that a verifier puts into their classes, in %\n{}", aligned(&lines))
}

/// Per verifier: description of the images, images per class, seed, verifier, number of images,
/// top-1 and top-5 in percent.
pub(super) fn verifier_cells(recovery: &Recovery) -> Vec<[String; 7]> {
    let cells = |Verified { verifier, accuracy }: &Verified| {
        let accuracy = accuracy.finished;
        let percent =
            |count: usize| format!("{:.1}", 100.0 * count as f64 / accuracy.images as f64);
        let images = images(&recovery.method, Some(&recovery.teacher));
        let (ipc, seed) = (recovery.ipc.to_string(), recovery.seed.to_string());
        let (top1, top5) = (percent(accuracy.top1), percent(accuracy.top5));
        [images, ipc, seed, verifier.clone(), accuracy.images.to_string(), top1, top5]
    };
    recovery.verified.iter().map(cells).collect()
}

/// DD-Ranking's scores of a block's rows, if there is more than the difference from random real
/// images.
fn rankings(block: &[Summary]) -> String {
    let mut lines = vec![RANKING.map(str::to_string)];
    let told = |ranking: &Ranking| ranking.hard.is_some() || ranking.ars.is_some();
    for (summary, ranking) in
        block.iter().filter_map(|summary| Some((summary, summary.ranking.filter(told)?)))
    {
        lines.push([
            summary_images(summary),
            labels(summary),
            ranking.hard.map_or("–".to_string(), percent),
            score(ranking.hlr),
            score(Some(ranking.ior)),
            score(ranking.lrs),
            score(ranking.ars),
        ]);
    }
    if lines.len() == 1 { String::new() } else { format!("\n{}", aligned(&lines)) }
}

/// The differences of the best distilled rows from all others.
fn differences(results: &Results) -> String {
    let all = comparisons(&results.rows);
    let line = |c: &Comparison| {
        let block = format!("{}, ipc {}, {}", c.student, c.ipc, c.protocol);
        [c.rows[0].clone(), format!("against {}", c.rows[1]), block, difference(&c.difference)]
    };
    let shown: Vec<&Comparison> = with_best(&all).collect();
    if shown.is_empty() {
        return String::new();
    }
    let left_out =
        if shown.len() < all.len() { " (the best rows'; the page has every pair)" } else { "" };
    let lines: Vec<[String; 4]> = shown.into_iter().map(line).collect();
    format!(
        "differences in points, seed by seed, with their 95 % interval{left_out}\n{}\n",
        aligned(&lines)
    )
}

/// The comparisons in which one row is not beaten by any other row with the same labels.
fn with_best(all: &[Comparison]) -> impl Iterator<Item = &Comparison> {
    let place = |c: &Comparison, side: usize| {
        (c.student.clone(), c.ipc, c.protocol.clone(), c.rows[side].clone())
    };
    let loser = |c: &Comparison| match c.difference.stat.mean {
        mean if mean < 0.0 => Some(place(c, 0)),
        mean if mean > 0.0 => Some(place(c, 1)),
        _ => None,
    };
    let beaten: HashSet<_> = all.iter().filter_map(loser).collect();
    all.iter().filter(move |c| !beaten.contains(&place(c, 0)) || !beaten.contains(&place(c, 1)))
}

/// A warning if rows have too few seeds for reliable intervals.
pub(super) fn few_seeds(summaries: &[Summary]) -> String {
    match summaries.iter().map(|summary| summary.seeds.len()).min() {
        Some(fewest @ ..5) => format!(
            "fewer than five seeds ({fewest}): deviations and intervals are rough guesses\n"
        ),
        _ => String::new(),
    }
}

pub(super) fn cells(summary: &Summary) -> [String; 10] {
    [
        summary_images(summary),
        if summary.data_free { "yes" } else { "no" }.to_string(),
        labels(summary),
        summary.seeds.len().to_string(),
        percent(summary.last),
        percent(summary.best),
        summary.versus_random_real.as_ref().map_or("–".to_string(), difference),
        summary.seconds_per_image.map_or("–".to_string(), |seconds| format!("{seconds:.2}")),
        summary.peak_bytes.map_or("–".to_string(), size),
        summary.label_bytes.map_or("–".to_string(), size),
    ]
}

/// One line per row; each column is as wide as its widest cell.
pub fn aligned<const N: usize>(lines: &[[String; N]]) -> String {
    let width =
        |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |cells: &[String; N]| {
        let padded: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    lines.iter().map(line).collect()
}

/// A fraction with three decimals, or a dash.
pub(super) fn score(value: Option<f64>) -> String {
    value.map_or("–".to_string(), |value| format!("{value:.3}").replace('-', "−"))
}

/// Bytes in a readable unit, such as `1.2 MB`.
pub(super) fn size(bytes: u64) -> String {
    match bytes as f64 {
        b if b < 1e6 => format!("{:.1} kB", b / 1e3),
        b if b < 1e9 => format!("{:.1} MB", b / 1e6),
        b => format!("{:.2} GB", b / 1e9),
    }
}

/// One CSV line per trained student.
pub(super) fn csv(results: &Results) -> Result<String, ReportError> {
    let format = |message: String| ReportError::Format { format: "CSV", message };
    let mut writer = csv::Writer::from_writer(Vec::new());
    let head = [
        "method",
        "data_free",
        "teacher",
        "relabel_teacher",
        "student",
        "ipc",
        "labels",
        "protocol",
        "seed",
        "last_accuracy",
        "best_accuracy",
        "label_bytes",
        "last_top5",
        "label_probability",
    ];
    writer.write_record(head).map_err(|error| format(error.to_string()))?;
    for row in &results.rows {
        let record = (
            (
                &row.method,
                row.data_free,
                &row.teacher,
                &row.relabel_teacher,
                &row.student,
                row.ipc,
                row.labels,
            ),
            (&row.protocol, row.seed, row.last_accuracy, row.best_accuracy, row.label_bytes),
            (row.last_top5, row.label_probability),
        );
        writer.serialize(record).map_err(|error| format(error.to_string()))?;
    }
    let bytes = writer.into_inner().map_err(|error| format(error.to_string()))?;
    String::from_utf8(bytes).map_err(|error| format(error.to_string()))
}
