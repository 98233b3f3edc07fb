//! Pooling.

use super::super::attrs::NodeReader;
use super::super::error::GraphError;
use super::conv::{Padding, positive, read_padding};
use super::{Op, OpSpec};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolKind {
    Max,
    /// Whether padded values count in the divisor.
    Average {
        count_include_pad: bool,
    },
}

/// Pooling of `[N, C, spatial…]` over windows, or over all spatial axes.
/// <https://onnx.ai/onnx/operators/onnx__MaxPool.html>
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pool {
    Window {
        kind: PoolKind,
        kernel: Vec<i64>,
        strides: Vec<i64>,
        dilations: Vec<i64>,
        padding: Padding,
        ceil: bool,
    },
    GlobalAverage,
    GlobalMax,
}

pub const OPS: &[OpSpec] = &[
    OpSpec::new("MaxPool", 1, true, read_max),
    OpSpec::new("AveragePool", 1, true, read_average),
    OpSpec::new("GlobalAveragePool", 1, true, |r| global(r, Pool::GlobalAverage)),
    OpSpec::new("GlobalMaxPool", 1, true, |r| global(r, Pool::GlobalMax)),
];

fn global(r: &NodeReader, op: Pool) -> Result<Op, GraphError> {
    r.expect_inputs(1, 1)?;
    Ok(Op::Pool(op))
}

fn read_max(r: &mut NodeReader) -> Result<Op, GraphError> {
    if r.int_or("storage_order", 0)? != 0 {
        return Err(r.error("column-major storage_order is not supported"));
    }
    if r.output_count() > 1 {
        return Err(r.error("the output of indices is not supported"));
    }
    window(r, PoolKind::Max)
}

fn read_average(r: &mut NodeReader) -> Result<Op, GraphError> {
    let count_include_pad = r.flag_or("count_include_pad", false)?;
    window(r, PoolKind::Average { count_include_pad })
}

fn window(r: &NodeReader, kind: PoolKind) -> Result<Op, GraphError> {
    r.expect_inputs(1, 1)?;
    let kernel = positive(r, "kernel_shape")?;
    if kernel.is_empty() {
        return Err(r.error("attribute `kernel_shape` is missing"));
    }
    Ok(Op::Pool(Pool::Window {
        kind,
        kernel,
        strides: positive(r, "strides")?,
        dilations: positive(r, "dilations")?,
        padding: read_padding(r)?,
        ceil: r.flag_or("ceil_mode", false)?,
    }))
}
