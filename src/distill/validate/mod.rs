//! Validate: trains a fresh student on a small set of images and tests it on the real test set.
//!
//! The student's graph comes from its bundle, its weights from the run's seed. With soft labels, it
//! trains on the views and the teacher's logits in the label store. With hard labels, it trains on
//! the images' own classes, on the same views but unmixed, which are drawn again. Soft labels of
//! images, which finished sets bring, take the place of these classes.

mod ema;
mod flat;
mod loss;
mod optimizer;
mod state;

use ndarray::{Array2, Axis};
use rand::RngExt;
use rand_distr::{Distribution as _, Normal};
use tch::{Device, Kind, TchError, Tensor};

use crate::progress::Progress;
use crate::teacher::manifest::Distribution;
use crate::teacher::{Bundle, Network, NetworkError};
use crate::views::{BatchViews, ViewRenderer, Views, one_ahead};
use scdd_artifacts::labels::{LabelBatch, LabelStore, StoreError};
pub use scdd_artifacts::records::{Accuracy, Epoch, Training};
use scdd_compute::replica::{Mode, Replica, ReplicaError, channels_last, to_tensor};
use scdd_compute::threads::{Threads, TorchThreads};
use scdd_compute::training::TrainingPlan;
use scdd_compute::transfer;
use scdd_data::rng;
use scdd_data::{DataError, Dataset, DrawnMix, Normalization, SoftLabels};
use scdd_experiment::config::{Schedule, ValidateConfig, Warmup};
use scdd_graph::Op;
use scdd_graph::ops::Norm;

pub use crate::keeper::{Forgetful, Keeper};
use ema::WeightAverage;
use flat::FlatParameters;
use loss::{EpochObjective, Objectives, Targets};
use optimizer::StudentOptimizer;
use state::Numbers;

/// Images per test run: few enough that a layer's activations stay in the processor's caches.
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
    #[error("the state of the training can't be saved: {0}")]
    Keep(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error(
        "`validate.loss` needs a teacher's soft labels, but there are none: relabel the images, or set {{type: ce}}"
    )]
    NoLabels,
}

/// The training data of a student.
pub struct TrainingData<'a> {
    /// The synthetic (or real) images.
    pub images: &'a Dataset,
    /// The views for training on the images' own classes.
    pub views: Views<'a>,
    pub labels: TrainingLabels,
}

/// What a student learns beside, or in place of, the images' own classes.
pub enum TrainingLabels {
    /// Nothing.
    Classes,
    /// A distribution over the classes for each image, which takes the place of its class.
    OfImages(SoftLabels),
    /// The teacher's logits and the views they belong to; every loss but cross entropy needs them.
    OfViews(LabelStore),
}

/// The source of one epoch's batches.
enum Batches<'a> {
    /// Views that are drawn again, without teacher logits.
    Drawn(Vec<BatchViews>),
    /// The batches of one epoch of a label store.
    Stored(&'a LabelStore, usize),
}

impl TrainingData<'_> {
    fn batches(&self, epoch: u32, objective: EpochObjective) -> Result<Batches<'_>, ValidateError> {
        match (objective, &self.labels) {
            // The same views as with soft labels, which repeat the stored epochs.
            (EpochObjective::Hard { mixed: false, .. }, _) => {
                let mut batches = self.views.epoch(epoch % self.views.stored_epochs().max(1))?;
                batches.iter_mut().for_each(|batch| batch.mix = DrawnMix::None);
                Ok(Batches::Drawn(batches))
            }
            (EpochObjective::Hard { mixed: true, .. }, _) => {
                Ok(Batches::Drawn(self.views.epoch(epoch)?))
            }
            (EpochObjective::Soft { .. }, TrainingLabels::OfViews(labels)) => {
                Ok(Batches::Stored(labels, epoch as usize))
            }
            (EpochObjective::Soft { .. }, _) => Err(ValidateError::NoLabels),
        }
    }

    /// The targets of the images `indices`: their classes, int64 `[n]`, or float `[n, K]`
    /// distributions.
    fn own_targets(&self, indices: &[u32]) -> Result<Tensor, TchError> {
        let indices = indices.iter().map(|&index| index as usize);
        let TrainingLabels::OfImages(labels) = &self.labels else {
            let classes: Vec<i64> =
                indices.map(|index| i64::from(self.images.labels[index])).collect();
            return Tensor::f_from_slice(&classes);
        };
        let indices: Vec<usize> = indices.collect();
        to_tensor(labels.probabilities().select(Axis(0), &indices).view())
    }
}

impl Batches<'_> {
    fn len(&self) -> usize {
        match self {
            Batches::Drawn(batches) => batches.len(),
            Batches::Stored(labels, _) => labels.meta().batches(),
        }
    }

    /// Batch `number`, and the teacher's logits for it, `[n, K]`.
    fn get(&self, number: usize) -> Result<(BatchViews, Option<Array2<f32>>), StoreError> {
        match self {
            Batches::Drawn(batches) => Ok((batches[number].clone(), None)),
            Batches::Stored(labels, epoch) => {
                let LabelBatch { indices, views, operations, mix, logits } =
                    labels.get(*epoch, number)?;
                Ok((BatchViews { indices, views, operations, mix }, Some(logits)))
            }
        }
    }
}

/// The results of a forward and backward pass.
struct BatchPass {
    /// The loss, a scalar.
    loss: Tensor,
    /// The gradients of the parameters, in their order.
    gradients: Vec<Tensor>,
    /// The logits of the last views that ran together, `[n, K]`, and their targets.
    last: (Tensor, Targets),
}

/// A student network.
pub struct Student<'a> {
    bundle: &'a Bundle,
    replica: Replica,
    parameters: Vec<(String, Tensor)>,
    /// The parameters' buffers, on a GPU.
    flat: Option<FlatParameters>,
    /// One plan per batch shape; empty where the replica trains and tests by itself.
    plans: Vec<TrainingPlan>,
    normalization: Normalization,
    device: Device,
    threads: Threads,
}

impl<'a> Student<'a> {
    /// Draws the weights from `seed`, by the distributions of the bundle's `init`. Runs on
    /// `threads`.
    ///
    /// # Errors
    /// When the bundle is not a student, or its `init` does not match its graph.
    pub fn new(
        bundle: &'a Bundle,
        seed: u64,
        device: Device,
        threads: Threads,
    ) -> Result<Self, ValidateError> {
        let mut replica = bundle.replica(device)?;
        let fail = |what: String| ValidateError::Student { student: bundle.name().into(), what };
        if bundle.manifest.init.is_empty() {
            return Err(fail(
                "the bundle does not say how to initialise parameters (`init`); export it with `role: student`".into(),
            ));
        }
        let mut parameters = Vec::new();
        for (index, init) in bundle.manifest.init.iter().enumerate() {
            let parameter = replica.constant(&init.parameter).ok_or_else(|| {
                fail(format!("`init` names `{}`, which the graph lacks", init.parameter))
            })?;
            let shape: Vec<i64> = init.shape.iter().map(|&d| d as i64).collect();
            if parameter.size() != shape {
                return Err(fail(format!(
                    "`init` gives `{}` shape {shape:?}, the graph {:?}",
                    init.parameter,
                    parameter.size()
                )));
            }
            let values =
                draw(init.distribution, parameter.numel(), seed, index as u64).map_err(fail)?;
            let drawn = Tensor::f_from_slice(&values)?.f_reshape(shape)?;
            // The order in memory that the kernels of each device read without copying.
            let drawn = match device {
                Device::Cpu => outputs_last(&drawn)?,
                _ => channels_last(&transfer::send(&drawn, device)?)?,
            };
            let parameter = drawn.f_set_requires_grad(true)?;
            replica.set_constant(&init.parameter, parameter.shallow_clone());
            parameters.push((init.parameter.clone(), parameter));
        }
        reset_batch_norms(&replica)?;
        let normalization = bundle.normalization()?;
        let (plans, flat) = (Vec::new(), None);
        let mut student =
            Self { bundle, replica, parameters, flat, plans, normalization, device, threads };
        if device != Device::Cpu {
            student.join_parameters()?;
        }
        Ok(student)
    }

    /// Convolves in `kind`, forward and backward. Parameters, sums, normalisations and the loss
    /// stay float32.
    #[must_use]
    pub fn with_convolutions_in(self, kind: Kind) -> Self {
        Self { replica: self.replica.with_convolutions_in(kind), ..self }
    }

    /// Moves the parameters into few buffers, which the CPU's kernels could not read.
    fn join_parameters(&mut self) -> Result<(), ValidateError> {
        let (names, mut tensors): (Vec<String>, Vec<Tensor>) =
            std::mem::take(&mut self.parameters).into_iter().unzip();
        self.flat = Some(FlatParameters::join(&mut tensors)?);
        for (name, parameter) in names.into_iter().zip(tensors) {
            self.replica.set_constant(&name, parameter.shallow_clone());
            self.parameters.push((name, parameter));
        }
        Ok(())
    }

    /// Trains on `data` for the epochs of its views, and tests on `test` as `config` specifies.
    /// Resumes an interrupted training from the state in `keeper`, and saves the state there when
    /// `keeper` says that it is due.
    ///
    /// # Errors
    /// When student, images and labels do not fit each other, the loss is no longer finite, or the
    /// state can't be saved.
    pub fn train(
        &mut self,
        data: &TrainingData,
        test: &Dataset,
        config: &ValidateConfig,
        keeper: &mut dyn Keeper,
        progress: &dyn Progress,
    ) -> Result<Training, ValidateError> {
        self.check_classes(data.images)?;
        self.check_classes(test)?;
        let [channels, height, width] = self.bundle.image_shape().map(|d| d as i64);
        let batch = data.views.batch_size();
        let batch = i64::from(config.micro_batch.map_or(batch, |part| part.min(batch)));
        // The work that a plan leaves to libtorch is too small for several threads, and their
        // number would change its rounding.
        let _one_thread =
            self.plan(&[batch, channels, height, width])?.map(|_| TorchThreads::set(1));
        let epochs = data.views.epochs();
        let tensors = match &self.flat {
            Some(flat) => flat.buffers(),
            None => self.parameters.iter().map(|(_, t)| t.shallow_clone()).collect(),
        };
        let mut optimizer = StudentOptimizer::new(tensors, config.optimizer, config.decay)?;
        let mut objectives = Objectives::new(config, epochs);
        let mut average = if config.ema > 0.0 {
            Some(WeightAverage::new(
                self.named_tensors().into_iter().map(|(_, t)| t).collect(),
                config.ema,
            )?)
        } else {
            None
        };
        let label = format!("validate {} on {}", self.bundle.name(), data.images.name);
        let mut curve = Vec::new();
        if let Some(kept) = keeper.kept() {
            let mut tensors = self.tensors_of_training(&optimizer, average.as_ref());
            match state::read(&kept, &mut tensors) {
                Ok(numbers) => {
                    curve = numbers.curve;
                    optimizer.steps = numbers.steps;
                    objectives.fitted = numbers.fitted;
                }
                Err(why) => progress.tell(&format!(
                    "{label}: the saved state can't be used ({why}); training starts again"
                )),
            }
        }
        let mut progress = progress.start(&label, u64::from(epochs), "epoch");
        for epoch in curve.len() as u32 + 1..=epochs {
            optimizer.scale_learning_rate(rate_factor(config, epoch - 1, epochs));
            let loss = self.train_epoch(
                data,
                epoch - 1,
                config,
                &mut objectives,
                &mut optimizer,
                average.as_mut(),
            )?;
            if !loss.is_finite() {
                return Err(ValidateError::Diverged { epoch, loss });
            }
            let is_tested = epoch == epochs || epoch % config.evaluate_every == 0;
            let tested =
                if is_tested { Some(self.test_average(test, average.as_mut())?) } else { None };
            let [accuracy, top5] = [0, 1].map(|k| tested.map(|tested| tested.shares()[k]));
            curve.push(Epoch { epoch, loss, accuracy, top5 });
            let shown = curve
                .iter()
                .rev()
                .find_map(|e| e.accuracy)
                .map_or(String::new(), |a| format!(", test {:.1} %", 100.0 * a));
            progress.at(u64::from(epoch), &format!("loss {loss:.3}{shown}"));
            if epoch < epochs && keeper.is_due() {
                let tensors = self.tensors_of_training(&optimizer, average.as_ref());
                let numbers = Numbers {
                    curve: curve.clone(),
                    steps: optimizer.steps,
                    fitted: objectives.fitted,
                };
                let state = state::write(&tensors, Some(&numbers))
                    .map_err(|what| ValidateError::Keep(what.into()))?;
                keeper.keep(&state).map_err(ValidateError::Keep)?;
            }
        }
        if let Some(average) = &mut average {
            average.swap()?;
        }
        let training = summarise(curve);
        progress.finish(&format!("test accuracy {:.2} %", 100.0 * training.last));
        Ok(training)
    }

    /// Trains one epoch and returns the mean loss of its batches.
    fn train_epoch(
        &mut self,
        data: &TrainingData,
        epoch: u32,
        config: &ValidateConfig,
        objectives: &mut Objectives,
        optimizer: &mut StudentOptimizer,
        mut average: Option<&mut WeightAverage>,
    ) -> Result<f64, ValidateError> {
        let objective = objectives.of(epoch);
        let batches = data.batches(epoch, objective)?;
        let renderer = ViewRenderer::new(self.bundle, data.views.pad())?;
        let threads = self.threads.clone();
        let seen = (0..batches.len()).map(|number| {
            let (batch, logits) = batches.get(number)?;
            let images = threads.run(|| renderer.render(data.images, &batch))?;
            Ok::<_, ValidateError>((images, batch, logits))
        });
        // Summed where it is computed, so that a GPU need not wait for each batch.
        let mut total = Tensor::f_zeros([], (Kind::Double, self.device))?;
        let mut last = None;
        one_ahead(seen, |(images, batch, logits)| {
            let input = transfer::send(&to_tensor(images.view())?, self.device)?;
            let targets = self.targets(data, &batch, logits)?;
            let pass = self.pass(&input, targets, objective, config.micro_batch)?;
            match &self.flat {
                Some(flat) => optimizer.step(&flat.gradients(&pass.gradients)?)?,
                None => optimizer.step(&pass.gradients)?,
            }
            if let Some(average) = &mut average {
                average.update()?;
            }
            total = total.f_add(&pass.loss.f_detach()?.f_to_kind(Kind::Double)?)?;
            last = Some(pass.last);
            Ok::<_, ValidateError>(())
        })?;
        if let Some((logits, Targets { teacher: Some(teacher), .. })) = last {
            objectives.fit(epoch, &logits, &teacher)?;
        }
        Ok(transfer::read_one(&total)? / batches.len() as f64)
    }

    /// The loss of one batch, and the parameters' gradients. At most `part` views run through the
    /// student together.
    fn pass(
        &mut self,
        input: &Tensor,
        targets: Targets,
        objective: EpochObjective,
        part: Option<u32>,
    ) -> Result<BatchPass, ValidateError> {
        let count = input.size()[0];
        let part = part.map_or(count, |part| i64::from(part).min(count));
        if part == count {
            return self.pass_together(input, targets, objective);
        }
        let mut sum = self.pass_part(input, &targets, objective, (0, part))?;
        for start in (part..count).step_by(part as usize) {
            sum = sum.and(self.pass_part(
                input,
                &targets,
                objective,
                (start, part.min(count - start)),
            )?)?;
        }
        Ok(sum)
    }

    /// The contribution of `length` views from `start` on to the loss and gradients of their batch.
    fn pass_part(
        &mut self,
        input: &Tensor,
        targets: &Targets,
        objective: EpochObjective,
        (start, length): (i64, i64),
    ) -> Result<BatchPass, ValidateError> {
        let views = input.f_narrow(0, start, length)?;
        let pass = self.pass_together(&views, targets.part(start, length)?, objective)?;
        Ok(pass.weighted(length as f64 / input.size()[0] as f64)?)
    }

    fn pass_together(
        &mut self,
        input: &Tensor,
        targets: Targets,
        objective: EpochObjective,
    ) -> Result<BatchPass, ValidateError> {
        let Some(index) = self.plan(&input.size())? else {
            let logits = self.run(input, Mode::Train)?;
            let loss = targets.loss(&logits, objective)?;
            let parameters: Vec<&Tensor> = self.parameters.iter().map(|(_, t)| t).collect();
            let gradients = Tensor::f_run_backward(&[&loss], &parameters, false, false)?;
            return Ok(BatchPass { loss, gradients, last: (logits, targets) });
        };
        let plan = &mut self.plans[index];
        plan.load()?;
        let failed = |source| ValidateError::Replica { student: self.bundle.name().into(), source };
        let (logits, tape) = plan.forward(input, Mode::Train).map_err(failed)?;
        let logits = logits.f_set_requires_grad(true)?;
        let loss = targets.loss(&logits, objective)?;
        let gradient = Tensor::f_run_backward(&[&loss], &[&logits], false, false)?.swap_remove(0);
        let gradients = plan.backward(tape, gradient).map_err(failed)?;
        Ok(BatchPass { loss, gradients, last: (logits, targets) })
    }

    /// The index in `plans` of the plan for inputs of `shape`, which is compiled if it does not
    /// exist. `None` where the replica trains by itself.
    fn plan(&mut self, shape: &[i64]) -> Result<Option<usize>, ValidateError> {
        if let Some(index) = self.plans.iter().position(|plan| plan.shape() == shape) {
            return Ok(Some(index));
        }
        let names: Vec<String> = self.parameters.iter().map(|(name, _)| name.clone()).collect();
        let failed = |source| ValidateError::Replica { student: self.bundle.name().into(), source };
        self.plans.extend(
            TrainingPlan::compile(&self.replica, &names, shape, &self.threads).map_err(failed)?,
        );
        Ok(self.plans.iter().position(|plan| plan.shape() == shape))
    }

    /// Checks that the images have as many classes as the student.
    fn check_classes(&self, set: &Dataset) -> Result<(), ValidateError> {
        let (own, classes) = (self.bundle.manifest.classes.len(), set.classes.len());
        if own == classes {
            return Ok(());
        }
        let what = format!(
            "has {own} classes, but the images of {} have {classes}: name a student with that many",
            set.name
        );
        Err(ValidateError::Student { student: self.bundle.name().into(), what })
    }

    fn targets(
        &self,
        data: &TrainingData,
        batch: &BatchViews,
        logits: Option<Array2<f32>>,
    ) -> Result<Targets, TchError> {
        let own = data.own_targets(&batch.indices)?;
        let partner = match &batch.mix {
            DrawnMix::None => None,
            DrawnMix::CutMix { partner, .. } | DrawnMix::MixUp { partner, .. } => {
                let rows: Vec<i64> = partner.iter().map(|&row| i64::from(row)).collect();
                let partner = own.f_index_select(0, &Tensor::f_from_slice(&rows)?)?;
                Some(transfer::send(&partner, self.device)?)
            }
        };
        let send = |logits: Array2<f32>| transfer::send(&to_tensor(logits.view())?, self.device);
        Ok(Targets {
            teacher: logits.map(send).transpose()?,
            own: transfer::send(&own, self.device)?,
            partner,
            share: batch.mix.lambda(data.views.input()).into(),
        })
    }

    /// As [`test`](Self::test), with the averaged weights if there are any.
    fn test_average(
        &mut self,
        test: &Dataset,
        average: Option<&mut WeightAverage>,
    ) -> Result<Accuracy, ValidateError> {
        let Some(average) = average else { return self.test(test) };
        average.swap()?;
        let accuracy = self.test(test)?;
        average.swap()?;
        Ok(accuracy)
    }

    fn run(&self, input: &Tensor, mode: Mode) -> Result<Tensor, ValidateError> {
        let run = self.replica.run(std::slice::from_ref(input), &[], mode);
        let mut run = run.map_err(|source| ValidateError::Replica {
            student: self.bundle.name().into(),
            source,
        })?;
        Ok(run.outputs.swap_remove(0))
    }

    /// The student's accuracy on all of `test`.
    ///
    /// # Errors
    /// When the images do not fit the student.
    pub fn test(&mut self, test: &Dataset) -> Result<Accuracy, ValidateError> {
        let _no_grad = tch::no_grad_guard();
        self.plans.iter_mut().try_for_each(TrainingPlan::load)?;
        let indices: Vec<usize> = (0..test.len()).collect();
        // Counted where it is computed, so that a GPU need not wait for each batch.
        let mut hits = Tensor::f_zeros([2], (Kind::Int64, self.device))?;
        let (threads, normalization) = (self.threads.clone(), self.normalization.clone());
        let batches = indices.chunks(TEST_BATCH).map(|chunk| {
            Ok::<_, DataError>((chunk, threads.run(|| normalization.batch(test, chunk))?))
        });
        one_ahead(batches, |(chunk, images)| {
            let input = transfer::send(&to_tensor(images.view())?, self.device)?;
            let logits = self.logits(&input)?;
            let labels: Vec<i64> = chunk.iter().map(|&i| i64::from(test.labels[i])).collect();
            let labels = transfer::send(&Tensor::f_from_slice(&labels)?, self.device)?;
            let first = logits.f_argmax(1, false)?.f_eq_tensor(&labels)?.f_sum(Kind::Int64)?;
            let among_five = ranks(&logits, &labels)?.f_lt(5)?.f_sum(Kind::Int64)?;
            hits = hits.f_add(&Tensor::f_stack(&[first, among_five], 0)?)?;
            Ok::<_, ValidateError>(())
        })?;
        let read: Vec<usize> = transfer::read(&hits)?.iter().map(|&count| count as usize).collect();
        Ok(Accuracy { images: test.len(), top1: read[0], top5: read[1] })
    }

    /// The logits in evaluation mode, with the parameters that the plans have loaded.
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
        let fail =
            |what: String| ValidateError::Student { student: self.bundle.name().into(), what };
        state::write(&self.named_tensors(), None).map_err(fail)
    }

    /// Parameters and running statistics, named as in the graph. The tensors share their storage
    /// with the student.
    fn named_tensors(&self) -> Vec<(String, Tensor)> {
        let parameters = self.parameters.iter().map(|(name, t)| (name.clone(), t.shallow_clone()));
        parameters.chain(batch_norm_buffers(&self.replica)).collect()
    }

    /// All tensors that the training changes.
    fn tensors_of_training(
        &self,
        optimizer: &StudentOptimizer,
        average: Option<&WeightAverage>,
    ) -> Vec<(String, Tensor)> {
        let student = self
            .named_tensors()
            .into_iter()
            .map(|(name, tensor)| (format!("student/{name}"), tensor));
        let numbered = |kind: &'static str, tensors: Vec<Tensor>| {
            tensors
                .into_iter()
                .enumerate()
                .map(move |(number, tensor)| (format!("{kind}/{number}"), tensor))
        };
        let [first, second] = optimizer.moments();
        let average = average.map(WeightAverage::mean).unwrap_or_default();
        student
            .chain(numbered("first moment", first))
            .chain(numbered("second moment", second))
            .chain(numbered("average", average))
            .collect()
    }
}

/// The number of other classes in each row of `logits` `[N, K]` that are not below its label
/// (int64 `[N]`), so that 0 is first.
fn ranks(logits: &Tensor, labels: &Tensor) -> Result<Tensor, TchError> {
    let own = logits.f_gather(1, &labels.f_unsqueeze(1)?, false)?;
    let below = logits.f_lt_tensor(&own)?.f_sum_dim_intlist(&[1i64][..], false, Kind::Int64)?;
    below.f_neg()?.f_add_scalar(logits.size()[1] - 1)
}

impl BatchPass {
    fn weighted(mut self, weight: f64) -> Result<Self, TchError> {
        self.loss = self.loss.f_detach()?.f_mul_scalar(weight)?;
        for gradient in &mut self.gradients {
            *gradient = gradient.f_mul_scalar(weight)?;
        }
        Ok(self)
    }

    /// The sum of two passes.
    fn and(mut self, other: Self) -> Result<Self, TchError> {
        self.loss = self.loss.f_add(&other.loss)?;
        for (sum, gradient) in self.gradients.iter_mut().zip(&other.gradients) {
            let _ = sum.f_add_(gradient)?;
        }
        Ok(Self { last: other.last, ..self })
    }
}

/// The same `[O, I, …]` values with the outputs innermost in memory, the layout of the training
/// plan's kernels. Tensors of other ranks are returned unchanged.
fn outputs_last(tensor: &Tensor) -> Result<Tensor, TchError> {
    if tensor.dim() != 4 {
        return Ok(tensor.shallow_clone());
    }
    tensor.f_permute([2, 3, 1, 0])?.f_contiguous()?.f_permute([3, 2, 0, 1])
}

/// Draws the values of one parameter; `index` is its place in the bundle's list.
fn draw(
    distribution: Distribution,
    count: usize,
    seed: u64,
    index: u64,
) -> Result<Vec<f32>, String> {
    let mut stream = rng::stream(seed, "validate/init", index);
    match distribution {
        Distribution::Constant { value } => Ok(vec![value; count]),
        Distribution::Uniform { bound } if bound > 0.0 && bound.is_finite() => {
            Ok((0..count).map(|_| stream.random_range(-bound..=bound)).collect())
        }
        Distribution::Normal { std } => {
            let normal = Normal::new(0.0, std)
                .map_err(|e| format!("a normal distribution of std {std}: {e}"))?;
            Ok((0..count).map(|_| normal.sample(&mut stream)).collect())
        }
        Distribution::Uniform { bound } => Err(format!("a uniform distribution of bound {bound}")),
    }
}

/// Running mean and running variance of every BatchNorm, each with its name in the graph.
fn batch_norms(replica: &Replica) -> Vec<[Option<(String, Tensor)>; 2]> {
    let graph = replica.graph();
    let norms = graph.nodes.iter().filter(|node| matches!(node.op, Op::Norm(Norm::Batch { .. })));
    let buffer = |id: usize| {
        let name = graph.values[id].clone();
        replica.constant(&name).map(|buffer| (name, buffer))
    };
    norms
        .map(|node| [3, 4].map(|place| node.inputs.get(place).copied().flatten().and_then(buffer)))
        .collect()
}

/// Running means and variances of every BatchNorm, by their names in the graph.
fn batch_norm_buffers(replica: &Replica) -> Vec<(String, Tensor)> {
    batch_norms(replica).into_iter().flatten().flatten().collect()
}

/// Resets the running statistics to mean 0 and variance 1.
fn reset_batch_norms(replica: &Replica) -> Result<(), TchError> {
    for [mean, variance] in batch_norms(replica) {
        for (buffer, fresh) in [(mean, 0.0), (variance, 1.0)] {
            if let Some((_, mut buffer)) = buffer {
                let _ = buffer.f_fill_(fresh)?;
            }
        }
    }
    Ok(())
}

/// The factor on the initial learning rate in epoch `epoch` (from 0) of `epochs`.
fn rate_factor(config: &ValidateConfig, epoch: u32, epochs: u32) -> f64 {
    match config.warmup {
        Some(Warmup { epochs: rising, from }) if epoch < rising => {
            from + (1.0 - from) * f64::from(epoch) / f64::from(rising)
        }
        Some(Warmup { epochs: rising, .. }) => {
            scheduled(&config.schedule, epoch - rising, epochs.saturating_sub(rising))
        }
        None => scheduled(&config.schedule, epoch, epochs),
    }
}

/// As [`rate_factor`], without warm-up.
fn scheduled(schedule: &Schedule, epoch: u32, epochs: u32) -> f64 {
    match *schedule {
        Schedule::Constant {} => 1.0,
        Schedule::Linear {} => 1.0 - f64::from(epoch) / f64::from(epochs),
        Schedule::Cosine { floor, smoothing, until } => {
            let cosine = |phase: f64| {
                floor + (1.0 - floor) * 0.5 * (1.0 + (std::f64::consts::PI * phase).cos())
            };
            // The tolerance makes a share of 0.8333 of 300 epochs 250 epochs, not 249.
            if f64::from(epoch) > (until * f64::from(epochs) + 0.1).floor() {
                return cosine(until / smoothing) * (1.0 - f64::from(epoch) / f64::from(epochs));
            }
            cosine(f64::from(epoch) / (smoothing * f64::from(epochs)))
        }
        Schedule::Multistep { ref milestones, factor } => {
            let passed = milestones
                .iter()
                .filter(|&share| f64::from(epoch) >= (share * f64::from(epochs)).round());
            factor.powi(passed.count() as i32)
        }
    }
}

fn summarise(curve: Vec<Epoch>) -> Training {
    let tested = || curve.iter().filter_map(|e| e.accuracy.map(|a| (e.epoch, a)));
    let last = tested().next_back().map_or(0.0, |(_, a)| a);
    let (best_epoch, best) =
        tested().fold((0, 0.0), |best, found| if found.1 > best.1 { found } else { best });
    Training { last, best, best_epoch, curve }
}

#[cfg(test)]
mod tests;
