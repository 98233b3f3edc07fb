//! Rows of equal settings, summarised over their seeds.

use serde::Serialize;
use statrs::distribution::{ContinuousCDF, StudentsT};

use super::{Labels, Row};

/// Mean and spread of one number over seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Stat {
    /// Arithmetic mean.
    pub mean: f64,
    /// Sample standard deviation (divisor n − 1); `None` for a single seed.
    pub std: Option<f64>,
}

/// The choice of real images that every row is compared with.
pub(super) const RANDOM_REAL: &str = "random_real";

/// A summary's accuracy minus another's, seed by seed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Difference {
    /// Mean and spread of the paired differences.
    pub stat: Stat,
    /// Number of seeds that both have.
    pub seeds: usize,
    /// The 95 % confidence interval of the mean, by Student's t for paired differences; `None` for a single seed.
    pub interval: Option<[f64; 2]>,
}

/// All seeds of one combination of images, labels and student.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The student network.
    pub student: String,
    /// Images per class.
    pub ipc: u32,
    /// How the student was trained.
    pub protocol: String,
    /// How the images were made, as in [`Row`].
    pub method: String,
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
    /// Last-epoch accuracy against random real images with the same kind of labels (soft ones by the same teacher), student, IPC and protocol.
    pub versus_random_real: Option<Difference>,
}

impl Summary {
    /// Whether both belong into one table: the same student, IPC and protocol.
    pub(super) fn same_block(&self, other: &Self) -> bool {
        (&self.student, self.ipc, &self.protocol) == (&other.student, other.ipc, &other.protocol)
    }
}

/// What rows are sorted and grouped by.
pub(super) fn row_key(row: &Row) -> impl Ord {
    let block = (row.student.clone(), row.ipc, row.protocol.clone());
    (block, row.teacher.is_none(), row.method.clone(), row.labels, row.teacher.clone(), row.relabel_teacher.clone())
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
        protocol: row.protocol.clone(),
        method: row.method.clone(),
        data_free: row.data_free,
        labels: row.labels,
        teacher: row.teacher.clone(),
        relabel_teacher: row.relabel_teacher.clone(),
        seeds: group.iter().map(|row| row.seed).collect(),
        last: stat(&numbers(|row| row.last_accuracy)),
        best: stat(&numbers(|row| row.best_accuracy)),
        versus_random_real: baseline.and_then(|baseline| difference(group, baseline)),
    }
}

/// Whether `other` is what `row` must beat to be worth anything: random real images under the same labels.
fn is_baseline_of(other: &Row, row: &Row) -> bool {
    let what =
        |row: &Row| (row.student.clone(), row.ipc, row.protocol.clone(), row.labels, row.relabel_teacher.clone());
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

/// mean ± t · std / √n with the 97.5 % quantile t of Student's distribution with n − 1 degrees of freedom.
fn interval(stat: Stat, seeds: usize) -> Option<[f64; 2]> {
    let distribution = StudentsT::new(0.0, 1.0, seeds as f64 - 1.0).ok()?;
    let reach = distribution.inverse_cdf(0.975) * stat.std? / (seeds as f64).sqrt();
    Some([stat.mean - reach, stat.mean + reach])
}

/// Mean and sample standard deviation of at least one number.
pub(super) fn stat(values: &[f64]) -> Stat {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    Stat { mean, std: (values.len() > 1).then(|| (squares / (count - 1.0)).sqrt()) }
}
