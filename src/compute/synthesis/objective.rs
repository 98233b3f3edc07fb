//! The synthesis objective: cross entropy towards the targets plus BN-statistics alignment.
//!
//! SC-DD (arXiv 2404.07976, section 3) and SRe2L:
//! `CE + r_bn · Σ m_l (‖μ_l − μ̂_l‖₂ + ‖σ²_l − σ̂²_l‖₂)`, norms not squared, the batch variance
//! biased, m_l the layer's multiplier.

use std::cell::RefCell;
use std::collections::BTreeMap;

use tch::{Kind, TchError, Tensor};

use crate::transfer;
use scdd_graph::ValueId;

/// The target of one layer's statistics.
pub struct LayerTarget {
    /// The activation that is measured.
    pub tap: ValueId,
    /// The activation's channel axis.
    pub axis: i64,
    /// Patches per side into which an activation `[N, C, H, W]` is cut, each with statistics of its
    /// own; 1: none.
    pub patches: i64,
    /// `[C]`, or with patches `[C, patches, patches]`.
    pub mean: Tensor,
    /// The shape of `mean`.
    pub var: Tensor,
    /// The weights of each channel's differences of mean and variance, each of `mean`'s shape;
    /// absent: 1.
    pub weights: Option<(Tensor, Tensor)>,
    /// The layer's weight among all layers.
    pub multiplier: f64,
}

impl LayerTarget {
    /// The norm of w_μ · (mean − target) plus that of w_σ · (var − target), or their squares.
    pub(super) fn distance(
        &self,
        mean: &Tensor,
        var: &Tensor,
        distance: Distance,
    ) -> Result<Tensor, tch::TchError> {
        let (mut mean, mut var) = (mean.f_sub(&self.mean)?, var.f_sub(&self.var)?);
        if let Some((of_mean, of_var)) = &self.weights {
            (mean, var) = (mean.f_mul(of_mean)?, var.f_mul(of_var)?);
        }
        match distance {
            Distance::Norm => mean.f_norm()?.f_add(&var.f_norm()?),
            Distance::Squared => {
                mean.f_square()?.f_sum(None::<Kind>)?.f_add(&var.f_square()?.f_sum(None::<Kind>)?)
            }
        }
    }
}

/// How a layer's differences over channels become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distance {
    /// Their Euclidean norm.
    Norm,
    /// Its square.
    Squared,
}

/// A moving average of each layer's statistics over the steps, which replaces the step's own
/// statistics in the comparison with the target (G-VBSM, arXiv 2311.17950). It starts at 0. As in
/// the published code, gradients pass through unscaled, as if the average were the step's own
/// statistics.
#[derive(Default)]
pub struct Momentum {
    decay: f64,
    /// Mean and variance, by layer.
    averages: RefCell<BTreeMap<usize, (Tensor, Tensor)>>,
}

impl Momentum {
    /// A moving average: each step keeps the share `decay` of the old average. With 0 it is the
    /// step's own statistics.
    pub fn new(decay: f64) -> Self {
        Self { decay, averages: RefCell::default() }
    }

    /// The same settings, with nothing averaged yet.
    pub fn fresh(&self) -> Self {
        Self::new(self.decay)
    }

    /// The averages so far: layer, mean and variance.
    pub fn averages(&self) -> Vec<(usize, [Tensor; 2])> {
        let copy = |(&layer, (mean, var)): (&usize, &(Tensor, Tensor))| {
            (layer, [mean.shallow_clone(), var.shallow_clone()])
        };
        self.averages.borrow().iter().map(copy).collect()
    }

    /// Goes on with these averages.
    pub fn restore(&self, averages: impl IntoIterator<Item = (usize, [Tensor; 2])>) {
        let pair = |(layer, [mean, var]): (usize, [Tensor; 2])| (layer, (mean, var));
        *self.averages.borrow_mut() = averages.into_iter().map(pair).collect();
    }

    /// What the layer of this `index` is compared by at a step whose statistics are `mean` and
    /// `var`, without gradients; `None` is those themselves.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn blend(
        &self,
        index: usize,
        mean: &Tensor,
        var: &Tensor,
    ) -> Result<Option<(Tensor, Tensor)>, TchError> {
        if self.decay == 0.0 {
            return Ok(None);
        }
        let mut averages = self.averages.borrow_mut();
        let last = averages.remove(&index);
        let next = |last: Option<&Tensor>, step: &Tensor| {
            let step = step.f_detach()?.f_mul_scalar(1.0 - self.decay)?;
            last.map_or_else(
                || Ok(step.shallow_clone()),
                |last| last.f_mul_scalar(self.decay)?.f_add(&step),
            )
        };
        let mean = next(last.as_ref().map(|(mean, _)| mean), mean)?;
        let var = next(last.as_ref().map(|(_, var)| var), var)?;
        averages.insert(index, (mean.shallow_clone(), var.shallow_clone()));
        Ok(Some((mean, var)))
    }
}

/// The targets and weights of the loss. Layers are in execution order; several may share an
/// activation.
pub struct Objective {
    pub layers: Vec<LayerTarget>,
    pub r_bn: f64,
    pub distance: Distance,
    /// The moving average of statistics over evaluations, if any.
    pub momentum: Momentum,
}

/// The result of one evaluation of the loss, of which nothing has been read: on a GPU it may still
/// be under way.
pub struct UnreadEvaluation {
    /// Loss, cross entropy and BN term of [`Evaluation`]: float64 `[3]`.
    pub terms: Tensor,
    /// As of [`Evaluation`].
    pub logits: Tensor,
    /// As of [`Evaluation`].
    pub gradient: Tensor,
}

impl UnreadEvaluation {
    /// Reads the terms, and waits for them.
    ///
    /// # Errors
    /// When libtorch can't copy them.
    pub fn read(self) -> Result<Evaluation, TchError> {
        let Self { terms, logits, gradient } = self;
        let [loss, ce, bn] = <[f64; 3]>::try_from(transfer::read(&terms)?)
            .map_err(|found| TchError::Shape(format!("{} terms, not 3", found.len())))?;
        Ok(Evaluation { loss, ce, bn, logits, gradient })
    }
}

impl Objective {
    /// Cross entropy alone.
    pub fn cross_entropy() -> Self {
        let (distance, momentum) = (Distance::Norm, Momentum::default());
        Self { layers: Vec::new(), r_bn: 0.0, distance, momentum }
    }
}

/// The result of one evaluation of the loss.
pub struct Evaluation {
    pub loss: f64,
    /// Mean cross entropy over the batch; 0 without targets.
    pub ce: f64,
    /// The sum over layers with their multipliers, without `r_bn`.
    pub bn: f64,
    /// `[N, K]`, or the features `[N, D]` of a network without classifier; detached.
    pub logits: Tensor,
    /// ∂loss/∂input, `[N, C, H, W]`.
    pub gradient: Tensor,
}

/// Mean and biased variance, `[C]` each, over all axes but the channel axis `axis` (negative: from
/// the end).
///
/// # Errors
/// When `x` has no axis `axis`, or no other axis.
pub fn channel_statistics(x: &Tensor, axis: i64) -> Result<(Tensor, Tensor), tch::TchError> {
    let rank = x.dim() as i64;
    if rank < 2 || !(-rank..rank).contains(&axis) {
        return Err(tch::TchError::Shape(format!(
            "statistics along axis {axis} of {:?}",
            x.size()
        )));
    }
    let axes: Vec<i64> = (0..rank).filter(|&a| a != axis.rem_euclid(rank)).collect();
    let (var, mean) = x.f_var_mean_dim(&axes[..], false, false)?;
    Ok((mean, var))
}

/// Mean and biased variance, `[C, patches, patches]` each, of every channel in each of `patches`²
/// parts of the plane, over all images. If a side is not divisible by `patches`, neighbouring
/// patches overlap by a pixel, as in PyTorch's adaptive pooling.
///
/// # Errors
/// When `x` is not `[N, C, H, W]`.
pub fn patch_statistics(x: &Tensor, patches: i64) -> Result<(Tensor, Tensor), tch::TchError> {
    if x.dim() != 4 {
        return Err(tch::TchError::Shape(format!("statistics of patches of {:?}", x.size())));
    }
    // Computed around the channel's mean, so that the squares do not cancel.
    let centre = x.detach().f_mean_dim(&[0i64, 2, 3][..], true, None::<Kind>)?;
    let pooled = |t: &Tensor| {
        t.f_adaptive_avg_pool2d([patches, patches])?.f_mean_dim(&[0i64][..], false, None::<Kind>)
    };
    let around = x.f_sub(&centre)?;
    let (first, second) = (pooled(&around)?, pooled(&around.f_square()?)?);
    Ok((first.f_add(&centre.f_squeeze_dim(0)?)?, second.f_sub(&first.f_square()?)?))
}
