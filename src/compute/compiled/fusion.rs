//! Which nodes can be fused: the graph queries that both compilers share.

use tch::{Kind, Tensor};

use super::convolution::Convolution;
use super::floats;
use super::survey::Known;
use crate::replica::OpError;
use crate::replica::ops::conv::{or_ones, resolve};
use scdd_graph::ops::{Activation as Function, Binary, Conv};
use scdd_graph::{Graph, Node, Op, ValueId};
use scdd_kernels::conv::{Extent, Geometry};
use scdd_kernels::pass::FusedActivation;

/// A graph, and which of its nodes are already part of a step.
pub struct Fusion<'a> {
    pub graph: &'a Graph,
    pub values: &'a [Option<Known>],
    /// Per node, whether an earlier step includes it.
    pub taken: Vec<bool>,
    /// Per value, the nodes that read it. A node that reads it twice counts twice.
    readers: Vec<Vec<usize>>,
    /// Per value, whether it must be computed as such: a graph output, or an activation of the
    /// objective.
    pinned: Vec<bool>,
}

impl<'a> Fusion<'a> {
    /// Starts with no node taken. `wanted` are the values that must exist besides the graph's
    /// outputs.
    pub fn new(
        graph: &'a Graph,
        values: &'a [Option<Known>],
        wanted: impl IntoIterator<Item = ValueId>,
    ) -> Self {
        let mut readers = vec![Vec::new(); graph.values.len()];
        for (index, node) in graph.nodes.iter().enumerate() {
            node.inputs.iter().flatten().for_each(|&id| readers[id].push(index));
        }
        let mut pinned = vec![false; graph.values.len()];
        graph.outputs.iter().copied().chain(wanted).for_each(|id| pinned[id] = true);
        Self { graph, values, taken: vec![false; graph.nodes.len()], readers, pinned }
    }

    pub fn known(&self, id: ValueId) -> Option<&'a Known> {
        self.values[id].as_ref()
    }

    pub fn fixed(&self, id: Option<ValueId>) -> Option<&'a Tensor> {
        self.known(id?)?.fixed.as_ref()
    }

    pub fn image(&self, id: ValueId) -> Option<[i64; 4]> {
        let known = self.known(id)?;
        let image = known.fixed.is_none() && is_image(&known.size, known.kind);
        if image { <[i64; 4]>::try_from(known.size.as_slice()).ok() } else { None }
    }

    pub fn is_open(&self, index: usize) -> bool {
        let outputs = self.graph.nodes[index].outputs.iter().flatten();
        !self.taken[index]
            && outputs.into_iter().any(|&id| self.known(id).is_some_and(|k| k.fixed.is_none()))
    }

    pub fn convolution(
        &self,
        node: &Node,
        weight: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<Option<Convolution>, OpError> {
        let (Op::Conv(op), &[Some(x), ..], &[Some(out)]) =
            (&node.op, node.inputs.as_slice(), node.outputs.as_slice())
        else {
            return Ok(None);
        };
        let (Some([n, channels, h, w]), Some([_, outputs, to_h, to_w])) =
            (self.image(x), self.image(out))
        else {
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
        let extent =
            |n: i64, h: i64, w: i64| Extent { n: n as usize, h: h as usize, w: w as usize };
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

    pub fn only_reader(&self, node: &Node) -> Option<usize> {
        match node.outputs.as_slice() {
            &[Some(id)] if !self.pinned[id] => match self.readers[id].as_slice() {
                &[reader] if !self.taken[reader] => Some(reader),
                _ => None,
            },
            _ => None,
        }
    }

    pub fn residual(&self, index: usize, x: ValueId, before: usize) -> Option<ValueId> {
        let node = &self.graph.nodes[index];
        let &[Some(a), Some(b)] = node.inputs.as_slice() else { return None };
        if !matches!(node.op, Op::Binary(Binary::Add | Binary::Sum))
            || self.image(a)? != self.image(b)?
        {
            return None;
        }
        let other = if a == x { b } else { a };
        let exists = self.graph.nodes[before..].iter().all(|n| !n.outputs.contains(&Some(other)));
        exists.then_some(other)
    }

    pub fn activation(&self, node: &Node) -> Result<Option<FusedActivation>, OpError> {
        let x = node.inputs.first().copied().flatten();
        if x.and_then(|x| self.image(x)).is_none() || node.outputs.len() != 1 {
            return Ok(None);
        }
        let Op::Activation(function) = node.op else { return Ok(None) };
        Ok(match function {
            Function::Relu => Some(FusedActivation::Clamp { low: 0.0, high: f32::INFINITY }),
            Function::LeakyRelu { alpha } if (0.0..=1.0).contains(&alpha) => {
                Some(FusedActivation::LeakyRelu { alpha: alpha as f32 })
            }
            Function::HardSwish => Some(FusedActivation::HardSwish),
            Function::Clip => {
                let bound = |i: usize, default: f32| -> Result<Option<f32>, OpError> {
                    let Some(id) = node.inputs.get(i).copied().flatten() else {
                        return Ok(Some(default));
                    };
                    let Some(value) = self.fixed(Some(id)) else { return Ok(None) };
                    Ok(Some(value.f_double_value(&[])? as f32))
                };
                match (bound(1, f32::NEG_INFINITY)?, bound(2, f32::INFINITY)?) {
                    (Some(low), Some(high)) => Some(FusedActivation::Clamp { low, high }),
                    _ => None,
                }
            }
            _ => None,
        })
    }
}

/// The output of a node with one output. Every node of a chain has exactly one.
pub fn output(node: &Node) -> ValueId {
    node.outputs.iter().flatten().copied().next().unwrap_or_default()
}

/// Whether the steps of a plan support an activation of this size and type.
pub fn is_image(size: &[i64], kind: Kind) -> bool {
    size.len() == 4 && kind == Kind::Float
}
