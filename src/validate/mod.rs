//! Validate: a fresh student learns from a small set of images and is tested on the real test set.
//!
//! The student's graph comes from its bundle, its weights from the run's seed. It sees the views that the relabelling stored and learns the
//! teacher's answers (KL divergence at a temperature, or their squared error), or, with hard labels, the images' own classes on the same views unmixed.

mod ema;
mod loss;
mod optimizer;

use std::collections::BTreeMap;

use rand::RngExt;
use rand_distr::{Distribution as _, Normal};
use safetensors::tensor::{Dtype as SafeDtype, TensorView};
use tch::{Device, Kind, TchError, Tensor};

use crate::config::{Loss, Schedule, ValidateConfig};
use crate::data::{DataError, Dataset, Mix, Normalization};
use crate::graph::Op;
use crate::graph::ops::Norm;
use crate::progress::Progress;
use crate::relabel::store::{LabelBatch, Store, StoreError};
use crate::relabel::{Lens, one_ahead};
use crate::replica::{Mode, Replica, ReplicaError, TrainPlan, to_tensor};
use crate::rng;
pub use crate::run::figures::{Epoch, Training};
use crate::share::TorchThreads;
use crate::teacher::manifest::Distribution;
use crate::teacher::{Bundle, Network, NetworkError};

use ema::Average;
use loss::Targets;
use optimizer::Optimizer;

/// Test images that are run at once: few enough that a layer's activations stay in the processor's caches.
const TEST_BATCH: usize = 50;

/// Why a student could not be trained or tested.
#[derive(Debug, thiserror::Error)]
pub enum ValidateError {
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error("student `{student}`: {source}")]
    Replica { student: String, source: ReplicaError },
    #[error("student `{student}`: {what}")]
    Student { student: String, what: String },
    #[error("libtorch: {}", .0.to_string().lines().next().unwrap_or_default())]
    Torch(#[from] TchError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "the training loss is {loss} in epoch {epoch}: training has diverged; lower `validate.optimizer.learning_rate`"
    )]
    Diverged { epoch: u32, loss: f64 },
}

/// What a student learns from.
pub struct Lesson<'a> {
    /// The synthetic (or real) images.
    pub images: &'a Dataset,
    /// Views of them, and the teacher's answers.
    pub labels: &'a Store,
}

/// A student with fresh weights.
pub struct Student<'a> {
    bundle: &'a Bundle,
    replica: Replica,
    parameters: Vec<(String, Tensor)>,
    /// One for each shape of a batch; none where the replica trains and tests by itself.
    plans: Vec<TrainPlan>,
    normalization: Normalization,
    device: Device,
}

impl<'a> Student<'a> {
    /// Draws weights as the bundle's `init` says, from `seed`.
    ///
    /// # Errors
    /// When the bundle is no student, or its `init` does not match its graph.
    pub fn new(bundle: &'a Bundle, seed: u64, device: Device) -> Result<Self, ValidateError> {
        let mut replica = bundle.replica(device)?;
        let fail = |what: String| ValidateError::Student { student: bundle.name().into(), what };
        if bundle.manifest.init.is_empty() {
            return Err(fail(
                "the bundle says nothing of how parameters are drawn (`init`); export it with `role: student`".into(),
            ));
        }
        let mut parameters = Vec::new();
        for (index, init) in bundle.manifest.init.iter().enumerate() {
            let parameter = replica
                .constant(&init.parameter)
                .ok_or_else(|| fail(format!("`init` names `{}`, which the graph lacks", init.parameter)))?;
            let shape: Vec<i64> = init.shape.iter().map(|&d| d as i64).collect();
            if parameter.size() != shape {
                return Err(fail(format!(
                    "`init` gives `{}` shape {shape:?}, the graph {:?}",
                    init.parameter,
                    parameter.size()
                )));
            }
            let values = draw(init.distribution, parameter.numel(), seed, index as u64).map_err(fail)?;
            let drawn = outputs_last(&Tensor::f_from_slice(&values)?.f_reshape(shape)?)?.f_to_device(device)?;
            let parameter = drawn.f_set_requires_grad(true)?;
            replica.set_constant(&init.parameter, parameter.shallow_clone());
            parameters.push((init.parameter.clone(), parameter));
        }
        reset_batch_norms(&replica)?;
        let p = &bundle.manifest.preprocessing;
        let normalization = Normalization::new(p.mean.clone(), p.std.clone())?;
        Ok(Self { bundle, replica, parameters, plans: Vec::new(), normalization, device })
    }

    /// Trains on `lesson` for the epochs that its labels have, testing on `test` as `config` says.
    ///
    /// # Errors
    /// When student, images and labels do not fit each other, or the loss stops being a number.
    pub fn train(
        &mut self,
        lesson: &Lesson,
        test: &Dataset,
        config: &ValidateConfig,
        progress: &dyn Progress,
    ) -> Result<Training, ValidateError> {
        self.check_classes(lesson.images)?;
        self.check_classes(test)?;
        let [channels, height, width] = self.bundle.image_shape().map(|d| d as i64);
        let meta = lesson.labels.meta();
        let batch = i64::from(meta.batch_size.min(meta.images));
        // What a plan leaves to libtorch is too little for several threads, whose number would show in its rounding.
        let _one_thread = self.plan(&[batch, channels, height, width])?.map(|_| TorchThreads::set(1));
        let epochs = lesson.labels.meta().epochs;
        let tensors = self.parameters.iter().map(|(_, t)| t.shallow_clone()).collect();
        let mut optimizer = Optimizer::new(tensors, config.optimizer)?;
        let mut average = if config.ema > 0.0 { Some(Average::new(self.state(), config.ema)?) } else { None };
        let label = format!("validate {} on {}", self.bundle.name(), lesson.images.name);
        let mut progress = progress.start(&label, u64::from(epochs), "epoch");
        let mut curve = Vec::new();
        for epoch in 1..=epochs {
            optimizer.scale_learning_rate(rate_factor(&config.schedule, epoch - 1, epochs));
            let loss = self.train_epoch(lesson, epoch - 1, config.loss, &mut optimizer, average.as_mut())?;
            if !loss.is_finite() {
                return Err(ValidateError::Diverged { epoch, loss });
            }
            let is_tested = epoch == epochs || epoch % config.evaluate_every == 0;
            let accuracy = if is_tested { Some(self.test_average(test, average.as_mut())?) } else { None };
            curve.push(Epoch { epoch, loss, accuracy });
            let shown = curve
                .iter()
                .rev()
                .find_map(|e| e.accuracy)
                .map_or(String::new(), |a| format!(", test {:.1} %", 100.0 * a));
            progress.at(u64::from(epoch), &format!("loss {loss:.3}{shown}"));
        }
        if let Some(average) = &mut average {
            average.swap()?;
        }
        let training = summarise(curve);
        progress.finish(&format!("test accuracy {:.2} %", 100.0 * training.last));
        Ok(training)
    }

    fn train_epoch(
        &mut self,
        lesson: &Lesson,
        epoch: u32,
        loss: Loss,
        optimizer: &mut Optimizer,
        mut average: Option<&mut Average>,
    ) -> Result<f64, ValidateError> {
        let batches = lesson.labels.meta().batches();
        let lens = Lens::new(self.bundle, lesson.labels.meta().pad)?;
        let seen = (0..batches).map(|batch| {
            let mut labels = lesson.labels.get(epoch as usize, batch)?;
            if matches!(loss, Loss::Ce {}) {
                labels.mix = Mix::None;
            }
            let images = lens.see(lesson.images, &labels.indices, &labels.views, &labels.mix)?;
            Ok::<_, ValidateError>((images, labels))
        });
        let mut total = 0.0;
        one_ahead(seen, |(images, labels)| {
            let input = to_tensor(images.view())?.f_to_device(self.device)?;
            let targets = self.targets(lesson, &labels)?;
            let (value, gradients) = self.gradients(&input, &targets, loss)?;
            optimizer.step(&gradients)?;
            if let Some(average) = &mut average {
                average.update()?;
            }
            total += f64::try_from(value.f_detach()?.f_to_kind(Kind::Double)?)?;
            Ok::<_, ValidateError>(())
        })?;
        Ok(total / batches as f64)
    }

    /// The loss of one batch, and the parameters' gradients.
    fn gradients(
        &mut self,
        input: &Tensor,
        targets: &Targets,
        loss: Loss,
    ) -> Result<(Tensor, Vec<Tensor>), ValidateError> {
        let Some(index) = self.plan(&input.size())? else {
            let value = targets.loss(&self.run(input, Mode::Train)?, loss)?;
            let parameters: Vec<&Tensor> = self.parameters.iter().map(|(_, t)| t).collect();
            let gradients = Tensor::f_run_backward(&[&value], &parameters, false, false)?;
            return Ok((value, gradients));
        };
        let plan = &mut self.plans[index];
        plan.load()?;
        let failed = |source| ValidateError::Replica { student: self.bundle.name().into(), source };
        let (logits, tape) = plan.forward(input, Mode::Train).map_err(failed)?;
        let logits = logits.f_set_requires_grad(true)?;
        let value = targets.loss(&logits, loss)?;
        let gradient = Tensor::f_run_backward(&[&value], &[&logits], false, false)?.swap_remove(0);
        Ok((value, plan.backward(tape, gradient).map_err(failed)?))
    }

    /// Where in `plans` the one for inputs of `shape` is, made now if need be.
    fn plan(&mut self, shape: &[i64]) -> Result<Option<usize>, ValidateError> {
        if let Some(index) = self.plans.iter().position(|plan| plan.shape() == shape) {
            return Ok(Some(index));
        }
        let names: Vec<String> = self.parameters.iter().map(|(name, _)| name.clone()).collect();
        let failed = |source| ValidateError::Replica { student: self.bundle.name().into(), source };
        self.plans.extend(TrainPlan::compile(&self.replica, &names, shape).map_err(failed)?);
        Ok(self.plans.iter().position(|plan| plan.shape() == shape))
    }

    /// The images are of as many classes as the student tells apart.
    fn check_classes(&self, set: &Dataset) -> Result<(), ValidateError> {
        let (own, classes) = (self.bundle.manifest.classes.len(), set.classes.len());
        if own == classes {
            return Ok(());
        }
        let what = format!(
            "tells {own} classes apart, the images of {} are of {classes}: name a student of that many",
            set.name
        );
        Err(ValidateError::Student { student: self.bundle.name().into(), what })
    }

    fn targets(&self, lesson: &Lesson, labels: &LabelBatch) -> Result<Targets, TchError> {
        let own: Vec<i64> = labels.indices.iter().map(|&i| i64::from(lesson.images.labels[i as usize])).collect();
        let partner = match &labels.mix {
            Mix::None => None,
            Mix::CutMix { partner, .. } | Mix::MixUp { partner, .. } => {
                let classes: Vec<i64> = partner.iter().map(|&i| own[i as usize]).collect();
                Some(Tensor::f_from_slice(&classes)?.f_to_device(self.device)?)
            }
        };
        Ok(Targets {
            teacher: to_tensor(labels.logits.view())?.f_to_device(self.device)?,
            own: Tensor::f_from_slice(&own)?.f_to_device(self.device)?,
            partner,
            share: labels.mix.lambda(lesson.labels.meta().input).into(),
        })
    }

    /// Parameters and BN statistics, which share their storage with the student.
    fn state(&self) -> Vec<Tensor> {
        let parameters = self.parameters.iter().map(|(_, t)| t.shallow_clone());
        parameters.chain(batch_norm_buffers(&self.replica).into_iter().map(|(_, t)| t)).collect()
    }

    /// As [`test`](Self::test), with the average in the weights' place where there is one.
    fn test_average(&mut self, test: &Dataset, average: Option<&mut Average>) -> Result<f64, ValidateError> {
        let Some(average) = average else { return self.test(test) };
        average.swap()?;
        let accuracy = self.test(test)?;
        average.swap()?;
        Ok(accuracy)
    }

    fn run(&self, input: &Tensor, mode: Mode) -> Result<Tensor, ValidateError> {
        let run = self.replica.run(std::slice::from_ref(input), &[], mode);
        let mut run = run.map_err(|source| ValidateError::Replica { student: self.bundle.name().into(), source })?;
        Ok(run.outputs.swap_remove(0))
    }

    /// The share of all of `test` that the student classifies right, 0..=1.
    ///
    /// # Errors
    /// When the images do not fit the student.
    pub fn test(&mut self, test: &Dataset) -> Result<f64, ValidateError> {
        let _no_grad = tch::no_grad_guard();
        self.plans.iter_mut().try_for_each(TrainPlan::load)?;
        let indices: Vec<usize> = (0..test.len()).collect();
        let mut right = 0;
        for chunk in indices.chunks(TEST_BATCH) {
            let images = self.normalization.batch(test, chunk)?;
            let logits = self.logits(&to_tensor(images.view())?.f_to_device(self.device)?)?;
            let found = Vec::<i64>::try_from(&logits.f_argmax(1, false)?.f_to_device(Device::Cpu)?)?;
            right += chunk.iter().zip(found).filter(|(i, class)| i64::from(test.labels[**i]) == *class).count();
        }
        Ok(right as f64 / test.len().max(1) as f64)
    }

    /// In evaluation mode, by the parameters that the plans have loaded.
    fn logits(&mut self, input: &Tensor) -> Result<Tensor, ValidateError> {
        let known = self.plans.len();
        let Some(index) = self.plan(&input.size())? else { return self.run(input, Mode::Eval) };
        if index >= known {
            self.plans[index].load()?;
        }
        let failed = |source| ValidateError::Replica { student: self.bundle.name().into(), source };
        Ok(self.plans[index].forward(input, Mode::Eval).map_err(failed)?.0)
    }

    /// Parameters and running statistics as a safetensors file, named as in the graph.
    ///
    /// # Errors
    /// When a tensor can't be copied.
    pub fn checkpoint(&self) -> Result<Vec<u8>, ValidateError> {
        let mut tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
        let buffers = batch_norm_buffers(&self.replica);
        let parameters = self.parameters.iter().map(|(name, t)| (name.clone(), t.shallow_clone()));
        for (name, tensor) in parameters.chain(buffers) {
            let array = crate::replica::to_array(&tensor)?;
            tensors.insert(name, (array.shape().to_vec(), array.iter().flat_map(|v| v.to_le_bytes()).collect()));
        }
        let fail = |what: String| ValidateError::Student { student: self.bundle.name().into(), what };
        let views = tensors.iter().map(|(name, (shape, bytes))| {
            TensorView::new(SafeDtype::F32, shape.clone(), bytes)
                .map(|view| (name, view))
                .map_err(|e| fail(e.to_string()))
        });
        let views = views.collect::<Result<Vec<_>, _>>()?;
        safetensors::serialize(views, None).map_err(|e| fail(e.to_string()))
    }
}

/// The same `[O, I, …]` values with the outputs innermost in memory, as the training plan's kernels read and write them; other ranks unchanged.
fn outputs_last(tensor: &Tensor) -> Result<Tensor, TchError> {
    if tensor.dim() != 4 {
        return Ok(tensor.shallow_clone());
    }
    tensor.f_permute([2, 3, 1, 0])?.f_contiguous()?.f_permute([3, 2, 0, 1])
}

/// Values of one parameter; `index` is its place in the bundle's list.
fn draw(distribution: Distribution, count: usize, seed: u64, index: u64) -> Result<Vec<f32>, String> {
    let mut stream = rng::stream(seed, "validate/init", index);
    match distribution {
        Distribution::Constant { value } => Ok(vec![value; count]),
        Distribution::Uniform { bound } if bound > 0.0 && bound.is_finite() => {
            Ok((0..count).map(|_| stream.random_range(-bound..=bound)).collect())
        }
        Distribution::Normal { std } => {
            let normal = Normal::new(0.0, std).map_err(|e| format!("a normal distribution of std {std}: {e}"))?;
            Ok((0..count).map(|_| normal.sample(&mut stream)).collect())
        }
        Distribution::Uniform { bound } => Err(format!("a uniform distribution of bound {bound}")),
    }
}

/// Running mean and variance of every BatchNorm, by their names in the graph.
fn batch_norm_buffers(replica: &Replica) -> Vec<(String, Tensor)> {
    let graph = replica.graph();
    let names = graph.nodes.iter().filter(|n| matches!(n.op, Op::Norm(Norm::Batch { .. })));
    let names = names.flat_map(|node| node.inputs[3..5].iter().flatten()).map(|&id| graph.values[id].clone());
    names.filter_map(|name| replica.constant(&name).map(|t| (name, t))).collect()
}

/// Fresh running statistics: mean 0 and variance 1, of which each node's inputs 3 and 4 are.
fn reset_batch_norms(replica: &Replica) -> Result<(), TchError> {
    for (i, (_, mut buffer)) in batch_norm_buffers(replica).into_iter().enumerate() {
        let _ = buffer.f_fill_(if i % 2 == 0 { 0.0 } else { 1.0 })?;
    }
    Ok(())
}

/// What the initial learning rate is multiplied by in epoch `epoch` (from 0) of `epochs`.
fn rate_factor(schedule: &Schedule, epoch: u32, epochs: u32) -> f64 {
    match *schedule {
        Schedule::Constant {} => 1.0,
        Schedule::Cosine { floor, smoothing } => {
            let phase = f64::from(epoch) / (smoothing * f64::from(epochs));
            floor + (1.0 - floor) * 0.5 * (1.0 + (std::f64::consts::PI * phase).cos())
        }
        Schedule::Multistep { ref milestones, factor } => {
            let passed = milestones.iter().filter(|&share| f64::from(epoch) >= (share * f64::from(epochs)).round());
            factor.powi(passed.count() as i32)
        }
    }
}

fn summarise(curve: Vec<Epoch>) -> Training {
    let tested = || curve.iter().filter_map(|e| e.accuracy.map(|a| (e.epoch, a)));
    let last = tested().next_back().map_or(0.0, |(_, a)| a);
    let (best_epoch, best) = tested().fold((0, 0.0), |best, found| if found.1 > best.1 { found } else { best });
    Training { last, best, best_epoch, curve }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smoothed_cosine_ends_where_its_smoothing_says() {
        let end = |smoothing| rate_factor(&Schedule::Cosine { floor: 0.0, smoothing }, 1000, 1000);
        assert!(end(1.0).abs() < 1e-12);
        assert!((end(2.0) - 0.5).abs() < 1e-12);
        assert!((end(3.0) - 0.75).abs() < 1e-12);
        assert_eq!(rate_factor(&Schedule::Cosine { floor: 0.1, smoothing: 1.0 }, 0, 10), 1.0);
    }

    /// `torch.optim.lr_scheduler.MultiStepLR(milestones=[800, 900, 950], gamma=0.5)` over 1000 epochs.
    #[test]
    fn milestones_are_shares_of_the_epochs() {
        let schedule = Schedule::Multistep { milestones: vec![0.8, 0.9, 0.95], factor: 0.5 };
        let cases =
            [(0, 1.0), (799, 1.0), (800, 0.5), (899, 0.5), (900, 0.25), (949, 0.25), (950, 0.125), (999, 0.125)];
        for (epoch, expected) in cases {
            assert_eq!(rate_factor(&schedule, epoch, 1000), expected, "epoch {epoch}");
        }
    }

    #[test]
    fn the_last_epoch_and_the_best_are_told_apart() {
        let epoch = |epoch, accuracy| Epoch { epoch, loss: 1.0, accuracy };
        let found = summarise(vec![epoch(1, Some(0.3)), epoch(2, None), epoch(3, Some(0.6)), epoch(4, Some(0.5))]);
        assert_eq!((found.last, found.best, found.best_epoch), (0.5, 0.6, 3));
    }

    #[test]
    fn draws_are_repeatable_and_bounded() {
        let uniform = draw(Distribution::Uniform { bound: 0.1 }, 1000, 7, 3).unwrap();
        assert_eq!(uniform, draw(Distribution::Uniform { bound: 0.1 }, 1000, 7, 3).unwrap());
        assert!(uniform.iter().all(|v| v.abs() <= 0.1) && uniform.iter().any(|v| v.abs() > 0.09));
        let normal = draw(Distribution::Normal { std: 2.0 }, 4000, 7, 3).unwrap();
        let std = (normal.iter().map(|v| v * v).sum::<f32>() / 4000.0).sqrt();
        assert!((std - 2.0).abs() < 0.1);
        assert!(draw(Distribution::Normal { std: f32::NAN }, 1, 0, 0).is_err());
        assert!(draw(Distribution::Uniform { bound: -1.0 }, 1, 0, 0).is_err());
    }
}
