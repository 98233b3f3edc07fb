//! The results of an experiment, as one self-contained HTML page, as JSON and CSV, and as a table
//! for the terminal.
//!
//! Equal [`Results`] give equal bytes: rows are sorted, and neither time nor place is written.
//! Wall-clock times, which differ from run to run, are on the page, in `timing.json` and in
//! snapshots for the repository; `results.json` and `results.csv` contain none.

mod balance;
pub mod chart;
mod compare;
mod failed;
pub mod html;
mod markdown;
mod overview;
mod plot;
mod recognised;
mod snapshot;
mod summary;
#[cfg(test)]
mod tests;
pub mod text;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;

pub use crate::config::Labels;
use crate::config::real_rows;
use scdd_artifacts::own::{self, OwnError};
use scdd_artifacts::records::VerifierAccuracy;
use scdd_artifacts::stage::Timing;

pub use balance::TermBalance;
pub use compare::{CompareError, merge, read};
pub use failed::{FailedRow, Trained};
pub use html::duration;
pub use markdown::{MarkdownError, write_markdown};
pub use recognised::{NamedRecognition, Recognition};
pub use snapshot::write_snapshot;
pub use summary::{Comparison, Difference, Ranking, Stat, Summary, comparisons, summaries};
pub use text::table;

/// Why a report could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] OwnError),
    /// An image folder could not be read.
    #[error("cannot read the images in {}: {source}", path.display())]
    Images {
        /// The folder or file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The page's template failed.
    #[error("cannot render the report: {0}")]
    Template(#[from] minijinja::Error),
    /// The results cannot be written as JSON or CSV.
    #[error("cannot write the results as {format}: {message}")]
    Format {
        /// `JSON` or `CSV`.
        format: &'static str,
        /// The writer's error.
        message: String,
    },
}

/// The contents of a report. Names of networks and methods are shown unchanged, and rows with equal
/// names are the same work.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Results {
    /// The experiment's name.
    pub name: String,
    /// The data set's name.
    pub data: String,
    /// The test set's content hash; `None` in older reports and without real data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_hash: Option<String>,
    /// The training set's content hash, if it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_hash: Option<String>,
    /// Class names in logit order; they name the rows of image grids.
    pub classes: Vec<String>,
    /// The number of images in the test set, on which every accuracy is measured.
    pub test_images: usize,
    /// The resolved experiment, as YAML.
    pub experiment: String,
    /// The networks of rows and recoveries, each with a unique name; empty in older reports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<ReportedNetwork>,
    /// One row per trained student.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<Row>,
    /// Rows that could not be made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<FailedRow>,
    /// The optimisation of each set of synthetic images.
    pub recoveries: Vec<Recovery>,
    /// What labelling teachers see in the finished sets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recognised: Vec<Recognition>,
    /// Images to show.
    pub grids: Vec<Grid>,
}

/// A network of an experiment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedNetwork {
    /// The bundle's path in the experiment.
    pub path: PathBuf,
    /// Its name in rows.
    pub name: String,
    /// Its identity: SHA-256 of its manifest.
    pub hash: String,
    /// Its pretraining scheme, such as `supervised`; `None` for students and in older reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// Bytes of its ONNX graph with the weights; `None` in older reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_bytes: Option<u64>,
}

impl ReportedNetwork {
    /// Its name if another network has the same one: `resnet18@1a2b3c4d`.
    pub fn told_apart(&self) -> String {
        format!("{}{}", self.plain_name(), self.suffix())
    }

    /// The name in its bundle.
    pub fn plain_name(&self) -> &str {
        self.name.strip_suffix(&self.suffix()).unwrap_or(&self.name)
    }

    fn suffix(&self) -> String {
        format!("@{}", self.hash.get(..8).unwrap_or(&self.hash))
    }
}

/// One trained student.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The method that made its images, the name of a finished set, or a choice of real images such
    /// as `random_real`.
    pub method: String,
    /// Whether making the images read no real image (the teacher itself was trained on real
    /// images); false for finished sets, of which it is not known.
    pub data_free: bool,
    /// The teacher from which they were recovered, or that chose them; `None` for whole real images
    /// and finished sets.
    pub teacher: Option<String>,
    /// The teacher that labelled them; `None` with hard labels.
    pub relabel_teacher: Option<String>,
    /// The student network.
    pub student: String,
    /// Images per class.
    pub ipc: u32,
    /// Kind of labels.
    pub labels: Labels,
    /// The protocol of labelling and training.
    pub protocol: String,
    /// Whether students train on cropped, mirrored or mixed images.
    pub augmented: bool,
    /// Seed of the whole chain.
    pub seed: u64,
    /// Test accuracy after the last epoch, 0..=1.
    pub last_accuracy: f64,
    /// The highest test accuracy during training, 0..=1: selected on the test set.
    pub best_accuracy: f64,
    /// Top-5 accuracy after the last epoch, 0..=1; `None` in older reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_top5: Option<f64>,
    /// Mean over views of the soft labels' largest probability, 0..=1; `None` with hard labels and
    /// in older reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_probability: Option<f64>,
    /// The number of images that the student trained on.
    pub images: u64,
    /// The number of images that were recovered together, if the student trained on a part of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovered: Option<u64>,
    /// Bytes of the stored soft labels; `None` with hard labels.
    pub label_bytes: Option<u64>,
    /// Time and memory of its stages.
    #[serde(skip)]
    pub cost: Cost,
    /// The course of training.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<TrainPoint>,
}

impl Row {
    /// Seconds per image of recovering (or choosing crops). `None` for whole real images.
    pub fn seconds_per_image(&self) -> Option<f64> {
        Some(
            self.cost.recover.as_ref()?.seconds
                / self.recovered.unwrap_or(self.images).max(1) as f64,
        )
    }
}

/// Time and memory per stage; `None` if a row has no such stage.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Cost {
    /// Recovering the images.
    pub recover: Option<Timing>,
    /// Labelling them.
    pub relabel: Option<Timing>,
    /// Training and testing the student.
    pub validate: Option<Timing>,
}

impl Cost {
    /// The existing stages.
    pub fn stages(&self) -> impl Iterator<Item = &Timing> {
        [&self.recover, &self.relabel, &self.validate].into_iter().flatten()
    }
}

/// A student after one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TrainPoint {
    /// Epochs done, from 1.
    pub epoch: u32,
    /// Mean training loss of that epoch.
    pub train_loss: f64,
    /// Test accuracy, 0..=1, if it was measured.
    pub test_accuracy: Option<f64>,
}

/// The optimisation of one set of synthetic images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recovery {
    /// The method.
    pub method: String,
    /// The teacher.
    pub teacher: String,
    /// Images per class.
    pub ipc: u32,
    /// Seed of the whole chain.
    pub seed: u64,
    /// The objective, averaged over batches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<RecoverPoint>,
    /// The balance of its terms, if the loss has both; `None` in older reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance: Option<TermBalance>,
    /// The accuracy on the images of networks that took no part in the recovery.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verified: Vec<Verified>,
}

/// A verifier's accuracy on a set of synthetic images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verified {
    /// The network.
    pub verifier: String,
    /// The number of correctly classified images.
    #[serde(flatten)]
    pub accuracy: VerifierAccuracy,
}

/// The objective at one step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RecoverPoint {
    /// Optimiser steps done.
    pub iteration: u32,
    /// The weighted sum of all terms.
    pub loss: f64,
    /// Cross entropy to the label.
    pub ce: f64,
    /// BN statistics term, without its weight `r_bn`.
    pub bn: f64,
}

/// An ImageFolder (a directory per class with PNG files) of which some images are shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Grid {
    /// The method that made the images, as in [`Row`].
    pub method: String,
    /// Whether making them read no real image.
    pub data_free: bool,
    /// The teacher from which they were recovered, or that chose them; `None` for whole real
    /// images.
    pub teacher: Option<String>,
    /// Images per class.
    pub ipc: u32,
    /// Seed of the whole chain.
    pub seed: u64,
    /// The directory. It is omitted from `results.json`, which must not depend on a run's location.
    #[serde(skip)]
    pub folder: PathBuf,
}

const RESULTS: &str = "results.json";
const TABLE: &str = "results.csv";
const TIMES: &str = "timing.json";
const PAGE: &str = "report.html";

/// Checks that [`write()`] may write into `directory`.
///
/// # Errors
/// When an existing file is not scdd's.
pub fn check(directory: &Path) -> Result<(), ReportError> {
    [RESULTS, TABLE, TIMES, PAGE].iter().try_for_each(|file| Ok(own::check(&directory.join(file))?))
}

/// Writes `report.html`, `results.json`, `results.csv` and `timing.json` into `directory`, each
/// atomically. Returns the page's path.
///
/// # Errors
/// When an existing file is not scdd's, or a file can't be written.
pub fn write(results: &Results, directory: &Path) -> Result<PathBuf, ReportError> {
    let results = results.sorted();
    let page = html::page(&results)?;
    own::write(&directory.join(RESULTS), &results_json(&results)?)?;
    own::write(&directory.join(TABLE), &text::csv(&results)?)?;
    own::write(&directory.join(TIMES), &timing_json(&results)?)?;
    let path = directory.join(PAGE);
    own::write(&path, &page)?;
    Ok(path)
}

impl Results {
    /// The same results in display order.
    fn sorted(&self) -> Self {
        let mut sorted = self.clone();
        sorted.rows.sort_by(|a, b| {
            summary::row_key(a).cmp(&summary::row_key(b)).then(a.seed.cmp(&b.seed))
        });
        sorted
            .failed
            .sort_by_cached_key(|one| (one.method.clone(), one.teacher.clone(), one.ipc, one.seed));
        sorted
            .recoveries
            .sort_by_cached_key(|r| (r.method.clone(), r.teacher.clone(), r.ipc, r.seed));
        sorted.recognised.sort_by_cached_key(|r| (r.method.clone(), r.ipc, r.teacher.clone()));
        let real = |grid: &Grid| real_rows::is_baseline(&grid.method);
        sorted
            .grids
            .sort_by_cached_key(|g| (g.ipc, real(g), g.method.clone(), g.teacher.clone(), g.seed));
        sorted
    }
}

fn results_json(results: &Results) -> Result<String, ReportError> {
    let (summaries, comparisons) = (summaries(&results.rows), comparisons(&results.rows));
    json_file(&json!({"summaries": summaries, "comparisons": comparisons, "results": results}))
}

fn timing_json(results: &Results) -> Result<String, ReportError> {
    let row = |row: &Row| json!({"row": text::row_name(row), "seed": row.seed, "seconds_per_image": row.seconds_per_image(), "cost": row.cost});
    json_file(&json!({"rows": results.rows.iter().map(row).collect::<Vec<_>>()}))
}

/// `value` as indented JSON with a final newline.
pub fn json_file(value: &impl Serialize) -> Result<String, ReportError> {
    let format = |error: serde_json::Error| ReportError::Format {
        format: "JSON",
        message: error.to_string(),
    };
    Ok(serde_json::to_string_pretty(value).map_err(format)? + "\n")
}
