//! What is asked of whoever makes the stages that need networks: one method per kind of stage, and its task as plain data.
//!
//! The engine implements [`Maker`]; this module and all that define stages know nothing of tensor libraries.

use std::path::{Path, PathBuf};

use super::stage::{Stage, Store, WorkDir};
use crate::config::{RecoverConfig, RelabelConfig, ValidateConfig};
use crate::data::Dataset;
use crate::teacher::Bundle;

/// Why a stage could not be made.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Makes stages. Every method leaves the files of its stage ([`super::files`]) in `work`, and keeps what an interrupted run had committed there.
pub trait Maker {
    /// The verdict on `bundle`; a bundle that does not pass is an error.
    fn verify(&self, work: &WorkDir, bundle: &Bundle) -> Result<(), Failure>;

    /// What `r_bn: auto` stands for with `teacher`.
    fn balance(&self, work: &WorkDir, teacher: &Bundle, config: &RecoverConfig) -> Result<(), Failure>;

    /// Recovered images with their curves; gives a remark for the user.
    fn recover(&self, work: &WorkDir, task: &RecoverTask) -> Result<Option<String>, Failure>;

    /// How many of the `images`, an ImageFolder, `verifier` puts into their classes, which are these `classes` of its own.
    fn accuracy(&self, work: &WorkDir, images: &Path, verifier: &Bundle, classes: &[u32]) -> Result<(), Failure>;

    /// A store of soft labels; gives a remark for the user.
    fn relabel(&self, work: &WorkDir, task: &RelabelTask) -> Result<Option<String>, Failure>;

    /// A trained `student`, which the task names, and how it does on `test`.
    fn validate(&self, work: &WorkDir, task: &ValidateTask, student: &Bundle, test: &Dataset) -> Result<(), Failure>;

    /// Makes the stages of `tasks` in `store` several at once, where that is faster; else it leaves them to [`Maker::validate`].
    fn validate_all(&self, store: &Store, tasks: Vec<ValidateTask>, test: &Dataset) -> Result<(), Failure>;

    /// A student trained on the whole real training set.
    fn whole(&self, work: &WorkDir, task: &WholeTask) -> Result<(), Failure>;
}

/// A set of images to recover.
pub struct RecoverTask<'a> {
    pub teacher: &'a Bundle,
    /// The further teachers of the committee.
    pub others: &'a [&'a Bundle],
    pub config: &'a RecoverConfig,
    /// The real training set, where the configuration starts from it.
    pub data: Option<&'a Dataset>,
    /// Names of all classes.
    pub classes: &'a [String],
    /// The classes to recover, ascending.
    pub chosen: &'a [u32],
    /// Images per class.
    pub ipc: u32,
    pub seed: u64,
}

/// A set of images to label.
pub struct RelabelTask<'a> {
    /// An ImageFolder.
    pub images: &'a Path,
    /// How many small images per row and column each image is a mosaic of.
    pub formation: u16,
    /// At least one, each with its weight in the mean.
    pub teachers: &'a [(&'a Bundle, f64)],
    pub config: &'a RelabelConfig,
    pub seed: u64,
    /// The stage's key.
    pub key: &'a str,
}

/// A student to train: files only, so that it can go to another thread.
pub struct ValidateTask {
    pub stage: Stage,
    /// An ImageFolder.
    pub images: PathBuf,
    /// The label store.
    pub labels: PathBuf,
    /// Epochs that the labels have.
    pub epochs: u32,
    /// The student's bundle, and its hash when it was verified.
    pub student: (PathBuf, String),
    pub config: ValidateConfig,
    pub seed: u64,
}

/// A student to train on the whole real training set with hard labels.
pub struct WholeTask<'a> {
    pub student: &'a Bundle,
    pub train: &'a Dataset,
    pub test: &'a Dataset,
    /// How the training images are seen.
    pub views: &'a RelabelConfig,
    pub config: &'a ValidateConfig,
    pub seed: u64,
    /// The stage's key.
    pub key: &'a str,
}
