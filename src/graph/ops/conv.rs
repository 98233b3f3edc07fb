//! Convolution.

use super::super::attrs::NodeReader;
use super::super::error::GraphError;
use super::{Op, OpSpec};

/// How the borders of the spatial axes are padded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Padding {
    /// Per spatial axis: before, after.
    Explicit(Vec<(i64, i64)>),
    /// Output size ⌈input / stride⌉. An odd pixel of padding goes after (`upper`) or before.
    Same { upper: bool },
}

/// Input 0 `[N, C, spatial…]`, weight in input 1 `[O, C/groups, kernel…]`, optional bias `[O]` in
/// input 2. <https://onnx.ai/onnx/operators/onnx__Conv.html>
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conv {
    /// Empty: 1 along every axis. The same holds for `dilations`.
    pub strides: Vec<i64>,
    pub dilations: Vec<i64>,
    pub padding: Padding,
    pub groups: i64,
    /// Empty: taken from the weight's shape.
    pub kernel: Vec<i64>,
}

/// Transposed convolution: input 0 `[N, C, spatial…]`, weight `[C, O/groups, kernel…]`, optional
/// bias `[O]`. Padding is removed from the result.
/// <https://onnx.ai/onnx/operators/onnx__ConvTranspose.html>
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvTranspose {
    pub conv: Conv,
    /// Added at the end of each axis; empty: 0.
    pub output_padding: Vec<i64>,
    /// Spatial sizes. If given, they determine the padding.
    pub output_shape: Option<Vec<i64>>,
}

pub const OPS: &[OpSpec] = &[
    OpSpec::new("Conv", 1, true, |r| read_conv(r).map(Op::Conv)),
    OpSpec::new("ConvTranspose", 1, true, |r| {
        let output_padding = r.ints("output_padding")?.unwrap_or_default();
        let output_shape = r.ints("output_shape")?;
        Ok(Op::ConvTranspose(ConvTranspose { conv: read_conv(r)?, output_padding, output_shape }))
    }),
];

fn read_conv(r: &NodeReader) -> Result<Conv, GraphError> {
    r.expect_inputs(2, 3)?;
    let groups = r.int_or("group", 1)?;
    if groups < 1 {
        return Err(r.error(format!("group is {groups}, less than 1")));
    }
    Ok(Conv {
        kernel: positive(r, "kernel_shape")?,
        strides: positive(r, "strides")?,
        dilations: positive(r, "dilations")?,
        padding: read_padding(r)?,
        groups,
    })
}

/// A list of integers ≥ 1 (empty when the attribute is absent).
pub(super) fn positive(r: &NodeReader, name: &str) -> Result<Vec<i64>, GraphError> {
    let values = r.ints(name)?.unwrap_or_default();
    match values.iter().find(|&&v| !(1..=1 << 20).contains(&v)) {
        Some(bad) => {
            Err(r.error(format!("attribute `{name}` contains {bad}, outside 1..=1048576")))
        }
        None => Ok(values),
    }
}

/// Reads `pads` and `auto_pad`, for convolutions and pools.
pub(super) fn read_padding(r: &NodeReader) -> Result<Padding, GraphError> {
    let pads = r.ints("pads")?.unwrap_or_default();
    match r.string_or("auto_pad", "NOTSET")?.as_str() {
        "NOTSET" | "" => {}
        "VALID" => return Ok(Padding::Explicit(Vec::new())),
        "SAME_UPPER" => return Ok(Padding::Same { upper: true }),
        "SAME_LOWER" => return Ok(Padding::Same { upper: false }),
        other => return Err(r.error(format!("unknown auto_pad `{other}`"))),
    }
    if !pads.len().is_multiple_of(2) || pads.iter().any(|p| !(0..=1 << 20).contains(p)) {
        return Err(r.error(format!(
            "attribute `pads` {pads:?} is not a list of non-negative (before…, after…)"
        )));
    }
    let (before, after) = pads.split_at(pads.len() / 2);
    Ok(Padding::Explicit(before.iter().copied().zip(after.iter().copied()).collect()))
}
