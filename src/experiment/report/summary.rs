//! Summaries over seeds of rows with equal settings.

use serde::Serialize;
use statrs::distribution::{ContinuousCDF, StudentsT};

use super::{Labels, Row, text};
use crate::config::real_rows::{self, RANDOM_REAL, WHOLE_REAL};

/// Mean and spread of one number over seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Stat {
    /// Arithmetic mean.
    pub mean: f64,
    /// Sample standard deviation (divisor n − 1); `None` for a single seed.
    pub std: Option<f64>,
}

/// The difference between two summaries' accuracies, seed by seed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Difference {
    /// Mean and spread of the paired differences.
    pub stat: Stat,
    /// Number of common seeds.
    pub seeds: usize,
    /// The 95 % confidence interval of the mean, by Student's t for paired differences; `None` for
    /// a single seed.
    pub interval: Option<[f64; 2]>,
}

/// All seeds of one combination of images, labels and student.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The student network.
    pub student: String,
    /// Images per class.
    pub ipc: u32,
    /// The protocol of the student's training.
    pub protocol: String,
    /// The method that made the images, as in [`Row`].
    pub method: String,
    /// Whether making the images read no real image.
    pub data_free: bool,
    /// Kind of labels.
    pub labels: Labels,
    /// The teacher from which the images were recovered, or that chose them.
    pub teacher: Option<String>,
    /// The teacher that labelled them.
    pub relabel_teacher: Option<String>,
    /// The seeds, ascending.
    pub seeds: Vec<u64>,
    /// Accuracy after the last epoch.
    pub last: Stat,
    /// Highest accuracy during training, selected on the test set.
    pub best: Stat,
    /// Top-5 accuracy after the last epoch, if every seed has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top5: Option<Stat>,
    /// The soft labels' mean largest probability, if every seed has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_probability: Option<Stat>,
    /// Bytes of the stored soft labels, mean over seeds; `None` with hard labels.
    pub label_bytes: Option<u64>,
    /// Whether students trained on cropped, mirrored or mixed images.
    pub augmented: bool,
    /// Seconds per recovered image, mean over seeds. Omitted from `results.json`, like all times.
    #[serde(skip)]
    pub seconds_per_image: Option<f64>,
    /// The peak of the process's resident memory during any stage of any seed, in bytes, without
    /// the accelerator's own memory.
    #[serde(skip)]
    pub peak_bytes: Option<u64>,
    /// Last-epoch accuracy minus the accuracy of random real images with the same kind of labels
    /// (soft ones by the same teacher), student, IPC and protocol.
    pub versus_random_real: Option<Difference>,
    /// Scores of DD-Ranking, for distilled images with soft labels if the random real baseline
    /// exists.
    pub ranking: Option<Ranking>,
}

/// DD-Ranking's scores (arXiv 2505.13300) of the images' own contribution to a row's accuracy.
/// Accuracies and their differences are fractions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ranking {
    /// Accuracy of the same images with hard labels.
    pub hard: Option<Stat>,
    /// Hard label recovery: accuracy of the whole real training set minus accuracy of the images,
    /// both with hard labels. Lower is better.
    pub hlr: Option<f64>,
    /// Improvement over random: accuracy minus the accuracy of random real images with the same
    /// labels.
    pub ior: f64,
    /// Label-robust score, 0..=1: the score of the mean of IOR and −HLR.
    pub lrs: Option<f64>,
    /// Augmentation-robust score, 0..=1: the score of the mean of IOR with augmentation and IOR
    /// under a protocol without.
    pub ars: Option<f64>,
}

/// Two rows of one table, compared seed by seed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The student network.
    pub student: String,
    /// Images per class.
    pub ipc: u32,
    /// The protocol of the student's training.
    pub protocol: String,
    /// Images and labels of both rows, as in the table.
    pub rows: [String; 2],
    /// Last-epoch accuracy of the first row minus the second's.
    pub difference: Difference,
}

impl Summary {
    /// Whether both belong to one table: the same student, IPC and protocol.
    pub(super) fn same_block(&self, other: &Self) -> bool {
        (&self.student, self.ipc, &self.protocol) == (&other.student, other.ipc, &other.protocol)
    }
}

/// The key by which rows are sorted and grouped.
pub(super) fn row_key(row: &Row) -> impl Ord {
    let block = (row.student.clone(), row.ipc, row.protocol.clone());
    let is_baseline = real_rows::is_baseline(&row.method);
    (
        block,
        is_baseline,
        row.method.clone(),
        row.labels,
        row.teacher.clone(),
        row.relabel_teacher.clone(),
    )
}

/// Groups of rows that differ only in the seed, in the order of the table.
pub(super) fn groups(rows: &[Row]) -> Vec<Vec<&Row>> {
    let mut sorted: Vec<&Row> = rows.iter().collect();
    sorted.sort_by(|a, b| row_key(a).cmp(&row_key(b)).then(a.seed.cmp(&b.seed)));
    sorted.chunk_by(|a, b| row_key(a) == row_key(b)).map(<[&Row]>::to_vec).collect()
}

/// One summary per group of rows that differ only in the seed, in the order of the table.
pub fn summaries(rows: &[Row]) -> Vec<Summary> {
    let groups = groups(rows);
    let mut summaries: Vec<Summary> =
        groups.iter().map(|group| summarise(group, &groups)).collect();
    let rankings: Vec<Option<Ranking>> =
        summaries.iter().map(|summary| ranking(summary, &summaries)).collect();
    summaries.iter_mut().zip(rankings).for_each(|(summary, ranking)| summary.ranking = ranking);
    summaries
}

/// All pairs of rows in one table with the same kind of labels and at least one common seed, except
/// rows of whole real images.
pub fn comparisons(rows: &[Row]) -> Vec<Comparison> {
    let (groups, summaries) = (groups(rows), summaries(rows));
    let distilled: Vec<usize> =
        (0..groups.len()).filter(|&i| !real_rows::is_whole_images(&summaries[i].method)).collect();
    let pairs = distilled
        .iter()
        .enumerate()
        .flat_map(|(n, &a)| distilled[n + 1..].iter().map(move |&b| (a, b)));
    let compare = |(a, b): (usize, usize)| {
        let (first, second) = (&summaries[a], &summaries[b]);
        let comparable = first.same_block(second) && first.labels == second.labels;
        let difference = difference(&groups[a], &groups[b]).filter(|_| comparable)?;
        let name = |summary: &Summary| {
            format!("{}; {}", text::summary_images(summary), text::labels(summary))
        };
        let Summary { student, ipc, protocol, .. } = first.clone();
        Some(Comparison { student, ipc, protocol, rows: [name(first), name(second)], difference })
    };
    pairs.filter_map(compare).collect()
}

fn ranking(summary: &Summary, all: &[Summary]) -> Option<Ranking> {
    let ior_of = |summary: &Summary| Some(summary.versus_random_real?.stat.mean);
    if real_rows::is_whole_images(&summary.method) || summary.labels != Labels::Soft {
        return None;
    }
    let images = |s: &Summary| (s.student.clone(), s.method.clone(), s.ipc, s.teacher.clone());
    let same_images = || all.iter().filter(|other| images(other) == images(summary));
    let hard = same_images()
        .find(|o| o.protocol == summary.protocol && o.labels == Labels::Hard)
        .map(|o| o.last);
    let is_whole = |other: &&Summary| {
        other.method == WHOLE_REAL
            && (&other.student, &other.protocol) == (&summary.student, &summary.protocol)
    };
    let hlr = all.iter().find(is_whole).zip(hard).map(|(whole, hard)| whole.last.mean - hard.mean);
    let ior = ior_of(summary)?;
    let soft_by_the_same =
        |o: &&Summary| o.labels == Labels::Soft && o.relabel_teacher == summary.relabel_teacher;
    let plain =
        same_images().filter(soft_by_the_same).find(|other| summary.augmented && !other.augmented);
    Some(Ranking {
        hard,
        hlr,
        ior,
        lrs: hlr.map(|hlr| score(0.5 * ior - 0.5 * hlr)),
        ars: plain.and_then(ior_of).map(|plain| score(0.5 * ior + 0.5 * plain)),
    })
}

/// DD-Ranking's map of −1..=1 onto 0..=1.
fn score(value: f64) -> f64 {
    let least = (-1f64).exp();
    (value.exp() - least) / (1f64.exp() - least)
}

fn summarise(group: &[&Row], all: &[Vec<&Row>]) -> Summary {
    let row = group[0];
    let numbers = |of: fn(&Row) -> f64| group.iter().map(|row| of(row)).collect::<Vec<f64>>();
    let baseline = all.iter().find(|other| is_baseline_of(other[0], row));
    Summary {
        student: row.student.clone(),
        ipc: row.ipc,
        protocol: row.protocol.clone(),
        method: row.method.clone(),
        data_free: row.data_free,
        labels: row.labels,
        teacher: row.teacher.clone(),
        relabel_teacher: row.relabel_teacher.clone(),
        seeds: group.iter().map(|row| row.seed).collect(),
        last: stat(&numbers(|row| row.last_accuracy)),
        best: stat(&numbers(|row| row.best_accuracy)),
        top5: stat_of_all(group, |row| row.last_top5),
        label_probability: stat_of_all(group, |row| row.label_probability),
        label_bytes: mean(group.iter().filter_map(|row| row.label_bytes.map(|bytes| bytes as f64)))
            .map(|b| b as u64),
        augmented: row.augmented,
        seconds_per_image: mean(group.iter().filter_map(|row| row.seconds_per_image())),
        peak_bytes: group
            .iter()
            .flat_map(|row| row.cost.stages())
            .filter_map(|timing| timing.peak_bytes)
            .max(),
        versus_random_real: baseline.and_then(|baseline| difference(group, baseline)),
        ranking: None,
    }
}

/// Whether `other` is the baseline of `row`: random real images with the same labels.
fn is_baseline_of(other: &Row, row: &Row) -> bool {
    let what = |row: &Row| {
        (
            row.student.clone(),
            row.ipc,
            row.protocol.clone(),
            row.labels,
            row.relabel_teacher.clone(),
        )
    };
    other.method == RANDOM_REAL && row.method != RANDOM_REAL && what(other) == what(row)
}

fn difference(group: &[&Row], baseline: &[&Row]) -> Option<Difference> {
    let pair = |row: &&Row| {
        let partner = baseline.iter().find(|other| other.seed == row.seed)?;
        Some(row.last_accuracy - partner.last_accuracy)
    };
    let differences: Vec<f64> = group.iter().filter_map(pair).collect();
    (!differences.is_empty()).then(|| {
        let (stat, seeds) = (stat(&differences), differences.len());
        Difference { stat, seeds, interval: interval(stat, seeds) }
    })
}

/// mean ± t · std / √n with the 97.5 % quantile t of Student's distribution with n − 1 degrees of
/// freedom.
fn interval(stat: Stat, seeds: usize) -> Option<[f64; 2]> {
    let distribution = StudentsT::new(0.0, 1.0, seeds as f64 - 1.0).ok()?;
    let reach = distribution.inverse_cdf(0.975) * stat.std? / (seeds as f64).sqrt();
    Some([stat.mean - reach, stat.mean + reach])
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| stat(&values).mean)
}

/// Mean and spread of a number that every row has; else `None`.
fn stat_of_all(rows: &[&Row], of: fn(&Row) -> Option<f64>) -> Option<Stat> {
    rows.iter().map(|row| of(row)).collect::<Option<Vec<f64>>>().map(|values| stat(&values))
}

/// Mean and sample standard deviation of at least one number.
pub(super) fn stat(values: &[f64]) -> Stat {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    Stat { mean, std: (values.len() > 1).then(|| (squares / (count - 1.0)).sqrt()) }
}
