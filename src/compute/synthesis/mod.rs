//! A frozen graph compiled for synthesis. It gives the same numbers as [`Replica::evaluate`],
//! several times faster and in a fraction of the memory.
//!
//! Compiling runs the graph once on zeros to learn every shape, fuses the nodes between two
//! convolutions into one step, and prepares each convolution's weights for the fastest kernel of
//! each direction. An evaluation runs the steps forward and backward without autograd; only
//! operators without an explicit backward pass are differentiated by autograd, node by node. Memory
//! comes from a buffer pool: a tensor's buffer returns after its last reader, forward or backward,
//! so that the second evaluation allocates next to nothing.

mod alignment;
mod compile;
mod joint;
mod objective;
mod pass;
mod reference;
mod terms;

use std::sync::Arc;

use tch::{Device, Kind, TchError, Tensor};

use crate::compiled::autograd_node::SavedAutograd;
use crate::compiled::convolution::{Direction, size};
use crate::compiled::explicit::SavedExplicit;
use crate::compiled::survey::survey;
use crate::compiled::value::{BufferPool, Value};
use crate::compiled::{Step, failed, fixed_values, last_uses, none, sum};
use crate::replica::ops::BatchSize;
use crate::replica::{Mode, Replica, ReplicaError};
use crate::threads::Threads;
use alignment::{AlignedLayer, MeasuredStatistics};
use compile::{FrozenConv, SynthesisStep};
use joint::JointAlignment;
pub use objective::{
    Distance, Evaluation, LayerTarget, Momentum, Objective, UnreadEvaluation, channel_statistics,
    patch_statistics,
};
use pass::{AffineTensors, PassGradients, PassStep, PieceInputs, SavedPass, StatisticsGradient};
use scdd_graph::{Graph, ValueId};
use scdd_kernels::Isa;
use scdd_kernels::conv::Piece;
use scdd_kernels::pass::{Gathered, add_bias};
pub use terms::TermGradients;

/// The options of compilation.
#[derive(Debug, Clone)]
pub struct PlanOptions {
    pub device: Device,
    /// The instruction set of the CPU kernels. With `None`, or on any device but the CPU, the plan
    /// uses `tch` operators alone.
    pub kernels: Option<Isa>,
    /// Convolutions by libtorch take bfloat16 and accumulate in float32, as a GPU's tensor cores
    /// do; all else stays float32. The CPU kernels do not support it.
    pub bf16: bool,
    /// The threads that the kernels run on.
    pub threads: Threads,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            kernels: Some(Isa::best()),
            bf16: false,
            threads: Threads::all(),
        }
    }
}

/// A compiled graph, for one objective and one input shape.
pub struct SynthesisPlan {
    replica: Replica,
    options: PlanOptions,
    shape: Vec<i64>,
    input: ValueId,
    logits: ValueId,
    steps: Vec<SynthesisStep>,
    /// Per step, the values that no later step reads.
    dying: Vec<Vec<ValueId>>,
    /// Per step, the earlier step whose backward pass is fused into this step's convolution.
    pulls: Vec<Option<usize>>,
    /// Per step, the constants of its pass, if libtorch computes it.
    affine: Vec<Option<AffineTensors>>,
    /// The values that do not depend on the input and that autograd nodes read.
    fixed: Vec<Option<Tensor>>,
    /// The activations that the objective's layers measure, with their channel axes.
    taps: Vec<(ValueId, i64)>,
    layers: Vec<AlignedLayer>,
    /// All layers together, where no kernels of ours measure them.
    joint: Option<JointAlignment>,
    momentum: Momentum,
    r_bn: f64,
    pool: Arc<BufferPool>,
}

/// The state that a step saves for the backward pass.
enum SavedStep {
    Pass(SavedPass),
    Explicit(SavedExplicit),
    Autograd(SavedAutograd),
}

/// The state of one evaluation.
struct EvaluationState {
    values: Vec<Option<Value>>,
    /// Per value, the gradients received from its readers so far.
    gradients: Vec<Vec<Value>>,
    kept: Vec<Option<SavedStep>>,
    /// Per step, the statistics of its pass.
    measured: Vec<Option<MeasuredStatistics>>,
    slopes: Vec<Option<StatisticsGradient>>,
}

/// Prepares the kernels of all convolutions.
fn prepare(steps: &mut [SynthesisStep], isa: Isa) -> Result<(), TchError> {
    for step in steps {
        if let SynthesisStep::Conv(step) = step {
            [step.forward, step.backward] = step.conv.kernels(isa)?;
        }
    }
    Ok(())
}

impl SynthesisPlan {
    /// Compiles `graph` for `objective` and inputs of `shape`, `[N, C, H, W]` for images.
    ///
    /// # Errors
    /// Those of [`Replica::run`], or when the graph does not have exactly one input.
    pub fn compile(
        graph: &Arc<Graph>,
        objective: &Objective,
        shape: impl Into<Vec<i64>>,
        options: PlanOptions,
    ) -> Result<Self, ReplicaError> {
        let _guard = tch::no_grad_guard();
        let [input] = graph.inputs.as_slice() else {
            return Err(ReplicaError::Inputs { expected: 1, found: graph.inputs.len() });
        };
        let options = PlanOptions {
            kernels: options.kernels.filter(|_| options.device == Device::Cpu),
            ..options
        };
        let mut replica = Replica::new(graph.clone(), options.device)?;
        let loss = |source| ReplicaError::Loss { source };
        let shape = shape.into();
        let zeros = Tensor::f_zeros(&shape[..], (Kind::Float, options.device)).map_err(loss)?;
        let known = survey(&replica, &zeros, &[])?;
        let mut steps = compile::steps(&replica, &known, objective)?;
        if options.bf16 && options.kernels.is_none() {
            compile::to_bfloat16(&mut steps).map_err(loss)?;
        }
        if let Some(isa) = options.kernels {
            options.threads.run(|| prepare(&mut steps, isa)).map_err(loss)?;
        }
        let by_torch = |pass: &&PassStep| options.kernels.is_none() || pass.image_size().is_none();
        let affine = |step: &SynthesisStep| {
            step.pass().filter(by_torch).map(|pass| pass.affine(options.device)).transpose()
        };
        let affine = steps.iter().map(affine).collect::<Result<_, _>>().map_err(loss)?;
        let logits = graph.outputs[0];
        // From here on constants are read from `fixed`, and by autograd nodes alone: the other
        // steps have prepared their weights.
        replica.constants.iter_mut().for_each(|t| *t = None);
        let fixed = fixed_values(known, &steps);
        for node in steps.iter().filter_map(Step::autograd) {
            node.settle(&mut replica, &fixed)?;
        }
        let layers = alignment::layers(objective).map_err(loss)?;
        let joint = match options.kernels {
            Some(_) => None,
            None => alignment::joint(&layers, &steps, objective.distance).map_err(loss)?,
        };
        Ok(Self {
            dying: last_uses(&steps, logits, graph.values.len()),
            pulls: pulls(&steps, logits),
            affine,
            fixed,
            taps: taps(objective),
            layers,
            joint,
            momentum: objective.momentum.fresh(),
            replica,
            options,
            shape,
            input: input.value,
            logits,
            steps,
            r_bn: objective.r_bn,
            pool: Arc::default(),
        })
    }

    /// The input shape that the plan was compiled for.
    pub fn shape(&self) -> &[i64] {
        &self.shape
    }

    /// The moving averages of statistics.
    pub fn momentum(&self) -> &Momentum {
        &self.momentum
    }

    /// Takes over the targets and weights of another objective, forgetting averaged statistics, if
    /// it looks at the same activations; else nothing happens, and the answer is `false`.
    ///
    /// # Errors
    /// When libtorch can't convert the targets.
    pub fn retarget(&mut self, objective: &Objective) -> Result<bool, ReplicaError> {
        let same = taps(objective) == self.taps;
        if same {
            let loss = |source| ReplicaError::Loss { source };
            self.layers = alignment::layers(objective).map_err(loss)?;
            if self.options.kernels.is_none() {
                self.joint = alignment::joint(&self.layers, &self.steps, objective.distance)
                    .map_err(loss)?;
            }
            self.momentum = objective.momentum.fresh();
            self.r_bn = objective.r_bn;
        }
        Ok(same)
    }

    /// The loss of `input` for `targets` (int64 `[N]`) and its gradient. Without targets the loss
    /// has no cross entropy term.
    ///
    /// # Errors
    /// When the input's shape is not the plan's, or a step fails (the error names it).
    pub fn evaluate<'t>(
        &mut self,
        input: &Tensor,
        targets: impl Into<Option<&'t Tensor>>,
    ) -> Result<Evaluation, ReplicaError> {
        let found = self.evaluate_unread(input, targets.into())?;
        found.read().map_err(|source| ReplicaError::Loss { source })
    }

    /// As [`evaluate`](Self::evaluate), without waiting for a GPU. Both tensors must be on the
    /// plan's device.
    ///
    /// # Errors
    /// As of [`evaluate`](Self::evaluate).
    pub fn evaluate_unread(
        &mut self,
        input: &Tensor,
        targets: Option<&Tensor>,
    ) -> Result<UnreadEvaluation, ReplicaError> {
        if self.options.kernels.is_none() {
            return self.evaluate_here(input, targets);
        }
        // A tensor can be sent to another thread, a reference to one can't.
        let (input, targets) = (input.shallow_clone(), targets.map(Tensor::shallow_clone));
        let threads = self.options.threads.clone();
        threads.run(move || self.evaluate_here(&input, targets.as_ref()))
    }

    fn evaluate_here(
        &self,
        input: &Tensor,
        targets: Option<&Tensor>,
    ) -> Result<UnreadEvaluation, ReplicaError> {
        let _guard = tch::no_grad_guard();
        if input.size() != self.shape {
            return Err(ReplicaError::Shape { expected: self.shape.clone(), found: input.size() });
        }
        let _batch = BatchSize::of(&self.shape);
        let loss = |source| ReplicaError::Loss { source };
        let mut run = EvaluationState::new(self);
        run.values[self.input] = Some(Value::from(input.detach()).channels_last().map_err(loss)?);
        for (index, step) in self.steps.iter().enumerate() {
            self.forward(index, step, &mut run)?;
            for &id in &self.dying[index] {
                run.values[id] = None;
            }
        }
        let logits = self.read(&run, self.logits)?.tensor().copy();
        let (ce, gradient) = match targets {
            Some(targets) => cross_entropy(&logits, targets),
            None => none_wanted(&logits),
        }
        .map_err(loss)?;
        run.gradients[self.logits].push(gradient.into());
        let bn = self.align(&mut run).map_err(loss)?;
        run.values.clear();
        for (index, step) in self.steps.iter().enumerate().rev() {
            self.backward(index, step, &mut run)?;
        }
        let gradient = sum(&run.gradients[self.input]).and_then(|g| match g {
            // A dense copy in the input's layout, so that the plan's own buffer returns to its
            // pool.
            Some(g) => g.tensor().f_contiguous().map(|t| t.copy()),
            None => input.f_zeros_like(),
        });
        let gradient = gradient.map_err(loss)?;
        let terms = bn
            .f_mul_scalar(self.r_bn)
            .and_then(|weighted| Tensor::f_stack(&[&ce.f_add(&weighted)?, &ce, &bn], 0))
            .map_err(loss)?;
        Ok(UnreadEvaluation { terms, logits, gradient })
    }

    fn read(&self, run: &EvaluationState, id: ValueId) -> Result<Value, ReplicaError> {
        let missing = || ReplicaError::Missing { value: self.replica.graph().values[id].clone() };
        let fixed = || self.fixed[id].as_ref().map(|t| Value::from(t.shallow_clone()));
        run.values[id].clone().or_else(fixed).ok_or_else(missing)
    }

    fn forward(
        &self,
        index: usize,
        step: &SynthesisStep,
        run: &mut EvaluationState,
    ) -> Result<(), ReplicaError> {
        match step {
            SynthesisStep::Conv(conv) => {
                let x = self.read(run, conv.x)?;
                let residual = conv
                    .pass
                    .as_ref()
                    .and_then(|p| p.residual)
                    .map(|id| self.read(run, id))
                    .transpose()?;
                self.forward_conv(index, conv, &x, residual, run).map_err(failed(&conv.name))?;
            }
            SynthesisStep::Pass(pass) => {
                let kept = SavedPass {
                    x: self.read(run, pass.x)?,
                    residual: pass.residual.map(|id| self.read(run, id)).transpose()?,
                    activation: None,
                };
                self.forward_pass(index, pass, kept, run).map_err(failed(&self.name_of(pass)))?;
            }
            SynthesisStep::Explicit(explicit) => {
                let inputs = explicit
                    .inputs
                    .iter()
                    .map(|(id, _)| self.read(run, *id))
                    .collect::<Result<Vec<_>, _>>()?;
                let (value, kept) = explicit.forward(&inputs).map_err(failed(&explicit.name))?;
                run.values[explicit.out] = Some(value);
                run.kept[index] = Some(SavedStep::Explicit(kept));
            }
            SynthesisStep::Autograd(node) => {
                let inputs = node
                    .reads
                    .iter()
                    .map(|&id| self.read(run, id))
                    .collect::<Result<Vec<_>, _>>()?;
                let (values, kept) =
                    node.forward(&self.replica, &self.fixed, inputs, Mode::Eval)?;
                for (&id, value) in node.writes.iter().zip(values) {
                    run.values[id] = Some(value);
                }
                run.kept[index] = Some(SavedStep::Autograd(kept));
            }
        }
        Ok(())
    }

    fn affine(&self, index: usize) -> Result<&AffineTensors, TchError> {
        let missing = || TchError::Shape("the step was not prepared for libtorch".into());
        self.affine[index].as_ref().ok_or_else(missing)
    }

    fn name_of(&self, pass: &PassStep) -> String {
        self.replica.graph().values[pass.out.unwrap_or(pass.x)].clone()
    }

    fn forward_conv(
        &self,
        index: usize,
        step: &FrozenConv,
        x: &Value,
        residual: Option<Value>,
        run: &mut EvaluationState,
    ) -> Result<(), TchError> {
        let (conv, kernel) = (&step.conv, &step.forward);
        let Some(isa) = self.options.kernels.filter(|_| !kernel.is_torch()) else {
            let y: Value = conv.forward_torch(x.tensor())?.into();
            run.values[step.out] = Some(y.clone());
            return match &step.pass {
                Some(pass) => {
                    let kept = SavedPass { x: y, residual, activation: None };
                    self.forward_pass(index, pass, kept, run)
                }
                None => Ok(()),
            };
        };
        let [(from, _), (to, channels)] = conv.ends(Direction::Forward);
        let len = to.pixels() * channels;
        let (x, residual) = (x.channels_last()?, residual.map(|r| r.channels_last()).transpose()?);
        let residual_pixels = residual.as_ref().map(Value::pixels).transpose()?;
        let mut y = self.pool.take(len);
        let mut out = step.pass.as_ref().and_then(|p| p.out).map(|_| self.pool.take(len));
        let gathered = Gathered::default();
        let (bias, pass) = (&conv.bias_values, step.pass.as_ref());
        let epilogue = |piece: Piece| {
            let range = piece.range(channels);
            if !bias.is_empty() {
                add_bias(piece.rows, bias);
            }
            if let Some(pass) = pass {
                let residual = residual_pixels.map(|r| &r[range]);
                pass.forward_piece(isa, piece.index, piece.rows, residual, piece.beside, &gathered);
            }
        };
        kernel.run((x.pixels()?, from), (&mut y, to), out.as_deref_mut(), &epilogue);
        let y = y.finish(size(to, channels))?;
        run.values[step.out] = Some(y.clone());
        if let Some(pass) = &step.pass {
            if let (Some(id), Some(out)) = (pass.out, out) {
                run.values[id] = Some(out.finish(size(to, channels))?);
            }
            run.measured[index] = gathered.total().as_ref().map(MeasuredStatistics::of_moments);
            run.kept[index] = Some(SavedStep::Pass(SavedPass { x: y, residual, activation: None }));
        }
        Ok(())
    }

    fn forward_pass(
        &self,
        index: usize,
        pass: &PassStep,
        mut kept: SavedPass,
        run: &mut EvaluationState,
    ) -> Result<(), TchError> {
        let (kept, (out, measured)) = match (self.options.kernels, pass.image_size()) {
            (Some(isa), Some(size)) => {
                let residual = kept.residual.map(|r| r.channels_last()).transpose()?;
                let kept = SavedPass { x: kept.x.channels_last()?, residual, activation: None };
                let done = pass.forward(isa, &self.pool, &kept, size)?;
                (kept, done)
            }
            _ => {
                let done = pass.forward_torch(self.affine(index)?, &mut kept)?;
                (kept, done)
            }
        };
        if let Some(id) = pass.out {
            run.values[id] = out;
        }
        run.measured[index] = measured;
        run.kept[index] = Some(SavedStep::Pass(kept));
        Ok(())
    }

    fn backward(
        &self,
        index: usize,
        step: &SynthesisStep,
        run: &mut EvaluationState,
    ) -> Result<(), ReplicaError> {
        match (step, run.kept[index].take()) {
            (SynthesisStep::Conv(conv), kept) => {
                if let (Some(pass), Some(SavedStep::Pass(kept))) = (&conv.pass, kept) {
                    self.backward_pass(index, pass, &kept, run).map_err(failed(&conv.name))?;
                }
                self.backward_conv(index, conv, run).map_err(failed(&conv.name))?;
            }
            (SynthesisStep::Pass(pass), Some(SavedStep::Pass(kept))) => {
                self.backward_pass(index, pass, &kept, run).map_err(failed(&self.name_of(pass)))?;
            }
            (SynthesisStep::Explicit(explicit), Some(SavedStep::Explicit(kept))) => {
                let gradients = std::mem::take(&mut run.gradients[explicit.out]);
                let pulled = sum(&gradients)
                    .and_then(|gradient| gradient.map(|g| explicit.backward(&kept, &g)).transpose())
                    .map_err(failed(&explicit.name))?;
                for ((id, _), gradient) in explicit.inputs.iter().zip(pulled.into_iter().flatten())
                {
                    run.gradients[*id].push(gradient);
                }
            }
            (SynthesisStep::Autograd(node), Some(SavedStep::Autograd(kept))) => {
                let gradients =
                    node.writes.iter().map(|&id| sum(&std::mem::take(&mut run.gradients[id])));
                let gradients =
                    gradients.collect::<Result<Vec<_>, _>>().map_err(failed(&node.name))?;
                for (id, gradient) in node.backward(kept, &gradients).map_err(failed(&node.name))? {
                    run.gradients[id].push(gradient);
                }
            }
            // The backward pass of this step has already run, fused into a later convolution.
            _ => {}
        }
        Ok(())
    }

    fn backward_pass(
        &self,
        index: usize,
        pass: &PassStep,
        kept: &SavedPass,
        run: &mut EvaluationState,
    ) -> Result<(), TchError> {
        let gradients =
            pass.out.map(|id| std::mem::take(&mut run.gradients[id])).unwrap_or_default();
        let slope = run.slopes[index].as_ref();
        if gradients.is_empty() && slope.is_none() {
            return Ok(());
        }
        let pulled = match (self.options.kernels, pass.image_size()) {
            (Some(isa), Some(size)) => {
                let gradients =
                    gradients.iter().map(Value::channels_last).collect::<Result<Vec<_>, _>>()?;
                pass.backward(isa, &self.pool, kept, &gradients, slope, size)?
            }
            _ => pass.backward_torch(self.affine(index)?, kept, &gradients, slope)?,
        };
        send(pass, pulled, run);
        Ok(())
    }

    fn backward_conv(
        &self,
        index: usize,
        step: &FrozenConv,
        run: &mut EvaluationState,
    ) -> Result<(), TchError> {
        let gradients = std::mem::take(&mut run.gradients[step.out]);
        let Some(gradient) = sum(&gradients)? else { return Ok(()) };
        drop(gradients);
        let (conv, kernel) = (&step.conv, &step.backward);
        let Some(isa) = self.options.kernels.filter(|_| !kernel.is_torch()) else {
            run.gradients[step.x].push(conv.backward_torch(gradient.tensor())?.into());
            return Ok(());
        };
        let [(from, _), (to, channels)] = conv.ends(Direction::Backward);
        let gradient = gradient.channels_last()?;
        let mut x = self.pool.take(to.pixels() * channels);
        // The pass before this convolution, if its backward pass can run piece by piece while the
        // pieces are in cache.
        let before = self.pulls[index].and_then(|earlier| match run.kept[earlier].take() {
            Some(SavedStep::Pass(kept)) => Some((earlier, self.steps[earlier].pass()?, kept)),
            _ => None,
        });
        let Some((earlier, pass, kept)) = before else {
            kernel.run((gradient.pixels()?, from), (&mut x, to), None, &|_| {});
            run.gradients[step.x].push(x.finish(size(to, channels))?);
            return Ok(());
        };
        let more = std::mem::take(&mut run.gradients[step.x]);
        let more = more.iter().map(Value::channels_last).collect::<Result<Vec<_>, _>>()?;
        let more_pixels = more.iter().map(Value::pixels).collect::<Result<Vec<_>, _>>()?;
        let inputs = PieceInputs::new(&kept, more_pixels, run.slopes[earlier].as_ref())?;
        let mut residual = kept.residual.as_ref().map(|_| self.pool.take(inputs.len()));
        let epilogue = |piece: Piece| pass.backward_piece(isa, piece, &inputs);
        kernel.run((gradient.pixels()?, from), (&mut x, to), residual.as_deref_mut(), &epilogue);
        let size = size(to, channels);
        let pulled = PassGradients {
            x: x.finish(size)?,
            residual: residual.map(|r| r.finish(size)).transpose()?,
        };
        send(pass, pulled, run);
        Ok(())
    }
}

/// The activations that an objective measures, with their channel axes.
fn taps(objective: &Objective) -> Vec<(ValueId, i64)> {
    objective.layers.iter().map(|layer| (layer.tap, layer.axis)).collect()
}

/// Adds the gradients of a pass's inputs to those of their values.
fn send(pass: &PassStep, pulled: PassGradients, run: &mut EvaluationState) {
    run.gradients[pass.x].push(pulled.x);
    if let (Some(id), Some(gradient)) = (pass.residual, pulled.residual) {
        run.gradients[id].push(gradient);
    }
}

impl EvaluationState {
    fn new(plan: &SynthesisPlan) -> Self {
        let (values, steps) = (plan.fixed.len(), plan.steps.len());
        Self {
            values: none(values),
            gradients: std::iter::repeat_with(Vec::new).take(values).collect(),
            kept: none(steps),
            measured: none(steps),
            slopes: none(steps),
        }
    }

    /// Adds to the gradient of the statistics that a step measures.
    fn add_slope(&mut self, step: usize, slope: StatisticsGradient) -> Result<(), TchError> {
        self.slopes[step] = Some(match self.slopes[step].take() {
            Some(StatisticsGradient { a, b }) => {
                StatisticsGradient { a: a.f_add(&slope.a)?, b: b.f_add(&slope.b)? }
            }
            None => slope,
        });
        Ok(())
    }
}

/// The batch's mean cross entropy and its gradient with respect to the logits `[N, K]`.
fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<(Tensor, Tensor), TchError> {
    let log_probabilities = logits.f_log_softmax(1, Kind::Float)?;
    let chosen = targets.f_unsqueeze(1)?;
    let ce = log_probabilities.f_gather(1, &chosen, false)?.f_mean(Kind::Double)?.f_neg()?;
    let count = *logits.size().first().unwrap_or(&1) as f64;
    let ones = chosen.f_ones_like()?.f_to_kind(Kind::Float)?;
    let gradient = log_probabilities
        .f_exp()?
        .f_scatter_add(1, &chosen, &ones.f_neg()?)?
        .f_div_scalar(count)?;
    Ok((ce, gradient))
}

/// No cross entropy, and its gradient.
fn none_wanted(logits: &Tensor) -> Result<(Tensor, Tensor), TchError> {
    Ok((Tensor::f_zeros([], (Kind::Double, logits.device()))?, logits.f_zeros_like()?))
}

/// A convolution can fuse the backward pass of the step that computed its input, if it is the first
/// to read that input and so the last to add to its gradient.
fn pulls(steps: &[SynthesisStep], logits: ValueId) -> Vec<Option<usize>> {
    let first_reader = |id: ValueId| steps.iter().position(|s| s.reads().contains(&id));
    steps
        .iter()
        .enumerate()
        .map(|(index, step)| {
            let SynthesisStep::Conv(conv) = step else { return None };
            let maker =
                steps.iter().position(|s| s.pass().is_some_and(|p| p.out == Some(conv.x)))?;
            (first_reader(conv.x) == Some(index) && conv.x != logits && !conv.backward.is_torch())
                .then_some(maker)
        })
        .collect()
}
