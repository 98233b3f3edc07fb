//! The keys of an experiment, as types. Ranges stand beside the fields; defaults are in
//! `presets/default.yaml`.

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

use scdd_data::layout::FORMS;
use scdd_data::registry;

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

/// A distilled set that other code made; in an experiment file `NAME: PLACE` is short for `NAME:
/// {images: PLACE}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FinishedSet {
    /// Class folders, an `.npz` archive, a `.pt` file of tensors, or Parquet files; a path relative
    /// to the working directory.
    pub images: PathBuf,
    /// Soft labels in place of those by `relabel_teachers`. `null` is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<GivenLabels>,
    /// A YAML or JSON file that maps the set's own classes (names of directories, or labels in
    /// quotes) to names of the data's classes. By default classes are told by their names, else by
    /// the numbers in them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_map: Option<PathBuf>,
    /// How floating-point images were made from pixels in 0..=1; `null` if they are pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalised: Option<Normalised>,
    /// Whether images of another size than the networks' are scaled to it, bilinearly.
    #[serde(default, skip_serializing_if = "is_neutral")]
    pub resize: bool,
}

/// Soft labels that belong to a finished set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "snake_case",
    expecting = "are no labels: set `own` for the soft labels in the set's `.npz` or `.pt` file, or the path of a label store"
)]
pub enum GivenLabels {
    /// A distribution over the classes for each image, in the set's own `.npz` or `.pt` file.
    Own,
    /// The label store that `scdd export-set` wrote beside the images.
    #[serde(untagged)]
    Store(PathBuf),
}

/// A normalisation of pixels in 0..=1, by a mean and a standard deviation per channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "snake_case",
    expecting = "is no normalisation: set `dataset`, or {mean: […], std: […]} with a number per channel; ZCA whitening can't be undone"
)]
pub enum Normalised {
    /// By the constants of the known data set.
    Dataset,
    /// By these constants.
    #[serde(untagged)]
    By(MeanAndStd),
}

/// Constants of each channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MeanAndStd {
    /// Means of pixels in 0..=1.
    #[schemars(transform = within("[0, 1]"))]
    pub mean: Vec<f64>,
    /// Standard deviations, above 0 and at most 1.
    #[schemars(transform = within("(0, 1]"))]
    pub std: Vec<f64>,
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

/// A labelled data set with a test set and a training set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Name of a known data set, or the form of the files.
    #[serde(rename = "type")]
    pub kind: DataKind,
    /// Path of the data. Without it, a data set that is known by name is searched in `SCDD_DATA`,
    /// else in `data/` of the working directory or a directory above; its place belongs to the
    /// machine, not to the experiment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// For an image folder: a YAML or JSON file that maps directories to class names, in label
    /// order; directories that it omits are not read. By default every directory is a class with
    /// its own name, in alphabetical order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_map: Option<PathBuf>,
    /// Training images, equally many of each class, in place of the test set, 0 (off) to 1e9:
    /// choose a recipe by them, and report it on the test set, which has then chosen nothing.
    /// Starts and baselines take the other training images.
    #[serde(default, skip_serializing_if = "is_neutral")]
    #[schemars(transform = within("[0, 1e9]"))]
    pub held_out: u32,
}

/// A data set of the [registry], or a form of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataKind {
    /// A known data set, by its name.
    Known(&'static str),
    /// Files of this form.
    Form(&'static str),
    /// No real data.
    None,
}

/// What an experiment without real data says, and its description in the schema.
const NO_DATA: (&str, &str) =
    ("none", "No real data: images are recovered, and no student is trained on them.");

impl DataKind {
    /// The name under which the data set is searched, if it is a known one.
    pub fn known_name(self) -> Option<&'static str> {
        match self {
            DataKind::Known(name) => Some(name),
            _ => None,
        }
    }

    /// The name in an experiment file.
    pub fn name(self) -> &'static str {
        match self {
            DataKind::Known(name) | DataKind::Form(name) => name,
            DataKind::None => NO_DATA.0,
        }
    }

    /// All names that an experiment file accepts: known data sets, then forms of files.
    fn all() -> &'static [&'static str] {
        static NAMES: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
            let forms = FORMS.iter().map(|form| form.name);
            registry::names().iter().copied().chain(forms).chain([NO_DATA.0]).collect()
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
        let known = registry::names().iter().find(|name| **name == text);
        let form = || FORMS.iter().find(|form| form.name == text);
        let none = || (text == NO_DATA.0).then_some(DataKind::None);
        known
            .map(|name| DataKind::Known(name))
            .or_else(|| form().map(|form| DataKind::Form(form.name)))
            .or_else(none)
            .ok_or_else(|| D::Error::unknown_variant(&text, DataKind::all()))
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
        let forms = FORMS.iter().map(|form| (form.name, form.about)).chain([NO_DATA]);
        let forms = forms.map(|(name, about)| json!({"const": name, "description": about}));
        json_schema!({
            "description": "A data set known by name, or a form of files.",
            "anyOf": sets.chain(forms).collect::<Vec<_>>(),
        })
    }
}

/// Teachers that label a teacher's images.
///
/// With `same`, each teacher labels its own images, as in SRe2L. A list is crossed with `teachers`:
/// SC-DD's published ImageNet numbers recover from a self-supervised teacher and label with a
/// supervised one, and only a full cross separates the two effects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelabelTeachers {
    /// The teacher from which the images were recovered.
    Same,
    /// Each of these labels the images of each teacher.
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
    /// Images optimised together, and the batch of the BN statistics, 1..=65536. Published: 50 to
    /// 100.
    #[schemars(transform = within("[1, 65536]"))]
    pub batch_size: u32,
    /// Distribution of images over batches.
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
    /// Weight of variance differences relative to mean differences within that term, 0 to 1e6; must
    /// be 1 if `r_bn` is 0. Published: 1; 11 (CIFAR) and 2 (ImageNet) in DWA.
    #[schemars(transform = within("[0, 1e6]"))]
    pub r_var: f64,
    /// Factor of the first BN layer within that term, 0 to 1e6; must be 1 if `r_bn` is 0.
    /// Published: 10.
    #[schemars(transform = within("[0, 1e6]"))]
    pub first_bn_multiplier: f64,
    /// Distance that turns a layer's differences into one number.
    pub distance: BnDistance,
    /// Share of the term that aligns with the statistics of the batch's own classes, 0 (none) to 1
    /// (all); the rest aligns with the network's running statistics. Above 0 it needs a bundle with
    /// statistics per class. Published: 1 (LPLD, with `packing: class`), 0.5 (EDC).
    #[schemars(transform = within("[0, 1]"))]
    pub class_share: f64,
    /// Weight of patch statistics relative to statistics of whole planes within the term, 0 (off)
    /// to 1e6. Above 0 it needs a bundle with patch statistics. Published: 1 (G-VBSM, EDC, which
    /// take each patch's statistics over all channels).
    #[schemars(transform = within("[0, 1e6]"))]
    pub r_patch: f64,
    /// Momentum of a moving average of the batch's statistics, 0 (off) to below 1. The term
    /// compares the average, which starts at 0 with each batch, in place of the step's own
    /// statistics; gradients are computed as if the average were the step's own. Published: 0.8
    /// (G-VBSM, EDC).
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
    /// Largest cyclic shift in pixels along each axis, drawn per step, 0 (off) to 4096. Published:
    /// 4 (32 px), 32 (224 px).
    #[schemars(transform = within("[0, 4096]"))]
    pub jitter: u32,
    /// Random resized crop per image and step; `null` is off.
    pub crop: Option<Crop>,
    /// Share of the steps, 0 (off) to 1, during which the smallest crop falls from the whole image
    /// to `crop`'s smallest scale, along half a cosine; needs `crop`. Published: 1 (CDA).
    #[schemars(transform = within("[0, 1]"))]
    pub crop_curriculum: f64,
    /// Whether half of the images are mirrored at each step.
    pub flip: bool,
    /// Initial images.
    pub start: Start,
    /// Small images per row and column of each image, a mosaic, 1 (a plain image) to 16. A view, of
    /// the teacher and of the student, shows one of them, at the network's size (the
    /// multi-formation of IDC, arXiv 2205.14959, whose factor is 2 or 3).
    #[schemars(transform = within("[1, 16]"))]
    pub formation: u16,
    /// Blends images with their initial images several times; `null` is off.
    pub residual: Option<Residual>,
    /// Decay of a moving average of each image over its steps, which replaces the last step's
    /// image, 0 (off) to below 1. (EDC computes such averages, with decays 0.9 and 0.99, for a
    /// flatness term that is off in its published runs.)
    #[schemars(transform = within("[0, 1)"))]
    pub ema: f64,
    /// Rounds in which a class's images join the optimisation, 1 (all at once) to 1000: images of
    /// the last of R rounds get 1/R of the steps. Published: 8 of 500 steps each (DELT).
    #[schemars(transform = within("[1, 1000]"))]
    pub rounds: u32,
    /// Images per class, 1 to 10000, of a set that is recovered once; each of `ipc` then takes its
    /// first images instead of recovering each size anew. `null` is off. SC-DD's official code
    /// evaluates small sets this way: the first files of each class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = within("[1, 10000]"))]
    pub subset_of: Option<u32>,
    /// Further teachers of the same images; `null` is none.
    pub committee: Option<Committee>,
    /// Quirks of published code that change results, each by name; or `official`, all quirks of the
    /// named preset's code.
    pub compat: Vec<Quirk>,
    /// Classes of the recovered images, as indices of the teacher's classes, each below 100000;
    /// `null` is all, which students need.
    #[schemars(transform = within("[0, 99999]"))]
    pub classes: Option<Vec<u32>>,
    /// Bundles that took no part in the synthesis; their accuracy on the finished images is
    /// reported (SRe2L's code has one).
    pub verifier: Vec<PathBuf>,
    /// How often the images are kept on the way, evenly over the steps, 0 (never) to 100: verifiers
    /// look at them too, so that their accuracy is a curve over the steps.
    #[serde(default, skip_serializing_if = "is_neutral")]
    #[schemars(transform = within("[0, 100]"))]
    pub snapshots: u32,
}

impl RecoverConfig {
    /// The numbers of steps after which the images are kept, ascending: they divide the steps
    /// evenly, and the last step is not among them.
    pub fn snapshot_steps(&self) -> impl Iterator<Item = u32> + use<> {
        let (steps, count) = (u64::from(self.iterations), u64::from(self.snapshots));
        (1..=count).map(move |number| (steps * number / (count + 1)) as u32)
    }

    /// The classes to recover, ascending, for a teacher with `count` classes.
    pub fn classes(&self, count: u32) -> Vec<u32> {
        let mut classes = self.classes.clone().unwrap_or_else(|| (0..count).collect());
        classes.sort_unstable();
        classes
    }

    /// Whether images depend on networks only, and no training image is read.
    pub fn is_data_free(&self) -> bool {
        matches!(self.start, Start::Noise { .. })
    }

    /// The standard deviation of the start noise, or 1 for other starts.
    pub fn noise_std(&self) -> f64 {
        if let Start::Noise { std } = self.start { std } else { 1.0 }
    }
}

/// Initial images.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Start {
    /// Gaussian noise.
    Noise {
        /// Its standard deviation, above 0 and at most 100. Published: 1.
        #[schemars(transform = within("(0, 100]"))]
        std: f64,
    },
    /// Random training images of the class. Reads the real data.
    Real {
        /// Number of images whose mean each image starts from, 1 to 100000. Published: 1 (DWA).
        #[schemars(transform = within("[1, 100000]"))]
        mean_of: u32,
    },
    /// Training images nearest to the centres of k-means clusters of their class, with as many
    /// clusters as images are needed; the features are the inputs of the teacher's classifier.
    /// Reads the real data.
    Clusters {
        /// Number of random images of the class that are clustered, 1 to 100000.
        #[schemars(transform = within("[1, 100000]"))]
        images: u32,
    },
    /// Crops of training images that the teacher classifies well (RDED, arXiv 2312.03526). Reads
    /// the real data.
    Crops {
        /// Number of random images of the class that are cropped, 1 to 100000. Published: 300.
        #[schemars(transform = within("[1, 100000]"))]
        images: u32,
        /// Crops per image that the teacher scores by cross entropy, 1 to 100; the best one is
        /// kept. Published: 5.
        #[schemars(transform = within("[1, 100]"))]
        crops: u32,
        /// Crops per row and column of each start, 1 to 16. Published: 1 (CIFAR), 2 (ImageNet).
        #[schemars(transform = within("[1, 16]"))]
        factor: u32,
        /// Order in which the images' best crops are taken.
        difficulty: Difficulty,
    },
}

/// Order in which crops are taken, by the teacher's cross entropy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Difficulty {
    /// Lowest cross entropy first (RDED).
    Low,
    /// Nearest to the median first (DELT, CV-DD, FADRM).
    Medium,
}

/// FADRM's residual blend (arXiv 2506.24125). The steps are divided into equal budgets, each with
/// its own image size. Between two budgets the images are resized and blended with their initial
/// images, and the optimiser starts anew while the learning rate schedule continues.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Residual {
    /// Number of budgets, 2 to 1000. Published: 4.
    #[schemars(transform = within("[2, 1000]"))]
    pub budgets: u32,
    /// Share of the image in each blend, 0 to 1; the rest is the initial image. Published: 0.5.
    #[schemars(transform = within("[0, 1]"))]
    pub alpha: f64,
    /// Image sides relative to the network's input, each above 0 and at most 4, cycled through by
    /// the budgets; the last budget's must be 1. The network must accept images of any size.
    /// Published: `[1]` (CIFAR), `[0.893, 1]` (ImageNet, 200 of 224 pixels).
    #[schemars(transform = within("(0, 4]"))]
    pub scales: Vec<f64>,
}

/// DWA's directed weight adjustment (arXiv 2409.17612). For each batch the teacher's weights move
/// up the gradient of the cross entropy of the batch's first view, in steps of `rho` / `steps`
/// each, so that batches differ. Its BN statistics stay.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WeightAdjustment {
    /// Number of steps, 1 to 1000. Published: 12 (CIFAR), 15 (ImageNet).
    #[schemars(transform = within("[1, 1000]"))]
    pub steps: u32,
    /// Total length of the steps, as the Euclidean norm over all weights, above 0 and at most 1000.
    /// Published: 0.015.
    #[schemars(transform = within("(0, 1000]"))]
    pub rho: f64,
}

/// Further teachers of the same images. All must have the preprocessing of the cell's own teacher.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Committee {
    /// Bundles of the further teachers; the cell's own teacher is always the first.
    pub teachers: Vec<PathBuf>,
    /// Teachers that compute a step's loss. Published: `round_robin` (G-VBSM, EDC, FADRM+).
    pub turn: Turn,
    /// Weight of each teacher's loss with `turn: all`, the cell's own teacher first, each above 0
    /// and at most 1e6; empty means equal weights.
    #[schemars(transform = within("(0, 1e6]"))]
    pub weights: Vec<f64>,
}

/// Teachers that compute a step's loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Turn {
    /// One teacher per step, in turn.
    RoundRobin,
    /// All teachers at each step: the weighted mean of their losses.
    All,
}

/// Differences between published code and its paper.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Quirk {
    /// One crop, flip and shift for the whole batch.
    SharedViews,
    /// Shifts are never negative.
    PositiveJitter,
    /// Pixels are truncated, not rounded, when images are saved: half a level too dark.
    TruncatedPixels,
    /// Images are saved as JPEG files of quality 75 with 2×2 chroma subsampling; the decoded pixels
    /// are kept.
    JpegFiles,
    /// Recovery normalises its images by CIFAR-10's mean and deviation instead of the teacher's.
    /// Networks that normalise by CIFAR-100's therefore get about three quarters of the contrast
    /// (SC-DD's CIFAR-100 code). For colour images.
    #[serde(rename = "cifar10_pixels")]
    Cifar10Pixels,
}

/// Weight of the BN statistics term relative to cross entropy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BnWeight {
    /// Per teacher, the weight for which both terms' gradients have equal norm at the start noise.
    Auto,
    /// The same weight for all teachers.
    Fixed(f64),
}

/// Distribution of images over batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// Every class once, in order, then every class again, so that batches are as balanced as
    /// possible. With fewer images than classes a batch holds neighbouring classes, as in the
    /// published code.
    Even,
    /// All images in random order.
    Shuffled,
    /// Class after class; a batch may hold several classes (EDC).
    Ordered,
    /// Only one class per batch (LPLD).
    Class,
}

/// Distance that turns a layer's differences of statistics, channel by channel, into one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BnDistance {
    /// The Euclidean norm (all published code).
    Norm,
    /// The square of the Euclidean norm.
    Squared,
    /// Root mean square of relative differences: means relative to each channel's deviation,
    /// variances relative to its variance. Neither the scale of a layer's activations nor its
    /// number of channels matters.
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

/// Soft labels for augmented and mixed views (FKD, as in SRe2L). A student later replays the same
/// views.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RelabelConfig {
    /// Passes over the synthetic images, which are also the student's epochs, 1..=100000.
    /// Published: 300 to 1000.
    #[schemars(transform = within("[1, 100000]"))]
    pub epochs: u32,
    /// Images per batch, 1..=65536; partners are mixed within it, and it is also the student's
    /// batch. Published: 50 to 1024.
    #[schemars(transform = within("[1, 65536]"))]
    pub batch_size: u32,
    /// Crop of each image, drawn per image and epoch; `null` is off.
    pub crop: Option<ViewCrop>,
    /// Whether each view is mirrored with probability 1/2.
    pub flip: bool,
    /// Augmentation of a view before mixing; `null` is none. Published: RandAugment (EDC), DSA
    /// (hard labels).
    #[serde(default, skip_serializing_if = "is_neutral")]
    pub augment: Option<Augment>,
    /// Mixing of pairs of views.
    pub mix: Mix,
    /// Statistics by which the teacher's BatchNorm normalises. Published: `running`; `batch` in
    /// BSSL (CV-DD, SRe2L++, FADRM), and by oversight in SRe2L's and SC-DD's CIFAR code.
    pub teacher_bn: TeacherBn,
    /// Views of a batch that go through the teacher together, at least 1 and fewer than
    /// `batch_size`; `teacher_bn: batch`, which it needs, then takes its statistics over these
    /// views. `null`: the whole batch. Published: 8 of 16 (CV-DD, FADRM).
    #[serde(default, skip_serializing_if = "is_neutral")]
    #[schemars(transform = within("[1, 65536]"))]
    pub micro_batch: Option<u32>,
    /// Further teachers, whose logits are averaged with the logits of the labelling teacher.
    /// Published: none (SRe2L), 4 to 8 (G-VBSM, EDC).
    pub ensemble: Vec<EnsembleMember>,
    /// Number format of stored logits. Published: `f16`.
    pub dtype: LabelDtype,
    /// Stores only the largest logits of each view; `null`: all. Published: `null`.
    pub top_k: Option<TopK>,
    /// Epochs that are labelled and stored, 1 to `epochs`; the student replays them in turn until
    /// it has done `epochs`. `null`: all. Published: 1/10 to 1/40 of all (LPLD, arXiv 2410.15919).
    #[schemars(transform = within("[1, 100000]"))]
    pub stored_epochs: Option<u32>,
    /// Device on which ONNX Runtime computes the logits.
    pub provider: Device,
    /// Reaction if `provider: cuda` is not available; `null` with any other provider.
    pub fallback: Option<Fallback>,
}

impl RelabelConfig {
    /// The epochs whose labels are stored; a student repeats them in turn.
    pub fn epochs_to_store(&self) -> u32 {
        self.stored_epochs.map_or(self.epochs, |stored| stored.min(self.epochs))
    }
}

/// Crop of an image to a view.
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
    /// A box of the image's size, cropped from the image with a black border.
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
    /// A teacher bundle; it must have the preprocessing and the class order of the labelling
    /// teacher.
    pub bundle: PathBuf,
    /// Weight of its logits in the mean, above 0 and at most 1e6; the labelling teacher has weight
    /// 1, unless it is listed too.
    #[schemars(transform = within("(0, 1e6]"))]
    pub weight: f64,
}

/// Statistics by which a teacher's BatchNorm normalises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TeacherBn {
    /// The running statistics, as in evaluation mode.
    Running,
    /// The statistics of the batch of mixed views, as in training mode. Computed through libtorch,
    /// on the experiment's `device`. Published code leaves the teacher in training mode, so its
    /// running statistics drift too; no label depends on them.
    Batch,
}

/// The largest logits of a view; all other classes share the remaining probability equally.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TopK {
    /// Number of logits stored individually, at least 1 and below the number of classes.
    #[schemars(transform = within("[1, 65535]"))]
    pub k: u32,
    /// Softmax temperature at which the others' total probability is preserved, and shared out
    /// equally; use the temperature of `validate.loss`. Above 0 and at most 1000. `null`: the
    /// others have no probability, as in LPQLD, which only a KL loss can learn.
    #[schemars(transform = within("(0, 1000]"))]
    #[serde(deserialize_with = "Option::deserialize")]
    pub temperature: Option<f64>,
}

/// Mixing of pairs of views within a batch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Mix {
    /// CutMix: a box of the partner is pasted in; its area share is Beta(`alpha`, `alpha`), `alpha`
    /// above 0 and at most 100. Published: 1.
    Cutmix {
        /// Parameter of the Beta distribution.
        #[schemars(transform = within("(0, 100]"))]
        alpha: f64,
    },
    /// MixUp: pixels are blended; the share is Beta(`alpha`, `alpha`), `alpha` above 0 and at most
    /// 100. Published: 0.8 (CIFAR).
    Mixup {
        /// Parameter of the Beta distribution.
        #[schemars(transform = within("(0, 100]"))]
        alpha: f64,
    },
    /// No mixing.
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
    /// 256 equal steps between a view's smallest and largest logit: 1 byte per class and view, and
    /// 4 per view.
    I8,
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

/// Student training on the stored views and labels, and its test. Epochs and batch size are those
/// of the relabelling.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ValidateConfig {
    /// The student's loss, which also selects soft or hard labels.
    pub loss: Loss,
    /// The student's optimiser.
    pub optimizer: Optimizer,
    /// Parameters that `optimizer.weight_decay` acts on. Published: `weights` (SRe2L's, SC-DD's and
    /// DWA's ImageNet code, RDED, DELT, EDC, G-VBSM, LPLD, CV-DD, FADRM, HALD); `all` (SRe2L's,
    /// SC-DD's and DWA's CIFAR code, SRe2L's Tiny-ImageNet code, CCFS, BPS, GIFT).
    #[serde(default, skip_serializing_if = "is_neutral")]
    pub decay: Decay,
    /// Decay of the learning rate, epoch by epoch.
    pub schedule: Schedule,
    /// Epochs before the schedule in which the learning rate rises; `null` is off.
    #[serde(default, skip_serializing_if = "is_neutral")]
    pub warmup: Option<Warmup>,
    /// Views of a batch that go through the student together, at least 1 and fewer than
    /// `relabel.batch_size`; its BatchNorm takes statistics over these views, while each step uses
    /// the gradient of the whole batch. `null`: the whole batch. Published: 8 of 16 (CV-DD, FADRM,
    /// except on ImageNet-1K).
    #[serde(default, skip_serializing_if = "is_neutral")]
    #[schemars(transform = within("[1, 65536]"))]
    pub micro_batch: Option<u32>,
    /// Epochs in the middle that train on the images' classes instead of the teacher's outputs;
    /// `null` is none.
    #[serde(default, skip_serializing_if = "is_neutral")]
    pub hard_epochs: Option<HardEpochs>,
    /// Decay per step of the exponential moving average of the weights, BN statistics included; the
    /// average is tested and kept. 0 (off) to below 1. Published: 0.99 (EDC, arXiv 2404.13733).
    #[schemars(transform = within("[0, 1)"))]
    pub ema: f64,
    /// Epochs between two evaluations on the test set, 1..=100000; the last epoch is always
    /// evaluated.
    #[schemars(transform = within("[1, 100000]"))]
    pub evaluate_every: u32,
}

/// The student's loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Loss {
    /// KL(teacher ‖ student) of the softened class probabilities, batch mean, plus `ce` times the
    /// cross entropy to the classes of the mixed images.
    Kl {
        /// Softmax temperature of teacher and student, above 0 and at most 1000. Published: 20
        /// (ImageNet), 30 (CIFAR).
        #[schemars(transform = within("(0, 1000]"))]
        temperature: f64,
        /// Weight of the cross entropy, 0 (off) to 1e6. Published: 0.
        #[schemars(transform = within("[0, 1e6]"))]
        ce: f64,
        /// Whether the divergence is multiplied by the square of the temperature. That changes
        /// almost nothing with AdamW; with SGD it scales the learning rate. Published: `true`
        /// (SRe2L's and DWA's Tiny-ImageNet code, CCFS, BPS), else `false`.
        #[serde(default, skip_serializing_if = "is_neutral")]
        t_squared: bool,
        /// Decrease of the temperature over the epochs; `null`: constant.
        #[serde(default, skip_serializing_if = "is_neutral")]
        cooling: Option<Cooling>,
        /// The student's own temperature. Published: `same`; `fitted` (LPQLD).
        #[serde(default, skip_serializing_if = "is_neutral")]
        student_temperature: StudentTemperature,
    },
    /// MSE-GT of G-VBSM (arXiv 2311.17950) and EDC (arXiv 2404.13733): mean squared difference of
    /// the student's and the teacher's logits, plus `ce` times the cross entropy to the classes of
    /// the mixed images (both classes, by their shares; the published code uses only the own
    /// image's class).
    MseGt {
        /// Weight of the cross entropy, 0 (off) to 1e6. Published: 0.1 (ImageNet), 0.15 (CIFAR),
        /// 0.025 (EDC, CIFAR-10).
        #[schemars(transform = within("[0, 1e6]"))]
        ce: f64,
    },
    /// GIFT (arXiv 2405.14736): 1 − cos(student's logits, t + `weight` · h), batch mean. t are the
    /// teacher's logits and h is the smoothed one-hot vector of the image's class (of both classes,
    /// by their shares, if views are mixed), each of norm 1.
    Gift {
        /// Total share of the other classes in h, 0 to below 1. Published: 0.1.
        #[schemars(transform = within("[0, 1)"))]
        smoothing: f64,
        /// Weight of h relative to t, 0 (off) to 1e6. Published: 0.1.
        #[schemars(transform = within("[0, 1e6]"))]
        weight: f64,
    },
    /// Cross entropy to the images' own classes: hard labels, no teacher, no mixing.
    Ce {},
}

impl Loss {
    /// Whether the student learns the logits themselves, so that every class must have one.
    pub fn needs_all_logits(&self) -> bool {
        matches!(self, Self::MseGt { .. } | Self::Gift { .. })
    }
}

/// A temperature that falls in steps: in epoch e (from 1) it is `temperature` · `factor`^⌊e /
/// `every`⌋, but never below `floor` (LPQLD, the successor of LPLD, arXiv 2410.15919).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cooling {
    /// Factor of each step, above 0 and at most 1. Published: 0.7.
    #[schemars(transform = within("(0, 1]"))]
    pub factor: f64,
    /// Epochs between two steps, 1 to 100000. Published: 30 (of 300).
    #[schemars(transform = within("[1, 100000]"))]
    pub every: u32,
    /// The lowest temperature, above 0 and at most 1000. Published: 2.
    #[schemars(transform = within("(0, 1000]"))]
    pub floor: f64,
}

/// Temperature of the student's logits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StudentTemperature {
    /// The teacher's temperature.
    #[default]
    Same,
    /// 1 in the first epoch; then the temperature of 0.01, 0.02 … 1 with the smallest divergence on
    /// the last views of the previous epoch (LPQLD).
    Fitted,
}

/// Parameters with weight decay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// All parameters.
    #[default]
    All,
    /// Parameters of more than one dimension: weights of convolutions and linear layers, but
    /// neither biases nor normalisation parameters.
    Weights,
}

/// A learning rate that rises in equal steps: in epoch t (from 0) of the first `epochs` it is the
/// initial rate times `from` + (1 − `from`) · t / `epochs`. The schedule covers the remaining
/// epochs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Warmup {
    /// Number of epochs, 1 to 10000, fewer than `relabel.epochs`. Published: 5 (SRe2L's and DWA's
    /// Tiny-ImageNet code, CCFS).
    #[schemars(transform = within("[1, 10000]"))]
    pub epochs: u32,
    /// Share of the initial rate in the first warm-up epoch, 0..=1. Published: 0.01.
    #[schemars(transform = within("[0, 1]"))]
    pub from: f64,
}

/// Epochs of hard labels between epochs of soft labels (HALD): cross entropy to the classes of the
/// mixed images, with newly drawn views.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HardEpochs {
    /// Share of all epochs before the hard epochs, 0..=1. Published: 0.25.
    #[schemars(transform = within("[0, 1]"))]
    pub from: f64,
    /// Share of all epochs before the end of the hard epochs, above `from` and at most 1.
    /// Published: 0.75.
    #[schemars(transform = within("(0, 1]"))]
    pub to: f64,
    /// Share of the label that is spread evenly over all classes, 0 (off) to below 1. Published:
    /// 0.8.
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
        /// Decay of the parameters that `decay` selects, 0..=1. Published: 0.01.
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
        /// Decay of the parameters that `decay` selects, 0..=1. Published: 3e-5 to 5e-4.
        #[schemars(transform = within("[0, 1]"))]
        weight_decay: f64,
    },
}

/// Decay of the student's learning rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// In epoch t of T the rate is the initial one × (`floor` + (1 − `floor`) · ½ (1 + cos(π t /
    /// (`smoothing` · T)))).
    Cosine {
        /// Share of the initial rate at the end of the full cosine, 0..=1. Published: 0.
        #[schemars(transform = within("[0, 1]"))]
        floor: f64,
        /// Factor that stretches the cosine beyond the last epoch, 1 (not at all) to 10. Published:
        /// 1; 2 (half-cosine; ζ of RD3, arXiv 2509.19743); 3 (SC-DD's CIFAR code, whose schedule is
        /// longer than its training).
        #[schemars(transform = within("[1, 10]"))]
        smoothing: f64,
        /// Share of all epochs, above 0 and at most 1 (never), after which the cosine is replaced
        /// by its last value × (1 − t / T). Published: 1; 0.8333 (`cos2` of EDC's CIFAR-100 code,
        /// with a smoothing of 2).
        #[serde(default = "one", skip_serializing_if = "is_one")]
        #[schemars(transform = within("(0, 1]"))]
        until: f64,
    },
    /// In epoch t of T the rate is the initial one × (1 − t / T), as in most published code without
    /// `--cos`.
    Linear {},
    /// The rate is multiplied by `factor` at each of the `milestones`.
    Multistep {
        /// Shares of all epochs, each above 0 and below 1, ascending. Published: `[0.8, 0.9, 0.95]`
        /// (EDC).
        #[schemars(transform = within("(0, 1)"))]
        milestones: Vec<f64>,
        /// Factor at each milestone, above 0 and at most 1. Published: 0.5 (EDC).
        #[schemars(transform = within("(0, 1]"))]
        factor: f64,
    },
    /// The initial rate in all epochs.
    Constant {},
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

impl ValidateConfig {
    /// The same training with hard labels only.
    pub fn hard(&self) -> Self {
        Self { loss: Loss::Ce {}, hard_epochs: None, ..self.clone() }
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

impl RelabelTeachers {
    /// The bundles that label images recovered from `teacher`.
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
