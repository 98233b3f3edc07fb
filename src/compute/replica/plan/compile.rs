//! Graph → steps: which nodes fuse, which have an explicit way back, which are left to local autograd.

use std::collections::HashMap;

use tch::{Kind, TchError, Tensor};

use super::super::ops::conv::{or_ones, resolve};
use super::super::{Mode, Objective, Replica, ReplicaError};
use super::conv::{ConvKernel, ConvStep, Convolution};
use super::local::LocalStep;
use super::other::{Operator, OtherStep};
use super::pass::{PassStep, is_image};
use super::statistics::floats;
use scdd_graph::ops::{Activation as Function, Conv};
use scdd_graph::ops::{Binary, Layout, Linear, Norm, Pool, PoolKind, Reduce, ReduceKind, ShapeOp, Unary};
use scdd_graph::{Graph, Node, Op, ValueId};
use scdd_kernels::conv::{Extent, Geometry};
use scdd_kernels::pass::Activation;

/// One step of the plan.
pub enum Step {
    Conv(Box<ConvStep>),
    Pass(PassStep),
    Other(OtherStep),
    Local(LocalStep),
}

impl Step {
    /// The pass that this step is or has fused in.
    pub fn pass(&self) -> Option<&PassStep> {
        match self {
            Self::Conv(step) => step.pass.as_ref(),
            Self::Pass(step) => Some(step),
            Self::Other(_) | Self::Local(_) => None,
        }
    }

    pub fn reads(&self) -> Vec<ValueId> {
        let of_pass = |pass: &PassStep| [Some(pass.x), pass.residual].into_iter().flatten().collect::<Vec<_>>();
        match self {
            Self::Conv(step) => [step.x].into_iter().chain(step.pass.iter().flat_map(of_pass)).collect(),
            Self::Pass(step) => of_pass(step),
            Self::Other(step) => step.inputs.iter().map(|(id, _)| *id).collect(),
            Self::Local(step) => step.reads.clone(),
        }
    }

    pub fn writes(&self) -> Vec<ValueId> {
        match self {
            Self::Conv(step) => {
                [Some(step.out), step.pass.as_ref().and_then(|p| p.out)].into_iter().flatten().collect()
            }
            Self::Pass(step) => step.out.into_iter().collect(),
            Self::Other(step) => vec![step.out],
            Self::Local(step) => step.writes.clone(),
        }
    }
}

/// Scale and shift per channel.
type Affine = (Vec<f32>, Vec<f32>);

/// What is known of one value once the shape of the input is.
pub struct Known {
    pub size: Vec<i64>,
    pub kind: Kind,
    /// The value itself, where it does not depend on the input's values.
    pub fixed: Option<Tensor>,
}

/// Runs the graph once on zeros. `live` are constants that change between runs: nothing that depends on them is fixed.
pub fn survey(replica: &Replica, input: &Tensor, live: &[ValueId]) -> Result<Vec<Option<Known>>, ReplicaError> {
    let graph = replica.graph();
    let mut values: Vec<Option<Tensor>> = Vec::new();
    values.resize_with(graph.values.len(), || None);
    let mut known: Vec<Option<Known>> = Vec::new();
    known.resize_with(graph.values.len(), || None);
    for &id in graph.constants.keys() {
        known[id] = replica.constants[id].as_ref().map(|t| Known {
            size: t.size(),
            kind: t.kind(),
            fixed: (!live.contains(&id)).then(|| t.shallow_clone()),
        });
    }
    for id in graph.inputs.iter().map(|i| i.value) {
        known[id] = Some(Known { size: input.size(), kind: input.kind(), fixed: None });
        values[id] = Some(input.shallow_clone());
    }
    for (node, dying) in graph.nodes.iter().zip(&replica.dying) {
        let results = replica.run_node(node, &values, Mode::Eval)?;
        let is_fixed = |id: ValueId| known[id].as_ref().is_some_and(|k| k.fixed.is_some());
        let by_shape = matches!(node.op, Op::Shape(ShapeOp::Shape { .. } | ShapeOp::Size));
        let inputs = match node.op {
            // Its second input only names a type.
            Op::Layout(Layout::CastLike) => &node.inputs[..1],
            _ => &node.inputs[..],
        };
        let fixed = by_shape || inputs.iter().flatten().all(|&id| is_fixed(id));
        for (output, result) in node.outputs.iter().zip(results) {
            let Some(id) = *output else { continue };
            let keep = fixed.then(|| result.shallow_clone());
            known[id] = Some(Known { size: result.size(), kind: result.kind(), fixed: keep });
            values[id] = Some(result);
        }
        for &id in dying {
            values[id] = None;
        }
    }
    Ok(known)
}

/// Turns the graph into steps; engines are still to be chosen.
pub fn steps(replica: &Replica, known: &[Option<Known>], objective: &Objective) -> Result<Vec<Step>, ReplicaError> {
    let graph = replica.graph();
    let mut compiler = Compiler::new(graph, known, objective);
    for index in 0..graph.nodes.len() {
        compiler.add(index).map_err(|source| ReplicaError::Step { step: graph.nodes[index].name.clone(), source })?;
    }
    compiler.measure_the_rest();
    Ok(compiler.steps)
}

/// Finds what can be fused.
pub struct Compiler<'a> {
    graph: &'a Graph,
    known: &'a [Option<Known>],
    steps: Vec<Step>,
    /// Per node, whether an earlier step took it in.
    pub taken: Vec<bool>,
    /// Per value, the nodes that read it; a node that reads it twice counts twice.
    readers: Vec<Vec<usize>>,
    /// Per value, whether it must exist as such: an output, or an activation of the objective.
    pinned: Vec<bool>,
    /// The step that makes a value.
    made: HashMap<ValueId, usize>,
    /// Per value and axis of channels, the layers of the objective that want its statistics and are not yet served.
    layers: HashMap<(ValueId, usize), Vec<usize>>,
}

impl<'a> Compiler<'a> {
    pub fn new(graph: &'a Graph, known: &'a [Option<Known>], objective: &Objective) -> Self {
        let mut readers = vec![Vec::new(); graph.values.len()];
        for (index, node) in graph.nodes.iter().enumerate() {
            node.inputs.iter().flatten().for_each(|&id| readers[id].push(index));
        }
        let mut pinned = vec![false; graph.values.len()];
        let mut layers: HashMap<_, Vec<usize>> = HashMap::new();
        graph.outputs.iter().for_each(|&id| pinned[id] = true);
        for (index, layer) in objective.layers.iter().enumerate() {
            pinned[layer.tap] = true;
            let rank = known[layer.tap].as_ref().map_or(0, |k| k.size.len() as i64);
            let axis = if layer.axis < 0 { layer.axis + rank } else { layer.axis };
            layers.entry((layer.tap, axis as usize)).or_default().push(index);
        }
        Self {
            graph,
            known,
            steps: Vec::new(),
            taken: vec![false; graph.nodes.len()],
            readers,
            pinned,
            made: HashMap::new(),
            layers,
        }
    }

    fn push(&mut self, step: Step) {
        for id in step.writes() {
            self.made.insert(id, self.steps.len());
        }
        self.steps.push(step);
    }

    pub fn known(&self, id: ValueId) -> Option<&'a Known> {
        self.known[id].as_ref()
    }

    fn fixed(&self, id: Option<ValueId>) -> Option<&'a Tensor> {
        self.known(id?)?.fixed.as_ref()
    }

    /// A value that depends on the input and is a float32 `[N, C, H, W]`.
    pub fn image(&self, id: ValueId) -> Option<[i64; 4]> {
        let known = self.known(id)?;
        let image = known.fixed.is_none() && is_image(&known.size, known.kind);
        if image { <[i64; 4]>::try_from(known.size.as_slice()).ok() } else { None }
    }

    /// Whether node `index` is still to be computed: it depends on the input, and no step took it in.
    pub fn is_open(&self, index: usize) -> bool {
        let outputs = self.graph.nodes[index].outputs.iter().flatten();
        !self.taken[index] && outputs.into_iter().any(|&id| self.known(id).is_some_and(|k| k.fixed.is_none()))
    }

    fn add(&mut self, index: usize) -> Result<(), super::OpError> {
        let node = &self.graph.nodes[index];
        if !self.is_open(index) {
            return Ok(());
        }
        if let Some(step) = self.convolution(node)? {
            self.push(Step::Conv(Box::new(step)));
        } else if let Some(pass) = self.pass(index)? {
            self.place(pass);
        } else if let Some(step) = self.other(node)? {
            self.push(Step::Other(step));
        } else {
            self.push(Step::Local(LocalStep::new(index, node, self.known)));
        }
        Ok(())
    }

    fn convolution(&self, node: &Node) -> Result<Option<ConvStep>, super::OpError> {
        let (&[Some(x), Some(weight), ..], &[Some(out)]) = (node.inputs.as_slice(), node.outputs.as_slice()) else {
            return Ok(None);
        };
        let bias_id = node.inputs.get(2).copied().flatten();
        let (Some(weight), bias) = (self.fixed(Some(weight)), self.fixed(bias_id)) else { return Ok(None) };
        if bias.is_some() != bias_id.is_some() {
            return Ok(None);
        }
        let Some(conv) = self.convolution_with(node, weight, bias)? else { return Ok(None) };
        let name = node.name.clone();
        Ok(Some(ConvStep { name, x, out, conv, forward: ConvKernel::Torch, backward: ConvKernel::Torch, pass: None }))
    }

    /// The two-dimensional convolution that `node` is, if it is one, with the given weights.
    pub fn convolution_with(
        &self,
        node: &Node,
        weight: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<Option<Convolution>, super::OpError> {
        let (Op::Conv(op), &[Some(x), ..], &[Some(out)]) = (&node.op, node.inputs.as_slice(), node.outputs.as_slice())
        else {
            return Ok(None);
        };
        let (Some([n, channels, h, w]), Some([_, outputs, to_h, to_w])) = (self.image(x), self.image(out)) else {
            return Ok(None);
        };
        if weight.kind() != Kind::Float {
            return Ok(None);
        }
        let kernel = weight.size()[2..].to_vec();
        let Conv { strides, dilations, padding, groups, .. } = op;
        let (strides, dilations) = (or_ones(strides, 2)?, or_ones(dilations, 2)?);
        let pads = resolve(padding, &[h, w], &kernel, &strides, &dilations)?;
        let pair = |values: &[i64]| [values[0] as usize, values[1] as usize];
        let geometry = Geometry {
            kernel: pair(&kernel),
            stride: pair(&strides),
            dilation: pair(&dilations),
            pad: [pads[0].0 as usize, pads[1].0 as usize],
        };
        let extent = |n: i64, h: i64, w: i64| Extent { n: n as usize, h: h as usize, w: w as usize };
        Ok(Some(Convolution {
            geometry,
            pad_after: [pads[0].1 as usize, pads[1].1 as usize],
            groups: *groups as usize,
            channels: [channels as usize, outputs as usize],
            from: extent(n, h, w),
            to: extent(n, to_h, to_w),
            weight: weight.shallow_clone(),
            bias: bias.map(Tensor::shallow_clone),
            bias_values: bias.map(floats).transpose()?.unwrap_or_default(),
        }))
    }

    /// The longest chain BN → Add → activation (each optional) that starts at node `index`. What lies inside it has no other reader.
    fn pass(&mut self, index: usize) -> Result<Option<PassStep>, super::OpError> {
        let node = &self.graph.nodes[index];
        let Some(x) = node.inputs.first().copied().flatten() else { return Ok(None) };
        let Some(size) = self.image(x) else { return Ok(None) };
        let mut pass = PassStep::measuring(x, size.to_vec(), 1, Vec::new());
        let mut chain = Vec::new();
        let mut at = Some(index);
        if let Some((scale, shift)) = self.batch_norm(node)? {
            (pass.scale, pass.shift) = (scale, shift);
            chain.push(index);
            at = self.only_reader(node);
        }
        if let Some(next) = at
            && let Some(residual) =
                self.residual(next, chain.last().map_or(x, |&i| output(&self.graph.nodes[i])), index)
        {
            pass.residual = Some(residual);
            if chain.is_empty() && self.made.get(&residual) > self.made.get(&x) {
                // The later one may still be in cache, and its convolution can take the pass in.
                (pass.x, pass.residual) = (residual, Some(x));
            }
            chain.push(next);
            at = self.only_reader(&self.graph.nodes[next]);
        }
        if let Some(next) = at
            && let Some(activation) = self.activation(&self.graph.nodes[next])?
        {
            pass.activation = activation;
            chain.push(next);
        }
        let Some(&last) = chain.last() else { return Ok(None) };
        chain.iter().for_each(|&i| self.taken[i] = true);
        pass.out = Some(output(&self.graph.nodes[last]));
        pass.layers = self.layers.remove(&(pass.x, 1)).unwrap_or_default();
        Ok(Some(pass))
    }

    /// Into the convolution that makes its input where everything else that it reads exists by then, else on its own.
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
            && let Step::Conv(conv) = &mut self.steps[index]
            && conv.out == pass.x
            && conv.pass.is_none()
        {
            if let Some(out) = pass.out {
                self.made.insert(out, index);
            }
            conv.pass = Some(pass);
            return;
        }
        self.push(Step::Pass(pass));
    }

    /// Statistics of activations that no pass reads.
    fn measure_the_rest(&mut self) {
        let mut rest: Vec<_> = self.layers.drain().collect();
        rest.sort_unstable();
        for ((tap, axis), layers) in rest {
            let size = self.known(tap).map(|k| k.size.clone()).unwrap_or_default();
            self.place(PassStep::measuring(tap, size, axis, layers));
        }
    }

    /// The one node that reads what `node` makes, unless the value is wanted for itself.
    pub fn only_reader(&self, node: &Node) -> Option<usize> {
        match node.outputs.as_slice() {
            &[Some(id)] if !self.pinned[id] => match self.readers[id].as_slice() {
                &[reader] if !self.taken[reader] => Some(reader),
                _ => None,
            },
            _ => None,
        }
    }

    /// Scale and shift of a `BatchNormalization` whose parameters are constants.
    fn batch_norm(&self, node: &Node) -> Result<Option<Affine>, super::OpError> {
        let Op::Norm(Norm::Batch { epsilon }) = node.op else { return Ok(None) };
        let part = |i: usize| node.inputs.get(i).and_then(|&id| self.fixed(id));
        let (Some(weight), Some(bias), Some(mean), Some(var)) = (part(1), part(2), part(3), part(4)) else {
            return Ok(None);
        };
        let double = |t: &Tensor| t.f_to_kind(Kind::Double);
        let scale = double(weight)?.f_div(&double(var)?.f_add_scalar(epsilon)?.f_sqrt()?)?;
        let shift = double(bias)?.f_sub(&double(mean)?.f_mul(&scale)?)?;
        Ok(Some((floats(&scale)?, floats(&shift)?)))
    }

    /// The other operand when node `index` adds `x` to something of its shape that exists before node `before`.
    pub fn residual(&self, index: usize, x: ValueId, before: usize) -> Option<ValueId> {
        let node = &self.graph.nodes[index];
        let &[Some(a), Some(b)] = node.inputs.as_slice() else { return None };
        if !matches!(node.op, Op::Binary(Binary::Add | Binary::Sum)) || self.image(a)? != self.image(b)? {
            return None;
        }
        let other = if a == x { b } else { a };
        let exists = self.graph.nodes[before..].iter().all(|n| !n.outputs.contains(&Some(other)));
        exists.then_some(other)
    }

    pub fn activation(&self, node: &Node) -> Result<Option<Activation>, super::OpError> {
        let x = node.inputs.first().copied().flatten();
        if x.and_then(|x| self.image(x)).is_none() || node.outputs.len() != 1 {
            return Ok(None);
        }
        let Op::Activation(function) = node.op else { return Ok(None) };
        Ok(match function {
            Function::Relu => Some(Activation::Clamp { low: 0.0, high: f32::INFINITY }),
            Function::LeakyRelu { alpha } if (0.0..=1.0).contains(&alpha) => {
                Some(Activation::LeakyRelu { alpha: alpha as f32 })
            }
            Function::HardSwish => Some(Activation::HardSwish),
            Function::Clip => {
                let bound = |i: usize, default: f32| -> Result<Option<f32>, super::OpError> {
                    let Some(id) = node.inputs.get(i).copied().flatten() else { return Ok(Some(default)) };
                    let Some(value) = self.fixed(Some(id)) else { return Ok(None) };
                    Ok(Some(value.f_double_value(&[])? as f32))
                };
                match (bound(1, f32::NEG_INFINITY)?, bound(2, f32::INFINITY)?) {
                    (Some(low), Some(high)) => Some(Activation::Clamp { low, high }),
                    _ => None,
                }
            }
            _ => None,
        })
    }

    fn other(&self, node: &Node) -> Result<Option<OtherStep>, super::OpError> {
        let &[Some(out)] = node.outputs.as_slice() else { return Ok(None) };
        let Some(operator) = self.operator(node, out)? else { return Ok(None) };
        let reads = match operator {
            Operator::Concat { .. } => node.inputs.as_slice(),
            _ => &node.inputs[..1],
        };
        let mut inputs = Vec::new();
        for &id in reads.iter().flatten() {
            match self.known(id) {
                Some(known) if known.fixed.is_none() && known.kind == Kind::Float => {
                    inputs.push((id, known.size.clone()))
                }
                _ => return Ok(None),
            }
        }
        let size = self.known(out).map(|k| k.size.clone()).unwrap_or_default();
        Ok(Some(OtherStep { name: node.name.clone(), operator, inputs, out, size }))
    }

    fn operator(&self, node: &Node, out: ValueId) -> Result<Option<Operator>, super::OpError> {
        let Some(x) = node.inputs.first().copied().flatten() else { return Ok(None) };
        let (Some(x_known), Some(out_known)) = (self.known(x), self.known(out)) else { return Ok(None) };
        let image = self.image(x);
        Ok(match &node.op {
            Op::Pool(Pool::GlobalAverage) if image.is_some() => Some(Operator::GlobalAverage),
            Op::Pool(pool @ Pool::Window { .. }) => image.and_then(|[_, _, h, w]| window(pool, h, w)),
            Op::Reduce(Reduce::Axes { kind: ReduceKind::Mean, .. }) if image.is_some() => {
                let Some(axes) = node.inputs.get(1).and_then(|&id| self.fixed(id)) else { return Ok(None) };
                let mut axes: Vec<i64> = Vec::<i64>::try_from(&axes.f_reshape([-1])?.f_to_kind(Kind::Int64)?)?;
                axes.iter_mut().for_each(|a| *a = a.rem_euclid(4));
                axes.sort_unstable();
                (axes == [2, 3]).then_some(Operator::GlobalAverage)
            }
            Op::Linear(Linear::Gemm { alpha, beta, transpose_a: false, transpose_b }) => {
                if *alpha != 1.0 || *beta != 1.0 || x_known.size.len() != 2 {
                    return Ok(None);
                }
                let bias_id = node.inputs.get(2).copied().flatten();
                let (Some(weight), bias) = (node.inputs.get(1).and_then(|&id| self.fixed(id)), self.fixed(bias_id))
                else {
                    return Ok(None);
                };
                if bias.is_some() != bias_id.is_some() || bias.is_some_and(|b| b.dim() != 1) {
                    return Ok(None);
                }
                let weight = if *transpose_b { weight.shallow_clone() } else { weight.f_transpose(0, 1)? };
                Some(Operator::Linear { weight, bias: bias.map(Tensor::shallow_clone) })
            }
            Op::Layout(Layout::Concat { axis }) => {
                Some(Operator::Concat { axis: axis.rem_euclid(x_known.size.len().max(1) as i64) })
            }
            Op::Layout(Layout::Reshape { .. } | Layout::Flatten { .. } | Layout::Squeeze | Layout::Unsqueeze)
            | Op::Unary(Unary::Identity)
            | Op::Activation(Function::Dropout) => {
                let same = x_known.size.iter().product::<i64>() == out_known.size.iter().product::<i64>();
                same.then_some(Operator::Reshape)
            }
            _ => None,
        })
    }
}

/// What a node of one output makes. A node of a chain has one, or it would not be in it.
pub fn output(node: &Node) -> ValueId {
    node.outputs.iter().flatten().copied().next().unwrap_or_default()
}

/// Windows that libtorch pools as they are; the replica knows the others.
pub fn window(pool: &Pool, h: i64, w: i64) -> Option<Operator> {
    let Pool::Window { kind, kernel, strides, dilations, padding, ceil } = pool else { return None };
    let (stride, dilation) = (or_ones(strides, 2).ok()?, or_ones(dilations, 2).ok()?);
    let kernel = or_ones(kernel, 2).ok()?;
    let pads = resolve(padding, &[h, w], &kernel, &stride, &dilation).ok()?;
    let symmetric = pads.iter().zip(&kernel).all(|(&(before, after), &k)| before == after && 2 * before <= k);
    let plain = dilation == [1, 1];
    if !symmetric || *ceil {
        return None;
    }
    let pad = pads.iter().map(|p| p.0).collect();
    match kind {
        PoolKind::Max => Some(Operator::MaxPool { kernel, stride, pad, dilation }),
        PoolKind::Average { count_include_pad } if plain => {
            Some(Operator::AveragePool { kernel, stride, pad, count_include_pad: *count_include_pad })
        }
        PoolKind::Average { .. } => None,
    }
}

/// Lets libtorch compute every convolution in bfloat16.
///
/// # Errors
/// When libtorch can't convert the weights.
pub fn to_bfloat16(steps: &mut [Step]) -> Result<(), TchError> {
    for step in steps {
        let Step::Conv(step) = step else { continue };
        step.conv.weight = step.conv.weight.f_to_kind(Kind::BFloat16)?;
        step.conv.bias = step.conv.bias.take().map(|bias| bias.f_to_kind(Kind::BFloat16)).transpose()?;
    }
    Ok(())
}
