//! Recover: optimises images so that the teacher's activation statistics on them match those of its
//! training data, and its predictions match their classes.
//!
//! SC-DD (arXiv 2404.07976) as published and coded: Adam on the normalised image; a cosine learning
//! rate to 0; the loss of [`scdd_compute::synthesis::Objective`] plus optional image priors; random
//! views at each step; clipping to valid pixels after each step. Each addition of other recipes has
//! a module of its own: the images' `start`, their `views`, `alignment` of statistics, a
//! `committee` of teachers. Batches are independent of each other, so any of them can be made
//! anywhere and in any order.

mod adam;
mod adjust;
mod alignment;
pub mod balance;
mod batch;
mod clusters;
mod committee;
mod images;
mod losses;
mod plan_cache;
mod prior;
mod start;
mod state;
mod verifier;
mod views;

use std::ops::Range;

use ndarray::{Array4, Axis, Zip};
use rand_chacha::ChaCha8Rng;
use tch::{Device, TchError, Tensor};

use crate::keeper::{Forgetful, Keeper};
use crate::teacher::{Bundle, NetworkError, RuntimeError};
pub use scdd_artifacts::records::{Accuracy, GradientNorms, Item, Point};
use scdd_compute::replica::ReplicaError;
use scdd_compute::synthesis::PlanOptions;
use scdd_compute::threads::Threads;
use scdd_data::{DataError, Dataset, Normalization, Resample, Size, jpeg};
use scdd_experiment::config::{Quirk, RecoverConfig};

pub use alignment::objective;
pub use batch::Batch;
use committee::{BatchObjective, TeacherCommittee};
use images::{BatchImages, ImagesState, StepRule};
use losses::LossLog;
use prior::Priors;
use start::{Starts, resize};
use state::{BatchProgress, BatchState};
pub use verifier::accuracy;

/// Why images could not be recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error("teacher `{teacher}`: {source}")]
    Replica { teacher: String, source: ReplicaError },
    #[error("teacher `{teacher}`: libtorch: {source}")]
    Torch { teacher: String, source: TchError },
    #[error("libtorch can't take a step of the images: {0}")]
    Step(#[from] TchError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(
        "the loss is {loss} at step {iteration}: the images have diverged; lower `recover.learning_rate` or `recover.r_bn`"
    )]
    Diverged { iteration: u32, loss: f64 },
    #[error(
        "there is nothing to recover from: {why}; or set `recover.r_bn` above 0, which aligns with its statistics"
    )]
    NoLoss { why: String },
    #[error(
        "`recover.r_bn: auto` balances cross entropy with the statistics of `{teacher}`, but {why}; give `recover.r_bn` a number"
    )]
    NoBalance { teacher: String, why: String },
    #[error(
        "`recover.weight_adjustment` climbs the cross entropy of teacher `{teacher}`, but {why}; leave it out"
    )]
    NoAdjustment { teacher: String, why: String },
    #[error(
        "teacher `{teacher}` has no statistics to align with: {why}. Measure some with `scdd calibrate`, or set `recover.r_bn` to 0"
    )]
    NoStatistics { teacher: String, why: String },
    #[error(
        "teacher `{teacher}` has no statistics of its classes, which `recover.class_share` above 0 aligns with: measure them with \
         `scdd calibrate --per-class`, or set it to 0"
    )]
    NoClassStatistics { teacher: String },
    #[error(
        "teacher `{teacher}` has no statistics of patches (of its classes, where `recover.class_share` is above 0), which `recover.r_patch` above 0 \
         aligns with: measure them with `scdd calibrate --patches 4` (and `--per-class`), or set it to 0"
    )]
    NoPatchStatistics { teacher: String },
    #[error(
        "teacher `{teacher}` takes other images than `{first}` (size, mean or standard deviation of its preprocessing): they can't share a recovery"
    )]
    Unlike { teacher: String, first: String },
    #[error("`recover.r_bn: auto` was not measured for teacher `{teacher}`")]
    NotBalanced { teacher: String },
    #[error("the state of the batch can't be kept: {0}")]
    Keep(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the images on the way can't be kept: {0}")]
    Snapshot(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("`recover.start` asks for real images, and there are none")]
    NoData,
    #[error(
        "`recover.compat: cifar10_pixels` is for colour images, but teacher `{teacher}` takes images of {channels} channels: leave it out"
    )]
    NotColour { teacher: String, channels: usize },
    #[error(
        "class {class} has {found} images to start from, {needed} are needed: lower `ipc` or the numbers in `recover.start`, or leave the \
         `rded_crops_…` out of `baselines`"
    )]
    TooFewImages { class: u32, found: usize, needed: usize },
}

/// Looks on while a batch is recovered.
pub trait Observer {
    /// A step was taken; its losses are known now.
    fn step(&mut self, point: Point);

    /// `pixels` `[N, C, H, W]` are the images of `shape` `[C, H, W]` after `step` steps, one of
    /// [`RecoverConfig::snapshot_steps`].
    ///
    /// # Errors
    /// When they can't be kept.
    fn snapshot(&mut self, _: u32, _pixels: &[u8], _shape: [usize; 3]) -> Result<(), RecoverError> {
        Ok(())
    }
}

impl<F: FnMut(Point)> Observer for F {
    fn step(&mut self, point: Point) {
        self(point);
    }
}

/// The steps of one budget, and the state of an attempt that was interrupted among them.
struct Descent<'a> {
    /// `[N]`.
    classes: &'a [u32],
    steps: Range<u32>,
    budget: usize,
    kept: Option<BatchState>,
}

/// The number of steps whose losses are read from a GPU at once.
const READ_EVERY: usize = 50;

/// Teachers made ready for synthesis.
pub struct Recover<'a> {
    config: &'a RecoverConfig,
    committee: TeacherCommittee<'a>,
    starts: Starts<'a>,
    threads: Threads,
    /// The device on which images stay while they are optimised; `None`: they are arrays, for the
    /// plan's own kernels.
    resident: Option<Device>,
    normalization: Normalization,
    /// The size of the teachers' images.
    size: Size,
}

/// CIFAR-10's mean and deviation in the small-dataset code of SRe2L and SC-DD. Its deviations are
/// averages over images.
const CIFAR10_MEAN: [f32; 3] = [0.4914, 0.4822, 0.4465];
const CIFAR10_STD: [f32; 3] = [0.2023, 0.1994, 0.2010];

/// The normalisation that turns values for `bundle` into pixels.
fn normalization(bundle: &Bundle, config: &RecoverConfig) -> Result<Normalization, RecoverError> {
    if !config.compat.contains(&Quirk::Cifar10Pixels) {
        return Ok(bundle.normalization()?);
    }
    let channels = bundle.manifest.preprocessing.mean.len();
    if channels != CIFAR10_MEAN.len() {
        return Err(RecoverError::NotColour { teacher: bundle.name().into(), channels });
    }
    Ok(Normalization::new(CIFAR10_MEAN.to_vec(), CIFAR10_STD.to_vec())?)
}

impl<'a> Recover<'a> {
    /// `options` give the device, kernels and threads of the teacher's plan.
    ///
    /// # Errors
    /// When the loss needs statistics that the bundle lacks, or when neither statistics nor a
    /// classifier remain to recover from.
    pub fn new(
        bundle: &'a Bundle,
        config: &'a RecoverConfig,
        options: PlanOptions,
    ) -> Result<Self, RecoverError> {
        Self::with_committee(bundle, &[], config, &[], options)
    }

    /// As [`new`](Self::new), with the further teachers that `config.committee` names, in its
    /// order. With `r_bn: auto` `balances` holds the value of each teacher, `bundle` first, as
    /// [`balance::auto`] measures it; otherwise it goes unused.
    ///
    /// # Errors
    /// As [`new`](Self::new), or when the teachers' preprocessing differs.
    pub fn with_committee(
        bundle: &'a Bundle,
        others: &[&'a Bundle],
        config: &'a RecoverConfig,
        balances: &[f64],
        options: PlanOptions,
    ) -> Result<Self, RecoverError> {
        let (device, threads) = (options.device, options.threads.clone());
        let resident =
            (device != Device::Cpu || options.kernels.is_none()).then_some(options.device);
        let committee = TeacherCommittee::new(bundle, others, config, balances, options)?;
        let p = &bundle.manifest.preprocessing;
        let normalization = normalization(bundle, config)?;
        let starts = Starts::new(bundle, normalization.clone(), config, device, threads.clone());
        Ok(Self {
            config,
            committee,
            starts,
            threads,
            resident,
            normalization,
            size: Size { height: p.height, width: p.width },
        })
    }

    /// Adds the training images that `config.start` may need.
    pub fn with_data(mut self, data: &'a Dataset) -> Self {
        self.starts = self.starts.with_data(data);
        self
    }

    /// All images of a set of `ipc` per class of `classes`, packed into batches.
    pub fn batches(&self, classes: &[u32], ipc: u32, seed: u64) -> Vec<Batch> {
        batch::pack(classes, ipc, self.config, seed)
    }

    /// The number of the batch's steps.
    pub fn steps(&self, batch: &Batch) -> u64 {
        u64::from(self.config.iterations - batch.first)
    }

    /// Pixels of normalised images `[N, C, H, W]`, in the same order, rounded to the nearest level.
    /// `config.compat` applies the quirks of published code.
    ///
    /// # Errors
    /// When the images have diverged.
    pub fn to_pixels(&self, images: &Array4<f32>) -> Result<Vec<u8>, DataError> {
        let pixels = self.quantised(images)?;
        if !self.config.compat.contains(&Quirk::JpegFiles) {
            return Ok(pixels);
        }
        let (_, channels, height, width) = images.dim();
        let files = pixels.chunks_exact(channels * height * width);
        Ok(files
            .map(|image| jpeg::recompressed(image, channels, height, width))
            .collect::<Result<Vec<_>, _>>()?
            .concat())
    }

    /// Quantised to levels by rounding, or by truncation.
    fn quantised(&self, images: &Array4<f32>) -> Result<Vec<u8>, DataError> {
        let normalization = &self.normalization;
        let to_pixels = |images: &Array4<f32>| self.threads.run(|| normalization.to_pixels(images));
        if !self.config.compat.contains(&Quirk::TruncatedPixels) {
            return to_pixels(images);
        }
        // Rounding after subtracting half a level is truncation.
        let mut lower = images.clone();
        for (mut plane, (low, high)) in lower.axis_iter_mut(Axis(1)).zip(normalization.range()) {
            plane -= 0.5 * (high - low) / 255.0;
        }
        to_pixels(&lower)
    }

    /// Optimises one batch; gives the images `[N, C, H, W]`, normalised, and the loss of every
    /// step. Goes on with the state that `keeper` kept of an interrupted attempt at the same batch,
    /// and keeps the state now and then; `observer` gets the kept losses again.
    ///
    /// # Errors
    /// When a teacher can't be run, the loss is no longer finite, or there are too few real images
    /// to start from.
    pub fn run(
        &self,
        batch: &Batch,
        seed: u64,
        keeper: &mut dyn Keeper,
        observer: &mut dyn Observer,
    ) -> Result<Array4<f32>, RecoverError> {
        let classes: Vec<u32> = batch.items.iter().map(|item| item.class).collect();
        let mut streams: Vec<ChaCha8Rng> =
            batch.items.iter().map(|item| item.stream(seed, "recover/views")).collect();
        let budgets = self.budgets(batch.first);
        let fits = |state: &BatchState| {
            let BatchProgress { budget, next, .. } = state.progress;
            let steps = budgets.get(budget);
            steps.is_some_and(|steps| steps.start < next && next < steps.end)
                && state.images.images.shape()[0] == batch.items.len()
        };
        // With a damaged state the batch starts anew.
        let mut kept = keeper.kept().and_then(|bytes| BatchState::read(&bytes).ok()).filter(fits);
        // A kept state replaces the start, unless later budgets are blended with it.
        let start = match &kept {
            Some(_) if self.config.residual.is_none() => None,
            _ => Some(self.starts.images(batch, seed)?),
        };
        let mut images = start.clone().unwrap_or_default();
        let mut points = Vec::new();
        let total = f64::from(self.config.iterations);
        for (budget, steps) in budgets.clone().into_iter().enumerate() {
            let size = self.size_of(budget);
            let mut views =
                |i: u32| views::draw(self.config, &mut streams, size, f64::from(i) / total);
            if kept.as_ref().is_some_and(|kept| kept.progress.budget > budget) {
                // The streams of random numbers go on where they were.
                steps.map(views).try_for_each(|views| views.map(|_| ()))?;
                continue;
            }
            let here = kept.take();
            images = match (&here, &start) {
                (Some(kept), _) => kept.start.clone(),
                (None, Some(start)) => self.blended(&images, start, budget)?,
                (None, None) => images,
            };
            let run = Descent { classes: &classes, steps, budget, kept: here };
            let losses = LossLog::new(&mut points, observer);
            images = self.descend(images, run, &mut views, keeper, losses)?;
        }
        Ok(images)
    }

    /// The images at the first step of a budget: of its size, and blended with the start after the
    /// first.
    fn blended(
        &self,
        images: &Array4<f32>,
        start: &Array4<f32>,
        budget: usize,
    ) -> Result<Array4<f32>, RecoverError> {
        let size = self.size_of(budget);
        let mut images = resize(images, size, &self.threads)?;
        if let Some(residual) = self.config.residual.as_ref().filter(|_| budget > 0) {
            let alpha = residual.alpha as f32;
            Zip::from(&mut images)
                .and(&resize(start, size, &self.threads)?)
                .for_each(|x, s| *x = alpha * *x + (1.0 - alpha) * s);
        }
        Ok(images)
    }

    /// The steps from `first` on, divided evenly over the budgets.
    fn budgets(&self, first: u32) -> Vec<Range<u32>> {
        let count = u64::from(self.config.residual.as_ref().map_or(1, |residual| residual.budgets));
        let steps = u64::from(self.config.iterations - first);
        let edge = |i: u64| first + (steps * i / count) as u32;
        (0..count).map(|i| edge(i)..edge(i + 1)).collect()
    }

    /// The size of the images in this budget.
    fn size_of(&self, budget: usize) -> Size {
        let Some(residual) = &self.config.residual else { return self.size };
        let scale = residual.scales[budget % residual.scales.len()];
        let side = |n: usize| ((n as f64 * scale).round() as usize).max(1);
        Size { height: side(self.size.height), width: side(self.size.width) }
    }

    /// The optimisation itself, from `start` `[N, C, H, W]` towards the classes `targets` `[N]`,
    /// with the views of `views` at each step. Without a classifier there is no cross entropy term,
    /// and the targets are not used.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn optimise(
        &self,
        start: Array4<f32>,
        targets: &[u32],
        views: &mut dyn FnMut(u32) -> Result<Vec<Resample>, DataError>,
        observer: &mut dyn Observer,
    ) -> Result<Array4<f32>, RecoverError> {
        let steps = 0..self.config.iterations;
        let run = Descent { classes: targets, steps, budget: 0, kept: None };
        let mut points = Vec::new();
        self.descend(start, run, views, &mut Forgetful, LossLog::new(&mut points, observer))
    }

    /// Takes the steps of one budget, with a fresh optimiser or the kept one.
    fn descend(
        &self,
        start: Array4<f32>,
        Descent { classes, steps, budget, kept }: Descent,
        views: &mut dyn FnMut(u32) -> Result<Vec<Resample>, DataError>,
        keeper: &mut dyn Keeper,
        mut losses: LossLog,
    ) -> Result<Array4<f32>, RecoverError> {
        if steps.is_empty() {
            return Ok(start);
        }
        let mut images = self.place(ImagesState::start(start.clone(), &self.rule()))?;
        let mut seen = images.look(views(steps.start)?)?;
        let mut objective = self.committee.objective(classes, &seen)?;
        let mut first = steps.start;
        if let Some(kept) = kept {
            first = kept.progress.next;
            losses.resume(kept.progress.points);
            images = self.place(kept.images)?;
            self.committee.restore(&objective, &kept.statistics);
            (steps.start + 1..first).try_for_each(|iteration| views(iteration).map(|_| ()))?;
        }
        for iteration in first..steps.end {
            if iteration > steps.start {
                seen = images.look(views(iteration)?)?;
            }
            let is_last = iteration + 1 == steps.end;
            let is_end =
                budget == 0 && iteration == steps.start || iteration + 1 == self.config.iterations;
            let gradients = match is_end {
                true => self.gradients_at(images.as_mut(), &seen, &mut objective, iteration)?,
                false => None,
            };
            let [terms, gradient] = self.committee.evaluate(&seen, &mut objective, iteration)?;
            let rate = cosine(self.config.learning_rate, iteration, self.config.iterations);
            losses.add((iteration, gradients), &terms, &images.step(gradient, rate)?)?;
            let is_due = !is_last && keeper.is_due();
            if is_last || is_due || losses.unread() >= self.read_every() {
                losses.read()?;
            }
            if self.config.snapshot_steps().any(|step| step == iteration + 1) {
                let images = images.result()?;
                let (_, channels, height, width) = images.dim();
                let (pixels, shape) = (self.to_pixels(&images)?, [channels, height, width]);
                losses.observer().snapshot(iteration + 1, &pixels, shape)?;
            }
            if is_due {
                let (points, images) = (losses.points().to_vec(), images.state()?);
                let (next, steps) = (iteration + 1, images.steps);
                let state = BatchState {
                    progress: BatchProgress { budget, next, steps, points },
                    start: start.clone(),
                    images,
                    statistics: self.committee.statistics(&objective),
                };
                let state = state.write().map_err(|what| RecoverError::Keep(what.into()))?;
                keeper.keep(&state).map_err(RecoverError::Keep)?;
            }
        }
        self.committee.keep(objective);
        images.result()
    }

    /// How each step moves the images.
    fn rule(&self) -> StepRule {
        let &RecoverConfig { betas, ema, .. } = self.config;
        let priors = Priors::new(self.config);
        StepRule { betas, ema, priors, range: self.normalization.range() }
    }

    /// The images where they are optimised.
    fn place(&self, state: ImagesState) -> Result<Box<dyn BatchImages>, RecoverError> {
        match self.resident {
            Some(device) => state.on_device(self.rule(), device),
            None => Ok(state.on_host(self.rule(), self.threads.clone())),
        }
    }

    /// The number of steps whose losses are read at once.
    fn read_every(&self) -> usize {
        if self.resident.is_some() { READ_EVERY } else { 1 }
    }

    /// The norms of both terms' gradients at `images`, of which `seen` are the last views. `None`
    /// if the loss lacks a term, or a norm is not finite.
    fn gradients_at(
        &self,
        images: &mut dyn BatchImages,
        seen: &Tensor,
        objective: &mut BatchObjective,
        iteration: u32,
    ) -> Result<Option<GradientNorms>, RecoverError> {
        let Some([ce, bn]) = self.committee.term_gradients(seen, objective, iteration)? else {
            return Ok(None);
        };
        let norms = GradientNorms { ce: images.norm_of(&ce)?, bn: images.norm_of(&bn)? };
        Ok(Some(norms).filter(|norms| norms.ce.is_finite() && norms.bn.is_finite()))
    }
}

/// Half a cosine, from `initial` at step 0 to 0 at step `steps`.
fn cosine(initial: f64, step: u32, steps: u32) -> f64 {
    0.5 * initial * (1.0 + (std::f64::consts::PI * f64::from(step) / f64::from(steps)).cos())
}

#[cfg(test)]
mod tests;
