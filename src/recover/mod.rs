//! Recover: images optimised until the teacher sees in them what it learned.
//!
//! SC-DD (arXiv 2404.07976) as published and coded: Adam on the normalised image, cosine learning rate to 0, the loss of
//! [`crate::replica::Objective`] plus optional image priors, each step seen through random views, each step clipped to valid pixels.
//! Work is cut into batches that know nothing of each other, so that any of them can be made anywhere and in any order.

mod adam;
mod alignment;
pub mod balance;
mod batch;
mod engine;
mod prior;
mod verifier;

use ndarray::{Array4, Axis, Zip};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};
use tch::{TchError, Tensor};

use crate::config::{BnWeight, RecoverConfig};
use crate::data::view::{adjoint_batch, apply_batch};
use crate::data::{DataError, Normalization, Resample, Shift, Size, View};
use crate::replica::{Plan, PlanOptions, ReplicaError, to_array, to_tensor};
use crate::teacher::{Bundle, BundleError, RuntimeError};

use adam::Adam;
pub use alignment::objective;
pub use batch::Item;
use engine::Engine;
use prior::Priors;
pub use verifier::{Accuracy, accuracy};

/// torchvision's range of a random crop's width over height.
pub(crate) const CROP_RATIO: (f32, f32) = (3.0 / 4.0, 4.0 / 3.0);

/// Why images could not be recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error("teacher `{teacher}`: {source}")]
    Replica { teacher: String, source: ReplicaError },
    #[error("teacher `{teacher}`: libtorch: {source}")]
    Torch { teacher: String, source: TchError },
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(
        "the loss is {loss} at step {iteration}: the images have diverged; lower `recover.learning_rate` or `recover.r_bn`"
    )]
    Diverged { iteration: u32, loss: f64 },
    #[error("there is nothing to recover from: {why}; or set `recover.r_bn` above 0, which aligns with its statistics")]
    NoLoss { why: String },
    #[error(
        "`recover.r_bn: auto` balances cross entropy with the statistics of `{teacher}`, but {why}; give `recover.r_bn` a number"
    )]
    NoBalance { teacher: String, why: String },
    #[error(
        "teacher `{teacher}` has no statistics to align with: {why}. Measure some with `scdd calibrate`, or set `recover.r_bn` to 0"
    )]
    NoStatistics { teacher: String, why: String },
    #[error(
        "teacher `{teacher}` has no statistics of its classes, which `recover.class_share` above 0 aligns with: measure them with \
         `scdd calibrate --per-class`, or set it to 0"
    )]
    NoClassStatistics { teacher: String },
}

/// The loss at one step. `loss = ce + r_bn · bn + priors`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    pub iteration: u32,
    pub loss: f64,
    /// Mean cross entropy.
    pub ce: f64,
    /// BN statistics term, unweighted.
    pub bn: f64,
}

/// A teacher made ready for synthesis.
pub struct Recover<'a> {
    bundle: &'a Bundle,
    config: &'a RecoverConfig,
    r_bn: f64,
    engine: Engine,
    normalization: Normalization,
    options: PlanOptions,
}

impl<'a> Recover<'a> {
    /// `options` say where and how the teacher is computed.
    ///
    /// # Errors
    /// When the loss needs statistics that the bundle lacks, or a features-only bundle is to
    /// do without them.
    pub fn new(bundle: &'a Bundle, config: &'a RecoverConfig, options: PlanOptions) -> Result<Self, RecoverError> {
        let r_bn = match config.r_bn {
            BnWeight::Fixed(weight) => weight,
            BnWeight::Auto => balance::auto(bundle, config, options.device)?.r_bn,
        };
        if let Some(why) = bundle.without_statistics().filter(|_| r_bn > 0.0) {
            return Err(RecoverError::NoStatistics { teacher: bundle.name().into(), why });
        }
        if config.class_share > 0.0 && bundle.layers.iter().any(|layer| layer.per_class.is_none()) {
            return Err(RecoverError::NoClassStatistics { teacher: bundle.name().into() });
        }
        if let Some(why) = bundle.without_classifier().filter(|_| r_bn == 0.0) {
            return Err(RecoverError::NoLoss { why });
        }
        let p = &bundle.manifest.preprocessing;
        Ok(Self {
            bundle,
            config,
            r_bn,
            engine: Engine::new(bundle.graph.clone(), options),
            normalization: Normalization::new(p.mean.clone(), p.std.clone())?,
            options,
        })
    }

    /// All images of a set of `ipc` per class of `classes`, packed into batches.
    pub fn batches(&self, classes: &[u32], ipc: u32, seed: u64) -> Vec<Vec<Item>> {
        batch::pack(classes, ipc, self.config.batch_size, self.config.packing, seed)
    }

    pub fn normalization(&self) -> &Normalization {
        &self.normalization
    }

    /// Optimises one batch from noise; gives the images `[N, C, H, W]`, normalised, and the loss of every step.
    ///
    /// # Errors
    /// When the teacher can't be run, or the loss stops being a number.
    pub fn run(&self, items: &[Item], seed: u64, step: &mut dyn FnMut(Point)) -> Result<Array4<f32>, RecoverError> {
        let [channels, height, width] = self.bundle.image_shape();
        let size = Size { height, width };
        let mut start = Array4::zeros((items.len(), channels, height, width));
        for (mut image, item) in start.axis_iter_mut(Axis(0)).zip(items) {
            let mut stream = item.stream(seed, "recover/start");
            let std = self.config.start_std as f32;
            image.mapv_inplace(|_: f32| std * Distribution::<f32>::sample(&StandardNormal, &mut stream));
        }
        let targets: Vec<u32> = items.iter().map(|item| item.class).collect();
        let mut streams: Vec<ChaCha8Rng> = items.iter().map(|item| item.stream(seed, "recover/views")).collect();
        let mut views = |_: u32| streams.iter_mut().map(|stream| self.draw_view(stream, size)).collect();
        self.optimise(start, &targets, &mut views, step)
    }

    /// Crop, flip, then shift, as the published code does.
    fn draw_view(&self, stream: &mut ChaCha8Rng, size: Size) -> Result<Resample, DataError> {
        let mut view = match self.config.crop {
            Some(crop) => {
                let scale = (crop.scale[0] as f32, crop.scale[1] as f32);
                View::random_resized_crop(stream, size, scale, CROP_RATIO)?
            }
            None => View::full(size)?,
        };
        if self.config.flip {
            view = view.with_random_flip(stream, 0.5);
        }
        let map = Resample::new(&view, size, size)?;
        if self.config.jitter == 0 {
            return Ok(map);
        }
        Ok(map.roll_output(Shift::random(stream, self.config.jitter.min(u32::from(u16::MAX)) as u16)))
    }

    /// The optimisation itself, from `start` `[N, C, H, W]` towards `targets` `[N]`, with the views that `views` gives for each step.
    /// Without a classifier there is no cross entropy, and the targets go unused.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn optimise(
        &self,
        start: Array4<f32>,
        targets: &[u32],
        views: &mut dyn FnMut(u32) -> Result<Vec<Resample>, DataError>,
        step: &mut dyn FnMut(Point),
    ) -> Result<Array4<f32>, RecoverError> {
        let config = self.config;
        let objective = alignment::objective(self.bundle, config, self.r_bn, targets, self.options.device);
        let objective = objective.map_err(|e| self.torch(e))?;
        let (n, c, h, w) = start.dim();
        let plan = self.engine.plan(&objective, [n, c, h, w].map(|d| d as i64)).map_err(|e| self.replica(e))?;
        let targets: Vec<i64> = targets.iter().map(|&t| i64::from(t)).collect();
        let targets = Tensor::from_slice(&targets).to_device(self.options.device);
        let targets = (!self.bundle.manifest.is_features_only()).then_some(&targets);
        let priors = Priors { tv: config.tv, l2: config.l2 };
        let range = self.normalization.range();
        let mut images = start;
        let mut seen = images.clone();
        let mut gradient = images.clone();
        let mut adam = Adam::new(images.raw_dim(), config.betas);
        for iteration in 0..config.iterations {
            let maps = views(iteration)?;
            apply_batch(&maps, &images, &mut seen)?;
            let (mut point, mut seen_gradient) = self.evaluate(&plan, &seen, targets, iteration)?;
            point.loss += priors.add(&seen, &mut seen_gradient);
            if !point.loss.is_finite() {
                return Err(RecoverError::Diverged { iteration, loss: point.loss });
            }
            adjoint_batch(&maps, &seen_gradient, &mut gradient)?;
            adam.step(&mut images, &gradient, cosine(config.learning_rate, iteration, config.iterations));
            clip(&mut images, &range);
            step(point);
        }
        self.engine.keep(plan);
        Ok(images)
    }

    fn replica(&self, source: ReplicaError) -> RecoverError {
        RecoverError::Replica { teacher: self.bundle.name().into(), source }
    }

    fn torch(&self, source: TchError) -> RecoverError {
        RecoverError::Torch { teacher: self.bundle.name().into(), source }
    }

    fn evaluate(
        &self,
        plan: &Plan,
        seen: &Array4<f32>,
        targets: Option<&Tensor>,
        iteration: u32,
    ) -> Result<(Point, Array4<f32>), RecoverError> {
        let torch = |source| self.torch(source);
        let input = to_tensor(seen.view()).and_then(|t| t.f_to_device(self.options.device)).map_err(torch)?;
        let found = plan.evaluate(&input, targets).map_err(|e| self.replica(e))?;
        let gradient = to_array(&found.gradient).map_err(torch)?;
        let gradient = gradient.into_dimensionality().map_err(|e| torch(TchError::Shape(e.to_string())))?;
        Ok((Point { iteration, loss: found.loss, ce: found.ce, bn: found.bn }, gradient))
    }
}

/// Half a cosine from `initial` at step 0 to 0 at step `steps`.
fn cosine(initial: f64, step: u32, steps: u32) -> f64 {
    0.5 * initial * (1.0 + (std::f64::consts::PI * f64::from(step) / f64::from(steps)).cos())
}

/// Clips every pixel to what its channel can show.
fn clip(images: &mut Array4<f32>, range: &[(f32, f32)]) {
    for (mut plane, &(low, high)) in images.axis_iter_mut(Axis(1)).zip(range) {
        Zip::from(&mut plane).for_each(|v| *v = v.clamp(low, high));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_falls_from_its_start_to_zero() {
        assert_eq!(cosine(0.4, 0, 100), 0.4);
        assert!((cosine(0.4, 50, 100) - 0.2).abs() < 1e-12);
        assert!(cosine(0.4, 99, 100) > 0.0 && cosine(0.4, 99, 100) < 1e-3);
    }

    #[test]
    fn clipping_is_per_channel() {
        let mut images = Array4::from_shape_fn((1, 2, 1, 2), |(_, c, _, x)| (c as f32 + 1.0) * (x as f32 * 4.0 - 2.0));
        clip(&mut images, &[(-1.0, 1.0), (-3.0, 2.0)]);
        assert_eq!(images.as_slice(), Some(&[-1.0, 1.0, -3.0, 2.0][..]));
    }
}
