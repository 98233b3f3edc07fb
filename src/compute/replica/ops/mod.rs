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

use tch::{Device, Kind, Tensor};

use super::error::OpError;
use scdd_graph::Op;

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
    let flat = tensor.f_to_kind(Kind::Int64)?.f_to_device(Device::Cpu)?.f_reshape([-1])?;
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

/// The largest number of elements of one value: far above the need of any image network, far below
/// the machine's memory.
const MOST_ELEMENTS: i64 = 1 << 28;

/// Refuses a shape that a hostile file may claim but no image network needs.
fn bounded(shape: &[i64]) -> Result<(), OpError> {
    let count = shape.iter().try_fold(1i64, |n, &d| n.checked_mul(d).filter(|_| d >= 0));
    match count {
        Some(n) if n <= MOST_ELEMENTS => Ok(()),
        _ => Err(OpError::Other(format!("asks for a tensor of shape {shape:?}"))),
    }
}

/// Runs one operator in inference mode.
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
