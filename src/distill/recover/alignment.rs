//! The targets of statistics alignment (the teacher's global statistics, those of the batch's
//! classes, or both), and the distance from them.
//!
//! With a layer's targets μ̂ and σ̂², its distance is d(μ − μ̂) + r_var · d(σ² − σ̂²). `r_var` is
//! DWA's (arXiv 2409.17612). Statistics of classes are LPLD's (arXiv 2410.15919) for batches of one
//! class; for mixed batches they are those of the mixture, and `class_share` weighs both distances
//! as EDC does (arXiv 2404.13733). Patch statistics are G-VBSM's (arXiv 2311.17950), but per
//! channel.

use std::collections::BTreeMap;

use tch::{Device, Kind, TchError, Tensor};

use crate::teacher::{Bundle, ClassStatistics, Network};
use scdd_compute::synthesis::{Distance, LayerTarget, Momentum, Objective};
use scdd_compute::transfer;
use scdd_experiment::config::{BnDistance, RecoverConfig};

/// The share of a layer's mean variance that is added to every channel's variance before dividing
/// by it, so that dead channels do not dominate.
const VARIANCE_FLOOR: f64 = 1e-3;

/// The objective of a batch of these `classes`, one per image, with `bundle` as the teacher and the
/// term's weight `r_bn`. Classes without statistics in the bundle are left out.
///
/// # Errors
/// When libtorch can't copy the targets to `device`.
pub fn objective(
    bundle: &Bundle,
    config: &RecoverConfig,
    r_bn: f64,
    classes: &[u32],
    device: Device,
) -> Result<Objective, TchError> {
    let mut objective = bundle.objective(r_bn, config.first_bn_multiplier, device);
    if config.class_share > 0.0 {
        let of_classes =
            objective.layers.iter().zip(&bundle.layers).filter_map(|(global, layer)| {
                let (mean, var) = mixture(layer.per_class.as_ref()?, layer.mean.len(), classes);
                let tensor = |values: &[f32]| transfer::upload(values, &[-1], device);
                let multiplier = global.multiplier * config.class_share;
                let target = || {
                    Ok(LayerTarget {
                        mean: tensor(&mean)?,
                        var: tensor(&var)?,
                        multiplier,
                        ..share(global)
                    })
                };
                Some(target())
            });
        let of_classes: Vec<LayerTarget> = of_classes.collect::<Result<_, TchError>>()?;
        objective.layers.iter_mut().for_each(|layer| layer.multiplier *= 1.0 - config.class_share);
        objective.layers.retain(|layer| layer.multiplier > 0.0);
        objective.layers.extend(of_classes);
    }
    if config.r_patch > 0.0 {
        objective.layers.extend(patches(bundle, config, classes, device)?);
    }
    if config.distance == BnDistance::Squared {
        objective.distance = Distance::Squared;
    }
    objective.momentum = Momentum::new(config.statistics_momentum);
    for layer in &mut objective.layers {
        layer.weights = weights(layer, config)?;
    }
    Ok(objective)
}

/// The targets of patch statistics, over all classes and over the batch's classes.
fn patches(
    bundle: &Bundle,
    config: &RecoverConfig,
    classes: &[u32],
    device: Device,
) -> Result<Vec<LayerTarget>, TchError> {
    let mut targets = Vec::new();
    for (i, layer) in bundle.layers.iter().enumerate() {
        let Some(patches) = &layer.patches else { continue };
        let side = patches.side as i64;
        let size = [layer.mean.len() as i64, side, side];
        let tensor = |values: &[f32]| transfer::upload(values, &size, device);
        let of_layer = if i == 0 { config.first_bn_multiplier } else { 1.0 };
        let target = |mean: &[f32], var: &[f32], share: f64| {
            let (mean, var) = (tensor(mean)?, tensor(var)?);
            let multiplier = share * config.r_patch * of_layer;
            let (tap, axis) = (layer.tap, layer.axis);
            Ok::<_, TchError>(LayerTarget {
                tap,
                axis,
                patches: side,
                mean,
                var,
                weights: None,
                multiplier,
            })
        };
        if config.class_share < 1.0 {
            targets.push(target(&patches.mean, &patches.var, 1.0 - config.class_share)?);
        }
        if let Some(of_classes) = patches.per_class.as_ref().filter(|_| config.class_share > 0.0) {
            let (mean, var) = mixture(of_classes, patches.mean.len(), classes);
            targets.push(target(&mean, &var, config.class_share)?);
        }
    }
    Ok(targets)
}

fn share(layer: &LayerTarget) -> LayerTarget {
    LayerTarget {
        mean: layer.mean.shallow_clone(),
        var: layer.var.shallow_clone(),
        weights: layer.weights.as_ref().map(|(m, v)| (m.shallow_clone(), v.shallow_clone())),
        ..*layer
    }
}

/// Mean and variance, `[C]` each, of a batch with one image per entry of `classes`, from every
/// class's statistics `[K, C]`.
fn mixture(statistics: &ClassStatistics, channels: usize, classes: &[u32]) -> (Vec<f32>, Vec<f32>) {
    let known = statistics.mean.len() / channels.max(1);
    let classes: Vec<usize> =
        classes.iter().map(|&class| class as usize).filter(|&class| class < known).collect();
    let mut counts: BTreeMap<usize, f64> = BTreeMap::new();
    classes
        .iter()
        .for_each(|&class| *counts.entry(class).or_default() += 1.0 / classes.len() as f64);
    let moments = |channel: usize| {
        let of = |values: &[f32], class: usize| f64::from(values[class * channels + channel]);
        let mean: f64 = counts.iter().map(|(&k, share)| share * of(&statistics.mean, k)).sum();
        let spread = |k: usize| of(&statistics.var, k) + (of(&statistics.mean, k) - mean).powi(2);
        (mean as f32, counts.iter().map(|(&k, share)| share * spread(k)).sum::<f64>() as f32)
    };
    (0..channels).map(moments).unzip()
}

/// The weights of each channel's differences, `[C]` each: `r_var` for variances. For a normalised
/// distance they also divide by the target's standard deviation.
fn weights(
    layer: &LayerTarget,
    config: &RecoverConfig,
) -> Result<Option<(Tensor, Tensor)>, TchError> {
    let normalised = config.distance == BnDistance::Normalised;
    if !normalised && config.r_var == 1.0 {
        return Ok(share(layer).weights);
    }
    let (mut of_mean, mut of_var) = match &layer.weights {
        Some((of_mean, of_var)) => (of_mean.shallow_clone(), of_var.shallow_clone()),
        None => (layer.mean.f_ones_like()?, layer.var.f_ones_like()?),
    };
    if normalised {
        let variance = layer.var.f_mul(&of_var)?;
        let floor = variance
            .f_mean(None::<Kind>)?
            .f_mul_scalar(VARIANCE_FLOOR)?
            .f_clamp_min(f64::from(f32::MIN_POSITIVE))?;
        let variance = variance.f_add(&floor)?;
        let channels = (layer.mean.numel() as f64).sqrt();
        of_mean = of_mean.f_div(&variance.f_sqrt()?)?.f_div_scalar(channels)?;
        of_var = of_var.f_div(&variance)?.f_div_scalar(channels)?;
    }
    let r_var =
        if config.distance == BnDistance::Squared { config.r_var.sqrt() } else { config.r_var };
    Ok(Some((of_mean, of_var.f_mul_scalar(r_var)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mixture_has_the_moments_of_all_its_values() {
        // Two pixels per image: class 0 is 1 and 3, class 1 is 10 and 16.
        let statistics = ClassStatistics { mean: vec![2.0, 13.0], var: vec![1.0, 9.0] };
        let pixels = [10.0, 16.0, 1.0, 3.0, 10.0, 16.0f64];
        let mean = pixels.iter().sum::<f64>() / 6.0;
        let var = pixels.iter().map(|p| (p - mean).powi(2)).sum::<f64>() / 6.0;
        let found = mixture(&statistics, 1, &[1, 0, 1]);
        assert!(
            (f64::from(found.0[0]) - mean).abs() < 1e-6
                && (f64::from(found.1[0]) - var).abs() < 1e-5
        );
        assert_eq!(mixture(&statistics, 1, &[1, 1]), (vec![13.0], vec![9.0]));
    }
}
