//! The alignment of activation statistics: its cost and its gradient.

use tch::{Kind, TchError, Tensor};

use super::{Distance, LayerTarget, Momentum, Objective, channel_statistics};
use scdd_kernels::pass::Moments;

/// The target of one layer's statistics, in double precision.
pub struct AlignedLayer {
    mean: Tensor,
    var: Tensor,
    /// The weights of each channel's differences of mean and variance; absent: 1.
    weights: Option<(Tensor, Tensor)>,
    multiplier: f64,
    distance: Distance,
}

/// Mean and biased variance per channel, `[C]`, each over `count` values.
pub struct MeasuredStatistics {
    mean: Tensor,
    var: Tensor,
    count: f64,
}

/// The cost of a layer's statistics, and the gradient a + b · x per channel that they add to that
/// of the activation x.
pub struct Alignment {
    /// With the layer's multiplier, without `r_bn`.
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
    /// The cost is the distances of μ from μ̂ and of σ² from σ̂², times the multiplier; the
    /// gradient is also times `weight`. `index` is the layer's place in the objective, under which
    /// `momentum` keeps its average.
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

    /// The norm of the (weighted) difference, or its square, and the gradient, which is 0 at a
    /// difference of 0.
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
