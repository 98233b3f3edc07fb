//! The results as plain text: a table for the terminal, and CSV.

use super::summary::{Stat, Summary, summaries};
use super::{Labels, Recovery, ReportError, Results, Row, Verified};

/// Percent with one decimal and the spread, such as `81.7 ± 0.3`.
pub(super) fn percent(stat: Stat) -> String {
    match stat.std {
        Some(std) => format!("{:.1} ± {:.1}", 100.0 * stat.mean, 100.0 * std),
        None => format!("{:.1}", 100.0 * stat.mean),
    }
}

/// As [`percent`], with its sign.
pub(super) fn signed_percent(stat: Stat) -> String {
    let size = percent(Stat { mean: stat.mean.abs(), ..stat });
    let sign = match stat.mean {
        mean if mean > 0.0 => "+",
        mean if mean < 0.0 => "−",
        _ => "",
    };
    format!("{sign}{size}")
}

/// The images of a summary, such as `distilled from resnet10`.
pub(super) fn images(summary: &Summary) -> String {
    match &summary.teacher {
        Some(teacher) => format!("{} from {teacher}", summary.method.title()),
        None => summary.method.title().to_string(),
    }
}

/// The labels of a summary, such as `soft, by resnet10` or, where that also gave the images, `soft, by the same`.
pub(super) fn labels(summary: &Summary) -> String {
    match (summary.labels, &summary.relabel_teacher) {
        (Labels::Soft, Some(_)) if summary.teacher == summary.relabel_teacher => "soft, by the same".to_string(),
        (Labels::Soft, Some(teacher)) => format!("soft, by {teacher}"),
        (Labels::Soft, None) => "soft".to_string(),
        (Labels::Hard, _) => "hard".to_string(),
    }
}

/// Everything that tells a row from the others of its seed.
pub(super) fn row_name(row: &Row) -> String {
    // One row always gives one summary.
    let summary = &summaries(std::slice::from_ref(row))[0];
    format!("{} / {} / {} / ipc {}", images(summary), labels(summary), row.student, row.ipc)
}

const HEADINGS: [&str; 7] = ["images", "data-free", "labels", "seeds", "last epoch", "best*", "vs random real"];

/// The accuracy table as plain text, one block per student and IPC, ending in its footnotes.
pub fn table(results: &Results) -> String {
    let mut text = String::new();
    let all = summaries(&results.rows);
    for block in all.chunk_by(|a, b| (&a.student, a.ipc) == (&b.student, b.ipc)) {
        text += &format!("{}, {} images per class, test accuracy in %\n", block[0].student, block[0].ipc);
        let mut lines = vec![HEADINGS.map(str::to_string)];
        lines.extend(block.iter().map(cells));
        text += &aligned(&lines);
        text.push('\n');
    }
    if !results.rows.is_empty() {
        text += "mean ± sample standard deviation over seeds; vs random real: the same seeds, soft labels by the same teacher\n";
        text += "* the highest of the tests during training: selected on the test set, so too good\n";
    }
    text + &verifier_table(&results.recoveries)
}

/// What the verifiers see in each set of synthetic images; empty without verifiers.
fn verifier_table(recoveries: &[Recovery]) -> String {
    let found: Vec<_> = recoveries.iter().flat_map(verifier_cells).collect();
    if found.is_empty() {
        return String::new();
    }
    let headings = ["recovered from", "per class", "seed", "verifier", "images", "top-1", "top-5"];
    let mut lines = vec![headings.map(str::to_string)];
    lines.extend(found);
    format!("\nrecovered images that a verifier puts into their classes, in %\n{}", aligned(&lines))
}

/// Teacher, images per class, seed, verifier, images, top-1 and top-5 in percent, per verifier.
pub(super) fn verifier_cells(recovery: &Recovery) -> Vec<[String; 7]> {
    let cells = |Verified { verifier, accuracy }: &Verified| {
        let percent = |count: usize| format!("{:.1}", 100.0 * count as f64 / accuracy.images as f64);
        let (teacher, ipc, seed) = (recovery.teacher.clone(), recovery.ipc.to_string(), recovery.seed.to_string());
        let (top1, top5) = (percent(accuracy.top1), percent(accuracy.top5));
        [teacher, ipc, seed, verifier.clone(), accuracy.images.to_string(), top1, top5]
    };
    recovery.verified.iter().map(cells).collect()
}

fn cells(summary: &Summary) -> [String; 7] {
    [
        images(summary),
        if summary.data_free { "yes" } else { "no" }.to_string(),
        labels(summary),
        summary.seeds.len().to_string(),
        percent(summary.last),
        percent(summary.best),
        summary.versus_random_real.map_or("–".to_string(), |difference| signed_percent(difference.stat)),
    ]
}

/// One line per row, its columns as wide as their widest cell.
pub(crate) fn aligned<const N: usize>(lines: &[[String; N]]) -> String {
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |cells: &[String; N]| {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    lines.iter().map(line).collect()
}

/// One line per trained student.
pub(super) fn csv(results: &Results) -> Result<Vec<u8>, ReportError> {
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
        "seed",
        "last_accuracy",
        "best_accuracy",
    ];
    writer.write_record(head).map_err(|error| format(error.to_string()))?;
    for row in &results.rows {
        let record = (
            (row.method, row.method.data_free(), &row.teacher, &row.relabel_teacher, &row.student, row.ipc, row.labels),
            (row.seed, row.last_accuracy, row.best_accuracy),
        );
        writer.serialize(record).map_err(|error| format(error.to_string()))?;
    }
    writer.into_inner().map_err(|error| format(error.to_string()))
}
