//! The keys of `validate`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{is_neutral, is_one, one};
use crate::config::range::within;

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

impl ValidateConfig {
    /// The same training with hard labels only.
    pub fn hard(&self) -> Self {
        Self { loss: Loss::Ce {}, hard_epochs: None, ..self.clone() }
    }
}
