//! The results as Markdown with one SVG chart per table, to be committed to a repository.

use std::path::{Path, PathBuf};

use super::chart::{Dots, dot_plot};
use super::overview::{ChartSection, Inspected, by_ipc, by_size, by_statistics, pictures};
use super::summary::{Summary, groups, summaries};
use super::text::{
    BEST_NOTE, COST_NOTE, HEADINGS, SPREAD_NOTE, VERIFIER_HEADINGS, block_title, cells, few_seeds,
    labels, protocols, summary_images, verifier_cells,
};
use super::{ReportError, Results, failed};
use scdd_artifacts::own;

/// Why the Markdown was not written.
#[derive(Debug, thiserror::Error)]
pub enum MarkdownError {
    /// A file can't be written, or an image can't be read.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// What was inspected can't be read.
    #[error(
        "{}: is not what `scdd inspect TEACHER… --out DIR` writes, DIR/inspect.json: {problem}",
        path.display()
    )]
    Inspected {
        /// The file.
        path: PathBuf,
        /// The fault.
        problem: String,
    },
}

/// Writes `path` and beside it `<its stem>-<name>.svg` for each chart: images side by side if
/// `results` say where images are, accuracy over images per class, over the teacher's size, and
/// with `inspected` (`inspect.json`) over what the teachers' statistics hold; and one for each
/// block of the table. `command` is the command that writes them again.
///
/// # Errors
/// When a file can't be read or written.
pub fn write_markdown(
    results: &Results,
    path: &Path,
    inspected: Option<&Path>,
    command: &str,
) -> Result<(), MarkdownError> {
    let results = results.sorted();
    let all = summaries(&results.rows);
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let mut text = format!("# {}: results\n\nWritten by `{command}`.", results.name);
    if !results.rows.is_empty() {
        text += &format!(
            " Accuracy in % on all {} test images of {}.",
            results.test_images, results.data
        );
    }
    text += "\n";
    for section in sections(&results, inspected)? {
        let ChartSection { heading, suffix, svg, text: below } = section;
        let chart = format!("{stem}-{suffix}.svg");
        write(&path.with_file_name(&chart), &svg)?;
        text += &format!("\n## {heading}\n\n![{heading}]({chart})\n{below}");
    }
    for (number, block) in all.chunk_by(Summary::same_block).enumerate() {
        let title = block_title(&block[0], protocols(&all));
        let chart = format!("{stem}-{}.svg", number + 1);
        write(&path.with_file_name(&chart), &plot(&results, &title, block))?;
        text +=
            &format!("\n## {title}\n\n![Test accuracy of every row, seed by seed]({chart})\n\n");
        text += &line(&HEADINGS.map(str::to_owned));
        text += &line(&HEADINGS.map(|_| "---".to_owned()));
        block.iter().for_each(|summary| text += &line(&cells(summary)));
        failed::lines(&results.failed, &block[0])
            .iter()
            .for_each(|one| text += &line(&failed::cells(one)));
    }
    if results.recoveries.iter().any(|recovery| !recovery.verified.is_empty()) {
        text += "\n## Recovered images that a verifier puts into their classes, in %\n\n";
        text += &line(&VERIFIER_HEADINGS.map(str::to_owned));
        text += &line(&VERIFIER_HEADINGS.map(|_| "---".to_owned()));
        results.recoveries.iter().flat_map(verifier_cells).for_each(|cells| text += &line(&cells));
    }
    let few = few_seeds(&all);
    let notes = [SPREAD_NOTE, &few, COST_NOTE, BEST_NOTE];
    for note in notes.iter().filter(|_| !all.is_empty()).flat_map(|note| note.lines()) {
        text += &format!("\n{}\n", note.replace('*', "\\*"));
    }
    for (reason, rows) in failed::reasons(&results.failed) {
        text += &format!("\nFailed ({rows} row{}): {reason}\n", if rows == 1 { "" } else { "s" });
    }
    write(path, &text)
}

fn write(path: &Path, text: &str) -> Result<(), MarkdownError> {
    Ok(own::write(path, text).map_err(ReportError::from)?)
}

fn read(inspected: &Path) -> Result<Inspected, MarkdownError> {
    let fail = |problem: String| MarkdownError::Inspected { path: inspected.into(), problem };
    let bytes = std::fs::read(inspected).map_err(|error| fail(error.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|error| fail(error.to_string()))
}

fn sections(
    results: &Results,
    inspected: Option<&Path>,
) -> Result<Vec<ChartSection>, MarkdownError> {
    let mut sections: Vec<ChartSection> = pictures(results)?.into_iter().collect();
    sections.extend(by_ipc(results));
    sections.extend(by_size(results));
    if let Some(inspected) = inspected {
        sections.extend(by_statistics(results, &read(inspected)?));
    }
    Ok(sections)
}

fn line(cells: &[String]) -> String {
    let cells = cells.iter().map(|cell| cell.replace('|', "\\|").replace('*', "\\*"));
    format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
}

/// The block's rows, best first.
fn plot(results: &Results, title: &str, block: &[Summary]) -> String {
    let groups = groups(&results.rows);
    let mut rows: Vec<Dots> = summaries(&results.rows)
        .iter()
        .zip(&groups)
        .filter(|(summary, _)| summary.same_block(&block[0]))
        .map(|(summary, rows)| Dots {
            label: format!("{}; {}", summary_images(summary), labels(summary)),
            hollow: !summary.data_free,
            values: rows.iter().map(|row| 100.0 * row.last_accuracy).collect(),
            mean: 100.0 * summary.last.mean,
        })
        .collect();
    rows.sort_by(|a, b| b.mean.total_cmp(&a.mean));
    dot_plot(
        title,
        "test accuracy after the last epoch, %; filled: data-free, hollow: real images; bar: mean",
        &rows,
    )
}
