//! The keys of an experiment, as types. Ranges stand beside the fields; defaults are in
//! `presets/default.yaml`.

mod data;
mod recover;
mod relabel;
mod validate;

use std::fmt;
use std::path::{Path, PathBuf};

use indexmap::{IndexMap, IndexSet};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::range::within;

pub use data::{DataConfig, DataKind, FinishedSet, GivenLabels, MeanAndStd, Normalised};
pub use recover::{
    BnDistance, BnWeight, Committee, Crop, Difficulty, Packing, Quirk, RecoverConfig, Residual,
    Start, Turn, WeightAdjustment,
};
pub use relabel::{
    EnsembleMember, LabelDtype, Mix, RelabelConfig, RelabelTeachers, TeacherBn, TopK, ViewCrop,
};
pub use validate::{
    Cooling, Decay, HardEpochs, Loss, Optimizer, Schedule, StudentTemperature, ValidateConfig,
    Warmup,
};

/// A complete experiment with every key explicit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// Name of the experiment's directory and report: letters, digits, `.`, `_`, `-`; at most 100.
    pub name: String,
    /// The real data: test set of every validation, and source of the baselines' images.
    pub data: DataConfig,
    /// Teacher bundles from which images are recovered; directories relative to the working
    /// directory.
    pub teachers: Vec<PathBuf>,
    /// Teacher bundles that compute the soft labels.
    pub relabel_teachers: RelabelTeachers,
    /// Student bundles; none with `data: none`.
    pub students: Vec<PathBuf>,
    /// Images per class, 1..=10000.
    #[schemars(transform = within("[1, 10000]"))]
    pub ipc: Vec<u32>,
    /// Seeds. Each repeats the whole chain: start noise, augmentation, student weights.
    pub seeds: Vec<u64>,
    /// Methods of image synthesis, by the names of their rows: letters, digits, `_`, `-`, at most
    /// 60.
    ///
    /// `recover:` in place of this key is a single method. It is named after its preset if nothing
    /// else is set, else `distilled`.
    pub methods: IndexMap<String, RecoverConfig>,
    /// Distilled sets that other code made, by the names of their rows, which are like those of
    /// `methods`. They are measured under all `protocols`, at the value of `ipc` that they have.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub finished: IndexMap<String, FinishedSet>,
    /// Protocols of labelling images and training students on them, named like `methods`.
    ///
    /// `relabel:` and `validate:` in place of this key are a single protocol. It is named after
    /// their preset if both are the same preset, else `default`.
    pub protocols: IndexMap<String, Protocol>,
    /// Labels that students learn for distilled images; each value is a row of its own.
    pub labels: Vec<Labels>,
    /// Rows of real images with otherwise equal settings.
    pub baselines: Vec<Baseline>,
    /// Row of the whole real training set, the reference of hard label recovery; `null` (off) by
    /// default.
    pub whole_real: Option<WholeReal>,
    /// Device of recover's and validate's tensors.
    pub device: Device,
    /// Arithmetic of convolutions on a GPU; the CPU always computes in float32.
    pub precision: Precision,
}

/// Whether a key has its neutral value, which changes nothing. Resolved files omit such keys if
/// they were added later, so that existing stages stay valid.
fn is_neutral<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn is_one(value: &f64) -> bool {
    *value == 1.0
}

fn one() -> f64 {
    1.0
}

/// Labelling of images, and training and test of students on them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Protocol {
    /// Labelling of images.
    pub relabel: RelabelConfig,
    /// Training and test of students.
    pub validate: ValidateConfig,
}

/// A student's training target.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Labels {
    /// The teachers' outputs.
    Soft,
    /// The images' own classes, for the same views without mixing.
    Hard,
}

/// Device of a computation.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// The CPU.
    Cpu,
    /// The first CUDA device; an error without one, unless a fallback is configured.
    Cuda,
    /// CUDA if available, else the CPU.
    Auto,
}

/// Arithmetic of convolutions on a GPU. Sums and statistics are float32.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Float32.
    Fp32,
    /// TensorFloat-32: float32's range with 10 bits of fraction. PyTorch's default.
    Tf32,
    /// Those of recover and of students in bfloat16, with float32 sums; others in TensorFloat-32.
    Bf16,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Precision::Fp32 => "float32",
            Precision::Tf32 => "TF32",
            Precision::Bf16 => "bfloat16",
        })
    }
}

/// Reaction to a missing CUDA device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fallback {
    /// Stop with an error.
    Error,
    /// Continue on the CPU, with a remark.
    Cpu,
}

/// Rows of real images with the same student, epochs and views.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Baseline {
    /// Random training images, `ipc` per class, with the same teacher's soft labels.
    RandomRealSoft,
    /// The same images with their own classes as labels.
    RandomRealHard,
    /// The `ipc` training images of each class that are nearest to the class's mean image, with the
    /// same teacher's soft labels.
    NearestMeanSoft,
    /// The same images with their own classes as labels.
    NearestMeanHard,
    /// RDED's crops of training images (preset `rded-cifar100`), not optimised; the labelling
    /// teacher scores them and computes their soft labels.
    RdedCropsSoft,
    /// Such crops with their own classes as labels, scored by the first of the labelling teachers.
    RdedCropsHard,
}

/// Students trained on the whole real training set with hard labels, with each protocol's crops,
/// flips and optimiser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WholeReal {
    /// Passes over the training set, 1..=10000.
    #[schemars(transform = within("[1, 10000]"))]
    pub epochs: u32,
    /// Images per batch, 1..=65536.
    #[schemars(transform = within("[1, 65536]"))]
    pub batch_size: u32,
}

/// One cell of the experiment's matrix: the settings of one distilled row of the results table, for
/// one seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell<'a> {
    /// Bundle from which the images are recovered.
    pub teacher: &'a Path,
    /// Bundle that labels them. With hard labels only the views of its relabelling are used, which
    /// do not depend on it.
    pub relabel_teacher: &'a Path,
    /// Name of the method.
    pub method: &'a str,
    /// Images per class.
    pub ipc: u32,
    /// Bundle of the student.
    pub student: &'a Path,
    /// Name of the protocol.
    pub protocol: &'a str,
    /// The student's labels.
    pub labels: Labels,
    /// Seed of the whole chain.
    pub seed: u64,
}

impl Experiment {
    /// All cells, in the order teacher, method, IPC, protocol, labels, relabel teacher, student,
    /// seed (the last varies fastest).
    pub fn cells(&self) -> Vec<Cell<'_>> {
        let mut cells = Vec::new();
        for (teacher, method) in
            self.teachers.iter().flat_map(|t| self.methods.keys().map(move |m| (t, m)))
        {
            for (&ipc, (name, protocol)) in
                self.ipc.iter().flat_map(|i| self.protocols.iter().map(move |p| (i, p)))
            {
                for (labels, relabel_teacher) in self.labellings(protocol, teacher) {
                    for (student, &seed) in
                        self.students.iter().flat_map(|s| self.seeds.iter().map(move |n| (s, n)))
                    {
                        let protocol = name;
                        cells.push(Cell {
                            teacher,
                            relabel_teacher,
                            method,
                            ipc,
                            student,
                            protocol,
                            labels,
                            seed,
                        });
                    }
                }
            }
        }
        cells
    }

    /// The labellings of `teacher`'s images that the experiment and the protocol request: soft
    /// labels by each labelling teacher, and hard labels once.
    fn labellings<'a>(&'a self, protocol: &Protocol, teacher: &'a Path) -> Vec<(Labels, &'a Path)> {
        let teachers = self.relabel_teachers.of(teacher);
        let labels = if protocol.is_hard() { &[Labels::Hard][..] } else { &self.labels };
        let count = |labels: Labels| if labels == Labels::Hard { 1 } else { teachers.len() };
        labels.iter().flat_map(|&l| teachers.iter().take(count(l)).map(move |&t| (l, t))).collect()
    }

    /// The bundles of all ensembles.
    pub fn ensembles(&self) -> impl Iterator<Item = &Path> {
        let members = self.protocols.values().flat_map(|protocol| &protocol.relabel.ensemble);
        members.map(|member| member.bundle.as_path())
    }

    /// All teachers that label images, each once, in the order of the file.
    pub fn labellers(&self) -> Vec<&Path> {
        let all: IndexSet<&Path> =
            self.teachers.iter().flat_map(|t| self.relabel_teachers.of(t)).collect();
        all.into_iter().collect()
    }
}

impl Baseline {
    /// The labels of its students.
    pub fn labels(self) -> Labels {
        match self {
            Baseline::RandomRealSoft | Baseline::NearestMeanSoft | Baseline::RdedCropsSoft => {
                Labels::Soft
            }
            Baseline::RandomRealHard | Baseline::NearestMeanHard | Baseline::RdedCropsHard => {
                Labels::Hard
            }
        }
    }
}

impl Protocol {
    /// Whether students train on the images' own classes, without a teacher.
    pub fn is_hard(&self) -> bool {
        matches!(self.validate.loss, Loss::Ce {})
    }

    /// Whether students train on cropped, mirrored or mixed images.
    pub fn is_augmented(&self) -> bool {
        let RelabelConfig { crop, flip, augment, mix, .. } = &self.relabel;
        crop.is_some() || *flip || augment.is_some() || !matches!(mix, Mix::None {})
    }
}
