//! Interpolation to another size.

use super::super::attrs::NodeReader;
use super::super::constant::Constant;
use super::super::error::GraphError;
use super::{Op, OpSpec};

/// Resizes input 0 by the scales in input [`scales_input`](Self::scales_input) or to the sizes in
/// input 3. The region of interest is in input 1.
/// <https://onnx.ai/onnx/operators/onnx__Resize.html>
#[derive(Debug, Clone, PartialEq)]
pub struct Resize {
    pub kernel: ResizeKernel,
    pub coordinates: Coordinates,
    /// Whether the kernel is widened by the scale when shrinking.
    pub antialias: bool,
    /// Whether pixels outside the image get weight 0; otherwise the border pixel is repeated.
    pub exclude_outside: bool,
    /// The value of pixels outside the image, with [`Coordinates::CropAndResize`].
    pub extrapolation: f64,
    pub policy: AspectPolicy,
    /// `None`: all axes.
    pub axes: Option<Vec<i64>>,
    pub scales_input: usize,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ResizeKernel {
    Nearest(Rounding),
    Linear,
    Cubic { a: f64 },
}

/// How a coordinate is rounded to the nearest pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    PreferFloor,
    PreferCeil,
    Floor,
    Ceil,
}

/// How a pixel of the result maps to a coordinate of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coordinates {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    CropAndResize,
}

/// How the requested sizes treat the aspect ratio.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AspectPolicy {
    Stretch,
    NotLarger,
    NotSmaller,
}

pub const OPS: &[OpSpec] = &[
    OpSpec::new("Resize", 10, true, read_resize),
    OpSpec::new("Upsample", 7, true, read_upsample),
];

fn read_resize(r: &mut NodeReader) -> Result<Op, GraphError> {
    if r.opset < 11 {
        r.expect_inputs(2, 2)?;
        return legacy(r);
    }
    r.expect_inputs(1, 4)?;
    let rounding = match r.string_or("nearest_mode", "round_prefer_floor")?.as_str() {
        "round_prefer_floor" => Rounding::PreferFloor,
        "round_prefer_ceil" => Rounding::PreferCeil,
        "floor" => Rounding::Floor,
        "ceil" => Rounding::Ceil,
        other => return Err(r.error(format!("unknown nearest_mode `{other}`"))),
    };
    let coordinates = match r.string_or("coordinate_transformation_mode", "half_pixel")?.as_str() {
        "half_pixel" => Coordinates::HalfPixel,
        "half_pixel_symmetric" => Coordinates::HalfPixelSymmetric,
        "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
        "align_corners" => Coordinates::AlignCorners,
        "asymmetric" => Coordinates::Asymmetric,
        "tf_crop_and_resize" => Coordinates::CropAndResize,
        other => return Err(r.error(format!("unknown coordinate_transformation_mode `{other}`"))),
    };
    let policy = match r.string_or("keep_aspect_ratio_policy", "stretch")?.as_str() {
        "stretch" => AspectPolicy::Stretch,
        "not_larger" => AspectPolicy::NotLarger,
        "not_smaller" => AspectPolicy::NotSmaller,
        other => return Err(r.error(format!("unknown keep_aspect_ratio_policy `{other}`"))),
    };
    let a = r.float_or("cubic_coeff_a", -0.75)?.into();
    Ok(Op::Resize(Resize {
        kernel: read_kernel(r, rounding, a)?,
        coordinates,
        antialias: r.flag_or("antialias", false)?,
        exclude_outside: r.flag_or("exclude_outside", false)?,
        extrapolation: r.float_or("extrapolation_value", 0.0)?.into(),
        policy,
        axes: r.ints("axes")?,
        scales_input: 2,
    }))
}

/// Scales are an attribute before opset 9.
fn read_upsample(r: &mut NodeReader) -> Result<Op, GraphError> {
    if r.opset < 9 {
        r.expect_inputs(1, 1)?;
        let scales = r.floats("scales")?.ok_or_else(|| r.error("attribute `scales` is missing"))?;
        r.inject(1, Constant::from_f32s(&[scales.len()], &scales));
    } else {
        r.expect_inputs(2, 2)?;
    }
    legacy(r)
}

/// `Upsample`, and `Resize` at opset 10: scales in input 1, no settings.
fn legacy(r: &NodeReader) -> Result<Op, GraphError> {
    Ok(Op::Resize(Resize {
        kernel: read_kernel(r, Rounding::Floor, -0.75)?,
        coordinates: Coordinates::Asymmetric,
        antialias: false,
        exclude_outside: false,
        extrapolation: 0.0,
        policy: AspectPolicy::Stretch,
        axes: None,
        scales_input: 1,
    }))
}

fn read_kernel(r: &NodeReader, rounding: Rounding, a: f64) -> Result<ResizeKernel, GraphError> {
    match r.string_or("mode", "nearest")?.as_str() {
        "nearest" => Ok(ResizeKernel::Nearest(rounding)),
        "linear" | "bilinear" => Ok(ResizeKernel::Linear),
        "cubic" => Ok(ResizeKernel::Cubic { a }),
        other => Err(r.error(format!("unknown mode `{other}`"))),
    }
}
