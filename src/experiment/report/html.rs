//! The page: one HTML file with its style, charts and images inside.

use std::collections::BTreeMap;

use minijinja::Environment;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use serde::Serialize;

use super::chart::{COLOURS, ChartLine, Scale, line_chart, strip};
use super::images::{ClassRow, class_rows};
use super::summary::{Comparison, Summary, comparisons, groups, stat, summaries};
use super::text::{
    block_title, difference, images, labels, percent, protocols, score, size, summary_images,
    verifier_cells,
};
use super::{
    Grid, Labels, RecoverPoint, Recovery, ReportError, Results, Row, TrainPoint, failed, recognised,
};

const TEMPLATE: &str = include_str!("template.html");

/// The template's data.
#[derive(Serialize)]
struct Page<'a> {
    name: &'a str,
    data: &'a str,
    test_images: String,
    students: usize,
    fewest_seeds: usize,
    tables: Vec<Table>,
    failures: Failures,
    recoveries: Vec<Figure>,
    verified: Vec<[String; 7]>,
    recognised: Vec<[String; 6]>,
    /// The first seed's images, which are shown; the other seeds' images can be unfolded.
    first_grids: Vec<GridView>,
    other_grids: Vec<GridView>,
    experiment: &'a str,
}

/// One student at one IPC: its rows and their training curves.
#[derive(Serialize)]
struct Table {
    title: String,
    ipc: u32,
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
    colour: usize,
    images: String,
    data_free: bool,
    labels: String,
    seeds: String,
    last: String,
    best: String,
    difference: Option<String>,
    strip: String,
    cost: String,
}

/// A row that could not be made.
#[derive(Serialize)]
struct HtmlFailedRow {
    images: String,
    data_free: bool,
    labels: String,
    seeds: usize,
}

/// The reasons of failures, and the tables that have no other rows.
#[derive(Serialize)]
struct Failures {
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
}

/// A chart with its legend, which explains the colours.
#[derive(Serialize)]
pub struct Figure {
    pub title: String,
    pub svg: String,
    pub legend: Vec<(usize, String)>,
    pub note: String,
}

#[derive(Serialize)]
struct GridView {
    title: String,
    data_free: bool,
    open: bool,
    note: String,
    rows: Vec<ClassRow>,
}

/// The whole page.
pub(super) fn page(results: &Results) -> Result<String, ReportError> {
    let (first_grids, other_grids) = grids(results)?.into_iter().partition(|grid| grid.open);
    let page = Page {
        name: &results.name,
        data: &results.data,
        test_images: thousands(results.test_images),
        students: results.rows.len(),
        fewest_seeds: groups(&results.rows).iter().map(Vec::len).min().unwrap_or(0),
        tables: tables(results),
        failures: failures(results),
        recoveries: recoveries(&results.recoveries),
        verified: results.recoveries.iter().flat_map(verifier_cells).collect(),
        recognised: results.recognised.iter().map(recognised::cells).collect(),
        first_grids,
        other_grids,
        experiment: &results.experiment,
    };
    Ok(environment()?.render_named_str("report.html", TEMPLATE, Serde(&page))?)
}

/// The template environment of all pages: templates can include `style.css`, and `figures.html`,
/// which shows the list `figures` of [`Figure`]s.
pub fn environment() -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.add_template("style.css", include_str!("style.css"))?;
    environment.add_template("figures.html", include_str!("figures.html"))?;
    Ok(environment)
}

fn tables(results: &Results) -> Vec<Table> {
    let summaries = summaries(&results.rows);
    let protocols = protocols(&summaries);
    let pairs: Vec<(Summary, Vec<&Row>)> =
        summaries.into_iter().zip(groups(&results.rows)).collect();
    let blocks = pairs.chunk_by(|(a, _), (b, _)| a.same_block(b));
    let comparisons = comparisons(&results.rows);
    blocks.map(|block| table(block, &comparisons, protocols, results)).collect()
}

fn failures(results: &Results) -> Failures {
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
    let row = |(colour, (summary, rows)): (usize, &(Summary, Vec<&Row>))| {
        table_row(colour, summary, rows, low, high)
    };
    Table {
        title: block_title(&block[0].0, protocols),
        ipc: block[0].0.ipc,
        has_real: block.iter().any(|(summary, _)| !summary.data_free),
        real_images: thousands(block[0].0.ipc as usize * results.classes.len()),
        scale: format!("{:.0} to {:.0} %", 100.0 * low, 100.0 * high),
        rows: block.iter().enumerate().map(row).collect(),
        failed: failed::lines(&results.failed, &block[0].0).into_iter().map(failed_row).collect(),
        rankings: block.iter().filter_map(|(summary, _)| ranking_row(summary)).collect(),
        comparisons: comparisons.iter().filter(here).map(comparison_row).collect(),
        figures: training_figures(block),
    }
}

fn table_row(colour: usize, summary: &Summary, rows: &[&Row], low: f64, high: f64) -> HtmlRow {
    let values: Vec<f64> = rows.iter().map(|row| row.last_accuracy).collect();
    HtmlRow {
        colour: colour % COLOURS,
        images: summary_images(summary),
        data_free: summary.data_free,
        labels: labels(summary),
        seeds: summary.seeds.len().to_string(),
        last: percent(summary.last),
        best: percent(summary.best),
        difference: summary.versus_random_real.as_ref().map(difference),
        strip: strip(&values, summary.last.mean, low, high, colour),
        cost: cost(summary, rows),
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
    ComparisonRow { first, second, difference: difference(&comparison.difference) }
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

/// Seconds for people, such as `9.5 s`, `12 min`, `3.4 h`.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 600.0 => format!("{s:.0} s"),
        s if s < 36_000.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

fn training_figures(block: &[(Summary, Vec<&Row>)]) -> Vec<Figure> {
    let names = block.iter().enumerate().map(|(colour, (summary, _))| {
        (colour % COLOURS, format!("{}; {}", summary_images(summary), labels(summary)))
    });
    let legend: Vec<(usize, String)> = names.collect();
    let lines = |of: PointOf| -> Vec<ChartLine> {
        let line = |(colour, (_, rows)): (usize, &(Summary, Vec<&Row>))| ChartLine {
            colour,
            faint: false,
            points: mean_curve(rows, of),
        };
        block.iter().enumerate().map(line).collect()
    };
    let figure = |title: &str, y_label: &str, scale, of: PointOf, note: &str| {
        let svg = line_chart(title, "epoch", y_label, scale, &lines(of))?;
        Some(Figure {
            title: title.to_string(),
            svg,
            legend: legend.clone(),
            note: note.to_string(),
        })
    };
    let mixed = block.iter().any(|(summary, _)| summary.labels == Labels::Hard)
        && block.iter().any(|(summary, _)| summary.labels == Labels::Soft);
    let loss_note = match mixed {
        true => {
            "Mean over seeds. Soft and hard labels have different losses: compare shapes, not heights."
        }
        false => "Mean over seeds.",
    };
    let accuracy: PointOf = |point| point.test_accuracy.map(|accuracy| 100.0 * accuracy);
    let figures = [
        figure(
            "Student: test accuracy",
            "%",
            Scale::Linear,
            accuracy,
            "Mean over seeds, where tested.",
        ),
        figure(
            "Student: training loss",
            "loss (log scale)",
            Scale::Log,
            |point| Some(point.train_loss),
            loss_note,
        ),
    ];
    figures.into_iter().flatten().collect()
}

type PointOf = fn(&TrainPoint) -> Option<f64>;

/// The mean over seeds, at the epochs that every seed has.
fn mean_curve(rows: &[&Row], of: PointOf) -> Vec<(f64, f64)> {
    let mut epochs: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    for point in rows.iter().flat_map(|row| &row.curve) {
        if let Some(value) = of(point) {
            epochs.entry(point.epoch).or_default().push(value);
        }
    }
    let complete = epochs.into_iter().filter(|(_, values)| values.len() == rows.len());
    complete.map(|(epoch, values)| (f64::from(epoch), stat(&values).mean)).collect()
}

fn recoveries(recoveries: &[Recovery]) -> Vec<Figure> {
    let same = |a: &Recovery, b: &Recovery| {
        (&a.method, &a.teacher, a.ipc) == (&b.method, &b.teacher, b.ipc)
    };
    recoveries.chunk_by(same).filter_map(recovery_figure).collect()
}

type TermOf = fn(&RecoverPoint) -> f64;

fn recovery_figure(seeds: &[Recovery]) -> Option<Figure> {
    let terms: [(&str, TermOf); 3] = [
        ("objective", |point| point.loss),
        ("cross entropy", |point| point.ce),
        ("BN statistics, unweighted", |point| point.bn),
    ];
    let line = |colour: usize, seed: usize| ChartLine {
        colour,
        faint: seed > 0,
        points: seeds[seed]
            .curve
            .iter()
            .map(|point| (f64::from(point.iteration), terms[colour].1(point)))
            .collect(),
    };
    // Pale lines first, so that the first seed lies on top.
    let lines: Vec<ChartLine> = (0..seeds.len())
        .rev()
        .flat_map(|seed| (0..3).map(move |colour| line(colour, seed)))
        .collect();
    let first = &seeds[0];
    let title = format!("{}, {} per class", images(&first.method, Some(&first.teacher)), first.ipc);
    let svg = line_chart(&title, "iteration", "loss (log scale)", Scale::Log, &lines)?;
    let legend =
        terms.iter().enumerate().map(|(colour, (name, _))| (colour, name.to_string())).collect();
    let note = match seeds.len() {
        1 => format!("Mean over batches; seed {}.", seeds[0].seed),
        count => {
            format!("Mean over batches; seed {}, and pale the other {}.", seeds[0].seed, count - 1)
        }
    };
    Some(Figure { title, svg, legend, note })
}

fn grids(results: &Results) -> Result<Vec<GridView>, ReportError> {
    let first_seed = |grid: &Grid| {
        let same = |other: &&Grid| {
            (&other.method, &other.teacher, other.ipc) == (&grid.method, &grid.teacher, grid.ipc)
        };
        results.grids.iter().filter(same).all(|other| grid.seed <= other.seed)
    };
    let view = |grid: &Grid| {
        let (rows, classes) = class_rows(&grid.folder, &results.classes)?;
        let shown = rows.first().map_or(0, |row| row.images.len());
        let source = images(&grid.method, grid.teacher.as_deref());
        Ok(GridView {
            title: format!("{source}, {} per class, seed {}", grid.ipc, grid.seed),
            data_free: grid.data_free,
            open: first_seed(grid),
            note: truncation(rows.len(), classes, shown, grid.ipc),
            rows,
        })
    };
    results.grids.iter().map(view).collect()
}

/// Says which part of the images a grid shows; empty if it shows all.
fn truncation(rows: usize, classes: usize, shown: usize, ipc: u32) -> String {
    match (rows < classes, shown < ipc as usize) {
        (false, false) => String::new(),
        (true, false) => format!("The first {rows} of {classes} classes."),
        (false, true) => format!("The first {shown} of {ipc} images of each class."),
        (true, true) => {
            format!("The first {shown} of {ipc} images of the first {rows} of {classes} classes.")
        }
    }
}

/// A count with commas, such as `10,000`.
fn thousands(count: usize) -> String {
    let digits = count.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| str::from_utf8(group).ok()).collect();
    groups.join(",")
}
