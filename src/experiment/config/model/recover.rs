//! The keys of `recover`.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::is_neutral;
use crate::config::range::within;

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
    /// reported (SRe2L's code has one). Of mosaics (`formation`) they see every small image,
    /// enlarged.
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
