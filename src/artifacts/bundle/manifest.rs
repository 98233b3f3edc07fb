//! `manifest.yaml`, a bundle's description. `docs/bundle.md` defines the format.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_yaml::Value;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Teacher,
    Student,
}

/// A teacher's pretraining. Additional keys are information for people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pretraining {
    /// `supervised`, `moco_v2`, …
    pub scheme: String,
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    /// Of pixels in 0..=1, one per channel; the same holds for `std`.
    pub mean: Vec<f32>,
    pub std: Vec<f32>,
    #[serde(default)]
    pub interpolation: Option<String>,
}

/// Top-1 accuracy measured at export, as a fraction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecordedAccuracy {
    pub top1: f64,
    pub split: String,
    pub images: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Onnx {
    pub opset: i64,
    pub input: String,
    pub output: String,
}

/// The source of the statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StatisticsKind {
    /// The graph's own `BatchNormalization` nodes.
    BatchNorm,
    /// The output of a convolution into which the BatchNorm was folded.
    Folded,
    /// Measured on data, for networks without BatchNorm.
    Calibrated,
    None,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerEntry {
    /// The prefix of the layer's side tensors.
    pub key: String,
    /// The ONNX node after which the layer is named.
    pub node: String,
    /// The ONNX value that the statistics describe.
    pub tensor: String,
    pub channels: usize,
    pub eps: f64,
    /// The value's channel axis: 1, or −1 for token features.
    #[serde(default = "second_axis")]
    pub axis: i64,
}

fn second_axis() -> i64 {
    1
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statistics {
    pub kind: StatisticsKind,
    /// In execution order.
    pub layers: Vec<LayerEntry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
}

/// The data on which `scdd calibrate` measured the statistics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    pub data: String,
    pub images: usize,
    /// Whether there are side tensors with statistics per class.
    pub per_class: bool,
    /// The number of patches per side of the plane, if there are side tensors with statistics per
    /// patch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patches: Option<usize>,
}

/// The weights of the golden loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenWeights {
    pub r_bn: f64,
    pub first_bn_multiplier: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Distribution {
    Constant {
        value: f32,
    },
    /// Uniform in −bound … bound.
    Uniform {
        bound: f32,
    },
    /// Normal with mean 0.
    Normal {
        std: f32,
    },
}

/// The initial distribution of a student's parameter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Init {
    pub parameter: String,
    pub shape: Vec<usize>,
    pub distribution: Distribution,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    pub sha256: String,
    pub bytes: u64,
}

/// The whole manifest, version 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format: String,
    pub version: u32,
    pub name: String,
    pub role: Role,
    pub architecture: Value,
    #[serde(default)]
    pub pretraining: Option<Pretraining>,
    #[serde(default)]
    pub source: Option<Value>,
    pub preprocessing: Preprocessing,
    /// Class names in logit order; empty in a features-only bundle.
    pub classes: Vec<String>,
    #[serde(default)]
    pub accuracy: Option<RecordedAccuracy>,
    pub onnx: Onnx,
    pub statistics: Statistics,
    pub golden: GoldenWeights,
    #[serde(default)]
    pub init: Vec<Init>,
    #[serde(default)]
    pub versions: BTreeMap<String, Value>,
    pub files: BTreeMap<String, FileEntry>,
}

impl Manifest {
    /// Whether the network outputs features instead of logits: a backbone without classifier.
    pub fn is_features_only(&self) -> bool {
        self.classes.is_empty()
    }
}
