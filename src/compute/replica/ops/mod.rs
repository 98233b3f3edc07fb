//! The operators as `tch` calls, one file per family.

mod activation;
pub(crate) mod conv;
mod elementwise;
mod layout;
mod linear;
pub(crate) mod norm;
mod pool;
mod reduce;
mod resize;
mod shape;

use std::cell::Cell;

use tch::{Kind, TchError, Tensor};

use super::error::OpError;
use scdd_graph::Op;
use scdd_graph::ops::{Activation, Layout, ShapeOp};

/// The inputs of one node at run time.
pub struct Args<'a> {
    inputs: Vec<Option<&'a Tensor>>,
    outputs: usize,
}

impl<'a> Args<'a> {
    pub fn new(inputs: Vec<Option<&'a Tensor>>, outputs: usize) -> Self {
        Self { inputs, outputs }
    }

    /// A required input.
    fn get(&self, index: usize) -> Result<&'a Tensor, OpError> {
        self.opt(index).ok_or_else(|| OpError::Other(format!("input {index} is missing")))
    }

    /// An optional input.
    fn opt(&self, index: usize) -> Option<&'a Tensor> {
        self.inputs.get(index).copied().flatten()
    }

    /// All inputs; none may be absent.
    fn all(&self) -> Result<Vec<&'a Tensor>, OpError> {
        (0..self.inputs.len()).map(|i| self.get(i)).collect()
    }

    /// All inputs in `kind`.
    pub fn in_kind(&self, kind: Kind) -> Result<Vec<Option<Tensor>>, TchError> {
        let converted = |input: &Option<&Tensor>| input.map(|t| t.f_to_kind(kind)).transpose();
        self.inputs.iter().map(converted).collect()
    }

    /// The number of the node's outputs.
    fn outputs(&self) -> usize {
        self.outputs
    }

    /// A required input as a list of integers: a shape, axes or pads.
    fn i64s(&self, index: usize) -> Result<Vec<i64>, OpError> {
        i64s(self.get(index)?)
    }

    fn opt_i64s(&self, index: usize) -> Result<Option<Vec<i64>>, OpError> {
        self.opt(index).map(i64s).transpose()
    }

    /// A description such as `(f32 [1, 16, 8, 8], -)`, where `-` is an absent input.
    pub fn describe(&self) -> String {
        let one = |t: &Option<&Tensor>| {
            t.map_or("-".into(), |t| format!("{:?} {:?}", t.kind(), t.size()))
        };
        format!("({})", self.inputs.iter().map(one).collect::<Vec<_>>().join(", "))
    }
}

fn i64s(tensor: &Tensor) -> Result<Vec<i64>, OpError> {
    let flat = tensor.f_to_kind(Kind::Int64)?.f_reshape([-1])?;
    Ok(Vec::<i64>::try_from(&flat)?)
}

/// `axis`, with negative numbers counted from the end, checked against `rank`.
fn axis_of(axis: i64, rank: usize) -> Result<i64, OpError> {
    let rank = rank as i64;
    let found = if axis < 0 { axis + rank } else { axis };
    if (0..rank).contains(&found) {
        return Ok(found);
    }
    Err(OpError::Other(format!("axis {axis} is outside the {rank} axes of the input")))
}

/// The largest number of elements of one value per image of the batch: far above the need of any
/// image network, far below the machine's memory.
const MOST_ELEMENTS: i64 = 1 << 28;

thread_local! {
    static IMAGES: Cell<i64> = const { Cell::new(1) };
}

/// While it lives, the operators of this thread may make values for so many images.
pub(crate) struct BatchSize {
    former: i64,
}

impl BatchSize {
    /// The batch of an input of this `size`, `[N, …]`.
    pub fn of(size: &[i64]) -> Self {
        let images = size.first().map_or(1, |&n| n.max(1));
        Self { former: IMAGES.replace(images) }
    }
}

impl Drop for BatchSize {
    fn drop(&mut self) {
        IMAGES.set(self.former);
    }
}

/// Refuses a shape that a hostile file may claim but no image network needs.
fn bounded(shape: &[i64]) -> Result<(), OpError> {
    let count = shape.iter().try_fold(1i64, |n, &d| n.checked_mul(d).filter(|_| d >= 0));
    match count {
        Some(n) if n <= MOST_ELEMENTS.saturating_mul(IMAGES.get()) => Ok(()),
        _ => Err(OpError::Other(format!("asks for a tensor of shape {shape:?}"))),
    }
}

/// How an operator uses one of its inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It computes with it, where its other data lie.
    Data,
    /// It reads numbers off it: a shape, axes, pads, scales.
    Numbers,
    /// It looks at its shape or type alone.
    Outline,
}

/// How `op` uses its input of this number.
pub fn usage(op: &Op, input: usize) -> Use {
    match op {
        Op::Shape(ShapeOp::Shape { .. } | ShapeOp::Size) => Use::Outline,
        Op::Shape(ShapeOp::ConstantOfShape { .. } | ShapeOp::Range) => Use::Numbers,
        Op::Layout(
            Layout::Concat { .. }
            | Layout::Gather { .. }
            | Layout::GatherElements { .. }
            | Layout::GatherNd { .. }
            | Layout::ScatterNd { .. }
            | Layout::ScatterElements { .. },
        ) => Use::Data,
        Op::Layout(Layout::CastLike) if input > 0 => Use::Outline,
        Op::Layout(_) | Op::Reduce(_) | Op::Resize(_) | Op::Activation(Activation::Dropout)
            if input > 0 =>
        {
            Use::Numbers
        }
        _ => Use::Data,
    }
}

/// Runs one operator in inference mode. Its data are on one device, the numbers that it reads in
/// the program's memory.
pub fn run(op: &Op, args: &Args) -> Result<Vec<Tensor>, OpError> {
    match op {
        Op::Activation(op) => activation::run(*op, args),
        Op::Binary(op) => elementwise::run_binary(*op, args).map(single),
        Op::Conv(op) => conv::run(op, args).map(single),
        Op::ConvTranspose(op) => conv::run_transpose(op, args).map(single),
        Op::Layout(op) => layout::run(op, args),
        Op::Linear(op) => linear::run(op, args).map(single),
        Op::Norm(op) => norm::run(*op, args),
        Op::Pool(op) => pool::run(op, args).map(single),
        Op::Reduce(op) => reduce::run(*op, args).map(single),
        Op::Resize(op) => resize::run(op, args).map(single),
        Op::Shape(op) => shape::run(op, args).map(single),
        Op::Unary(op) => elementwise::run_unary(*op, args).map(single),
    }
}

fn single(tensor: Tensor) -> Vec<Tensor> {
    vec![tensor]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The padded input of the first pooling of a ResNet at 224², and a residual sum of ResNet-50.
    const OF_IMAGENET: [[i64; 3]; 2] = [[64, 114, 114], [256, 56, 56]];

    #[test]
    fn a_large_batch_of_imagenet_is_no_hostile_shape() {
        let with = |images: i64, [c, h, w]: [i64; 3]| bounded(&[images, c, h, w]);
        for shape in OF_IMAGENET {
            let batch = BatchSize::of(&[1024, 3, 224, 224]);
            with(1024, shape).unwrap();
            drop(batch);
            with(1024, shape).unwrap_err();
        }
        let _batch = BatchSize::of(&[2, 3, 32, 32]);
        with(1, [1 << 10, 1 << 10, 1 << 10]).unwrap_err();
    }
}
