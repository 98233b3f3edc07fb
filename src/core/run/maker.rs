//! What is asked of whoever makes the stages that need networks: one method per kind of stage, and its task as plain data.
//!
//! The engine implements [`Maker`]; this module and all that define stages know nothing of tensor libraries.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::RunError;
use super::stage::WorkDir;
use crate::config::{RecoverConfig, RelabelConfig, ValidateConfig};
use crate::data::Dataset;
use crate::teacher::Bundle;

/// Why a stage could not be made.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Makes stages. Every method but the last leaves the files of its stage ([`super::files`]) in `work`, and keeps what an interrupted run had committed there.
pub trait Maker: Sync {
    /// The verdict on `bundle`; a bundle that does not pass is an error.
    fn verify(&self, work: &WorkDir, bundle: &Bundle) -> Result<(), Failure>;

    /// How `teacher` does on the real `test` set; what makes its labels wrong is an error.
    fn measure(&self, work: &WorkDir, teacher: &Bundle, test: &Dataset) -> Result<(), Failure>;

    /// What `r_bn: auto` stands for with `teacher`.
    fn balance(&self, work: &WorkDir, teacher: &Bundle, config: &RecoverConfig) -> Result<(), Failure>;

    /// Recovered images with their curves; gives a remark for the user.
    fn recover(&self, work: &WorkDir, task: &RecoverTask) -> Result<Option<String>, Failure>;

    /// How many of the `images`, a written set, `verifier` puts into their classes.
    fn accuracy(&self, work: &WorkDir, images: &Path, verifier: &Bundle) -> Result<(), Failure>;

    /// A store of soft labels; gives a remark for the user.
    fn relabel(&self, work: &WorkDir, task: &RelabelTask) -> Result<Option<String>, Failure>;

    /// A trained student, and how it does on the test set.
    fn validate(&self, work: &WorkDir, task: &ValidateTask) -> Result<(), Failure>;

    /// A student trained on the whole real training set.
    fn whole(&self, work: &WorkDir, task: &WholeTask) -> Result<(), Failure>;

    /// Does all `tasks`, each after those that it needs; several at once where that is faster. A task that fails ends
    /// those alone that need it.
    ///
    /// # Errors
    /// What would end every task, such as a full disk; none is begun after it.
    fn work_off(&self, tasks: Vec<Task>) -> Result<WorkedOff, RunError>;

    /// Says what the user ought to know at once.
    fn tell(&self, what: &str);
}

/// What became of tasks.
#[derive(Debug, Default)]
pub struct WorkedOff {
    /// Remarks for the user, some of them more than once.
    pub remarks: Vec<String>,
    pub failed: Failed,
}

/// Why stages could not be made, by the directories where their results would be. A stage that needs another one which
/// failed has that one's reason.
pub type Failed = BTreeMap<PathBuf, String>;

/// A stage that is to be made.
pub struct Task<'a> {
    /// What is made, as a failure names it: `recover method a from teacher b, ipc 10, seed 0`.
    pub title: String,
    /// Where its result will be.
    pub directory: PathBuf,
    /// Results that it reads. Those that none of the tasks makes are there.
    pub needs: Vec<PathBuf>,
    make: Box<dyn FnOnce() -> Result<Option<String>, RunError> + Send + 'a>,
}

impl<'a> Task<'a> {
    /// `make` leaves a result at `directory`, from those that it `needs`, and gives a remark for the user.
    pub fn new(
        title: String,
        directory: PathBuf,
        needs: Vec<PathBuf>,
        make: impl FnOnce() -> Result<Option<String>, RunError> + Send + 'a,
    ) -> Self {
        Self { title, directory, needs, make: Box::new(make) }
    }

    /// Makes the stage; gives a remark for the user.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn make(self) -> Result<Option<String>, RunError> {
        (self.make)()
    }
}

/// A set of images to recover.
pub struct RecoverTask<'a> {
    pub teacher: &'a Bundle,
    /// The further teachers of the committee.
    pub others: Vec<&'a Bundle>,
    pub config: RecoverConfig,
    /// The real training set, where the configuration starts from it.
    pub data: Option<&'a Dataset>,
    /// Names of all classes.
    pub classes: &'a [String],
    /// The classes to recover, ascending.
    pub chosen: Vec<u32>,
    /// Images per class.
    pub ipc: u32,
    pub seed: u64,
}

/// A set of images to label.
pub struct RelabelTask<'a> {
    /// What the set is called.
    pub name: String,
    /// An ImageFolder.
    pub images: PathBuf,
    /// How many small images per row and column each image is a mosaic of.
    pub formation: u16,
    /// At least one, each with its weight in the mean.
    pub teachers: Vec<(&'a Bundle, f64)>,
    pub config: &'a RelabelConfig,
    pub seed: u64,
    /// The stage's key.
    pub key: String,
}

/// A student to train and test.
pub struct ValidateTask<'a> {
    /// What the set that it learns from is called.
    pub name: String,
    /// An ImageFolder.
    pub images: PathBuf,
    /// How the images are seen where the student learns their classes.
    pub views: RelabelConfig,
    /// How many small images per row and column each image is a mosaic of.
    pub formation: u16,
    /// The label store; none where the student learns the images' classes alone.
    pub labels: Option<PathBuf>,
    pub student: &'a Bundle,
    pub test: &'a Dataset,
    pub config: ValidateConfig,
    pub seed: u64,
}

/// A student to train on the whole real training set with hard labels.
pub struct WholeTask<'a> {
    pub student: &'a Bundle,
    pub train: &'a Dataset,
    pub test: &'a Dataset,
    /// How the training images are seen.
    pub views: RelabelConfig,
    pub config: ValidateConfig,
    pub seed: u64,
}
