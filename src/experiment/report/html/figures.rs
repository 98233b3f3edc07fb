//! The curves of students and recoveries.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::report::chart::{ChartLine, Scale, line_chart};
use crate::report::summary::{Summary, stat};
use crate::report::text::{images, labels, summary_images};
use crate::report::{Labels, RecoverPoint, Recovery, Row, TrainPoint};
use scdd_artifacts::records::Accuracy;

/// A chart with its legend: the numbers and names of its lines.
#[derive(Serialize)]
pub struct Figure {
    pub title: String,
    pub svg: String,
    pub legend: Vec<(usize, String)>,
    pub note: String,
    /// The number of images per class that it belongs to, if to one.
    pub ipc: Option<u32>,
}

/// Test accuracy and training loss of one table's rows.
pub(super) fn training_figures(block: &[(Summary, Vec<&Row>)]) -> Vec<Figure> {
    let names = block.iter().enumerate().map(|(number, (summary, _))| {
        (number, format!("{}; {}", summary_images(summary), labels(summary)))
    });
    let legend: Vec<(usize, String)> = names.collect();
    let lines = |of: PointOf| -> Vec<ChartLine> {
        let line = |(number, (_, rows)): (usize, &(Summary, Vec<&Row>))| ChartLine {
            number,
            faint: false,
            points: mean_curve(rows, of),
        };
        block.iter().enumerate().map(line).collect()
    };
    let figure = |title: &str, y_label: &str, scale, of: PointOf, note: &str| {
        let svg = line_chart(title, "epoch", y_label, scale, &lines(of))?;
        let (title, note) = (title.to_string(), note.to_string());
        Some(Figure { title, svg, legend: legend.clone(), note, ipc: None })
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

/// The terms of each recovery side by side, all seeds in one chart.
pub(super) fn recovery_figures(recoveries: &[Recovery]) -> Vec<Figure> {
    recoveries.chunk_by(is_same_set).filter_map(recovery_figure).collect()
}

type TermOf = fn(&RecoverPoint) -> f64;

fn recovery_figure(seeds: &[Recovery]) -> Option<Figure> {
    let terms: [(&str, TermOf); 3] = [
        ("objective", |point| point.loss),
        ("cross entropy", |point| point.ce),
        ("BN statistics, unweighted", |point| point.bn),
    ];
    let line = |number: usize, seed: usize| ChartLine {
        number,
        faint: seed > 0,
        points: seeds[seed]
            .curve
            .iter()
            .map(|point| (f64::from(point.iteration), terms[number].1(point)))
            .collect(),
    };
    // Pale lines first, so that the first seed lies on top.
    let lines: Vec<ChartLine> = (0..seeds.len())
        .rev()
        .flat_map(|seed| (0..3).map(move |number| line(number, seed)))
        .collect();
    let first = &seeds[0];
    let title = title(first);
    let svg = line_chart(&title, "iteration", "loss (log scale)", Scale::Log, &lines)?;
    let legend =
        terms.iter().enumerate().map(|(number, (name, _))| (number, name.to_string())).collect();
    let note = format!("Mean over batches; {}.", of_seeds(seeds));
    Some(Figure { title, svg, legend, note, ipc: Some(first.ipc) })
}

/// The accuracy of verifiers over the steps of each recovery, all seeds in one chart.
pub(super) fn verifier_figures(recoveries: &[Recovery]) -> Vec<Figure> {
    recoveries.chunk_by(is_same_set).filter_map(verifier_figure).collect()
}

fn verifier_figure(seeds: &[Recovery]) -> Option<Figure> {
    let line = |number: usize, seed: usize| {
        let accuracy = &seeds[seed].verified.get(number)?.accuracy;
        // Without images on the way there is no curve.
        let last = seeds[seed].curve.last().filter(|_| !accuracy.snapshots.is_empty())?;
        let on_the_way = accuracy.snapshots.iter().map(|seen| (seen.step, seen.accuracy));
        let points = on_the_way.chain([(last.iteration, accuracy.finished)]);
        let percent = |(step, of): (u32, Accuracy)| (f64::from(step), 100.0 * of.shares()[0]);
        Some(ChartLine { number, faint: seed > 0, points: points.map(percent).collect() })
    };
    let first = &seeds[0];
    let names: Vec<&str> = first.verified.iter().map(|one| one.verifier.as_str()).collect();
    let lines: Vec<ChartLine> = (0..seeds.len())
        .rev()
        .flat_map(|seed| (0..names.len()).filter_map(move |number| line(number, seed)))
        .collect();
    let title = title(first);
    let svg = line_chart(&title, "iteration", "top-1, %", Scale::Linear, &lines)?;
    let legend = names.into_iter().map(str::to_owned).enumerate().collect();
    let note = format!(
        "Images of the class that the verifier says, while they were recovered; {}.",
        of_seeds(seeds)
    );
    Some(Figure { title, svg, legend, note, ipc: Some(first.ipc) })
}

fn is_same_set(a: &Recovery, b: &Recovery) -> bool {
    (&a.method, &a.teacher, a.ipc) == (&b.method, &b.teacher, b.ipc)
}

fn title(recovery: &Recovery) -> String {
    format!("{}, {} per class", images(&recovery.method, Some(&recovery.teacher)), recovery.ipc)
}

/// Which seeds are drawn, and how.
fn of_seeds(seeds: &[Recovery]) -> String {
    let first = seeds[0].seed;
    match seeds.len() {
        1 => format!("seed {first}"),
        count => format!("seed {first}, and pale the other {}", count - 1),
    }
}
