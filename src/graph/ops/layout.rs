//! Operators that move elements without changing them.

use super::super::attrs::NodeReader;
use super::super::constant::{Constant, DType};
use super::super::error::GraphError;
use super::{Op, OpSpec};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PadMode {
    /// The value in input 2, or 0 if it is absent.
    Constant,
    Reflect,
    Edge,
    Wrap,
}

/// How an update combines with the existing element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scatter {
    Replace,
    Add,
    Multiply,
    Max,
    Min,
}

/// Operators that rearrange input 0.
#[derive(Debug, Clone, PartialEq)]
pub enum Layout {
    /// New shape in input 1; −1 is inferred, 0 copies the dim unless `allow_zero`.
    Reshape {
        allow_zero: bool,
    },
    /// `[product before axis, product from axis]`.
    Flatten {
        axis: i64,
    },
    /// `None` reverses the axes.
    Transpose {
        perm: Option<Vec<i64>>,
    },
    /// Axes in the optional input 1; if absent, every dim of size 1.
    Squeeze,
    /// Axes in input 1.
    Unsqueeze,
    Concat {
        axis: i64,
    },
    /// Sizes in the optional input 1; if absent, `parts` equal parts (or as many as there are
    /// outputs), the last one smaller.
    Split {
        axis: i64,
        parts: Option<i64>,
    },
    /// Starts, ends, optional axes, optional steps in inputs 1–4.
    Slice,
    /// Pads in input 1, value in the optional input 2, axes in the optional input 3.
    Pad {
        mode: PadMode,
    },
    /// Broadcast to the shape in input 1. Dims of 1 there keep the input's dim.
    Expand,
    /// Repeats per axis in input 1.
    Tile,
    /// Indices in input 1.
    Gather {
        axis: i64,
    },
    GatherElements {
        axis: i64,
    },
    GatherNd {
        batch_dims: i64,
    },
    /// Indices in input 1, updates in input 2.
    ScatterNd {
        scatter: Scatter,
    },
    /// Indices along `axis` in input 1, updates in input 2.
    ScatterElements {
        axis: i64,
        scatter: Scatter,
    },
    DepthToSpace {
        block: i64,
        column_major: bool,
    },
    SpaceToDepth {
        block: i64,
        column_major: bool,
    },
    /// Columns `[N, C · block, L]` back to images `[N, C, …]`; overlapping values are added. The
    /// images' shape is in input 1, the block's in input 2. Absent settings are 1, absent pads 0;
    /// the first half of the pads lies before each axis, the second half after it.
    Col2Im {
        strides: Vec<i64>,
        dilations: Vec<i64>,
        pads: Vec<i64>,
    },
    Cast {
        to: DType,
    },
    /// Cast to the type of input 1.
    CastLike,
    /// Upper (or lower) triangle from the diagonal in input 1, or 0 if it is absent.
    Trilu {
        upper: bool,
    },
}

pub const OPS: &[OpSpec] = &[
    OpSpec::new("Reshape", 5, true, |r| {
        r.expect_inputs(2, 2)?;
        Ok(Op::Layout(Layout::Reshape { allow_zero: r.flag_or("allowzero", false)? }))
    }),
    OpSpec::new("Flatten", 1, true, |r| {
        r.expect_inputs(1, 1)?;
        Ok(Op::Layout(Layout::Flatten { axis: r.int_or("axis", 1)? }))
    }),
    OpSpec::new("Transpose", 1, true, |r| {
        r.expect_inputs(1, 1)?;
        Ok(Op::Layout(Layout::Transpose { perm: r.ints("perm")? }))
    }),
    OpSpec::new("Squeeze", 1, true, |r| read_axes(r, Layout::Squeeze, 1)),
    OpSpec::new("Unsqueeze", 1, true, |r| read_axes(r, Layout::Unsqueeze, 2)),
    OpSpec::new("Concat", 4, true, |r| {
        r.expect_inputs(r.input_count().max(1), usize::MAX)?;
        let axis = r.int("axis")?.ok_or_else(|| r.error("attribute `axis` is missing"))?;
        Ok(Op::Layout(Layout::Concat { axis }))
    }),
    OpSpec::new("Split", 2, true, read_split),
    OpSpec::new("Slice", 1, true, read_slice),
    OpSpec::new("Pad", 2, true, read_pad),
    OpSpec::new("Expand", 8, true, |r| two(r, Layout::Expand)),
    OpSpec::new("Tile", 6, true, |r| two(r, Layout::Tile)),
    OpSpec::new("Gather", 1, true, |r| {
        let axis = r.int_or("axis", 0)?;
        two(r, Layout::Gather { axis })
    }),
    OpSpec::new("GatherElements", 11, true, |r| {
        let axis = r.int_or("axis", 0)?;
        two(r, Layout::GatherElements { axis })
    }),
    OpSpec::new("GatherND", 11, true, |r| {
        let batch_dims = r.int_or("batch_dims", 0)?;
        two(r, Layout::GatherNd { batch_dims })
    }),
    OpSpec::new("ScatterND", 11, true, |r| {
        Ok(Op::Layout(Layout::ScatterNd { scatter: read_scatter(r)? }))
    }),
    OpSpec::new("ScatterElements", 11, true, |r| {
        let axis = r.int_or("axis", 0)?;
        Ok(Op::Layout(Layout::ScatterElements { axis, scatter: read_scatter(r)? }))
    }),
    OpSpec::new("Col2Im", 18, true, |r| {
        r.expect_inputs(3, 3)?;
        let ints = |name| Ok::<_, GraphError>(r.ints(name)?.unwrap_or_default());
        let (strides, dilations) = (ints("strides")?, ints("dilations")?);
        Ok(Op::Layout(Layout::Col2Im { strides, dilations, pads: ints("pads")? }))
    }),
    OpSpec::new("DepthToSpace", 1, true, |r| {
        let (block, column_major) = read_blocks(r)?;
        Ok(Op::Layout(Layout::DepthToSpace { block, column_major }))
    }),
    OpSpec::new("SpaceToDepth", 1, true, |r| {
        let (block, column_major) = read_blocks(r)?;
        Ok(Op::Layout(Layout::SpaceToDepth { block, column_major }))
    }),
    OpSpec::new("Cast", 6, true, |r| {
        r.expect_inputs(1, 1)?;
        r.ignore("saturate"); // only affects float8 targets, which are refused
        r.ignore("round_mode");
        let to = r.dtype("to")?.ok_or_else(|| r.error("attribute `to` is missing"))?;
        Ok(Op::Layout(Layout::Cast { to }))
    }),
    OpSpec::new("CastLike", 15, true, |r| {
        r.ignore("saturate");
        r.ignore("round_mode");
        two(r, Layout::CastLike)
    }),
    OpSpec::new("Trilu", 14, true, |r| {
        r.expect_inputs(1, 2)?;
        Ok(Op::Layout(Layout::Trilu { upper: r.flag_or("upper", true)? }))
    }),
];

fn two(r: &NodeReader, op: Layout) -> Result<Op, GraphError> {
    r.expect_inputs(2, 2)?;
    Ok(Op::Layout(op))
}

/// The block's side, and whether depth precedes the block's rows and columns (CRD mode).
fn read_blocks(r: &NodeReader) -> Result<(i64, bool), GraphError> {
    r.expect_inputs(1, 1)?;
    let column_major = match r.string_or("mode", "DCR")?.as_str() {
        "DCR" => false,
        "CRD" => true,
        other => return Err(r.error(format!("unknown mode `{other}`"))),
    };
    match r.int_or("blocksize", 0)? {
        block @ 1..=4096 => Ok((block, column_major)),
        block => Err(r.error(format!("blocksize is {block}, outside 1..=4096"))),
    }
}

fn read_scatter(r: &NodeReader) -> Result<Scatter, GraphError> {
    r.expect_inputs(3, 3)?;
    match r.string_or("reduction", "none")?.as_str() {
        "none" => Ok(Scatter::Replace),
        "add" => Ok(Scatter::Add),
        "mul" => Ok(Scatter::Multiply),
        "max" => Ok(Scatter::Max),
        "min" => Ok(Scatter::Min),
        other => Err(r.error(format!("unknown reduction `{other}`"))),
    }
}

/// Axes are an attribute before opset 13.
fn read_axes(r: &mut NodeReader, op: Layout, min_inputs: usize) -> Result<Op, GraphError> {
    if r.opset < 13 {
        r.expect_inputs(1, 1)?;
        match r.ints("axes")? {
            Some(axes) => r.inject(1, Constant::from_i64s(&[axes.len()], &axes)),
            None if min_inputs == 2 => return Err(r.error("attribute `axes` is missing")),
            None => {}
        }
    } else {
        r.expect_inputs(min_inputs, 2)?;
    }
    Ok(Op::Layout(op))
}

/// Sizes are an attribute before opset 13; `num_outputs` exists from opset 18 on.
fn read_split(r: &mut NodeReader) -> Result<Op, GraphError> {
    r.expect_inputs(1, 2)?;
    if r.opset < 13
        && let Some(sizes) = r.ints("split")?
    {
        r.inject(1, Constant::from_i64s(&[sizes.len()], &sizes));
    }
    Ok(Op::Layout(Layout::Split { axis: r.int_or("axis", 0)?, parts: r.int("num_outputs")? }))
}

/// All settings are attributes before opset 10.
fn read_slice(r: &mut NodeReader) -> Result<Op, GraphError> {
    if r.opset < 10 {
        r.expect_inputs(1, 1)?;
        for (index, name) in [(1, "starts"), (2, "ends"), (3, "axes")] {
            match r.ints(name)? {
                Some(values) => r.inject(index, Constant::from_i64s(&[values.len()], &values)),
                None if index < 3 => return Err(r.error(format!("attribute `{name}` is missing"))),
                None => {}
            }
        }
    } else {
        r.expect_inputs(3, 5)?;
    }
    Ok(Op::Layout(Layout::Slice))
}

/// Pads and value are attributes before opset 11.
fn read_pad(r: &mut NodeReader) -> Result<Op, GraphError> {
    let mode = match r.string_or("mode", "constant")?.as_str() {
        "constant" => PadMode::Constant,
        "reflect" => PadMode::Reflect,
        "edge" => PadMode::Edge,
        "wrap" => PadMode::Wrap,
        other => return Err(r.error(format!("unknown mode `{other}`"))),
    };
    if r.opset < 11 {
        r.expect_inputs(1, 1)?;
        let pads = r.ints("pads")?.ok_or_else(|| r.error("attribute `pads` is missing"))?;
        let value = r.float_or("value", 0.0)?;
        r.inject(1, Constant::from_i64s(&[pads.len()], &pads));
        r.inject(2, Constant::from_f32s(&[], &[value]));
    } else {
        r.expect_inputs(2, 4)?;
    }
    Ok(Op::Layout(Layout::Pad { mode }))
}
