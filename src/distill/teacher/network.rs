//! A bundle's network in libtorch: its graph, the objective from its statistics, its golden probe.

use tch::{Device, TchError, Tensor};

use super::error::NetworkError;
use super::{Bundle, LayerStatistics, StatisticsKind};
use scdd_compute::replica::{Replica, to_tensor};
use scdd_compute::synthesis::{Distance, LayerTarget, Momentum, Objective};

/// A bundle as libtorch objects.
pub trait Network {
    /// The graph as `tch` operations.
    ///
    /// # Errors
    /// When the constants can't be copied to `device`.
    fn replica(&self, device: Device) -> Result<Replica, NetworkError>;

    /// The synthesis objective with this bundle's statistics as targets, as SC-DD defines it.
    fn objective(&self, r_bn: f64, first_multiplier: f64, device: Device) -> Objective;

    /// The golden probe's images, float32 `[N, C, H, W]`, and targets, int64 `[N]`, on the CPU.
    ///
    /// # Errors
    /// When libtorch can't make the tensors.
    fn probe(&self) -> Result<(Tensor, Option<Tensor>), TchError>;
}

impl Network for Bundle {
    fn replica(&self, device: Device) -> Result<Replica, NetworkError> {
        Replica::new(self.graph.clone(), device)
            .map_err(|source| NetworkError::Replica { bundle: self.manifest.name.clone(), source })
    }

    fn objective(&self, r_bn: f64, first_multiplier: f64, device: Device) -> Objective {
        let tensor = |values: &[f32]| Tensor::from_slice(values).to_device(device);
        let folded = self.manifest.statistics.kind == StatisticsKind::Folded;
        let target = |(i, layer): (usize, &LayerStatistics)| {
            let (tap, axis) = (layer.tap, layer.axis);
            let multiplier = if i == 0 { first_multiplier } else { 1.0 };
            if !folded {
                let (mean, var) = (tensor(&layer.mean), tensor(&layer.var));
                return LayerTarget { tap, axis, patches: 1, mean, var, weights: None, multiplier };
            }
            let found = unfolded(layer);
            let weights = Some((tensor(&found.mean_weight), tensor(&found.var_weight)));
            let (mean, var) = (tensor(&found.mean), tensor(&found.var));
            LayerTarget { tap, axis, patches: 1, mean, var, weights, multiplier }
        };
        let layers = self.layers.iter().enumerate().map(target).collect();
        Objective { layers, r_bn, distance: Distance::Norm, momentum: Momentum::default() }
    }

    fn probe(&self) -> Result<(Tensor, Option<Tensor>), TchError> {
        let targets = self
            .golden
            .targets
            .as_ref()
            .map(|targets| Tensor::f_from_slice(targets))
            .transpose()?;
        Ok((to_tensor(self.golden.input.view())?, targets))
    }
}

/// Converts the target statistics of a folded BatchNorm's input to its output, because the graph
/// only has the output.
///
/// With s = γ/√(σ² + ε) the output y has mean s·(mean_x − μ) + β and variance s²·var_x. So
/// differences on the output, divided by s and s², equal those on the input. A channel with a
/// vanishing s carries no information about its input, so its weight is 0.
struct Unfolded {
    mean: Vec<f32>,
    var: Vec<f32>,
    mean_weight: Vec<f32>,
    var_weight: Vec<f32>,
}

/// Below this scale the output of a folded BatchNorm counts as constant.
const VANISHING_SCALE: f64 = 1e-6;

fn unfolded(layer: &LayerStatistics) -> Unfolded {
    let scale =
        |c: usize| f64::from(layer.weight[c]) / (f64::from(layer.var[c]) + layer.eps).sqrt();
    let per_channel = |f: &dyn Fn(f64, usize) -> f64| {
        (0..layer.mean.len()).map(|c| f(scale(c), c) as f32).collect()
    };
    let inverse = |s: f64| if s.abs() < VANISHING_SCALE { 0.0 } else { 1.0 / s.abs() };
    Unfolded {
        mean: layer.bias.clone(),
        var: per_channel(&|s, c| s * s * f64::from(layer.var[c])),
        mean_weight: per_channel(&|s, _| inverse(s)),
        var_weight: per_channel(&|s, _| inverse(s) * inverse(s)),
    }
}
