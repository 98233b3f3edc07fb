//! Rows of equal settings, summarised over their seeds.

use serde::Serialize;

use super::{Labels, Method, Row};

/// Mean and spread of one number over seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Stat {
    /// Arithmetic mean.
    pub mean: f64,
    /// Sample standard deviation (divisor n − 1); `None` for a single seed.
    pub std: Option<f64>,
}

/// A summary's accuracy minus the baseline's, seed by seed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Difference {
    /// Mean and spread of the paired differences.
    pub stat: Stat,
    /// Number of seeds that both have.
    pub seeds: usize,
}

/// All seeds of one combination of images, labels and student.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The student network.
    pub student: String,
    /// Images per class.
    pub ipc: u32,
    /// Where the images came from.
    pub method: Method,
    /// Whether making the images read no real image.
    pub data_free: bool,
    /// Kind of labels.
    pub labels: Labels,
    /// The teacher that the images were recovered from.
    pub teacher: Option<String>,
    /// The teacher that labelled them.
    pub relabel_teacher: Option<String>,
    /// The seeds, ascending.
    pub seeds: Vec<u64>,
    /// Accuracy after the last epoch.
    pub last: Stat,
    /// Highest accuracy on the way, selected on the test set.
    pub best: Stat,
    /// Last-epoch accuracy against random real images with soft labels of the same teacher, for the same student and IPC.
    pub versus_random_real: Option<Difference>,
}

/// What rows are sorted and grouped by.
pub(super) fn row_key(row: &Row) -> impl Ord {
    (row.student.clone(), row.ipc, row.method, row.labels, row.teacher.clone(), row.relabel_teacher.clone())
}

/// The groups of rows that differ in nothing but the seed, in the order of the table.
pub(super) fn groups(rows: &[Row]) -> Vec<Vec<&Row>> {
    let mut sorted: Vec<&Row> = rows.iter().collect();
    sorted.sort_by(|a, b| row_key(a).cmp(&row_key(b)).then(a.seed.cmp(&b.seed)));
    sorted.chunk_by(|a, b| row_key(a) == row_key(b)).map(<[&Row]>::to_vec).collect()
}

/// One summary per group of rows that differ in nothing but the seed, in the order of the table.
pub fn summaries(rows: &[Row]) -> Vec<Summary> {
    let groups = groups(rows);
    groups.iter().map(|group| summarise(group, &groups)).collect()
}

fn summarise(group: &[&Row], all: &[Vec<&Row>]) -> Summary {
    let row = group[0];
    let numbers = |of: fn(&Row) -> f64| group.iter().map(|row| of(row)).collect::<Vec<f64>>();
    let baseline = all.iter().find(|other| is_baseline_of(other[0], row));
    Summary {
        student: row.student.clone(),
        ipc: row.ipc,
        method: row.method,
        data_free: row.method.data_free(),
        labels: row.labels,
        teacher: row.teacher.clone(),
        relabel_teacher: row.relabel_teacher.clone(),
        seeds: group.iter().map(|row| row.seed).collect(),
        last: stat(&numbers(|row| row.last_accuracy)),
        best: stat(&numbers(|row| row.best_accuracy)),
        versus_random_real: baseline.and_then(|baseline| difference(group, baseline)),
    }
}

/// Whether `other` is what distilled images must beat to be worth anything: real ones under the same labels.
fn is_baseline_of(other: &Row, row: &Row) -> bool {
    let same = (&other.student, other.ipc, &other.relabel_teacher) == (&row.student, row.ipc, &row.relabel_teacher);
    same && other.method == Method::RandomReal && other.labels == Labels::Soft && row.method != Method::RandomReal
}

fn difference(group: &[&Row], baseline: &[&Row]) -> Option<Difference> {
    let pair = |row: &&Row| {
        let partner = baseline.iter().find(|other| other.seed == row.seed)?;
        Some(row.last_accuracy - partner.last_accuracy)
    };
    let differences: Vec<f64> = group.iter().filter_map(pair).collect();
    (!differences.is_empty()).then(|| Difference { stat: stat(&differences), seeds: differences.len() })
}

/// Mean and sample standard deviation of at least one number.
pub(super) fn stat(values: &[f64]) -> Stat {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    Stat { mean, std: (values.len() > 1).then(|| (squares / (count - 1.0)).sqrt()) }
}
