//! Graph → steps of training. Decides which nodes are fused, and which are left to autograd.

use super::conv::TrainedConv;
use super::norm::NormStep;
use crate::compiled::Step;
use crate::compiled::autograd_node::AutogradNode;
use crate::compiled::explicit::{Operator, window};
use crate::compiled::fusion::{Fusion, output};
use crate::compiled::survey::Known;
use crate::replica::{OpError, Replica, ReplicaError};
use scdd_graph::ops::Norm;
use scdd_graph::{Graph, Op, ValueId};
use scdd_kernels::Isa;

/// One step of the plan.
pub enum TrainingStep {
    Conv(Box<TrainedConv>),
    Norm(Box<NormStep>),
    Autograd(AutogradNode),
}

impl Step for TrainingStep {
    fn reads(&self) -> Vec<ValueId> {
        match self {
            Self::Conv(step) => vec![step.x],
            Self::Norm(step) => [step.x].into_iter().chain(step.residual).collect(),
            Self::Autograd(step) => step.reads.clone(),
        }
    }

    fn writes(&self) -> Vec<ValueId> {
        match self {
            Self::Conv(step) => vec![step.out],
            Self::Norm(step) => vec![step.out],
            Self::Autograd(step) => step.writes.clone(),
        }
    }

    fn autograd(&self) -> Option<&AutogradNode> {
        match self {
            Self::Autograd(node) => Some(node),
            Self::Conv(_) | Self::Norm(_) => None,
        }
    }
}

/// Turns the graph into steps.
pub fn steps(
    isa: Isa,
    replica: &Replica,
    known: &[Option<Known>],
) -> Result<Vec<TrainingStep>, ReplicaError> {
    let graph = replica.graph();
    let mut fusion = Fusion::new(graph, known, []);
    let mut steps = Vec::new();
    for index in 0..graph.nodes.len() {
        let name = || graph.nodes[index].name.clone();
        let failed = |source| ReplicaError::Step { step: name(), source };
        if !fusion.is_open(index) {
            continue;
        }
        let step = if let Some(conv) = convolution(isa, replica, &fusion, index).map_err(failed)? {
            TrainingStep::Conv(Box::new(conv))
        } else if let Some(norm) = norm(graph, &mut fusion, index).map_err(failed)? {
            TrainingStep::Norm(Box::new(norm))
        } else {
            TrainingStep::Autograd(AutogradNode::new(index, &graph.nodes[index], known))
        };
        steps.push(step);
    }
    absorb_biases(&mut steps);
    Ok(steps)
}

fn convolution(
    isa: Isa,
    replica: &Replica,
    fusion: &Fusion,
    index: usize,
) -> Result<Option<TrainedConv>, OpError> {
    let node = &replica.graph().nodes[index];
    let (&[Some(x), Some(weight), ..], &[Some(out)]) =
        (node.inputs.as_slice(), node.outputs.as_slice())
    else {
        return Ok(None);
    };
    let bias = node.inputs.get(2).copied().flatten();
    let constant = |id: ValueId| replica.constants[id].as_ref();
    let Some(values) = constant(weight).filter(|_| bias.is_none_or(|id| constant(id).is_some()))
    else {
        return Ok(None);
    };
    let conv = fusion.convolution(node, values, bias.and_then(constant))?;
    let is_first = replica.graph().inputs.iter().any(|input| input.value == x);
    Ok(conv.filter(|conv| conv.groups == 1).map(|conv| {
        TrainedConv::new(isa, node.name.clone(), [x, out], weight, bias, &conv, is_first)
    }))
}

/// The longest chain BN → Add → activation → 2×2 average that starts at node `index`; only BN is
/// required. Values inside the chain have no other reader.
fn norm(graph: &Graph, fusion: &mut Fusion, index: usize) -> Result<Option<NormStep>, OpError> {
    let node = &graph.nodes[index];
    let (
        &Op::Norm(Norm::Batch { epsilon }),
        &[Some(x), Some(scale), Some(shift), Some(mean), Some(var)],
    ) = (&node.op, node.inputs.as_slice())
    else {
        return Ok(None);
    };
    let Some(size) = fusion.image(x) else { return Ok(None) };
    let mut step =
        NormStep::new(node.name.clone(), x, output(node), [scale, shift, mean, var], size, epsilon);
    let mut last = index;
    if let Some(next) = fusion.only_reader(&graph.nodes[last])
        && let Some(residual) = fusion.residual(next, step.out, index)
    {
        step.residual = Some(residual);
        last = take(fusion, next);
    }
    if let Some(next) = fusion.only_reader(&graph.nodes[last])
        && let Some(activation) = fusion.activation(&graph.nodes[next])?
    {
        step.activation = activation;
        last = take(fusion, next);
    }
    if let Some(next) = fusion.only_reader(&graph.nodes[last])
        && is_halving(&graph.nodes[next].op, size)
    {
        step.halves = true;
        last = take(fusion, next);
    }
    step.out = output(&graph.nodes[last]);
    Ok(Some(step))
}

fn take(fusion: &mut Fusion, node: usize) -> usize {
    fusion.taken[node] = true;
    node
}

/// Whether `op` averages disjoint blocks of 2×2 pixels of images of `size`.
fn is_halving(op: &Op, [_, _, h, w]: [i64; 4]) -> bool {
    let Op::Pool(pool) = op else { return false };
    match window(pool, h, w) {
        Some(Operator::AveragePool { kernel, stride, pad, .. }) => {
            kernel == [2, 2] && stride == [2, 2] && pad == [0, 0] && h >= 2 && w >= 2
        }
        _ => false,
    }
}

/// Moves biases before a normalisation into the normalisation's step: the bias only changes the
/// mean, which the normalisation subtracts.
fn absorb_biases(steps: &mut [TrainingStep]) {
    for index in 0..steps.len() {
        let TrainingStep::Conv(conv) = &steps[index] else { continue };
        let (out, bias) = (conv.out, conv.bias);
        let readers: Vec<usize> =
            (0..steps.len()).filter(|&i| steps[i].reads().contains(&out)).collect();
        let &[reader] = readers.as_slice() else { continue };
        match &mut steps[reader] {
            TrainingStep::Norm(norm) if norm.x == out && norm.residual != Some(out) => {
                norm.bias = bias
            }
            _ => continue,
        }
        if let TrainingStep::Conv(conv) = &mut steps[index] {
            conv.is_normalised = true;
        }
    }
}
