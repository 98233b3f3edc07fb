//! Operators that create tensors from shapes and numbers.

use super::super::attrs::NodeReader;
use super::super::constant::Constant;
use super::super::error::GraphError;
use super::{Op, OpSpec};

#[derive(Debug, Clone, PartialEq)]
pub enum ShapeOp {
    /// Input 0's dims `start..end`, int64.
    Shape { start: i64, end: Option<i64> },
    /// The number of elements, int64 scalar.
    Size,
    /// The shape in input 0 filled with the one-element `value`.
    ConstantOfShape { value: Constant },
    /// Start, limit, delta in inputs 0–2.
    Range,
}

pub const OPS: &[OpSpec] = &[
    OpSpec::new("Shape", 1, false, |r| {
        r.expect_inputs(1, 1)?;
        Ok(Op::Shape(ShapeOp::Shape { start: r.int_or("start", 0)?, end: r.int("end")? }))
    }),
    OpSpec::new("Size", 1, false, |r| {
        r.expect_inputs(1, 1)?;
        Ok(Op::Shape(ShapeOp::Size))
    }),
    OpSpec::new("ConstantOfShape", 9, false, read_constant_of_shape),
    OpSpec::new("Range", 11, false, |r| {
        r.expect_inputs(3, 3)?;
        Ok(Op::Shape(ShapeOp::Range))
    }),
];

fn read_constant_of_shape(r: &mut NodeReader) -> Result<Op, GraphError> {
    r.expect_inputs(1, 1)?;
    let value = match r.tensor("value")? {
        Some(proto) => Constant::read(proto)?,
        None => Constant::from_f32s(&[1], &[0.0]),
    };
    if value.len() != 1 {
        return Err(r.error(format!("`value` has {} elements, not one", value.len())));
    }
    Ok(Op::Shape(ShapeOp::ConstantOfShape { value }))
}
