//! The `tch` re-instantiation of a graph: the readable reference executor.
//!
//! It supports every operator of the graph crate, on any device, in evaluation and training mode,
//! and under autograd if an input or constant requires gradients. Each operator family has one file
//! under `ops/`, as in [`scdd_graph::ops`]. It does not read files.

mod convert;
mod error;
pub(crate) mod ops;
mod place;

use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use scdd_graph::ops::Norm;
use scdd_graph::{Graph, Node, Op, ValueId};

pub use convert::{channels_last, kind, tensor_of, to_array, to_tensor};
pub use error::{OpError, ReplicaError};
use ops::{Args, BatchSize};
use place::Places;

/// How BatchNorm layers behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// BatchNorm uses its running statistics.
    Eval,
    /// BatchNorm uses the batch's statistics and updates its running statistics with PyTorch's
    /// momentum of 0.1.
    Train,
    /// BatchNorm uses the batch's statistics and updates nothing.
    Batch,
}

/// The results of a run.
pub struct Outputs {
    /// The graph's outputs, in their order.
    pub outputs: Vec<Tensor>,
    /// The requested taps, in the order of the request.
    pub taps: Vec<Tensor>,
}

/// A graph with its constants as tensors on one device.
pub struct Replica {
    graph: Arc<Graph>,
    pub(crate) constants: Vec<Option<Tensor>>,
    places: Places,
    /// Per node, the values that no later node reads.
    pub(crate) dying: Vec<Vec<ValueId>>,
    /// The type that replaces float32, after [`Replica::to_kind`].
    pub(crate) precision: Option<Kind>,
    /// The type in which convolutions multiply, after [`Replica::with_convolutions_in`].
    convolutions: Option<Kind>,
}

impl Replica {
    /// Moves floating-point constants to `device`. Integer constants stay on the CPU, where shapes
    /// and axes are read; those that nodes compute with are copied to `device` once.
    ///
    /// # Errors
    /// When a constant can't be copied to the device.
    pub fn new(graph: Arc<Graph>, device: Device) -> Result<Self, ReplicaError> {
        let mut constants: Vec<Option<Tensor>> = Vec::new();
        constants.resize_with(graph.values.len(), || None);
        let mut places = Places::new(&graph, device);
        for (&id, constant) in &graph.constants {
            let tensor = tensor_of(constant)
                .and_then(|t| channels_last(&t.f_to_device(places.of(id))?))
                .map_err(|e| ReplicaError::Constant {
                    name: graph.values[id].clone(),
                    source: e,
                })?;
            constants[id] = Some(tensor);
        }
        for node in &graph.nodes {
            places.settle(node, &constants).map_err(unsettled(node))?;
        }
        let dying = last_uses(&graph);
        Ok(Self { graph, constants, places, dying, precision: None, convolutions: None })
    }

    /// Copies the values that never change, `fixed`, to where the node of this `index` wants them,
    /// for all later runs.
    pub(crate) fn settle(
        &mut self,
        index: usize,
        fixed: &[Option<Tensor>],
    ) -> Result<(), ReplicaError> {
        let node = &self.graph.nodes[index];
        self.places.settle(node, fixed).map_err(unsettled(node))
    }

    pub fn graph(&self) -> &Arc<Graph> {
        &self.graph
    }

    /// Converts every floating-point constant, and every float32 value of later runs: for instance
    /// to `Kind::Double`, where rounding is negligible.
    ///
    /// # Errors
    /// When libtorch refuses the conversion.
    pub fn to_kind(mut self, kind: Kind) -> Result<Self, ReplicaError> {
        for (id, constant) in self.constants.iter_mut().enumerate() {
            if let Some(t) = constant.as_mut().filter(|t| t.is_floating_point()) {
                *t = t.f_to_kind(kind).map_err(|e| ReplicaError::Constant {
                    name: self.graph.values[id].clone(),
                    source: e,
                })?;
            }
        }
        self.precision = Some(kind);
        Ok(self)
    }

    /// Convolves in `kind` in later runs, forward and backward. All else, the weights as they are
    /// kept among it, stays float32: mixed precision, as PyTorch's autocast does it for
    /// convolutions.
    #[must_use]
    pub fn with_convolutions_in(mut self, kind: Kind) -> Self {
        self.convolutions = Some(kind);
        self
    }

    /// Whether all is computed in float32.
    pub(crate) fn is_single_precision(&self) -> bool {
        self.precision.is_none() && self.convolutions.is_none()
    }

    /// The tensor of the constant called `name`. It shares the constant's storage, so a trainer can
    /// write to it.
    pub fn constant(&self, name: &str) -> Option<Tensor> {
        self.graph.value(name).and_then(|id| self.constants[id].as_ref()).map(Tensor::shallow_clone)
    }

    /// Replaces the constant called `name` by `tensor`, of the same shape. Does nothing if there is
    /// no such constant.
    pub fn set_constant(&mut self, name: &str, tensor: Tensor) {
        let Some(id) = self.graph.value(name).filter(|&id| self.constants[id].is_some()) else {
            return;
        };
        self.constants[id] = Some(tensor);
        self.places.forget(id);
    }

    /// A clone that shares graph and constants: a write to a constant of one changes the other.
    pub(crate) fn shallow_clone(&self) -> Self {
        Self {
            graph: self.graph.clone(),
            constants: self
                .constants
                .iter()
                .map(|t| t.as_ref().map(Tensor::shallow_clone))
                .collect(),
            places: self.places.shallow_clone(),
            dying: self.dying.clone(),
            precision: self.precision,
            convolutions: self.convolutions,
        }
    }

    /// Runs the graph. `inputs` are in the order of the graph's inputs, images as `[N, C, H, W]`;
    /// `taps` are further values to return.
    ///
    /// # Errors
    /// Names the node that failed, with the shapes of its inputs.
    pub fn run(
        &self,
        inputs: &[Tensor],
        taps: &[ValueId],
        mode: Mode,
    ) -> Result<Outputs, ReplicaError> {
        if inputs.len() != self.graph.inputs.len() {
            return Err(ReplicaError::Inputs {
                expected: self.graph.inputs.len(),
                found: inputs.len(),
            });
        }
        let _batch = BatchSize::of(&inputs.first().map(Tensor::size).unwrap_or_default());
        let mut values: Vec<Option<Tensor>> = Vec::new();
        values.resize_with(self.graph.values.len(), || None);
        for (input, tensor) in self.graph.inputs.iter().zip(inputs) {
            let tensor = self
                .precise(tensor.shallow_clone())
                .and_then(|t| channels_last(&t))
                .map_err(|e| ReplicaError::Constant {
                    name: self.graph.values[input.value].clone(),
                    source: e,
                })?;
            values[input.value] = Some(tensor);
        }
        for (node, dying) in self.graph.nodes.iter().zip(&self.dying) {
            let results = self.run_node(node, &values, mode)?;
            for (output, result) in node.outputs.iter().zip(results) {
                if let Some(id) = *output {
                    values[id] = Some(result);
                }
            }
            for &id in dying.iter().filter(|id| !taps.contains(id)) {
                values[id] = None;
            }
        }
        let pick = |ids: &[ValueId]| {
            ids.iter().map(|&id| self.value(&values, id)).collect::<Result<Vec<_>, _>>()
        };
        Ok(Outputs { outputs: pick(&self.graph.outputs)?, taps: pick(taps)? })
    }

    fn value(&self, values: &[Option<Tensor>], id: ValueId) -> Result<Tensor, ReplicaError> {
        let found = values[id].as_ref().or(self.constants[id].as_ref()).map(Tensor::shallow_clone);
        found.ok_or_else(|| ReplicaError::Missing { value: self.graph.values[id].clone() })
    }

    pub(crate) fn run_node(
        &self,
        node: &Node,
        values: &[Option<Tensor>],
        mode: Mode,
    ) -> Result<Vec<Tensor>, ReplicaError> {
        let lookup = |id: ValueId| values[id].as_ref().or(self.constants[id].as_ref());
        let inputs = self.places.inputs(node, lookup).map_err(unsettled(node))?;
        let args = Args::new(inputs.iter().map(Option::as_ref).collect(), node.outputs.len());
        let result = match (&node.op, mode) {
            (Op::Norm(Norm::Batch { epsilon }), Mode::Train | Mode::Batch) => {
                ops::norm::batch_norm(&args, *epsilon, mode).map(|t| vec![t])
            }
            (Op::Conv(_), _) => self.convolve(&node.op, &args),
            _ => ops::run(&node.op, &args),
        };
        let precise =
            |tensors: Vec<Tensor>| tensors.into_iter().map(|t| Ok(self.precise(t)?)).collect();
        result.and_then(precise).map_err(|source| ReplicaError::Node {
            node: node.name.clone(),
            op: node.op_type.clone(),
            inputs: args.describe(),
            source,
        })
    }

    /// A convolution, in the type of convolutions if there is one.
    fn convolve(&self, op: &Op, args: &Args) -> Result<Vec<Tensor>, error::OpError> {
        let Some(kind) = self.convolutions else { return ops::run(op, args) };
        let inputs = args.in_kind(kind)?;
        let inputs = Args::new(inputs.iter().map(Option::as_ref).collect(), 1);
        let outputs = ops::run(op, &inputs)?;
        outputs.iter().map(|output| Ok(output.f_to_kind(Kind::Float)?)).collect()
    }

    /// The tensor in the requested precision, if it is float32.
    fn precise(&self, tensor: Tensor) -> Result<Tensor, tch::TchError> {
        match self.precision {
            Some(kind) if tensor.kind() == Kind::Float => tensor.f_to_kind(kind),
            _ => Ok(tensor),
        }
    }
}

/// The error of inputs that can't be copied to where `node` wants them.
fn unsettled(node: &Node) -> impl Fn(tch::TchError) -> ReplicaError {
    |source| ReplicaError::Node {
        node: node.name.clone(),
        op: node.op_type.clone(),
        inputs: "on another device".into(),
        source: source.into(),
    }
}

/// Per node, the values that no later node reads (graph outputs stay).
fn last_uses(graph: &Graph) -> Vec<Vec<ValueId>> {
    let mut seen: Vec<bool> = vec![false; graph.values.len()];
    for &output in &graph.outputs {
        seen[output] = true;
    }
    let mut dying: Vec<Vec<ValueId>> = graph
        .nodes
        .iter()
        .rev()
        .map(|node| {
            let mut last = Vec::new();
            for id in node.inputs.iter().chain(&node.outputs).flatten() {
                if !std::mem::replace(&mut seen[*id], true) {
                    last.push(*id);
                }
            }
            last
        })
        .collect();
    dying.reverse();
    dying
}
