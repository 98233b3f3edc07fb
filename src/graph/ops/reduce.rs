//! Reductions along axes.

use super::super::attrs::NodeReader;
use super::super::constant::Constant;
use super::super::error::GraphError;
use super::{Op, OpSpec};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReduceKind {
    Mean,
    Sum,
    Max,
    Min,
    Prod,
    L1,
    L2,
    LogSum,
    LogSumExp,
    SumSquare,
}

/// Reduction of input 0 along the axes in the optional input 1 (absent: all axes, or none with
/// `noop_if_empty`). <https://onnx.ai/onnx/operators/onnx__ReduceMean.html>
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduce {
    Axes {
        kind: ReduceKind,
        keep_dims: bool,
        noop_if_empty: bool,
    },
    /// The index of the largest (`max`) or smallest element along `axis`.
    Arg {
        max: bool,
        axis: i64,
        keep_dims: bool,
        /// Whether the last of equal elements is chosen.
        last: bool,
    },
    /// Running sums along the axis in input 1.
    CumSum {
        exclusive: bool,
        reverse: bool,
    },
}

pub const OPS: &[OpSpec] = &[
    OpSpec::new("ReduceMean", 1, true, |r| read(r, ReduceKind::Mean, 18)),
    OpSpec::new("ReduceSum", 1, true, |r| read(r, ReduceKind::Sum, 13)),
    OpSpec::new("ReduceMax", 1, true, |r| read(r, ReduceKind::Max, 18)),
    OpSpec::new("ReduceMin", 1, true, |r| read(r, ReduceKind::Min, 18)),
    OpSpec::new("ReduceProd", 1, true, |r| read(r, ReduceKind::Prod, 18)),
    OpSpec::new("ReduceL1", 1, true, |r| read(r, ReduceKind::L1, 18)),
    OpSpec::new("ReduceL2", 1, true, |r| read(r, ReduceKind::L2, 18)),
    OpSpec::new("ReduceLogSum", 1, true, |r| read(r, ReduceKind::LogSum, 18)),
    OpSpec::new("ReduceLogSumExp", 1, true, |r| read(r, ReduceKind::LogSumExp, 18)),
    OpSpec::new("ReduceSumSquare", 1, true, |r| read(r, ReduceKind::SumSquare, 18)),
    OpSpec::new("ArgMax", 1, false, |r| read_arg(r, true)),
    OpSpec::new("ArgMin", 1, false, |r| read_arg(r, false)),
    OpSpec::new("CumSum", 11, true, |r| {
        r.expect_inputs(2, 2)?;
        let (exclusive, reverse) = (r.flag_or("exclusive", false)?, r.flag_or("reverse", false)?);
        Ok(Op::Reduce(Reduce::CumSum { exclusive, reverse }))
    }),
];

fn read(r: &mut NodeReader, kind: ReduceKind, axes_input_since: i64) -> Result<Op, GraphError> {
    r.expect_inputs(1, 2)?;
    if r.opset < axes_input_since
        && let Some(axes) = r.ints("axes")?
    {
        r.inject(1, Constant::from_i64s(&[axes.len()], &axes));
    }
    Ok(Op::Reduce(Reduce::Axes {
        kind,
        keep_dims: r.flag_or("keepdims", true)?,
        noop_if_empty: r.flag_or("noop_with_empty_axes", false)?,
    }))
}

fn read_arg(r: &mut NodeReader, max: bool) -> Result<Op, GraphError> {
    r.expect_inputs(1, 1)?;
    Ok(Op::Reduce(Reduce::Arg {
        max,
        axis: r.int_or("axis", 0)?,
        keep_dims: r.flag_or("keepdims", true)?,
        last: r.flag_or("select_last_index", false)?,
    }))
}
