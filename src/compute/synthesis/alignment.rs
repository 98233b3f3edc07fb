//! The alignment of activation statistics: what it costs, and the gradient that it sends back.

use tch::{Kind, TchError, Tensor};

use super::{Distance, LayerTarget, Momentum, Objective, channel_statistics};
use scdd_kernels::pass::Moments;

/// One layer's share of the objective, in double precision.
pub struct AlignedLayer {
    mean: Tensor,
    var: Tensor,
    /// What each channel's differences of mean and variance weigh; absent: 1.
    weights: Option<(Tensor, Tensor)>,
    multiplier: f64,
    distance: Distance,
}

/// Mean and biased variance per channel, `[C]`, over `count` values each.
pub struct MeasuredStatistics {
    mean: Tensor,
    var: Tensor,
    count: f64,
}

/// What a layer's statistics cost, and the gradient a + b · x per channel that they add to the
/// activation x.
pub struct Alignment {
    /// The multiplier included, the weight of the whole term not.
    pub cost: Tensor,
    pub a: Tensor,
    pub b: Tensor,
}

pub fn layers(objective: &Objective) -> Result<Vec<AlignedLayer>, TchError> {
    let layer = |target: &LayerTarget| {
        let double = |t: &Tensor| t.f_to_kind(Kind::Double);
        let weights = match &target.weights {
            Some((of_mean, of_var)) => Some((double(of_mean)?, double(of_var)?)),
            None => None,
        };
        Ok(AlignedLayer {
            mean: double(&target.mean)?,
            var: double(&target.var)?,
            weights,
            multiplier: target.multiplier,
            distance: objective.distance,
        })
    };
    objective.layers.iter().map(layer).collect()
}

impl MeasuredStatistics {
    pub fn of_moments(moments: &Moments) -> Self {
        let count = moments.count as f64;
        let var: Vec<f64> = moments.squares.iter().map(|s| s / count).collect();
        Self { mean: Tensor::from_slice(&moments.mean), var: Tensor::from_slice(&var), count }
    }

    pub fn of_tensor(x: &Tensor, axis: usize) -> Result<Self, TchError> {
        let (mean, var) = channel_statistics(x, axis as i64)?;
        let count = x.numel() as f64 / mean.numel() as f64;
        Ok(Self { mean: mean.f_to_kind(Kind::Double)?, var: var.f_to_kind(Kind::Double)?, count })
    }
}

impl AlignedLayer {
    /// The distances of μ from μ̂ and of σ² from σ̂², times the multiplier; their gradient also
    /// times `weight`. The layer is the objective's of this `index`, by which `momentum` knows it.
    pub fn align(
        &self,
        measured: &MeasuredStatistics,
        weight: f64,
        (momentum, index): (&Momentum, usize),
    ) -> Result<Alignment, TchError> {
        let (of_mean, of_var) =
            self.weights.as_ref().map_or((None, None), |(m, v)| (Some(m), Some(v)));
        let blend = momentum.blend(index, &measured.mean, &measured.var)?;
        let (mean, var) =
            blend.as_ref().map_or((&measured.mean, &measured.var), |(mean, var)| (mean, var));
        let (mean_cost, by_mean) = self.distance(&mean.f_sub(&self.mean)?, of_mean)?;
        let (var_cost, by_var) = self.distance(&var.f_sub(&self.var)?, of_var)?;
        let share = weight * self.multiplier / measured.count;
        let b = by_var.f_mul_scalar(2.0 * share)?;
        let a = by_mean.f_mul_scalar(share)?.f_sub(&b.f_mul(&measured.mean)?)?;
        Ok(Alignment { cost: mean_cost.f_add(&var_cost)?.f_mul_scalar(self.multiplier)?, a, b })
    }

    /// The distance of the (weighted) difference from 0 and its gradient, which is 0 where the
    /// distance is.
    fn distance(
        &self,
        difference: &Tensor,
        weight: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor), TchError> {
        let weighted = |t: &Tensor| weight.map_or_else(|| Ok(t.shallow_clone()), |w| t.f_mul(w));
        let scaled = weighted(difference)?;
        let (cost, gradient) = match self.distance {
            Distance::Norm => {
                let norm = scaled.f_norm()?;
                let gradient = scaled.f_div(&norm.f_clamp_min(f64::MIN_POSITIVE)?)?;
                (norm, gradient)
            }
            Distance::Squared => {
                (scaled.f_square()?.f_sum(None::<Kind>)?, scaled.f_mul_scalar(2.0)?)
            }
        };
        Ok((cost, weighted(&gradient)?))
    }
}
