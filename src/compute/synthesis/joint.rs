//! The alignment of all layers at once, for a GPU: a dozen operations on `[2, ΣC]`, where layer by
//! layer there would be as many for each.

use tch::{Kind, TchError, Tensor};

use super::alignment::{AlignedLayer, MeasuredStatistics};
use super::pass::StatisticsGradient;
use super::{Distance, Momentum};
use crate::transfer;

/// The targets of all layers, their channels one after another.
pub struct JointAlignment {
    /// Means and variances, float64 `[2, ΣC]`.
    targets: Tensor,
    /// The weights of their differences, `[2, ΣC]`; absent: 1.
    weights: Option<Tensor>,
    /// The layer of each channel, int64 `[ΣC]`.
    layer_of: Tensor,
    /// 1 where a channel is the layer's, float64 `[ΣC, L]`.
    members: Tensor,
    /// float64 `[L]`.
    multipliers: Tensor,
    /// Each channel's multiplier over the number of its values, float64 `[ΣC]`.
    shares: Tensor,
    /// The channels of each layer.
    channels: Vec<i64>,
    distance: Distance,
}

impl JointAlignment {
    /// Joins `layers`, whose channels have `counts` values each.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn new(
        layers: &[AlignedLayer],
        counts: &[f64],
        distance: Distance,
    ) -> Result<Option<Self>, TchError> {
        let Some(first) = layers.first() else { return Ok(None) };
        let device = first.mean.device();
        let pair = |a: &Tensor, b: &Tensor| [a.shallow_clone(), b.shallow_clone()];
        let channels: Vec<i64> = layers.iter().map(|layer| layer.mean.numel() as i64).collect();
        let layer_of: Vec<i64> =
            (0..).zip(&channels).flat_map(|(layer, &c)| vec![layer; c as usize]).collect();
        let layer_of = transfer::send(&Tensor::f_from_slice(&layer_of)?, device)?;
        let multipliers: Vec<f64> = layers.iter().map(|layer| layer.multiplier).collect();
        let shares: Vec<f64> = multipliers.iter().zip(counts).map(|(m, n)| m / n).collect();
        let per_layer = |values: &[f64]| transfer::send(&Tensor::f_from_slice(values)?, device);
        let weights = if layers.iter().any(|layer| layer.weights.is_some()) {
            Some(joined(layers.iter().map(|layer| match &layer.weights {
                Some((of_mean, of_var)) => pair(of_mean, of_var),
                None => [&layer.mean, &layer.var].map(Tensor::ones_like),
            }))?)
        } else {
            None
        };
        let every_layer = Tensor::f_arange(layers.len() as i64, (Kind::Int64, device))?;
        Ok(Some(Self {
            targets: joined(layers.iter().map(|layer| pair(&layer.mean, &layer.var)))?,
            weights,
            members: layer_of.f_unsqueeze(1)?.f_eq_tensor(&every_layer)?.f_to_kind(Kind::Double)?,
            multipliers: per_layer(&multipliers)?,
            shares: per_layer(&shares)?.f_index_select(0, &layer_of)?,
            layer_of,
            channels,
            distance,
        }))
    }

    /// What [`AlignedLayer::align`] gives of each layer: the sum of their costs, and the gradients
    /// that their statistics add, in the order of the layers. `measured` is in that order.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn align(
        &self,
        measured: &[&MeasuredStatistics],
        weight: f64,
        momentum: &Momentum,
    ) -> Result<(Tensor, Vec<StatisticsGradient>), TchError> {
        let own = joined(measured.iter().map(|m| [m.mean.shallow_clone(), m.var.shallow_clone()]))?;
        // Views of each layer's own.
        let of_layers = |row| own.f_select(0, row)?.f_split_with_sizes(&self.channels, 0);
        let layers = of_layers(0)?.into_iter().zip(of_layers(1)?).enumerate();
        let blends = layers.map(|(index, (mean, var))| momentum.blend(index, &mean, &var));
        let blends: Option<Vec<_>> =
            blends.map(Result::transpose).collect::<Option<Result<_, _>>>().transpose()?;
        let compared = match blends {
            Some(blends) => joined(blends.into_iter().map(|(mean, var)| [mean, var]))?,
            None => own.shallow_clone(),
        };
        let (cost, slope) = self.distances(&compared.f_sub(&self.targets)?)?;
        let slope = slope.f_mul(&self.shares)?.f_mul_scalar(weight)?;
        let b = slope.f_select(0, 1)?.f_mul_scalar(2.0)?;
        let a = slope.f_select(0, 0)?.f_sub(&b.f_mul(&own.f_select(0, 0)?)?)?;
        // The precision of activations, in which they are used.
        let [a, b] =
            [a, b].map(|t| t.f_to_kind(Kind::Float)?.f_split_with_sizes(&self.channels, 0));
        let slopes = a?.into_iter().zip(b?).map(|(a, b)| StatisticsGradient { a, b });
        Ok((cost, slopes.collect()))
    }

    /// The cost of these differences `[2, ΣC]`, and its gradient without multipliers.
    fn distances(&self, differences: &Tensor) -> Result<(Tensor, Tensor), TchError> {
        let weighted = |t: &Tensor| match &self.weights {
            Some(weights) => t.f_mul(weights),
            None => Ok(t.shallow_clone()),
        };
        let scaled = weighted(differences)?;
        let squares = scaled.f_square()?.f_matmul(&self.members)?;
        let (costs, slope) = match self.distance {
            Distance::Norm => {
                let norms = squares.f_sqrt()?;
                let of_channels = norms.f_clamp_min(f64::MIN_POSITIVE)?;
                let slope = scaled.f_div(&of_channels.f_index_select(1, &self.layer_of)?)?;
                (norms, slope)
            }
            Distance::Squared => (squares, scaled.f_mul_scalar(2.0)?),
        };
        Ok((costs.f_mul(&self.multipliers)?.f_sum(None::<Kind>)?, weighted(&slope)?))
    }
}

/// Pairs of `[C]`, joined to float64 `[2, ΣC]`.
fn joined(pairs: impl Iterator<Item = [Tensor; 2]>) -> Result<Tensor, TchError> {
    let (first, second): (Vec<Tensor>, Vec<Tensor>) = pairs.map(|[a, b]| (a, b)).unzip();
    let rows = [Tensor::f_cat(&first, 0)?, Tensor::f_cat(&second, 0)?];
    Tensor::f_stack(&rows, 0)?.f_to_kind(Kind::Double)
}

#[cfg(test)]
mod tests {
    use super::super::{LayerTarget, Objective};
    use super::*;
    use crate::synthesis::{PlanOptions, SynthesisPlan, alignment};
    use scdd_graph::Graph;
    use scdd_kernels::Isa;
    use std::sync::Arc;
    use tch::Device;

    const CHANNELS: [i64; 3] = [5, 1, 8];
    const COUNT: f64 = 98.0;

    fn values(of: i64, seed: i64) -> Tensor {
        ((Tensor::arange(of, (Kind::Float, Device::Cpu)) + 3.0 * seed as f64) * 1.7).sin()
    }

    fn objective(distance: Distance, weighted: bool, decay: f64) -> Objective {
        let layer = |(number, channels): (i64, i64)| LayerTarget {
            tap: number as usize,
            axis: 1,
            patches: 1,
            mean: values(channels, number),
            var: values(channels, 10 + number).square(),
            // One layer has none.
            weights: (weighted && number != 1)
                .then(|| (values(channels, 20 + number), values(channels, 30 + number))),
            multiplier: if number == 0 { 10.0 } else { 1.0 },
        };
        let layers = (0..).zip(CHANNELS).map(layer).collect();
        Objective { layers, r_bn: 0.01, distance, momentum: Momentum::new(decay) }
    }

    fn measured(step: i64) -> Vec<MeasuredStatistics> {
        let layer = |(number, channels): (i64, i64)| MeasuredStatistics {
            // The second layer's are those of its target at the first step.
            mean: values(channels, number + if number == 1 { step } else { 40 + step }),
            var: values(channels, 10 + number + if number == 1 { step } else { 40 + step })
                .square(),
            count: COUNT,
        };
        (0..).zip(CHANNELS).map(layer).collect()
    }

    #[test]
    fn all_layers_at_once_give_what_each_gives() {
        for distance in [Distance::Norm, Distance::Squared] {
            for (weighted, decay) in [(false, 0.0), (true, 0.0), (true, 0.8)] {
                let objective = objective(distance, weighted, decay);
                let layers = alignment::layers(&objective).unwrap();
                let joint = JointAlignment::new(&layers, &[COUNT; 3], distance).unwrap().unwrap();
                let momentum = objective.momentum.fresh();
                for step in 0..2 {
                    let measured = measured(step);
                    let all: Vec<&MeasuredStatistics> = measured.iter().collect();
                    let (cost, slopes) = joint.align(&all, 0.01, &momentum).unwrap();
                    let mut expected = 0.0;
                    for (index, (layer, slope)) in layers.iter().zip(&slopes).enumerate() {
                        let of = (&objective.momentum, index);
                        let found = layer.align(&measured[index], 0.01, of).unwrap();
                        expected += f64::try_from(&found.cost).unwrap();
                        for (own, joint) in [(&found.a, &slope.a), (&found.b, &slope.b)] {
                            let apart = f64::try_from((own - joint).abs().max()).unwrap();
                            assert!(apart < 1e-8, "{distance:?} {weighted} {decay}: {apart}");
                        }
                    }
                    let found = f64::try_from(&cost).unwrap();
                    assert!((found - expected).abs() < 1e-9 * expected, "{found} {expected}");
                }
            }
        }
    }

    /// With the CPU's kernels a plan aligns layer by layer.
    #[test]
    fn a_plan_without_kernels_gives_the_same_loss_and_gradient() {
        let file = "../../onnx/fashion-mnist/resnet18-w16-supervised/model.onnx";
        let graph = Arc::new(Graph::load(&std::fs::read(file).unwrap()).unwrap());
        let target = |node: &scdd_graph::Node| {
            let part = |i: usize| {
                let values = graph.constants.get(&node.inputs[i].unwrap()).unwrap().f32s();
                Tensor::from_slice(&values.unwrap())
            };
            let (tap, mean, var) = (node.inputs[0].unwrap(), part(3), part(4));
            LayerTarget { tap, axis: 1, patches: 1, mean, var, weights: None, multiplier: 2.0 }
        };
        let layers = graph.batch_norms().map(target).collect();
        let momentum = Momentum::default();
        let objective = Objective { layers, r_bn: 0.1, distance: Distance::Norm, momentum };
        let shape = [3, 1, 28, 28];
        let (images, classes) =
            (values(3 * 784, 1).reshape(shape), Tensor::from_slice(&[1i64, 2, 3]));
        let evaluate = |kernels| {
            let options = PlanOptions { kernels, ..PlanOptions::default() };
            let mut plan = SynthesisPlan::compile(&graph, &objective, shape, options).unwrap();
            plan.evaluate(&images, &classes).unwrap()
        };
        let (each, joint) = (evaluate(Some(Isa::best())), evaluate(None));
        assert!((each.bn - joint.bn).abs() < 1e-4 * each.bn, "{} {}", each.bn, joint.bn);
        let apart = f64::try_from((&each.gradient - &joint.gradient).norm()).unwrap();
        let norm = f64::try_from(each.gradient.norm()).unwrap();
        assert!(apart < 1e-3 * norm, "{apart} of {norm}");
    }

    #[test]
    fn no_layer_needs_no_alignment() {
        assert!(JointAlignment::new(&[], &[], Distance::Norm).unwrap().is_none());
    }
}
