//! A graph compiled for training: what the replica computes under autograd, several times faster on a processor.
//!
//! Convolutions run on the kernels of [`scdd_kernels`], forwards and in both ways back; what lies between two of them (BatchNorm by the batch's
//! statistics, a residual, an activation, 2×2 average pooling) is one step; every other operator uses autograd locally. Unlike those of a
//! [`Plan`](super::Plan), weights change at every step, so they are not prepared once but whenever [`TrainPlan::load`] is called.

mod compile;
mod conv;
mod norm;

use std::collections::HashSet;
use std::sync::Arc;

use tch::{Device, Kind, TchError, Tensor};

use super::plan::compile::survey;
use super::plan::value::{Pool, Value};
use super::plan::{fixed_values, local, pass};
use super::{Mode, Replica, ReplicaError};
use crate::threads;
use compile::Step;
use scdd_graph::ValueId;
use scdd_kernels::Isa;
use scdd_kernels::pass::Moments;

/// A graph compiled for training, for one shape of the input.
pub struct TrainPlan {
    /// Shares its constants with the replica that the plan was compiled from.
    replica: Replica,
    isa: Isa,
    shape: Vec<i64>,
    input: ValueId,
    logits: ValueId,
    parameters: Vec<ValueId>,
    steps: Vec<Step>,
    /// Per step, the values that no later step reads.
    dying: Vec<Vec<ValueId>>,
    /// The values that depend on neither input nor parameters and that local steps read.
    fixed: Vec<Option<Tensor>>,
    pool: Arc<Pool>,
}

/// What a run in training mode keeps for the way back.
pub struct Tape(Vec<Option<Kept>>);

/// What a step keeps for the way back.
enum Kept {
    Conv(Value),
    Norm(norm::Kept),
    Local(local::Kept),
}

/// A run on its way forwards.
struct Forward {
    mode: Mode,
    values: Vec<Option<Value>>,
    /// Of convolutions' outputs that a normalisation reads next.
    moments: Vec<Option<Moments>>,
    kept: Vec<Option<Kept>>,
}

impl TrainPlan {
    /// Compiles the graph of `replica` for training its constants `parameters` on inputs of `shape`, `[N, C, H, W]`. `None` where this processor has
    /// no kernels for it, or the replica is not in single precision on the CPU: it is then trained through autograd.
    ///
    /// # Errors
    /// Those of [`Replica::run`], or a graph that has not one input.
    pub fn compile(replica: &Replica, parameters: &[String], shape: &[i64]) -> Result<Option<Self>, ReplicaError> {
        Self::compile_for(Isa::best(), replica, parameters, shape)
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
    ) -> Result<Option<Self>, ReplicaError> {
        let graph = replica.graph().clone();
        let [input] = graph.inputs.as_slice() else {
            return Err(ReplicaError::Inputs { expected: 1, found: graph.inputs.len() });
        };
        let find = |name: &String| graph.value(name).filter(|&id| replica.constants[id].is_some());
        let ids = parameters.iter().map(|name| find(name).ok_or_else(|| ReplicaError::Missing { value: name.clone() }));
        let ids: Vec<ValueId> = ids.collect::<Result<_, _>>()?;
        let on_cpu = |id: &ValueId| replica.constants[*id].as_ref().is_some_and(|t| t.device() == Device::Cpu);
        if isa == Isa::Portable || replica.precision.is_some() || !ids.iter().all(on_cpu) {
            return Ok(None);
        }
        let _guard = tch::no_grad_guard();
        let zeros =
            Tensor::f_zeros(shape, (Kind::Float, Device::Cpu)).map_err(|source| ReplicaError::Loss { source })?;
        let known = survey(replica, &zeros, &ids)?;
        let steps = compile::steps(isa, replica, &known)?;
        let locals = steps.iter().filter_map(|s| if let Step::Local(local) = s { Some(local) } else { None });
        let needed: HashSet<ValueId> = locals.flat_map(|local| local.constants.iter().copied()).collect();
        let logits = graph.outputs[0];
        Ok(Some(Self {
            isa,
            shape: shape.to_vec(),
            input: input.value,
            logits,
            dying: compile::last_uses(&steps, logits, graph.values.len()),
            steps,
            fixed: fixed_values(known, &needed),
            parameters: ids,
            pool: Arc::default(),
            replica: replica.share(),
        }))
    }

    /// Of the inputs that it was compiled for.
    pub fn shape(&self) -> &[i64] {
        &self.shape
    }

    /// Takes over the parameters' present values. Until the next call, runs use those.
    ///
    /// # Errors
    /// When libtorch can't copy them.
    pub fn load(&mut self) -> Result<(), TchError> {
        threads::on_share(|| self.load_here())
    }

    fn load_here(&mut self) -> Result<(), TchError> {
        let _guard = tch::no_grad_guard();
        for step in &mut self.steps {
            match step {
                Step::Conv(conv) => conv.load(&self.replica)?,
                Step::Norm(norm) => norm.load(&self.replica)?,
                Step::Local(_) => {}
            }
        }
        Ok(())
    }

    /// The logits of `input`, and what the way back needs. In `Mode::Train` running statistics are updated as the replica does; in `Mode::Eval`
    /// they are used, and there is no way back.
    ///
    /// # Errors
    /// An input of another shape than the plan's, or what went wrong at which step.
    pub fn forward(&mut self, input: &Tensor, mode: Mode) -> Result<(Tensor, Tape), ReplicaError> {
        let input = input.shallow_clone();
        threads::on_share(move || self.forward_here(&input, mode))
    }

    fn forward_here(&self, input: &Tensor, mode: Mode) -> Result<(Tensor, Tape), ReplicaError> {
        let _guard = tch::no_grad_guard();
        if input.size() != self.shape {
            return Err(ReplicaError::Shape { expected: self.shape.clone(), found: input.size() });
        }
        let mut run = Forward::new(mode, self.replica.graph().values.len(), self.steps.len());
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

    fn read(&self, run: &Forward, id: ValueId) -> Result<Value, ReplicaError> {
        let parameter = || self.replica.constants[id].as_ref().map(|t| Value::from(t.detach()));
        let missing = || ReplicaError::Missing { value: self.replica.graph().values[id].clone() };
        run.values[id].clone().or_else(parameter).ok_or_else(missing)
    }

    fn forward_step(&self, index: usize, step: &Step, run: &mut Forward) -> Result<(), ReplicaError> {
        let kept = match step {
            Step::Conv(conv) => {
                let x = self.read(run, conv.x)?;
                let (y, moments) = conv.forward(&self.pool, &x, run.mode).map_err(failed(&conv.name))?;
                run.values[conv.out] = Some(y);
                run.moments[conv.out] = moments;
                Kept::Conv(x)
            }
            Step::Norm(norm) => {
                let x = self.read(run, norm.x)?;
                let residual = norm.residual.map(|id| self.read(run, id)).transpose()?;
                let moments = run.moments[norm.x].take();
                let done = norm.forward(self.isa, &self.pool, (&x, residual.as_ref()), moments, run.mode);
                let (out, kept) = done.map_err(failed(&norm.name))?;
                run.values[norm.out] = Some(out);
                Kept::Norm(kept)
            }
            Step::Local(local) => {
                let inputs = local.reads.iter().map(|&id| self.read(run, id)).collect::<Result<Vec<_>, _>>()?;
                let (values, kept) = local.forward(&self.replica, &self.fixed, inputs, run.mode)?;
                for (&id, value) in local.writes.iter().zip(values) {
                    run.values[id] = Some(value);
                }
                Kept::Local(kept)
            }
        };
        run.kept[index] = (run.mode == Mode::Train).then_some(kept);
        Ok(())
    }

    /// The gradients of the parameters, in the order in which they were named, given that of the logits. One that the logits do not depend on is zero.
    ///
    /// # Errors
    /// What went wrong at which step.
    pub fn backward(&mut self, tape: Tape, logits: Tensor) -> Result<Vec<Tensor>, ReplicaError> {
        threads::on_share(move || self.backward_here(tape, logits))
    }

    fn backward_here(&self, tape: Tape, logits: Tensor) -> Result<Vec<Tensor>, ReplicaError> {
        let _guard = tch::no_grad_guard();
        let mut gradients: Vec<Vec<Value>> = Vec::new();
        gradients.resize_with(self.replica.graph().values.len(), Vec::new);
        gradients[self.logits].push(logits.into());
        for (step, kept) in self.steps.iter().zip(tape.0).rev() {
            let mut take = |id: ValueId| pass::sum(&std::mem::take(&mut gradients[id]));
            let pulled = match (step, kept) {
                (Step::Conv(conv), Some(Kept::Conv(x))) => match take(conv.out).map_err(failed(&conv.name))? {
                    Some(dy) => conv.backward(&self.pool, &x, &dy).map_err(failed(&conv.name))?,
                    None => Vec::new(),
                },
                (Step::Norm(norm), Some(Kept::Norm(kept))) => match take(norm.out).map_err(failed(&norm.name))? {
                    Some(dy) => norm.backward(self.isa, &self.pool, &kept, &dy).map_err(failed(&norm.name))?,
                    None => Vec::new(),
                },
                (Step::Local(local), Some(Kept::Local(kept))) => {
                    let gradients = local.writes.iter().map(|&id| take(id)).collect::<Result<Vec<_>, _>>();
                    let gradients = gradients.map_err(failed(&local.name))?;
                    local.backward(kept, &gradients).map_err(failed(&local.name))?
                }
                _ => Vec::new(),
            };
            for (id, gradient) in pulled {
                gradients[id].push(gradient);
            }
        }
        let gradient = |id: &ValueId| match (pass::sum(&gradients[*id])?, &self.replica.constants[*id]) {
            (Some(gradient), _) => Ok(gradient.tensor().shallow_clone()),
            (None, Some(parameter)) => parameter.f_zeros_like(),
            (None, None) => Ok(Tensor::new()),
        };
        let all = self.parameters.iter().map(gradient).collect::<Result<Vec<_>, _>>();
        all.map_err(|source| ReplicaError::Loss { source })
    }
}

impl Forward {
    fn new(mode: Mode, values: usize, steps: usize) -> Self {
        fn none<T>(len: usize) -> Vec<Option<T>> {
            std::iter::repeat_with(|| None).take(len).collect()
        }
        Self { mode, values: none(values), moments: none(values), kept: none(steps) }
    }
}

fn failed(step: &str) -> impl FnOnce(TchError) -> ReplicaError {
    let step = step.to_owned();
    move |source| ReplicaError::Step { step, source: source.into() }
}
