//! The alignment of activation statistics: its cost and its gradient.

use tch::{Kind, TchError, Tensor};

use super::compile::SynthesisStep;
use super::joint::JointAlignment;
use super::pass::StatisticsGradient;
use super::{
    Distance, EvaluationState, LayerTarget, Momentum, Objective, SynthesisPlan, channel_statistics,
};
use scdd_kernels::pass::Moments;

/// The target of one layer's statistics, in double precision.
pub struct AlignedLayer {
    pub mean: Tensor,
    pub var: Tensor,
    /// The weights of each channel's differences of mean and variance; absent: 1.
    pub weights: Option<(Tensor, Tensor)>,
    pub multiplier: f64,
    distance: Distance,
}

/// Mean and biased variance per channel, `[C]`, each over `count` values.
pub struct MeasuredStatistics {
    pub mean: Tensor,
    pub var: Tensor,
    pub count: f64,
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

    /// Of `x` `[N, C, H, W]`, by libtorch's kernel for BN, which is made for channels last.
    pub fn of_image(x: &Tensor) -> Result<Self, TchError> {
        let (mean, var) = x.f_batch_norm_update_stats(None::<&Tensor>, None, 0.0)?;
        let count = x.numel() as f64 / mean.numel() as f64;
        Ok(Self { mean, var, count })
    }

    pub fn of_tensor(x: &Tensor, axis: usize) -> Result<Self, TchError> {
        let (mean, var) = channel_statistics(x, axis as i64)?;
        let count = x.numel() as f64 / mean.numel() as f64;
        Ok(Self { mean, var, count })
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
        let own = [measured.mean.f_to_kind(Kind::Double)?, measured.var.f_to_kind(Kind::Double)?];
        let blend = momentum.blend(index, &own[0], &own[1])?;
        let (mean, var) = blend.as_ref().map_or((&own[0], &own[1]), |(mean, var)| (mean, var));
        let (mean_cost, by_mean) = self.distance(&mean.f_sub(&self.mean)?, of_mean)?;
        let (var_cost, by_var) = self.distance(&var.f_sub(&self.var)?, of_var)?;
        let share = weight * self.multiplier / measured.count;
        let b = by_var.f_mul_scalar(2.0 * share)?;
        let a = by_mean.f_mul_scalar(share)?.f_sub(&b.f_mul(&own[0])?)?;
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

impl SynthesisPlan {
    /// The cost of all layers. Stores per step the gradient that its statistics add.
    pub(super) fn align(&self, run: &mut EvaluationState) -> Result<Tensor, TchError> {
        if let Some(joint) = &self.joint {
            return self.align_together(joint, run);
        }
        let mut costs = Vec::new();
        for (index, step) in self.steps.iter().enumerate() {
            let (Some(pass), Some(measured)) = (step.pass(), run.measured[index].take()) else {
                continue;
            };
            for &layer in &pass.layers {
                let found =
                    self.layers[layer].align(&measured, self.r_bn, (&self.momentum, layer))?;
                costs.push(found.cost);
                run.add_slope(index, StatisticsGradient { a: found.a, b: found.b })?;
            }
        }
        if costs.is_empty() {
            return Tensor::f_zeros([], (Kind::Double, self.options.device));
        }
        Tensor::f_stack(&costs, 0)?.f_sum(None::<Kind>)
    }

    /// As [`align`](Self::align), all layers at once.
    fn align_together(
        &self,
        joint: &JointAlignment,
        run: &mut EvaluationState,
    ) -> Result<Tensor, TchError> {
        // The step that measures each layer.
        let mut places = vec![None; self.layers.len()];
        for (index, step) in self.steps.iter().enumerate() {
            for &layer in step.pass().map_or(&[][..], |pass| &pass.layers) {
                places[layer] = Some(index);
            }
        }
        let unmeasured = || TchError::Shape("a layer was not measured".into());
        let places: Vec<usize> =
            places.into_iter().collect::<Option<_>>().ok_or_else(unmeasured)?;
        let measured = places.iter().map(|&index| run.measured[index].as_ref());
        let measured: Vec<_> = measured.collect::<Option<_>>().ok_or_else(unmeasured)?;
        let (cost, slopes) = joint.align(&measured, self.r_bn, &self.momentum)?;
        for (index, slope) in places.into_iter().zip(slopes) {
            run.add_slope(index, slope)?;
        }
        Ok(cost)
    }
}

/// The joint alignment of `layers`, which `steps` measure.
pub fn joint(
    layers: &[AlignedLayer],
    steps: &[SynthesisStep],
    distance: Distance,
) -> Result<Option<JointAlignment>, TchError> {
    let mut counts = vec![1.0; layers.len()];
    for pass in steps.iter().filter_map(SynthesisStep::pass) {
        let values: i64 = pass.size.iter().product();
        for &layer in &pass.layers {
            counts[layer] = values as f64 / layers[layer].mean.numel() as f64;
        }
    }
    JointAlignment::new(layers, &counts, distance)
}
