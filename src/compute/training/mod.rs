//! A graph compiled for training. It computes the same as the replica under autograd, several times
//! faster on a CPU.
//!
//! Convolutions run on the kernels of [`scdd_kernels`], in the forward and both backward passes.
//! The operators between two convolutions (BatchNorm by the batch's statistics, a residual, an
//! activation, 2×2 average pooling) are one step. Every other operator is differentiated by
//! autograd. Unlike in a [`SynthesisPlan`](crate::synthesis::SynthesisPlan), the weights change at
//! every step, so [`TrainingPlan::load`] prepares them anew.

mod compile;
mod conv;
mod norm;

use std::sync::Arc;

use tch::{Device, Kind, TchError, Tensor};

use crate::compiled::autograd_node::SavedAutograd;
use crate::compiled::survey::survey;
use crate::compiled::value::{BufferPool, Value};
use crate::compiled::{failed, fixed_values, last_uses, none, sum};
use crate::replica::ops::BatchSize;
use crate::replica::{Mode, Replica, ReplicaError};
use crate::threads::Threads;
use compile::TrainingStep;
use norm::SavedNorm;
use scdd_graph::ValueId;
use scdd_kernels::Isa;
use scdd_kernels::pass::Moments;

/// A graph compiled for training, for one input shape.
pub struct TrainingPlan {
    /// Shares its constants with the replica that the plan was compiled from.
    replica: Replica,
    isa: Isa,
    threads: Threads,
    shape: Vec<i64>,
    input: ValueId,
    logits: ValueId,
    parameters: Vec<ValueId>,
    steps: Vec<TrainingStep>,
    /// Per step, the values that no later step reads.
    dying: Vec<Vec<ValueId>>,
    /// The values that depend on neither input nor parameters and that autograd nodes read.
    fixed: Vec<Option<Tensor>>,
    pool: Arc<BufferPool>,
}

/// The state that a run in training mode saves for the backward pass.
pub struct Tape(Vec<Option<SavedTraining>>);

/// The state that a step saves for the backward pass.
enum SavedTraining {
    Conv(Value),
    Norm(SavedNorm),
    Autograd(SavedAutograd),
}

/// The state of a forward pass.
struct ForwardState {
    mode: Mode,
    values: Vec<Option<Value>>,
    /// Moments of convolution outputs that a normalisation reads next.
    moments: Vec<Option<Moments>>,
    kept: Vec<Option<SavedTraining>>,
}

impl TrainingPlan {
    /// Compiles the graph of `replica` for training its constants `parameters` on inputs of
    /// `shape`, `[N, C, H, W]`. `None` if this processor has no kernels for it, or the replica is
    /// not in single precision on the CPU: the caller then trains it through autograd.
    ///
    /// # Errors
    /// Those of [`Replica::run`], or when the graph does not have exactly one input.
    pub fn compile(
        replica: &Replica,
        parameters: &[String],
        shape: &[i64],
        threads: &Threads,
    ) -> Result<Option<Self>, ReplicaError> {
        Self::compile_for(Isa::best(), replica, parameters, shape, threads)
    }

    /// As [`compile`](Self::compile), for the instruction set `isa`.
    ///
    /// # Errors
    /// Those of [`compile`](Self::compile).
    pub fn compile_for(
        isa: Isa,
        replica: &Replica,
        parameters: &[String],
        shape: &[i64],
        threads: &Threads,
    ) -> Result<Option<Self>, ReplicaError> {
        let graph = replica.graph().clone();
        let [input] = graph.inputs.as_slice() else {
            return Err(ReplicaError::Inputs { expected: 1, found: graph.inputs.len() });
        };
        let find = |name: &String| graph.value(name).filter(|&id| replica.constants[id].is_some());
        let ids = parameters
            .iter()
            .map(|name| find(name).ok_or_else(|| ReplicaError::Missing { value: name.clone() }));
        let ids: Vec<ValueId> = ids.collect::<Result<_, _>>()?;
        let on_cpu = |id: &ValueId| {
            replica.constants[*id].as_ref().is_some_and(|t| t.device() == Device::Cpu)
        };
        if isa == Isa::Portable || !replica.is_single_precision() || !ids.iter().all(on_cpu) {
            return Ok(None);
        }
        let _guard = tch::no_grad_guard();
        let zeros = Tensor::f_zeros(shape, (Kind::Float, Device::Cpu))
            .map_err(|source| ReplicaError::Loss { source })?;
        let known = survey(replica, &zeros, &ids)?;
        let steps = compile::steps(isa, replica, &known)?;
        let logits = graph.outputs[0];
        let fixed = fixed_values(known, &steps);
        Ok(Some(Self {
            isa,
            threads: threads.clone(),
            shape: shape.to_vec(),
            input: input.value,
            logits,
            dying: last_uses(&steps, logits, graph.values.len()),
            steps,
            fixed,
            parameters: ids,
            pool: Arc::default(),
            replica: replica.shallow_clone(),
        }))
    }

    /// The input shape that the plan was compiled for.
    pub fn shape(&self) -> &[i64] {
        &self.shape
    }

    /// Loads the parameters' present values. Runs use them until the next call.
    ///
    /// # Errors
    /// When libtorch can't copy them.
    pub fn load(&mut self) -> Result<(), TchError> {
        let threads = self.threads.clone();
        threads.run(|| self.load_here())
    }

    fn load_here(&mut self) -> Result<(), TchError> {
        let _guard = tch::no_grad_guard();
        for step in &mut self.steps {
            match step {
                TrainingStep::Conv(conv) => conv.load(&self.replica)?,
                TrainingStep::Norm(norm) => norm.load(&self.replica)?,
                TrainingStep::Autograd(_) => {}
            }
        }
        Ok(())
    }

    /// The logits of `input`, and the tape for the backward pass. `Mode::Train` updates the running
    /// statistics as the replica does. `Mode::Eval` uses them, and its tape is empty.
    ///
    /// # Errors
    /// When the input's shape is not the plan's, or a step fails (the error names it).
    pub fn forward(&mut self, input: &Tensor, mode: Mode) -> Result<(Tensor, Tape), ReplicaError> {
        let input = input.shallow_clone();
        let threads = self.threads.clone();
        threads.run(move || self.forward_here(&input, mode))
    }

    fn forward_here(&self, input: &Tensor, mode: Mode) -> Result<(Tensor, Tape), ReplicaError> {
        let _batch = BatchSize::of(&self.shape);
        let _guard = tch::no_grad_guard();
        if input.size() != self.shape {
            return Err(ReplicaError::Shape { expected: self.shape.clone(), found: input.size() });
        }
        let mut run = ForwardState::new(mode, self.replica.graph().values.len(), self.steps.len());
        let input = Value::from(input.detach()).channels_last();
        run.values[self.input] = Some(input.map_err(|source| ReplicaError::Loss { source })?);
        for (index, step) in self.steps.iter().enumerate() {
            self.forward_step(index, step, &mut run)?;
            for &id in &self.dying[index] {
                run.values[id] = None;
            }
        }
        Ok((self.read(&run, self.logits)?.tensor().copy(), Tape(run.kept)))
    }

    fn read(&self, run: &ForwardState, id: ValueId) -> Result<Value, ReplicaError> {
        let parameter = || self.replica.constants[id].as_ref().map(|t| Value::from(t.detach()));
        let missing = || ReplicaError::Missing { value: self.replica.graph().values[id].clone() };
        run.values[id].clone().or_else(parameter).ok_or_else(missing)
    }

    fn forward_step(
        &self,
        index: usize,
        step: &TrainingStep,
        run: &mut ForwardState,
    ) -> Result<(), ReplicaError> {
        let kept = match step {
            TrainingStep::Conv(conv) => {
                let x = self.read(run, conv.x)?;
                let (y, moments) =
                    conv.forward(&self.pool, &x, run.mode).map_err(failed(&conv.name))?;
                run.values[conv.out] = Some(y);
                run.moments[conv.out] = moments;
                SavedTraining::Conv(x)
            }
            TrainingStep::Norm(norm) => {
                let x = self.read(run, norm.x)?;
                let residual = norm.residual.map(|id| self.read(run, id)).transpose()?;
                let moments = run.moments[norm.x].take();
                let done =
                    norm.forward(self.isa, &self.pool, (&x, residual.as_ref()), moments, run.mode);
                let (out, kept) = done.map_err(failed(&norm.name))?;
                run.values[norm.out] = Some(out);
                SavedTraining::Norm(kept)
            }
            TrainingStep::Autograd(node) => {
                let inputs = node
                    .reads
                    .iter()
                    .map(|&id| self.read(run, id))
                    .collect::<Result<Vec<_>, _>>()?;
                let (values, kept) = node.forward(&self.replica, &self.fixed, inputs, run.mode)?;
                for (&id, value) in node.writes.iter().zip(values) {
                    run.values[id] = Some(value);
                }
                SavedTraining::Autograd(kept)
            }
        };
        run.kept[index] = (run.mode == Mode::Train).then_some(kept);
        Ok(())
    }

    /// The gradients of the parameters, in the order given to [`compile`](Self::compile), from the
    /// gradient of the logits. It is zero for parameters that do not affect the logits.
    ///
    /// # Errors
    /// When a step fails; the error names it.
    pub fn backward(&mut self, tape: Tape, logits: Tensor) -> Result<Vec<Tensor>, ReplicaError> {
        let threads = self.threads.clone();
        threads.run(move || self.backward_here(tape, logits))
    }

    fn backward_here(&self, tape: Tape, logits: Tensor) -> Result<Vec<Tensor>, ReplicaError> {
        let _guard = tch::no_grad_guard();
        let mut gradients: Vec<Vec<Value>> = Vec::new();
        gradients.resize_with(self.replica.graph().values.len(), Vec::new);
        gradients[self.logits].push(logits.into());
        for (step, kept) in self.steps.iter().zip(tape.0).rev() {
            let mut take = |id: ValueId| sum(&std::mem::take(&mut gradients[id]));
            let pulled = match (step, kept) {
                (TrainingStep::Conv(conv), Some(SavedTraining::Conv(x))) => {
                    match take(conv.out).map_err(failed(&conv.name))? {
                        Some(dy) => {
                            conv.backward(&self.pool, &x, &dy).map_err(failed(&conv.name))?
                        }
                        None => Vec::new(),
                    }
                }
                (TrainingStep::Norm(norm), Some(SavedTraining::Norm(kept))) => {
                    match take(norm.out).map_err(failed(&norm.name))? {
                        Some(dy) => norm
                            .backward(self.isa, &self.pool, &kept, &dy)
                            .map_err(failed(&norm.name))?,
                        None => Vec::new(),
                    }
                }
                (TrainingStep::Autograd(node), Some(SavedTraining::Autograd(kept))) => {
                    let gradients =
                        node.writes.iter().map(|&id| take(id)).collect::<Result<Vec<_>, _>>();
                    let gradients = gradients.map_err(failed(&node.name))?;
                    node.backward(kept, &gradients).map_err(failed(&node.name))?
                }
                _ => Vec::new(),
            };
            for (id, gradient) in pulled {
                gradients[id].push(gradient);
            }
        }
        let gradient = |id: &ValueId| match (sum(&gradients[*id])?, &self.replica.constants[*id]) {
            (Some(gradient), _) => Ok(gradient.tensor().shallow_clone()),
            (None, Some(parameter)) => parameter.f_zeros_like(),
            (None, None) => Ok(Tensor::new()),
        };
        let all = self.parameters.iter().map(gradient).collect::<Result<Vec<_>, _>>();
        all.map_err(|source| ReplicaError::Loss { source })
    }
}

impl ForwardState {
    fn new(mode: Mode, values: usize, steps: usize) -> Self {
        Self { mode, values: none(values), moments: none(values), kept: none(steps) }
    }
}
