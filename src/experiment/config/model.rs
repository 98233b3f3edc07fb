//! The keys of an experiment, as types. Defaults are in `presets/default.yaml`, ranges in
//! `check.rs`.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use super::range::within;
use indexmap::{IndexMap, IndexSet};
use scdd_data::Augment;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, SeqAccess, Visitor, value::SeqAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::json;

use scdd_data::registry;

/// A whole experiment with every key explicit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// Names the experiment's directory and report: letters, digits, `.`, `_`, `-`; at most 100.
    pub name: String,
    /// The real data: test set of every validation, and source of the baselines' images.
    pub data: DataConfig,
    /// Teacher bundles that images are recovered from; directories relative to the working
    /// directory.
    pub teachers: Vec<PathBuf>,
    /// Teacher bundles that give the soft labels.
    pub relabel_teachers: RelabelTeachers,
    /// Student bundles; none with `data: none`.
    pub students: Vec<PathBuf>,
    /// Images per class, 1..=10000.
    #[schemars(transform = within("[1, 10000]"))]
    pub ipc: Vec<u32>,
    /// Each seed repeats the whole chain: start noise, augmentation, student weights.
    pub seeds: Vec<u64>,
    /// Ways to synthesise images, by the names that their rows get: letters, digits, `_`, `-`, at
    /// most 60.
    ///
    /// `recover:` in place of it is a single method, named after its preset where nothing beside
    /// that is set, else `distilled`.
    pub methods: IndexMap<String, RecoverConfig>,
    /// Ways to label images and to train students on them, by name as `methods` are.
    ///
    /// `relabel:` and `validate:` in place of it are a single protocol, named after the preset that
    /// both of them are, else `default`.
    pub protocols: IndexMap<String, Protocol>,
    /// What students learn from distilled images: each value is a row of its own.
    pub labels: Vec<Labels>,
    /// Rows of real images that share all other settings.
    pub baselines: Vec<Baseline>,
    /// A row of the whole real training set, the reference of hard label recovery; `null` (off) by
    /// default.
    pub whole_real: Option<WholeReal>,
    /// Where tensors of recover and validate live.
    pub device: Device,
}

/// Whether a key has the value that changes nothing. Such keys, younger than others, are left out
/// of resolved files.
fn is_neutral<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn is_one(value: &f64) -> bool {
    *value == 1.0
}

fn one() -> f64 {
    1.0
}

/// How images are labelled, and how students are trained on them and tested.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Protocol {
    /// How images are labelled.
    pub relabel: RelabelConfig,
    /// How students are trained on them and tested.
    pub validate: ValidateConfig,
}

/// What a student is trained towards.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Labels {
    /// A teacher's outputs.
    Soft,
    /// The images' own classes, through the same views, unmixed.
    Hard,
}

/// A labelled data set, its test set and its training set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: DataKind,
    /// Where it lies. A data set that is known by name is otherwise found through `SCDD_DATA`, else
    /// in `data/` here or in a directory above: that is the machine's matter, not the experiment's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// For an image folder: a YAML or JSON file that maps directories to class names, in label
    /// order; directories that it leaves out are not read. By default every directory is a class of
    /// its own name, in the order of names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_map: Option<PathBuf>,
}

/// A data set of the [registry], or a form of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataKind {
    /// A known data set, by its name.
    Known(&'static str),
    /// Four IDX files.
    Idx,
    /// A directory of image files for each class.
    ImageFolder,
    /// A NumPy archive.
    Npz,
    /// Parquet files.
    Parquet,
    /// No real data.
    None,
}

/// The forms of files: what a file of an experiment calls them, and what its schema says of them.
const FORMS: [(DataKind, &str, &str); 5] = [
    (
        DataKind::Idx,
        "idx",
        "Four IDX files named as MNIST's are, in the directory `path`; a line of its `classes.txt`, if there is one, names a class.",
    ),
    (
        DataKind::ImageFolder,
        "image-folder",
        "PNG or JPEG files in `train/<class>/` and `test/<class>/` (or `val/<class>/`) of the directory `path`, or as Tiny-ImageNet is packed. Those of another size or other colours than the first teacher's are scaled bilinearly to cover 8/7 of its size, cut to their centre, and converted.",
    ),
    (
        DataKind::Npz,
        "npz",
        "A NumPy archive: `x_train`, `y_train`, `x_test`, `y_test` (or MedMNIST's names); uint8 images [N, H, W] or [N, H, W, C].",
    ),
    (
        DataKind::Parquet,
        "parquet",
        "Parquet files in the directory `path`, with a column of encoded images and one of labels, as the Hugging Face Hub keeps data sets; images are fitted as those of an image folder.",
    ),
    (
        DataKind::None,
        "none",
        "No real data: images are recovered, and no student is trained on them.",
    ),
];

impl DataKind {
    /// The name under which the data set is found, if it is a known one.
    pub fn known_name(self) -> Option<&'static str> {
        match self {
            DataKind::Known(name) => Some(name),
            _ => None,
        }
    }

    /// What an experiment file calls it.
    pub fn name(self) -> &'static str {
        match self {
            DataKind::Known(name) => name,
            form => FORMS.iter().find(|(kind, ..)| *kind == form).map_or("", |(_, name, _)| name),
        }
    }

    /// What an experiment file may name: known data sets, then forms of files.
    fn all() -> &'static [&'static str] {
        static NAMES: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
            registry::names().iter().copied().chain(FORMS.map(|(_, name, _)| name)).collect()
        });
        &NAMES
    }
}

impl Serialize for DataKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for DataKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let known =
            registry::names().iter().find(|name| **name == text).map(|name| DataKind::Known(name));
        let form = || FORMS.iter().find(|(_, name, _)| *name == text).map(|(kind, ..)| *kind);
        known.or_else(form).ok_or_else(|| D::Error::unknown_variant(&text, DataKind::all()))
    }
}

impl JsonSchema for DataKind {
    fn schema_name() -> Cow<'static, str> {
        "DataKind".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let sets = registry::names().iter().filter_map(|name| registry::find(name));
        let sets =
            sets.map(|set| json!({"const": set.name, "description": format!("{}: {}.", set.title, set.summary())}));
        let forms = FORMS.map(|(_, name, about)| json!({"const": name, "description": about}));
        json_schema!({
            "description": "A data set known by name, or a form of files.",
            "anyOf": sets.chain(forms).collect::<Vec<_>>(),
        })
    }
}

/// Which teachers label a teacher's images.
///
/// `same` is each teacher for its own images, as SRe2L does. A list is crossed with `teachers`:
/// SC-DD's published ImageNet numbers recover from a self-supervised teacher and label with a
/// supervised one, which only a full cross can tell apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelabelTeachers {
    /// The teacher that the images were recovered from.
    Same,
    /// Each of these, for the images of each teacher.
    List(Vec<PathBuf>),
}

/// Image synthesis: cross entropy to the label + `r_bn` · BN statistics alignment + image priors,
/// minimised by Adam with a cosine learning rate down to 0 (SRe2L, arXiv 2306.13092; SC-DD, arXiv
/// 2404.07976).
///
/// All constants act on the normalised image, in the teacher's units.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RecoverConfig {
    /// Optimiser steps per batch, 0 (images stay as they start) to 1000000. Published: 1000
    /// (CIFAR), 4000 (SRe2L, ImageNet), 0 (RDED).
    #[schemars(transform = within("[0, 1e6]"))]
    pub iterations: u32,
    /// Images optimised together, over whose statistics the BN term is taken, 1..=65536. Published:
    /// 50 to 100.
    #[schemars(transform = within("[1, 65536]"))]
    pub batch_size: u32,
    /// Which images share a batch.
    pub packing: Packing,
    /// Adam's initial step size, above 0 and at most 100.
    #[schemars(transform = within("(0, 100]"))]
    pub learning_rate: f64,
    /// Adam's decay rates of first and second moment, each in 0..1. Published: `[0.5, 0.9]`.
    #[schemars(transform = within("[0, 1)"))]
    pub betas: [f64; 2],
    /// Weight of the BN statistics term, 0 (off) to 1e6, or `auto`. Published: 0.005 to 1.
    #[schemars(transform = within("[0, 1e6]"))]
    pub r_bn: BnWeight,
    /// What differences of variances weigh within that term beside those of means, 0 to 1e6; must
    /// be 1 where `r_bn` is 0. Published: 1; 11 (CIFAR) and 2 (ImageNet) in DWA.
    #[schemars(transform = within("[0, 1e6]"))]
    pub r_var: f64,
    /// Factor of the first BN layer within that term, 0 to 1e6; must be 1 where `r_bn` is 0.
    /// Published: 10.
    #[schemars(transform = within("[0, 1e6]"))]
    pub first_bn_multiplier: f64,
    /// How a layer's differences become one number.
    pub distance: BnDistance,
    /// How much of the term aligns with the statistics of the batch's own classes, 0 (none) to 1
    /// (all); the rest aligns with the network's running statistics. Above 0 it needs a bundle with
    /// statistics of its classes. Published: 1 (LPLD, with `packing: class`), 0.5 (EDC).
    #[schemars(transform = within("[0, 1]"))]
    pub class_share: f64,
    /// What statistics of patches weigh within the term beside those of whole planes, 0 (off) to
    /// 1e6. Above 0 it needs a bundle with statistics of patches. Published: 1 (G-VBSM, EDC, which
    /// take each patch's over all channels).
    #[schemars(transform = within("[0, 1e6]"))]
    pub r_patch: f64,
    /// What a moving average of the batch's statistics keeps of itself at each step, 0 (off) to
    /// below 1. The term compares the average, which starts at 0 with each batch, in place of the
    /// step's own statistics; gradients are as if it were these. Published: 0.8 (G-VBSM, EDC).
    #[schemars(transform = within("[0, 1)"))]
    pub statistics_momentum: f64,
    /// Moves the teacher's weights before each batch; `null` is off.
    pub weight_adjustment: Option<WeightAdjustment>,
    /// Weight of the total variation prior, 0 (off) to 1e6.
    #[schemars(transform = within("[0, 1e6]"))]
    pub tv: f64,
    /// Weight of the image's L2 norm, 0 (off) to 1e6.
    #[schemars(transform = within("[0, 1e6]"))]
    pub l2: f64,
    /// Largest shift, in pixels either way with wrap-around, drawn per step, 0 (off) to 4096.
    /// Published: 4 (32 px), 32 (224 px).
    #[schemars(transform = within("[0, 4096]"))]
    pub jitter: u32,
    /// Random resized crop per image and step; `null` is off.
    pub crop: Option<Crop>,
    /// Share of the steps, 0 (off) to 1, during which the smallest crop falls from the whole image
    /// to `crop`'s smallest, along half a cosine; needs `crop`. Published: 1 (CDA).
    #[schemars(transform = within("[0, 1]"))]
    pub crop_curriculum: f64,
    /// Whether half of the images are mirrored at each step.
    pub flip: bool,
    /// What images start from.
    pub start: Start,
    /// How many small images per row and column each image is a mosaic of, 1 (a plain image) to 16;
    /// a view, of the teacher as of the student, is of one of them, at the network's size (the
    /// multi-formation of IDC, arXiv 2205.14959, whose factor is 2 or 3).
    #[schemars(transform = within("[1, 16]"))]
    pub formation: u16,
    /// Blends images with their starts from time to time; `null` is off.
    pub residual: Option<Residual>,
    /// Decay of the moving average of each image over its steps that is kept in place of the last
    /// step's, 0 (off) to below 1. (EDC takes such an average, of 0.9 and 0.99, for a flatness term
    /// that is off in its published runs.)
    #[schemars(transform = within("[0, 1)"))]
    pub ema: f64,
    /// In how many rounds a class's images join, 1 (all at once) to 1000: the images of the last of
    /// R rounds get 1/R of the steps. Published: 8 of 500 steps each (DELT).
    #[schemars(transform = within("[1, 1000]"))]
    pub rounds: u32,
    /// Takes each of `ipc` as the first images of a set of this many per class, 1 to 10000, which
    /// is recovered once, instead of recovering each size anew; `null` is off. SC-DD's official
    /// code evaluates small sets so: the first files of each class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = within("[1, 10000]"))]
    pub subset_of: Option<u32>,
    /// Further teachers of the same images; `null` is none.
    pub committee: Option<Committee>,
    /// Convolutions in bfloat16 on a GPU, sums and statistics in float32; has no effect on the CPU.
    pub bf16: bool,
    /// Quirks of the published code that change results, each by name; or `official`, which is what
    /// the named preset's code has.
    pub compat: Vec<Quirk>,
    /// Classes to recover images of, as indices of the teacher's, each below 100000; `null` is all,
    /// which students need.
    #[schemars(transform = within("[0, 99999]"))]
    pub classes: Option<Vec<u32>>,
    /// Bundles that had no part in the synthesis and whose accuracy on the finished images is
    /// reported (SRe2L's code has one).
    pub verifier: Vec<PathBuf>,
}

impl RecoverConfig {
    /// The classes to recover, ascending, for a teacher that knows `count`.
    pub fn classes(&self, count: u32) -> Vec<u32> {
        let mut classes = self.classes.clone().unwrap_or_else(|| (0..count).collect());
        classes.sort_unstable();
        classes
    }

    /// Whether images come out of the network alone, and no training image is read.
    pub fn is_data_free(&self) -> bool {
        matches!(self.start, Start::Noise { .. })
    }

    /// The standard deviation of the noise that images start from; 1 where they start from none.
    pub fn noise_std(&self) -> f64 {
        if let Start::Noise { std } = self.start { std } else { 1.0 }
    }
}

/// What images start from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Start {
    /// Normal noise.
    Noise {
        /// Its standard deviation, above 0 and at most 100. Published: 1.
        #[schemars(transform = within("(0, 100]"))]
        std: f64,
    },
    /// Random training images of the class. Reads the real data.
    Real {
        /// The mean of how many images each starts from, 1 to 100000. Published: 1 (DWA).
        #[schemars(transform = within("[1, 100000]"))]
        mean_of: u32,
    },
    /// The training images nearest to the centres of clusters of their class, as many as are
    /// needed: k-means of the features that the teacher's classifier reads. Reads the real data.
    Clusters {
        /// How many images of the class, chosen at random, are clustered, 1 to 100000.
        #[schemars(transform = within("[1, 100000]"))]
        images: u32,
    },
    /// Crops of training images that the teacher recognises (RDED, arXiv 2312.03526). Reads the
    /// real data.
    Crops {
        /// How many images of the class are looked at, 1 to 100000. Published: 300.
        #[schemars(transform = within("[1, 100000]"))]
        images: u32,
        /// How many crops of each are scored by the teacher's cross entropy, 1 to 100; the best one
        /// stays. Published: 5.
        #[schemars(transform = within("[1, 100]"))]
        crops: u32,
        /// Crops per row and column of each start, 1 to 16. Published: 1 (CIFAR), 2 (ImageNet).
        #[schemars(transform = within("[1, 16]"))]
        factor: u32,
        /// Which of the images' best crops come first.
        difficulty: Difficulty,
    },
}

/// Which crops are taken first, by the teacher's cross entropy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Difficulty {
    /// Those of the lowest (RDED).
    Low,
    /// Those around the median (DELT, CV-DD, FADRM).
    Medium,
}

/// FADRM's residual blend (arXiv 2506.24125): the steps are cut into equal budgets, each at its own
/// size of image; between two of them the images are resized and blended with their starts, and the
/// optimiser begins afresh while the learning rate goes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Residual {
    /// How many budgets, 2 to 1000. Published: 4.
    #[schemars(transform = within("[2, 1000]"))]
    pub budgets: u32,
    /// What stays of the image in each blend, 0 to 1; the rest is the start's. Published: 0.5.
    #[schemars(transform = within("[0, 1]"))]
    pub alpha: f64,
    /// Sides of the images relative to the network's input, each above 0 and at most 4, budget by
    /// budget and then from the first again; the last budget's must be 1. The network must take
    /// images of any size. Published: `[1]` (CIFAR), `[0.893, 1]` (ImageNet, 200 of 224 pixels).
    #[schemars(transform = within("(0, 4]"))]
    pub scales: Vec<f64>,
}

/// DWA's directed weight adjustment (arXiv 2409.17612): the teacher of a batch has its weights
/// moved up the gradient of the cross entropy of the batch's first view, in steps of `rho` /
/// `steps` each, so that batches differ. Its statistics stay.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WeightAdjustment {
    /// How many steps, 1 to 1000. Published: 12 (CIFAR), 15 (ImageNet).
    #[schemars(transform = within("[1, 1000]"))]
    pub steps: u32,
    /// How far they go together, as the Euclidean norm over all weights, above 0 and at most 1000.
    /// Published: 0.015.
    #[schemars(transform = within("(0, 1000]"))]
    pub rho: f64,
}

/// Further teachers of the same images. All must have the preprocessing of the cell's own teacher.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Committee {
    /// Bundles beside the cell's own teacher, which is always the first.
    pub teachers: Vec<PathBuf>,
    /// Which teacher judges a step. Published: `round_robin` (G-VBSM, EDC, FADRM+).
    pub turn: Turn,
    /// What each teacher's loss weighs with `turn: all`, the cell's own first, each above 0 and at
    /// most 1e6; empty is all equal.
    #[schemars(transform = within("(0, 1e6]"))]
    pub weights: Vec<f64>,
}

/// Which teacher judges a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Turn {
    /// One after the other, step by step.
    RoundRobin,
    /// All at each step: their losses' weighted mean.
    All,
}

/// What published code does differently from what its paper suggests.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Quirk {
    /// One crop, flip and shift for the whole batch.
    SharedViews,
    /// Shifts are never negative.
    PositiveJitter,
    /// Pixels are cut off, not rounded, when images are saved: half a level too dark.
    TruncatedPixels,
    /// Images are saved as JPEG files of quality 75, with colours at half the resolution. Kept is
    /// what is read from them.
    JpegFiles,
    /// Recovery takes its images for normalised by CIFAR-10's mean and deviation, whatever the
    /// teacher's are, so that who sees them by CIFAR-100's sees about three quarters of the
    /// contrast (SC-DD's CIFAR-100 code). For colour images.
    #[serde(rename = "cifar10_pixels")]
    Cifar10Pixels,
}

/// How much the BN statistics term weighs beside cross entropy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BnWeight {
    /// For each teacher the weight at which both terms' gradients are of equal norm where
    /// optimisation starts, at noise.
    Auto,
    /// For all teachers the same.
    Fixed(f64),
}

/// Which images share a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// Every class once, in order, then every class again: as even as can be. With fewer images
    /// than classes a batch holds neighbours, as in the published code.
    Even,
    /// All images in random order.
    Shuffled,
    /// Class after class; a batch may hold several (EDC).
    Ordered,
    /// Each batch is of one class (LPLD).
    Class,
}

/// How a layer's differences of statistics, channel by channel, become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BnDistance {
    /// The Euclidean norm (all published code).
    Norm,
    /// The square of the norm.
    Squared,
    /// The root mean square of differences in units of each channel's own deviation (means) or
    /// variance (variances), so that neither the scale of a layer's activations nor its number of
    /// channels counts.
    Normalised,
}

/// Random resized crop: an area share drawn from `scale`, an aspect ratio from 3/4 to 4/3, resized
/// to the network's input.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Crop {
    /// Smallest and largest share of the image's area, each above 0 and at most 1. Published:
    /// `[0.08, 1]`.
    #[schemars(transform = within("(0, 1]"))]
    pub scale: [f64; 2],
}

/// Soft labels for augmented and mixed views (FKD, as SRe2L uses it). A student later replays these
/// very views.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RelabelConfig {
    /// Passes over the synthetic images, and so the student's epochs, 1..=100000. Published: 300 to
    /// 1000.
    #[schemars(transform = within("[1, 100000]"))]
    pub epochs: u32,
    /// Images per batch, within which partners are mixed, and so the student's batch, 1..=65536.
    /// Published: 50 to 1024.
    #[schemars(transform = within("[1, 65536]"))]
    pub batch_size: u32,
    /// How a view is cut out of its image, drawn per image and epoch; `null` is off.
    pub crop: Option<ViewCrop>,
    /// Whether each view is mirrored with probability 1/2.
    pub flip: bool,
    /// What else happens to a view before it is mixed; `null` is nothing. Published: RandAugment
    /// (EDC), DSA (hard labels).
    #[serde(default, skip_serializing_if = "is_neutral")]
    pub augment: Option<Augment>,
    /// How pairs of views are mixed.
    pub mix: Mix,
    /// By which statistics the teacher's BatchNorm normalises. Published: `running`; `batch` in
    /// BSSL (CV-DD, SRe2L++, FADRM), and by oversight in SRe2L's and SC-DD's CIFAR code.
    pub teacher_bn: TeacherBn,
    /// How many views of a batch go through the teacher together, 1 and up but fewer than
    /// `batch_size`: those over which `teacher_bn: batch` takes its statistics, so that it needs
    /// this value there; `null`: all of the batch. Published: 8 of 16 (CV-DD, FADRM).
    #[serde(default, skip_serializing_if = "is_neutral")]
    #[schemars(transform = within("[1, 65536]"))]
    pub micro_batch: Option<u32>,
    /// Further teachers, whose logits are averaged with those of the labelling teacher. Published:
    /// none (SRe2L), 4 to 8 (G-VBSM, EDC).
    pub ensemble: Vec<EnsembleMember>,
    /// Number format of stored logits. Published: `f16`.
    pub dtype: LabelDtype,
    /// Only the largest logits of each view are stored; `null`: all. Published: `null`.
    pub top_k: Option<TopK>,
    /// Epochs that are labelled and stored, 1 to `epochs`, which the student replays in turn until
    /// it has done `epochs`; `null`: all. Published: 1/10 to 1/40 of all (LPLD, arXiv 2410.15919).
    #[schemars(transform = within("[1, 100000]"))]
    pub stored_epochs: Option<u32>,
    /// Where ONNX Runtime computes the logits.
    pub provider: Device,
    /// What happens where `provider: cuda` is not to be had; `null` with any other provider.
    pub fallback: Option<Fallback>,
}

/// How a view is cut out of its image.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ViewCrop {
    /// Random resized crop: an area share drawn from `scale`, an aspect ratio from 3/4 to 4/3,
    /// resized to the network's input.
    Resized {
        /// Smallest and largest share of the image's area, each above 0 and at most 1. Published:
        /// `[0.08, 1]`.
        #[schemars(transform = within("(0, 1]"))]
        scale: [f64; 2],
    },
    /// A box of the image's size out of the image with a border of black pixels.
    Padded {
        /// Width of the border in pixels, 1..=4096. Published: 4 (32 px).
        #[schemars(transform = within("[1, 4096]"))]
        pad: u16,
    },
}

/// A teacher of an ensemble.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnsembleMember {
    /// A teacher bundle; it must preprocess images and order classes as the labelling teacher does.
    pub bundle: PathBuf,
    /// Weight of its logits in the mean, above 0 and at most 1e6; that of the labelling teacher is
    /// 1, unless it is listed too.
    #[schemars(transform = within("(0, 1e6]"))]
    pub weight: f64,
}

/// By which statistics a teacher's BatchNorm normalises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TeacherBn {
    /// Its running ones, as in a test.
    Running,
    /// Those of the batch of mixed views, as in training. Computed through libtorch, on the
    /// experiment's `device`. Published code leaves the teacher in training mode, so its running
    /// statistics drift too; no label depends on them.
    Batch,
}

/// The largest logits of a view; all other classes share what is left of the probability equally.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TopK {
    /// How many are stored, at least 1 and below the number of classes.
    #[schemars(transform = within("[1, 65535]"))]
    pub k: u32,
    /// The softmax temperature at which the rest's probability is kept: that of `validate.loss`.
    /// Above 0 and at most 1000.
    #[schemars(transform = within("(0, 1000]"))]
    pub temperature: f64,
}

/// How pairs of views within a batch are mixed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Mix {
    /// A box of the partner is pasted in; its area share is Beta(`alpha`, `alpha`), `alpha` above 0
    /// and at most 100. Published: 1.
    Cutmix {
        /// Parameter of the Beta distribution.
        #[schemars(transform = within("(0, 100]"))]
        alpha: f64,
    },
    /// Pixels are blended; the share is Beta(`alpha`, `alpha`), `alpha` above 0 and at most 100.
    /// Published: 0.8 (CIFAR).
    Mixup {
        /// Parameter of the Beta distribution.
        #[schemars(transform = within("(0, 100]"))]
        alpha: f64,
    },
    /// Views stay as they are.
    None {},
}

/// Number format of stored logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LabelDtype {
    /// Half precision: 2 bytes per class and view.
    F16,
    /// Single precision: 4 bytes per class and view.
    F32,
    /// Steps between a view's smallest and largest logit: 1 byte per class and view, and 4 per
    /// view.
    I8,
}

/// Where a computation runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// The processor.
    Cpu,
    /// The first CUDA device; an error without one, unless a fallback is configured.
    Cuda,
    /// CUDA where there is one, the processor elsewhere.
    Auto,
}

/// What to do where CUDA was asked for and is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fallback {
    /// Stop with an error.
    Error,
    /// Go on with the processor, and say so.
    Cpu,
}

/// Student training on the stored views and labels, and its test. Epochs and batch are those of the
/// relabelling.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ValidateConfig {
    /// What the student minimises, which also decides between soft and hard labels.
    pub loss: Loss,
    /// What minimises it.
    pub optimizer: Optimizer,
    /// Which parameters `optimizer.weight_decay` acts on. Published: `weights` (SRe2L's, SC-DD's
    /// and DWA's ImageNet code, RDED, DELT, EDC, G-VBSM, LPLD, CV-DD, FADRM, HALD); `all` (SRe2L's,
    /// SC-DD's and DWA's CIFAR code, SRe2L's Tiny-ImageNet code, CCFS, BPS, GIFT).
    #[serde(default, skip_serializing_if = "is_neutral")]
    pub decay: Decay,
    /// How the learning rate falls, epoch by epoch.
    pub schedule: Schedule,
    /// Epochs before the schedule, in which the learning rate rises; `null` is off.
    #[serde(default, skip_serializing_if = "is_neutral")]
    pub warmup: Option<Warmup>,
    /// How many views of a batch go through the student together, 1 and up but fewer than
    /// `relabel.batch_size`, so that its BatchNorm sees these alone; the step is down the gradient
    /// of the whole batch. `null`: all of the batch. Published: 8 of 16 (CV-DD, FADRM, except on
    /// ImageNet-1K).
    #[serde(default, skip_serializing_if = "is_neutral")]
    #[schemars(transform = within("[1, 65536]"))]
    pub micro_batch: Option<u32>,
    /// Epochs in the middle that learn the images' classes in place of the teacher's answers;
    /// `null` is none.
    #[serde(default, skip_serializing_if = "is_neutral")]
    pub hard_epochs: Option<HardEpochs>,
    /// Decay per step of the weights' exponential moving average, BN statistics included, which is
    /// what is tested and kept; 0 (off) to below 1. Published: 0.99 (EDC, arXiv 2404.13733).
    #[schemars(transform = within("[0, 1)"))]
    pub ema: f64,
    /// Epochs between two passes over the test set, 1..=100000; the last epoch is always tested.
    #[schemars(transform = within("[1, 100000]"))]
    pub evaluate_every: u32,
}

/// The student's loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Loss {
    /// KL divergence from the teacher's to the student's softened classes, batch mean, plus `ce`
    /// times the cross entropy to the classes of the mixed images.
    Kl {
        /// Softmax temperature of both sides, above 0 and at most 1000. Published: 20 (ImageNet),
        /// 30 (CIFAR).
        #[schemars(transform = within("(0, 1000]"))]
        temperature: f64,
        /// Weight of the cross entropy, 0 (off) to 1e6. Published: 0.
        #[schemars(transform = within("[0, 1e6]"))]
        ce: f64,
        /// Whether the divergence is multiplied by the square of the temperature. With AdamW that
        /// changes next to nothing, with SGD it is part of the learning rate. Published: `true`
        /// (SRe2L's and DWA's Tiny-ImageNet code, CCFS, BPS), else `false`.
        #[serde(default, skip_serializing_if = "is_neutral")]
        t_squared: bool,
        /// How the temperature falls from epoch to epoch; `null`: it stays.
        #[serde(default, skip_serializing_if = "is_neutral")]
        cooling: Option<Cooling>,
        /// The student's own temperature. Published: `same`; `fitted` (LPQLD).
        #[serde(default, skip_serializing_if = "is_neutral")]
        student_temperature: StudentTemperature,
    },
    /// MSE-GT of G-VBSM (arXiv 2311.17950) and EDC (arXiv 2404.13733): mean squared difference of
    /// student's and teacher's logits, plus `ce` times the cross entropy to the classes of the
    /// mixed images (both classes, by their shares; the published code takes the own image's
    /// alone).
    MseGt {
        /// Weight of the cross entropy, 0 (off) to 1e6. Published: 0.1 (ImageNet), 0.15 (CIFAR),
        /// 0.025 (EDC, CIFAR-10).
        #[schemars(transform = within("[0, 1e6]"))]
        ce: f64,
    },
    /// GIFT (arXiv 2405.14736): 1 − cos(student's logits, t + `weight` · h), batch mean, where t
    /// are the teacher's logits and h is the smoothed one-hot vector of the image's class (of both
    /// classes, by their shares, where views are mixed), each of norm 1.
    Gift {
        /// What h gives to the other classes together, 0 to below 1. Published: 0.1.
        #[schemars(transform = within("[0, 1)"))]
        smoothing: f64,
        /// What h weighs beside t, 0 (off) to 1e6. Published: 0.1.
        #[schemars(transform = within("[0, 1e6]"))]
        weight: f64,
    },
    /// Cross entropy to the images' own classes: hard labels, no teacher, no mixing.
    Ce {},
}

/// A temperature that falls by steps: in epoch e (from 1) it is `temperature` · `factor`^⌊e /
/// `every`⌋, but never below `floor` (LPQLD, the successor of LPLD, arXiv 2410.15919).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cooling {
    /// Above 0 and at most 1. Published: 0.7.
    #[schemars(transform = within("(0, 1]"))]
    pub factor: f64,
    /// Epochs between two steps, 1 to 100000. Published: 30 (of 300).
    #[schemars(transform = within("[1, 100000]"))]
    pub every: u32,
    /// The lowest temperature, above 0 and at most 1000. Published: 2.
    #[schemars(transform = within("(0, 1000]"))]
    pub floor: f64,
}

/// The temperature that softens the student's logits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StudentTemperature {
    /// The teacher's.
    #[default]
    Same,
    /// 1 in the first epoch; then, of 0.01, 0.02 … 1, the one of the smallest divergence on the
    /// last views of the epoch before (LPQLD).
    Fitted,
}

/// Which parameters decay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// All.
    #[default]
    All,
    /// Those of more than one dimension: of convolutions and linear layers, but neither biases nor
    /// normalisations.
    Weights,
}

/// A learning rate that rises in equal steps: in epoch t (from 0) of the first `epochs` it is the
/// initial one times `from` + (1 − `from`) · t / `epochs`. The schedule takes the epochs that are
/// left.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Warmup {
    /// How many epochs, 1 to 10000, fewer than `relabel.epochs`. Published: 5 (SRe2L's and DWA's
    /// Tiny-ImageNet code, CCFS).
    #[schemars(transform = within("[1, 10000]"))]
    pub epochs: u32,
    /// Share of the initial rate in the first of them, 0..=1. Published: 0.01.
    #[schemars(transform = within("[0, 1]"))]
    pub from: f64,
}

/// Epochs of hard labels between those of soft ones (HALD): cross entropy to the classes of the
/// mixed images, through views of their own.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HardEpochs {
    /// Share of all epochs after which they begin, 0..=1. Published: 0.25.
    #[schemars(transform = within("[0, 1]"))]
    pub from: f64,
    /// Share of all epochs after which they end, above `from` and at most 1. Published: 0.75.
    #[schemars(transform = within("(0, 1]"))]
    pub to: f64,
    /// Share of the label that goes evenly to all classes, 0 (off) to below 1. Published: 0.8.
    #[schemars(transform = within("[0, 1)"))]
    pub smoothing: f64,
}

/// The student's optimiser.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Optimizer {
    /// Adam with decoupled weight decay, β = (0.9, 0.999).
    Adamw {
        /// Initial step size, above 0 and at most 100. Published: 0.001.
        #[schemars(transform = within("(0, 100]"))]
        learning_rate: f64,
        /// Decay of the parameters that `decay` names, 0..=1. Published: 0.01.
        #[schemars(transform = within("[0, 1]"))]
        weight_decay: f64,
    },
    /// Stochastic gradient descent.
    Sgd {
        /// Initial step size, above 0 and at most 100. Published: 0.1 to 0.2.
        #[schemars(transform = within("(0, 100]"))]
        learning_rate: f64,
        /// Momentum, 0 (off) to below 1. Published: 0.875 to 0.9.
        #[schemars(transform = within("[0, 1)"))]
        momentum: f64,
        /// Decay of the parameters that `decay` names, 0..=1. Published: 3e-5 to 5e-4.
        #[schemars(transform = within("[0, 1]"))]
        weight_decay: f64,
    },
}

/// How the student's learning rate falls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// In epoch t of T the rate is the initial one × (`floor` + (1 − `floor`) · ½ (1 + cos(π t /
    /// (`smoothing` · T)))).
    Cosine {
        /// Share of the initial rate that the full cosine ends at, 0..=1. Published: 0.
        #[schemars(transform = within("[0, 1]"))]
        floor: f64,
        /// How far the cosine is stretched beyond the last epoch, 1 (not at all) to 10. Published:
        /// 1; 2 (half-cosine; ζ of RD3, arXiv 2509.19743); 3 (SC-DD's CIFAR code, whose schedule is
        /// longer than its training).
        #[schemars(transform = within("[1, 10]"))]
        smoothing: f64,
        /// Share of all epochs after which the factor is the cosine's last one × (1 − t / T) in
        /// place of the cosine, above 0 and at most 1 (never). Published: 1; 0.8333 (`cos2` of
        /// EDC's CIFAR-100 code, with a smoothing of 2).
        #[serde(default = "one", skip_serializing_if = "is_one")]
        #[schemars(transform = within("(0, 1]"))]
        until: f64,
    },
    /// In epoch t of T the rate is the initial one × (1 − t / T), as in most published code where
    /// `--cos` is not set.
    Linear {},
    /// The rate is multiplied by `factor` at each of the `milestones`.
    Multistep {
        /// Shares of all epochs, each above 0 and below 1, ascending. Published: `[0.8, 0.9, 0.95]`
        /// (EDC).
        #[schemars(transform = within("(0, 1)"))]
        milestones: Vec<f64>,
        /// Above 0 and at most 1. Published: 0.5 (EDC).
        #[schemars(transform = within("(0, 1]"))]
        factor: f64,
    },
    /// The initial rate throughout.
    Constant {},
}

/// Rows of real images under the same student, epochs and views.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Baseline {
    /// Random training images, `ipc` per class, with the same teacher's soft labels.
    RandomRealSoft,
    /// The same images with their own classes as labels.
    RandomRealHard,
    /// The `ipc` training images of each class that lie nearest to the class's mean image, with the
    /// same teacher's soft labels.
    NearestMeanSoft,
    /// The same images with their own classes as labels.
    NearestMeanHard,
    /// RDED's crops (preset `rded-cifar100`), not optimised: of training images, those that the
    /// labelling teacher recognises best, with its soft labels.
    RdedCropsSoft,
    /// Such crops with their own classes as labels, chosen by the first of the labelling teachers.
    RdedCropsHard,
}

/// Students trained on the whole real training set with hard labels, through each protocol's crops
/// and flips and with its optimiser.
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

/// One cell of the experiment's matrix: what one distilled row of the results table is made of, for
/// one seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell<'a> {
    /// Bundle that the images are recovered from.
    pub teacher: &'a Path,
    /// Bundle that labels them; with hard labels only their views are used, which do not depend on
    /// it.
    pub relabel_teacher: &'a Path,
    /// Name of the method.
    pub method: &'a str,
    /// Images per class.
    pub ipc: u32,
    /// Bundle of the student.
    pub student: &'a Path,
    /// Name of the protocol.
    pub protocol: &'a str,
    /// What the student learns.
    pub labels: Labels,
    /// Seed of the whole chain.
    pub seed: u64,
}

impl Experiment {
    /// Every cell, in the order teacher, method, IPC, protocol, labels, relabel teacher, student,
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

    /// Soft labels by each teacher of `teacher`'s images, and hard labels once, as far as the
    /// experiment and the protocol ask for them.
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

    /// Every teacher that labels images, each once, in the order of the file.
    pub fn labellers(&self) -> Vec<&Path> {
        let all: IndexSet<&Path> =
            self.teachers.iter().flat_map(|t| self.relabel_teachers.of(t)).collect();
        all.into_iter().collect()
    }
}

impl Baseline {
    /// What its students learn.
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

impl ValidateConfig {
    /// The same training on hard labels alone.
    pub fn hard(&self) -> Self {
        Self { loss: Loss::Ce {}, hard_epochs: None, ..self.clone() }
    }
}

impl Protocol {
    /// Whether students learn the images' own classes, whatever a teacher says.
    pub fn is_hard(&self) -> bool {
        matches!(self.validate.loss, Loss::Ce {})
    }

    /// Whether students see cropped, mirrored or mixed images.
    pub fn is_augmented(&self) -> bool {
        let RelabelConfig { crop, flip, augment, mix, .. } = &self.relabel;
        crop.is_some() || *flip || augment.is_some() || !matches!(mix, Mix::None {})
    }
}

impl RelabelTeachers {
    /// The bundles that label what was recovered from `teacher`.
    pub fn of<'a>(&'a self, teacher: &'a Path) -> Vec<&'a Path> {
        match self {
            RelabelTeachers::Same => vec![teacher],
            RelabelTeachers::List(teachers) => teachers.iter().map(PathBuf::as_path).collect(),
        }
    }
}

impl Serialize for BnWeight {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            BnWeight::Auto => serializer.serialize_str("auto"),
            BnWeight::Fixed(weight) => serializer.serialize_f64(*weight),
        }
    }
}

impl<'de> Deserialize<'de> for BnWeight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BnWeightVisitor)
    }
}

struct BnWeightVisitor;

impl Visitor<'_> for BnWeightVisitor {
    type Value = BnWeight;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a number or `auto`")
    }

    fn visit_f64<E: Error>(self, weight: f64) -> Result<BnWeight, E> {
        Ok(BnWeight::Fixed(weight))
    }

    fn visit_i64<E: Error>(self, weight: i64) -> Result<BnWeight, E> {
        Ok(BnWeight::Fixed(weight as f64))
    }

    fn visit_u64<E: Error>(self, weight: u64) -> Result<BnWeight, E> {
        Ok(BnWeight::Fixed(weight as f64))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<BnWeight, E> {
        match text {
            "auto" => Ok(BnWeight::Auto),
            _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
        }
    }
}

impl JsonSchema for BnWeight {
    fn schema_name() -> Cow<'static, str> {
        "BnWeight".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["number", "string"], "pattern": "^auto$"})
    }

    fn inline_schema() -> bool {
        true
    }
}

impl JsonSchema for RelabelTeachers {
    fn schema_name() -> Cow<'static, str> {
        "RelabelTeachers".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Bundles that label the images of each teacher; `same` is each teacher for its own.",
            "anyOf": [
                {"const": "same"},
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}},
            ],
        })
    }
}

impl Serialize for RelabelTeachers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            RelabelTeachers::Same => serializer.serialize_str("same"),
            RelabelTeachers::List(teachers) => teachers.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for RelabelTeachers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RelabelTeachersVisitor)
    }
}

struct RelabelTeachersVisitor;

impl<'de> Visitor<'de> for RelabelTeachersVisitor {
    type Value = RelabelTeachers;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("`same`, a bundle directory, or a list of them")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<RelabelTeachers, E> {
        Ok(match text {
            "same" => RelabelTeachers::Same,
            bundle => RelabelTeachers::List(vec![bundle.into()]),
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, sequence: A) -> Result<RelabelTeachers, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(sequence)).map(RelabelTeachers::List)
    }
}
