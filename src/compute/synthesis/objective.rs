//! The synthesis objective: cross entropy towards the targets plus BN-statistics alignment.
//!
//! SC-DD (arXiv 2404.07976, section 3) and SRe2L:
//! `CE + r_bn · Σ m_l (‖μ_l − μ̂_l‖₂ + ‖σ²_l − σ̂²_l‖₂)`, norms not squared, the batch variance
//! biased, m_l the layer's multiplier.

use std::cell::RefCell;
use std::collections::BTreeMap;

use tch::{Kind, TchError, Tensor};

use scdd_graph::ValueId;

/// What one layer's statistics ought to be.
pub struct LayerTarget {
    /// The activation whose statistics count.
    pub tap: ValueId,
    /// Its axis of channels.
    pub axis: i64,
    /// Into how many patches per side an activation `[N, C, H, W]` is cut, each with statistics of
    /// its own; 1: none.
    pub patches: i64,
    /// `[C]`, or of patches `[C, patches, patches]`.
    pub mean: Tensor,
    /// As `mean`.
    pub var: Tensor,
    /// What each channel's differences of mean and variance weigh, as `mean` each; absent: 1.
    pub weights: Option<(Tensor, Tensor)>,
    /// What the layer's distance weighs among those of the others.
    pub multiplier: f64,
}

impl LayerTarget {
    /// The distance of w_μ · (mean − target) from 0, plus that of w_σ · (var − target).
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

/// How a layer's differences, channel by channel, become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distance {
    /// Their Euclidean norm.
    Norm,
    /// The square of it.
    Squared,
}

/// A moving average of each layer's statistics, from step to step, which is compared with the
/// target in place of the step's own (G-VBSM, arXiv 2311.17950). It starts at 0, and gradients pass
/// through it as if it were the step's own, as in the published code.
#[derive(Default)]
pub struct Momentum {
    decay: f64,
    /// By layer, mean and variance.
    averages: RefCell<BTreeMap<usize, (Tensor, Tensor)>>,
}

impl Momentum {
    /// An average that keeps the share `decay` of itself at each step; with 0 it is the step's own
    /// statistics.
    pub fn new(decay: f64) -> Self {
        Self { decay, averages: RefCell::default() }
    }

    /// The same, with nothing averaged yet.
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

/// The weights and targets of the loss. Layers are in execution order; several may share an
/// activation.
pub struct Objective {
    pub layers: Vec<LayerTarget>,
    pub r_bn: f64,
    pub distance: Distance,
    /// Whether statistics are averaged over evaluations.
    pub momentum: Momentum,
}

/// One evaluation of the loss.
pub struct Evaluation {
    pub loss: f64,
    /// Mean cross entropy over the batch; 0 without targets.
    pub ce: f64,
    /// The sum over layers, their multipliers included, `r_bn` not.
    pub bn: f64,
    /// `[N, K]`, or the features `[N, D]` of a network without classifier; detached.
    pub logits: Tensor,
    /// ∂loss/∂input, `[N, C, H, W]`.
    pub gradient: Tensor,
}

/// Mean and biased variance over all axes but `axis`, that of the channels (negative: from the
/// end); each `[C]`.
///
/// # Errors
/// When `x` has no such axis, or no other.
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

/// Mean and biased variance of every channel in each of `patches`² parts of the plane, over the
/// images; each `[C, patches, patches]`. Where the plane's sides can't be divided, neighbouring
/// patches overlap by a pixel, as PyTorch's adaptive pooling has it.
///
/// # Errors
/// When `x` is no `[N, C, H, W]`.
pub fn patch_statistics(x: &Tensor, patches: i64) -> Result<(Tensor, Tensor), tch::TchError> {
    if x.dim() != 4 {
        return Err(tch::TchError::Shape(format!("statistics of patches of {:?}", x.size())));
    }
    // Around the channel's mean, so that squares do not cancel.
    let centre = x.detach().f_mean_dim(&[0i64, 2, 3][..], true, None::<Kind>)?;
    let pooled = |t: &Tensor| {
        t.f_adaptive_avg_pool2d([patches, patches])?.f_mean_dim(&[0i64][..], false, None::<Kind>)
    };
    let around = x.f_sub(&centre)?;
    let (first, second) = (pooled(&around)?, pooled(&around.f_square()?)?);
    Ok((first.f_add(&centre.f_squeeze_dim(0)?)?, second.f_sub(&first.f_square()?)?))
}
