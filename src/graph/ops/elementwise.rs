//! Elementwise arithmetic, comparison and logic, with NumPy broadcasting.

use super::super::attrs::NodeReader;
use super::super::error::GraphError;
use super::{Op, OpSpec};

/// Operators with one input and no settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unary {
    Abs,
    Neg,
    Exp,
    Log,
    Sqrt,
    Reciprocal,
    Erf,
    Tanh,
    Sin,
    Cos,
    Tan,
    Asin,
    Acos,
    Atan,
    Sinh,
    Cosh,
    Asinh,
    Acosh,
    Atanh,
    Sign,
    Floor,
    Ceil,
    Round,
    Not,
    Identity,
    IsNaN,
    /// True for infinities of the selected signs.
    IsInf {
        negative: bool,
        positive: bool,
    },
}

/// Operators with two inputs; [`Sum`](Self::Sum), [`Mean`](Self::Mean), [`Min`](Self::Min) and
/// [`Max`](Self::Max) take one or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Pow,
    /// Integer remainder with the divisor's sign; with `fmod`, the dividend's sign.
    Mod {
        fmod: bool,
    },
    Min,
    Max,
    Sum,
    Mean,
    And,
    Or,
    Xor,
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// Inputs: condition, then, else.
    Where,
}

const fn unary(
    name: &'static str,
    differentiable: bool,
    read: fn(&mut NodeReader) -> Result<Op, GraphError>,
) -> OpSpec {
    OpSpec::new(name, 6, differentiable, read)
}

pub const OPS: &[OpSpec] = &[
    unary("Abs", true, |r| one(r, Unary::Abs)),
    unary("Neg", true, |r| one(r, Unary::Neg)),
    unary("Exp", true, |r| one(r, Unary::Exp)),
    unary("Log", true, |r| one(r, Unary::Log)),
    unary("Sqrt", true, |r| one(r, Unary::Sqrt)),
    unary("Reciprocal", true, |r| one(r, Unary::Reciprocal)),
    unary("Erf", true, |r| one(r, Unary::Erf)),
    unary("Tanh", true, |r| one(r, Unary::Tanh)),
    unary("Sin", true, |r| one(r, Unary::Sin)),
    unary("Cos", true, |r| one(r, Unary::Cos)),
    OpSpec::new("Tan", 7, true, |r| one(r, Unary::Tan)),
    OpSpec::new("Asin", 7, true, |r| one(r, Unary::Asin)),
    OpSpec::new("Acos", 7, true, |r| one(r, Unary::Acos)),
    OpSpec::new("Atan", 7, true, |r| one(r, Unary::Atan)),
    OpSpec::new("Sinh", 9, true, |r| one(r, Unary::Sinh)),
    OpSpec::new("Cosh", 9, true, |r| one(r, Unary::Cosh)),
    OpSpec::new("Asinh", 9, true, |r| one(r, Unary::Asinh)),
    OpSpec::new("Acosh", 9, true, |r| one(r, Unary::Acosh)),
    OpSpec::new("Atanh", 9, true, |r| one(r, Unary::Atanh)),
    unary("Sign", true, |r| one(r, Unary::Sign)),
    unary("Floor", true, |r| one(r, Unary::Floor)),
    unary("Ceil", true, |r| one(r, Unary::Ceil)),
    unary("Round", true, |r| one(r, Unary::Round)),
    OpSpec::new("Not", 1, false, |r| one(r, Unary::Not)),
    OpSpec::new("Identity", 1, true, |r| one(r, Unary::Identity)),
    OpSpec::new("IsNaN", 9, false, |r| one(r, Unary::IsNaN)),
    OpSpec::new("IsInf", 10, false, |r| {
        let negative = r.flag_or("detect_negative", true)?;
        let positive = r.flag_or("detect_positive", true)?;
        one(r, Unary::IsInf { negative, positive })
    }),
    OpSpec::new("Add", 6, true, |r| two(r, Binary::Add)),
    OpSpec::new("Sub", 6, true, |r| two(r, Binary::Sub)),
    OpSpec::new("Mul", 6, true, |r| two(r, Binary::Mul)),
    OpSpec::new("Div", 6, true, |r| two(r, Binary::Div)),
    OpSpec::new("Pow", 6, true, |r| two(r, Binary::Pow)),
    OpSpec::new("Mod", 10, true, |r| {
        let fmod = r.flag_or("fmod", false)?;
        two(r, Binary::Mod { fmod })
    }),
    OpSpec::new("Min", 6, true, |r| several(r, Binary::Min)),
    OpSpec::new("Max", 6, true, |r| several(r, Binary::Max)),
    OpSpec::new("Sum", 6, true, |r| several(r, Binary::Sum)),
    OpSpec::new("Mean", 6, true, |r| several(r, Binary::Mean)),
    OpSpec::new("And", 7, false, |r| two(r, Binary::And)),
    OpSpec::new("Or", 7, false, |r| two(r, Binary::Or)),
    OpSpec::new("Xor", 7, false, |r| two(r, Binary::Xor)),
    OpSpec::new("Equal", 7, false, |r| two(r, Binary::Equal)),
    OpSpec::new("Less", 7, false, |r| two(r, Binary::Less)),
    OpSpec::new("LessOrEqual", 12, false, |r| two(r, Binary::LessOrEqual)),
    OpSpec::new("Greater", 7, false, |r| two(r, Binary::Greater)),
    OpSpec::new("GreaterOrEqual", 12, false, |r| two(r, Binary::GreaterOrEqual)),
    OpSpec::new("Where", 9, true, |r| {
        r.expect_inputs(3, 3)?;
        Ok(Op::Binary(Binary::Where))
    }),
];

fn one(r: &NodeReader, op: Unary) -> Result<Op, GraphError> {
    r.expect_inputs(1, 1)?;
    Ok(Op::Unary(op))
}

/// Opset 6 broadcasts on request. Without an axis this equals the broadcasting of later opsets.
fn two(r: &NodeReader, op: Binary) -> Result<Op, GraphError> {
    r.expect_inputs(2, 2)?;
    if r.opset < 7 {
        r.ignore("broadcast");
    }
    Ok(Op::Binary(op))
}

fn several(r: &NodeReader, op: Binary) -> Result<Op, GraphError> {
    r.expect_inputs(r.input_count().max(1), usize::MAX)?;
    Ok(Op::Binary(op))
}
