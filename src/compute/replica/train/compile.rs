//! Graph → steps: what training fuses, and what is left to local autograd.

use super::super::plan::compile::{Compiler, Known, output, window};
use super::super::plan::local::LocalStep;
use super::super::plan::other::Operator;
use super::super::{Distance, Momentum, Objective, OpError, Replica, ReplicaError};
use super::conv::ConvStep;
use super::norm::NormStep;
use scdd_graph::ops::Norm;
use scdd_graph::{Graph, Op, ValueId};
use scdd_kernels::Isa;

/// One step of the plan.
pub enum Step {
    Conv(Box<ConvStep>),
    Norm(Box<NormStep>),
    Local(LocalStep),
}

impl Step {
    fn reads(&self) -> Vec<ValueId> {
        match self {
            Self::Conv(step) => vec![step.x],
            Self::Norm(step) => [step.x].into_iter().chain(step.residual).collect(),
            Self::Local(step) => step.reads.clone(),
        }
    }

    fn writes(&self) -> Vec<ValueId> {
        match self {
            Self::Conv(step) => vec![step.out],
            Self::Norm(step) => vec![step.out],
            Self::Local(step) => step.writes.clone(),
        }
    }
}

/// Turns the graph into steps.
pub fn steps(isa: Isa, replica: &Replica, known: &[Option<Known>]) -> Result<Vec<Step>, ReplicaError> {
    let graph = replica.graph();
    let objective =
        Objective { layers: Vec::new(), r_bn: 0.0, distance: Distance::Norm, momentum: Momentum::default() };
    let mut compiler = Compiler::new(graph, known, &objective);
    let mut steps = Vec::new();
    for index in 0..graph.nodes.len() {
        let name = || graph.nodes[index].name.clone();
        let failed = |source| ReplicaError::Step { step: name(), source };
        if !compiler.is_open(index) {
            continue;
        }
        let step = if let Some(conv) = convolution(isa, replica, &compiler, index).map_err(failed)? {
            Step::Conv(Box::new(conv))
        } else if let Some(norm) = norm(graph, &mut compiler, index).map_err(failed)? {
            Step::Norm(Box::new(norm))
        } else {
            Step::Local(LocalStep::new(index, &graph.nodes[index], known))
        };
        steps.push(step);
    }
    absorb_biases(&mut steps);
    Ok(steps)
}

fn convolution(isa: Isa, replica: &Replica, compiler: &Compiler, index: usize) -> Result<Option<ConvStep>, OpError> {
    let node = &replica.graph().nodes[index];
    let (&[Some(x), Some(weight), ..], &[Some(out)]) = (node.inputs.as_slice(), node.outputs.as_slice()) else {
        return Ok(None);
    };
    let bias = node.inputs.get(2).copied().flatten();
    let constant = |id: ValueId| replica.constants[id].as_ref();
    let Some(values) = constant(weight).filter(|_| bias.is_none_or(|id| constant(id).is_some())) else {
        return Ok(None);
    };
    let conv = compiler.convolution_with(node, values, bias.and_then(constant))?;
    let is_first = replica.graph().inputs.iter().any(|input| input.value == x);
    Ok(conv
        .filter(|conv| conv.groups == 1)
        .map(|conv| ConvStep::new(isa, node.name.clone(), [x, out], weight, bias, &conv, is_first)))
}

/// The longest chain BN → Add → activation → 2×2 average that starts at node `index`; all after the first are optional. What lies inside it has no other
/// reader.
fn norm(graph: &Graph, compiler: &mut Compiler, index: usize) -> Result<Option<NormStep>, OpError> {
    let node = &graph.nodes[index];
    let (&Op::Norm(Norm::Batch { epsilon }), &[Some(x), Some(scale), Some(shift), Some(mean), Some(var)]) =
        (&node.op, node.inputs.as_slice())
    else {
        return Ok(None);
    };
    let Some(size) = compiler.image(x) else { return Ok(None) };
    let mut step = NormStep::new(node.name.clone(), x, output(node), [scale, shift, mean, var], size, epsilon);
    let mut last = index;
    if let Some(next) = compiler.only_reader(&graph.nodes[last])
        && let Some(residual) = compiler.residual(next, step.out, index)
    {
        step.residual = Some(residual);
        last = take(compiler, next);
    }
    if let Some(next) = compiler.only_reader(&graph.nodes[last])
        && let Some(activation) = compiler.activation(&graph.nodes[next])?
    {
        step.activation = activation;
        last = take(compiler, next);
    }
    if let Some(next) = compiler.only_reader(&graph.nodes[last])
        && is_halving(&graph.nodes[next].op, size)
    {
        step.halves = true;
        last = take(compiler, next);
    }
    step.out = output(&graph.nodes[last]);
    Ok(Some(step))
}

fn take(compiler: &mut Compiler, node: usize) -> usize {
    compiler.taken[node] = true;
    node
}

/// Whether `op` averages 2×2 pixels of images of `size`, side by side.
fn is_halving(op: &Op, [_, _, h, w]: [i64; 4]) -> bool {
    let Op::Pool(pool) = op else { return false };
    match window(pool, h, w) {
        Some(Operator::AveragePool { kernel, stride, pad, .. }) => {
            kernel == [2, 2] && stride == [2, 2] && pad == [0, 0] && h >= 2 && w >= 2
        }
        _ => false,
    }
}

/// A bias before a normalisation only moves the mean that it takes away: it goes into that step.
fn absorb_biases(steps: &mut [Step]) {
    for index in 0..steps.len() {
        let Step::Conv(conv) = &steps[index] else { continue };
        let (out, bias) = (conv.out, conv.bias);
        let readers: Vec<usize> = (0..steps.len()).filter(|&i| steps[i].reads().contains(&out)).collect();
        let &[reader] = readers.as_slice() else { continue };
        match &mut steps[reader] {
            Step::Norm(norm) if norm.x == out && norm.residual != Some(out) => norm.bias = bias,
            _ => continue,
        }
        if let Step::Conv(conv) = &mut steps[index] {
            conv.is_normalised = true;
        }
    }
}

/// Per step, the values whose last reader it is (the logits live on).
pub fn last_uses(steps: &[Step], logits: ValueId, values: usize) -> Vec<Vec<ValueId>> {
    let mut seen = vec![false; values];
    seen[logits] = true;
    let mut last = |step: &Step| {
        let used = step.reads().into_iter().chain(step.writes());
        used.filter(|&id| !std::mem::replace(&mut seen[id], true)).collect()
    };
    let mut dying: Vec<Vec<ValueId>> = steps.iter().rev().map(&mut last).collect();
    dying.reverse();
    dying
}
