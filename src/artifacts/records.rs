//! The figures that stages record for later stages and reports.

use std::fmt;

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use scdd_data::rng;

/// One synthetic image: the `number`th of its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    pub class: u32,
    pub number: u32,
}

impl Item {
    /// The item's random stream for `purpose`, independent of batch and process.
    pub fn stream(self, seed: u64, purpose: &str) -> ChaCha8Rng {
        rng::stream(seed, purpose, u64::from(self.class) << 32 | u64::from(self.number))
    }
}

/// The loss at one step: `loss = ce + r_bn · bn + priors`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    pub iteration: u32,
    pub loss: f64,
    /// Mean cross entropy.
    pub ce: f64,
    /// BN statistics term, unweighted.
    pub bn: f64,
    /// Of the first and the last step of a batch, where the loss has both terms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradients: Option<GradientNorms>,
}

/// The L2 norms of the gradients of both terms, each with its weight in the loss, with respect to
/// the normalised images `[N, C, H, W]` of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GradientNorms {
    /// Of cross entropy.
    pub ce: f64,
    /// Of the BN statistics term, times `r_bn`.
    pub bn: f64,
}

/// For example `1.3 : 1`, cross entropy before BN statistics.
impl fmt::Display for GradientNorms {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let (large, small) = (self.ce.max(self.bn), self.ce.min(self.bn));
        let ratio = match large / small {
            ratio if ratio.is_nan() => return formatter.write_str("0 : 0"),
            ratio if ratio < 10.0 => format!("{ratio:.1}"),
            ratio if ratio < 1e6 => format!("{ratio:.0}"),
            ratio if ratio.is_finite() => format!("{ratio:.0e}"),
            _ => "∞".to_owned(),
        };
        if self.ce >= self.bn {
            write!(formatter, "{ratio} : 1")
        } else {
            write!(formatter, "1 : {ratio}")
        }
    }
}

/// A network's accuracy on a set of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accuracy {
    pub images: usize,
    /// The number of images whose class has the largest logit.
    pub top1: usize,
    /// The number of images whose class is among the five largest logits.
    pub top5: usize,
}

/// What a verifier sees in a set of images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VerifierAccuracy {
    /// On the finished images.
    #[serde(flatten)]
    pub finished: Accuracy,
    /// On the snapshots, by their steps, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<SnapshotAccuracy>,
}

/// A verifier's accuracy on the images at one step of their recovery.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SnapshotAccuracy {
    /// The number of steps taken.
    pub step: u32,
    #[serde(flatten)]
    pub accuracy: Accuracy,
}

impl Accuracy {
    /// Shares of top-1 and top-5, 0..=1.
    pub fn shares(self) -> [f64; 2] {
        [self.top1, self.top5].map(|right| right as f64 / self.images.max(1) as f64)
    }
}

/// An unweighted term of the loss, evaluated on some images.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Term {
    pub loss: f64,
    /// L2 norm of the gradient with respect to the normalised images `[N, C, H, W]`.
    pub gradient_norm: f64,
}

/// Both terms, evaluated on the same images.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    /// Mean cross entropy; `None` without a classifier.
    pub ce: Option<Term>,
    /// Sum over layers, including the first layer's multiplier; `None` without statistics.
    pub bn: Option<Term>,
}

impl Terms {
    /// The `r_bn` for which both gradients have equal norm. It has three significant digits, so
    /// that rounding in the last bits of a float does not change the experiment. `None` if a term
    /// is missing or has no gradient.
    pub fn balance(&self) -> Option<f64> {
        let ratio = self.ce?.gradient_norm / self.bn?.gradient_norm;
        let rounded = format!("{ratio:.2e}").parse().ok()?;
        (f64::is_finite(rounded) && rounded > 0.0).then_some(rounded)
    }
}

/// The measured `r_bn: auto` of one teacher, with its terms.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Auto {
    pub r_bn: f64,
    pub terms: Terms,
}

impl fmt::Display for Auto {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let norm = |term: Option<Term>| term.map_or(0.0, |t| t.gradient_norm);
        write!(
            formatter,
            "{}: at the start noise the gradient of cross entropy has norm {:.3e}, that of the BN statistics term {:.3e}",
            self.r_bn,
            norm(self.terms.ce),
            norm(self.terms.bn)
        )
    }
}

/// A student's figures after one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// The epoch's number, from 1.
    pub epoch: u32,
    /// Mean over the epoch's batches.
    pub loss: f64,
    /// Accuracy on the whole test set, 0..=1, if it was measured.
    pub accuracy: Option<f64>,
    /// The share of the test set whose class is among the five largest logits, 0..=1, if it was
    /// measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top5: Option<f64>,
}

/// The course of a training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// Test accuracy after the last epoch, 0..=1.
    pub last: f64,
    /// The highest measured test accuracy, 0..=1; it is selected on the test set.
    pub best: f64,
    pub best_epoch: u32,
    pub curve: Vec<Epoch>,
}

impl Training {
    /// Top-5 accuracy after the last epoch, 0..=1, if it was measured.
    pub fn last_top5(&self) -> Option<f64> {
        self.curve.last()?.top5
    }
}

/// Figures of a soft-label store.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LabelFigures {
    /// Mean over views of the largest class probability, 0..=1, at softmax temperature 1.
    pub max_probability: f64,
    /// The number of views that it was measured on, the first of the store.
    pub views: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_balance_is_the_ratio_of_the_norms() {
        let term = |gradient_norm| Some(Term { loss: 1.0, gradient_norm });
        let balance = |ce, bn| Terms { ce, bn }.balance();
        assert_eq!(balance(term(0.012_345_6), term(2.0)), Some(0.00617));
        assert_eq!(balance(term(1.0), term(0.0)), None);
        assert_eq!(balance(term(0.0), term(1.0)), None);
        assert_eq!(balance(None, term(1.0)), None);
        assert_eq!(balance(term(1.0), None), None);
    }

    #[test]
    fn the_larger_gradient_is_counted_in_the_smaller() {
        let shown = |ce, bn| GradientNorms { ce, bn }.to_string();
        assert_eq!([shown(2.0, 2.0), shown(0.5, 0.2)], ["1.0 : 1", "2.5 : 1"]);
        assert_eq!([shown(0.01, 3.121), shown(3e9, 1.0)], ["1 : 312", "3e9 : 1"]);
        assert_eq!([shown(1.0, 0.0), shown(0.0, 0.0)], ["∞ : 1", "0 : 0"]);
    }
}
