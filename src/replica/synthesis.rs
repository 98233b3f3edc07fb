//! The synthesis objective on the reference executor: cross entropy towards the targets plus BN-statistics alignment, and its input gradient.
//!
//! SC-DD (arXiv 2404.07976, section 3) and SRe2L: `CE + r_bn · Σ m_l (‖μ_l − μ̂_l‖₂ + ‖σ²_l − σ̂²_l‖₂)`, norms not squared, the batch variance biased,
//! m_l the layer's multiplier.

use tch::{Kind, Tensor};

use super::{Mode, Replica, ReplicaError};
use crate::graph::ValueId;

/// What one layer's statistics ought to be.
pub struct LayerTarget {
    /// The activation whose statistics count.
    pub tap: ValueId,
    /// Its axis of channels.
    pub axis: i64,
    /// Into how many patches per side an activation `[N, C, H, W]` is cut, each with statistics of its own; 1: none.
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
    fn distance(&self, mean: &Tensor, var: &Tensor, distance: Distance) -> Result<Tensor, tch::TchError> {
        let (mut mean, mut var) = (mean.f_sub(&self.mean)?, var.f_sub(&self.var)?);
        if let Some((of_mean, of_var)) = &self.weights {
            (mean, var) = (mean.f_mul(of_mean)?, var.f_mul(of_var)?);
        }
        match distance {
            Distance::Norm => mean.f_norm()?.f_add(&var.f_norm()?),
            Distance::Squared => mean.f_square()?.f_sum(None::<Kind>)?.f_add(&var.f_square()?.f_sum(None::<Kind>)?),
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

/// The weights and targets of the loss. Layers are in execution order; several may share an activation.
pub struct Objective {
    pub layers: Vec<LayerTarget>,
    pub r_bn: f64,
    pub distance: Distance,
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

/// Mean and biased variance over all axes but `axis`, that of the channels (negative: from the end); each `[C]`.
///
/// # Errors
/// When `x` has no such axis, or no other.
pub fn channel_statistics(x: &Tensor, axis: i64) -> Result<(Tensor, Tensor), tch::TchError> {
    let rank = x.dim() as i64;
    if rank < 2 || !(-rank..rank).contains(&axis) {
        return Err(tch::TchError::Shape(format!("statistics along axis {axis} of {:?}", x.size())));
    }
    let axes: Vec<i64> = (0..rank).filter(|&a| a != axis.rem_euclid(rank)).collect();
    let (var, mean) = x.f_var_mean_dim(&axes[..], false, false)?;
    Ok((mean, var))
}

/// Mean and biased variance of every channel in each of `patches`² parts of the plane, over the images; each `[C, patches, patches]`. Where the
/// plane's sides can't be divided, neighbouring patches overlap by a pixel, as PyTorch's adaptive pooling has it.
///
/// # Errors
/// When `x` is no `[N, C, H, W]`.
pub fn patch_statistics(x: &Tensor, patches: i64) -> Result<(Tensor, Tensor), tch::TchError> {
    if x.dim() != 4 {
        return Err(tch::TchError::Shape(format!("statistics of patches of {:?}", x.size())));
    }
    // Around the channel's mean, so that squares do not cancel.
    let centre = x.detach().f_mean_dim(&[0i64, 2, 3][..], true, None::<Kind>)?;
    let pooled = |t: &Tensor| t.f_adaptive_avg_pool2d([patches, patches])?.f_mean_dim(&[0i64][..], false, None::<Kind>);
    let around = x.f_sub(&centre)?;
    let (first, second) = (pooled(&around)?, pooled(&around.f_square()?)?);
    Ok((first.f_add(&centre.f_squeeze_dim(0)?)?, second.f_sub(&first.f_square()?)?))
}

impl Replica {
    /// The loss of `input` `[N, C, H, W]` for `targets` (int64 `[N]`) and its gradient. Without targets the loss has no cross entropy.
    ///
    /// # Errors
    /// Those of [`Replica::run`], or a graph without a `[N, K]` output.
    pub fn evaluate<'t>(
        &self,
        input: &Tensor,
        targets: impl Into<Option<&'t Tensor>>,
        objective: &Objective,
    ) -> Result<Evaluation, ReplicaError> {
        let input = input.detach().set_requires_grad(true);
        let taps: Vec<ValueId> = objective.layers.iter().map(|l| l.tap).collect();
        let run = self.run(std::slice::from_ref(&input), &taps, Mode::Eval)?;
        self.differentiate(&input, targets.into(), objective, &run.outputs[0], &run.taps)
            .map_err(|source| ReplicaError::Loss { source })
    }

    fn differentiate(
        &self,
        input: &Tensor,
        targets: Option<&Tensor>,
        objective: &Objective,
        logits: &Tensor,
        taps: &[Tensor],
    ) -> Result<Evaluation, tch::TchError> {
        let ce = match targets {
            Some(targets) => logits.f_cross_entropy_loss::<Tensor>(targets, None, tch::Reduction::Mean, -100, 0.0)?,
            None => Tensor::f_zeros([], (input.kind(), input.device()))?,
        };
        let mut bn = Tensor::f_zeros([], (input.kind(), input.device()))?;
        for (layer, tap) in objective.layers.iter().zip(taps) {
            let (mean, var) = match layer.patches {
                1 => channel_statistics(tap, layer.axis)?,
                patches => patch_statistics(tap, patches)?,
            };
            let distance = layer.distance(&mean, &var, objective.distance)?;
            bn = bn.f_add(&distance.f_mul_scalar(layer.multiplier)?)?;
        }
        let loss = ce.f_add(&bn.f_mul_scalar(objective.r_bn)?)?;
        let gradient = Tensor::f_run_backward(&[&loss], &[input], false, false)?.remove(0);
        let number = |t: &Tensor| f64::try_from(t.f_to_kind(Kind::Double)?);
        Ok(Evaluation { loss: number(&loss)?, ce: number(&ce)?, bn: number(&bn)?, logits: logits.detach(), gradient })
    }
}
