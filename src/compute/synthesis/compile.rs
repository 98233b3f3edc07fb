//! Graph → steps of synthesis. Decides which nodes are fused, which have an explicit backward pass,
//! and which are left to autograd.

use std::collections::HashMap;

use tch::{Kind, TchError, Tensor};

use super::Objective;
use super::pass::PassStep;
use crate::compiled::autograd_node::AutogradNode;
use crate::compiled::convolution::{ConvKernel, Convolution};
use crate::compiled::explicit::{ExplicitStep, Operator, window};
use crate::compiled::fusion::{Fusion, output};
use crate::compiled::survey::Known;
use crate::compiled::{Step, floats};
use crate::replica::{OpError, Replica, ReplicaError};
use scdd_graph::ops::{
    Activation as Function, Layout, Linear, Norm, Pool, Reduce, ReduceKind, Unary,
};
use scdd_graph::{Node, Op, ValueId};

/// One step of the plan.
pub enum SynthesisStep {
    Conv(Box<FrozenConv>),
    Pass(PassStep),
    Explicit(ExplicitStep),
    Autograd(AutogradNode),
}

impl SynthesisStep {
    /// The pass that this step is, or that is fused into it.
    pub fn pass(&self) -> Option<&PassStep> {
        match self {
            Self::Conv(step) => step.pass.as_ref(),
            Self::Pass(step) => Some(step),
            Self::Explicit(_) | Self::Autograd(_) => None,
        }
    }
}

impl Step for SynthesisStep {
    fn reads(&self) -> Vec<ValueId> {
        let of_pass = |pass: &PassStep| {
            [Some(pass.x), pass.residual].into_iter().flatten().collect::<Vec<_>>()
        };
        match self {
            Self::Conv(step) => {
                [step.x].into_iter().chain(step.pass.iter().flat_map(of_pass)).collect()
            }
            Self::Pass(step) => of_pass(step),
            Self::Explicit(step) => step.inputs.iter().map(|(id, _)| *id).collect(),
            Self::Autograd(step) => step.reads.clone(),
        }
    }

    fn writes(&self) -> Vec<ValueId> {
        match self {
            Self::Conv(step) => [Some(step.out), step.pass.as_ref().and_then(|p| p.out)]
                .into_iter()
                .flatten()
                .collect(),
            Self::Pass(step) => step.out.into_iter().collect(),
            Self::Explicit(step) => vec![step.out],
            Self::Autograd(step) => step.writes.clone(),
        }
    }

    fn autograd(&self) -> Option<&AutogradNode> {
        match self {
            Self::Autograd(node) => Some(node),
            Self::Conv(_) | Self::Pass(_) | Self::Explicit(_) => None,
        }
    }
}

/// A convolution with frozen weights, and the pass that is fused into it.
pub struct FrozenConv {
    pub name: String,
    pub x: ValueId,
    pub out: ValueId,
    pub conv: Convolution,
    pub forward: ConvKernel,
    pub backward: ConvKernel,
    pub pass: Option<PassStep>,
}

/// Turns the graph into steps. Their kernels are not prepared yet.
pub fn steps(
    replica: &Replica,
    known: &[Option<Known>],
    objective: &Objective,
) -> Result<Vec<SynthesisStep>, ReplicaError> {
    let graph = replica.graph();
    let mut compiler = Compiler::new(replica, known, objective);
    for index in 0..graph.nodes.len() {
        compiler.add(index).map_err(|source| ReplicaError::Step {
            step: graph.nodes[index].name.clone(),
            source,
        })?;
    }
    compiler.measure_the_rest();
    Ok(compiler.steps)
}

/// Scale and shift, per channel.
type ScaleAndShift = (Vec<f32>, Vec<f32>);

/// Finds the steps, in the order of the nodes.
struct Compiler<'a> {
    fusion: Fusion<'a>,
    steps: Vec<SynthesisStep>,
    /// The step that computes a value.
    made: HashMap<ValueId, usize>,
    /// Per value and channel axis, the objective's layers that no step measures yet.
    layers: HashMap<(ValueId, usize), Vec<usize>>,
}

impl<'a> Compiler<'a> {
    fn new(replica: &'a Replica, known: &'a [Option<Known>], objective: &Objective) -> Self {
        let mut layers: HashMap<_, Vec<usize>> = HashMap::new();
        for (index, layer) in objective.layers.iter().enumerate() {
            let rank = known[layer.tap].as_ref().map_or(0, |k| k.size.len() as i64);
            let axis = if layer.axis < 0 { layer.axis + rank } else { layer.axis };
            layers.entry((layer.tap, axis as usize)).or_default().push(index);
        }
        let taps = objective.layers.iter().map(|layer| layer.tap);
        let fusion = Fusion::new(replica.graph(), known, taps);
        Self { fusion, steps: Vec::new(), made: HashMap::new(), layers }
    }

    fn push(&mut self, step: SynthesisStep) {
        for id in step.writes() {
            self.made.insert(id, self.steps.len());
        }
        self.steps.push(step);
    }

    fn add(&mut self, index: usize) -> Result<(), OpError> {
        let node = &self.fusion.graph.nodes[index];
        if !self.fusion.is_open(index) {
            return Ok(());
        }
        if let Some(step) = self.convolution(node)? {
            self.push(SynthesisStep::Conv(Box::new(step)));
        } else if let Some(pass) = self.pass(index)? {
            self.place(pass);
        } else if let Some(step) = self.explicit(node)? {
            self.push(SynthesisStep::Explicit(step));
        } else {
            self.push(SynthesisStep::Autograd(AutogradNode::new(index, node, self.fusion.values)));
        }
        Ok(())
    }

    fn convolution(&self, node: &Node) -> Result<Option<FrozenConv>, OpError> {
        let (&[Some(x), Some(weight), ..], &[Some(out)]) =
            (node.inputs.as_slice(), node.outputs.as_slice())
        else {
            return Ok(None);
        };
        let bias_id = node.inputs.get(2).copied().flatten();
        let (Some(weight), bias) = (self.fusion.fixed(Some(weight)), self.fusion.fixed(bias_id))
        else {
            return Ok(None);
        };
        if bias.is_some() != bias_id.is_some() {
            return Ok(None);
        }
        let Some(conv) = self.fusion.convolution(node, weight, bias)? else { return Ok(None) };
        let name = node.name.clone();
        Ok(Some(FrozenConv {
            name,
            x,
            out,
            conv,
            forward: ConvKernel::Torch,
            backward: ConvKernel::Torch,
            pass: None,
        }))
    }

    fn pass(&mut self, index: usize) -> Result<Option<PassStep>, OpError> {
        let node = &self.fusion.graph.nodes[index];
        let Some(x) = node.inputs.first().copied().flatten() else { return Ok(None) };
        let Some(size) = self.fusion.image(x) else { return Ok(None) };
        let mut pass = PassStep::measuring(x, size.to_vec(), 1, Vec::new());
        let mut chain = Vec::new();
        let mut at = Some(index);
        if let Some((scale, shift)) = self.batch_norm(node)? {
            (pass.scale, pass.shift) = (scale, shift);
            chain.push(index);
            at = self.fusion.only_reader(node);
        }
        if let Some(next) = at
            && let Some(residual) = self.fusion.residual(
                next,
                chain.last().map_or(x, |&i| output(&self.fusion.graph.nodes[i])),
                index,
            )
        {
            pass.residual = Some(residual);
            if chain.is_empty() && self.made.get(&residual) > self.made.get(&x) {
                // The value computed later may still be in cache, and the pass can be fused into
                // its convolution.
                (pass.x, pass.residual) = (residual, Some(x));
            }
            chain.push(next);
            at = self.fusion.only_reader(&self.fusion.graph.nodes[next]);
        }
        if let Some(next) = at
            && let Some(activation) = self.fusion.activation(&self.fusion.graph.nodes[next])?
        {
            pass.activation = activation;
            chain.push(next);
        }
        let Some(&last) = chain.last() else { return Ok(None) };
        chain.iter().for_each(|&i| self.fusion.taken[i] = true);
        pass.out = Some(output(&self.fusion.graph.nodes[last]));
        pass.layers = self.layers.remove(&(pass.x, 1)).unwrap_or_default();
        Ok(Some(pass))
    }

    fn place(&mut self, pass: PassStep) {
        let place = self.made.get(&pass.x).copied();
        let early = |id: ValueId| match (self.made.get(&id), place) {
            (Some(&made), Some(place)) => made < place,
            // The network's input exists from the start.
            (None, _) => true,
            _ => false,
        };
        let fits = pass.axis == 1 && pass.residual.is_none_or(early);
        if let Some(index) = place
            && fits
            && let SynthesisStep::Conv(conv) = &mut self.steps[index]
            && conv.out == pass.x
            && conv.pass.is_none()
        {
            if let Some(out) = pass.out {
                self.made.insert(out, index);
            }
            conv.pass = Some(pass);
            return;
        }
        self.push(SynthesisStep::Pass(pass));
    }

    fn measure_the_rest(&mut self) {
        let mut rest: Vec<_> = self.layers.drain().collect();
        rest.sort_unstable();
        for ((tap, axis), layers) in rest {
            let size = self.fusion.known(tap).map(|k| k.size.clone()).unwrap_or_default();
            self.place(PassStep::measuring(tap, size, axis, layers));
        }
    }

    fn batch_norm(&self, node: &Node) -> Result<Option<ScaleAndShift>, OpError> {
        let Op::Norm(Norm::Batch { epsilon }) = node.op else { return Ok(None) };
        let part = |i: usize| node.inputs.get(i).and_then(|&id| self.fusion.fixed(id));
        let (Some(weight), Some(bias), Some(mean), Some(var)) =
            (part(1), part(2), part(3), part(4))
        else {
            return Ok(None);
        };
        let double = |t: &Tensor| t.f_to_kind(Kind::Double);
        let scale = double(weight)?.f_div(&double(var)?.f_add_scalar(epsilon)?.f_sqrt()?)?;
        let shift = double(bias)?.f_sub(&double(mean)?.f_mul(&scale)?)?;
        Ok(Some((floats(&scale)?, floats(&shift)?)))
    }

    fn explicit(&self, node: &Node) -> Result<Option<ExplicitStep>, OpError> {
        let &[Some(out)] = node.outputs.as_slice() else { return Ok(None) };
        let Some(operator) = self.operator(node, out)? else { return Ok(None) };
        let reads = match operator {
            Operator::Concat { .. } => node.inputs.as_slice(),
            _ => &node.inputs[..1],
        };
        let mut inputs = Vec::new();
        for &id in reads.iter().flatten() {
            match self.fusion.known(id) {
                Some(known) if known.fixed.is_none() && known.kind == Kind::Float => {
                    inputs.push((id, known.size.clone()))
                }
                _ => return Ok(None),
            }
        }
        let size = self.fusion.known(out).map(|k| k.size.clone()).unwrap_or_default();
        Ok(Some(ExplicitStep { name: node.name.clone(), operator, inputs, out, size }))
    }

    fn operator(&self, node: &Node, out: ValueId) -> Result<Option<Operator>, OpError> {
        let Some(x) = node.inputs.first().copied().flatten() else { return Ok(None) };
        let (Some(x_known), Some(out_known)) = (self.fusion.known(x), self.fusion.known(out))
        else {
            return Ok(None);
        };
        let image = self.fusion.image(x);
        Ok(match &node.op {
            Op::Pool(Pool::GlobalAverage) if image.is_some() => Some(Operator::GlobalAverage),
            Op::Pool(pool @ Pool::Window { .. }) => {
                image.and_then(|[_, _, h, w]| window(pool, h, w))
            }
            Op::Reduce(Reduce::Axes { kind: ReduceKind::Mean, .. }) if image.is_some() => {
                let Some(axes) = node.inputs.get(1).and_then(|&id| self.fusion.fixed(id)) else {
                    return Ok(None);
                };
                let mut axes: Vec<i64> =
                    Vec::<i64>::try_from(&axes.f_reshape([-1])?.f_to_kind(Kind::Int64)?)?;
                axes.iter_mut().for_each(|a| *a = a.rem_euclid(4));
                axes.sort_unstable();
                (axes == [2, 3]).then_some(Operator::GlobalAverage)
            }
            Op::Linear(Linear::Gemm { alpha, beta, transpose_a: false, transpose_b }) => {
                if *alpha != 1.0 || *beta != 1.0 || x_known.size.len() != 2 {
                    return Ok(None);
                }
                let bias_id = node.inputs.get(2).copied().flatten();
                let (Some(weight), bias) = (
                    node.inputs.get(1).and_then(|&id| self.fusion.fixed(id)),
                    self.fusion.fixed(bias_id),
                ) else {
                    return Ok(None);
                };
                if bias.is_some() != bias_id.is_some() || bias.is_some_and(|b| b.dim() != 1) {
                    return Ok(None);
                }
                let weight =
                    if *transpose_b { weight.shallow_clone() } else { weight.f_transpose(0, 1)? };
                Some(Operator::Linear { weight, bias: bias.map(Tensor::shallow_clone) })
            }
            Op::Layout(Layout::Concat { axis }) => {
                Some(Operator::Concat { axis: axis.rem_euclid(x_known.size.len().max(1) as i64) })
            }
            Op::Layout(
                Layout::Reshape { .. }
                | Layout::Flatten { .. }
                | Layout::Squeeze
                | Layout::Unsqueeze,
            )
            | Op::Unary(Unary::Identity)
            | Op::Activation(Function::Dropout) => {
                let same =
                    x_known.size.iter().product::<i64>() == out_known.size.iter().product::<i64>();
                same.then_some(Operator::Reshape)
            }
            _ => None,
        })
    }
}

/// Makes libtorch compute every convolution in bfloat16.
///
/// # Errors
/// When libtorch can't convert the weights.
pub fn to_bfloat16(steps: &mut [SynthesisStep]) -> Result<(), TchError> {
    for step in steps {
        let SynthesisStep::Conv(step) = step else { continue };
        step.conv.weight = step.conv.weight.f_to_kind(Kind::BFloat16)?;
        step.conv.bias =
            step.conv.bias.take().map(|bias| bias.f_to_kind(Kind::BFloat16)).transpose()?;
    }
    Ok(())
}
