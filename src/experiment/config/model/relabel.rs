//! The keys of `relabel`, and who labels.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use scdd_data::Augment;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, SeqAccess, Visitor, value::SeqAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Device, Fallback, is_neutral};
use crate::config::range::within;

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

impl RelabelTeachers {
    /// The bundles that label images recovered from `teacher`.
    pub fn of<'a>(&'a self, teacher: &'a Path) -> Vec<&'a Path> {
        match self {
            RelabelTeachers::Same => vec![teacher],
            RelabelTeachers::List(teachers) => teachers.iter().map(PathBuf::as_path).collect(),
        }
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
