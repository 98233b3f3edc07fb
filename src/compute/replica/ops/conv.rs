//! Convolution, and the padding that pooling shares.

use tch::Tensor;

use super::super::convert::channels_last;
use super::super::error::OpError;
use super::{Args, bounded};
use scdd_graph::ops::{Conv, ConvTranspose, Padding};

pub fn run(op: &Conv, args: &Args) -> Result<Tensor, OpError> {
    let (x, weight) = (args.get(0)?, args.get(1)?);
    let ConvWindow { kernel, strides, dilations } = window(op, x, weight)?;
    let rank = kernel.len();
    let pads = resolve(&op.padding, &x.size()[2..], &kernel, &strides, &dilations)?;
    bounded_pads(x, &pads)?;
    let (x, padding) = if pads.iter().all(|(before, after)| before == after) {
        (x.shallow_clone(), pads.iter().map(|p| p.0).collect())
    } else {
        (pad(x, &pads, 0.0)?, vec![0; rank])
    };
    let (x, strides) = match clear_of_fault(&x, weight, &kernel, &strides, &padding)? {
        Some(subsampled) => (subsampled, vec![1; rank]),
        None => (x, strides),
    };
    let no_output_padding = vec![0i64; rank];
    let y = x.f_convolution(
        weight,
        args.opt(2),
        strides,
        padding,
        dilations,
        false,
        no_output_padding,
        op.groups,
    )?;
    // A tensor of one channel is channels-last and contiguous at once. libtorch then continues in
    // contiguous layout, which is slower in all later layers.
    if x.size()[1] == 1 { Ok(channels_last(&y)?) } else { Ok(y) }
}

/// With at least this many input channels, libtorch's weight gradients of strided 1x1 convolutions
/// are right.
const FIRST_RIGHT_WIDTH: i64 = 8;

/// Works around a fault in libtorch's weight gradient: takes every stride-th pixel of `x`, so that
/// a convolution of stride 1 can replace the strided one. `None` where no workaround is needed.
///
/// With 2 to 7 input channels, the weight gradient of a 1x1 convolution of stride 2 or more is
/// wrong, hangs or corrupts memory when oneDNN computes it for AVX2 (PyTorch 2.13, oneDNN 3.12;
/// docs/processors.md lists the experiments). Without this function tests/narrow.rs fails as long
/// as libtorch has the fault.
fn clear_of_fault(
    x: &Tensor,
    weight: &Tensor,
    kernel: &[i64],
    strides: &[i64],
    padding: &[i64],
) -> Result<Option<Tensor>, OpError> {
    let reads_a_part = kernel.iter().all(|&k| k == 1) && strides.iter().any(|&s| s > 1);
    let is_faulty =
        reads_a_part && padding.iter().all(|&p| p == 0) && x.size()[1] < FIRST_RIGHT_WIDTH;
    if !is_faulty || !weight.requires_grad() {
        return Ok(None);
    }
    let axes = (2..).zip(strides);
    let part = axes
        .into_iter()
        .try_fold(x.shallow_clone(), |x, (axis, &stride)| x.f_slice(axis, None, None, stride))?;
    Ok(Some(part))
}

/// Computes the whole transposed convolution, then cuts the padding off.
pub fn run_transpose(op: &ConvTranspose, args: &Args) -> Result<Tensor, OpError> {
    let (x, weight) = (args.get(0)?, args.get(1)?);
    let ConvWindow { kernel, strides, dilations } = window(&op.conv, x, weight)?;
    let rank = kernel.len();
    let sizes = &x.size()[2..];
    let output_padding =
        if op.output_padding.is_empty() { vec![0; rank] } else { op.output_padding.clone() };
    let wanted = match (&op.output_shape, &op.conv.padding) {
        (Some(shape), _) if shape.len() == rank => Some(shape.clone()),
        (Some(shape), _) => {
            return Err(OpError::Other(format!("output_shape {shape:?} for {rank} spatial axes")));
        }
        (None, Padding::Same { .. }) => {
            Some(sizes.iter().zip(&strides).map(|(size, stride)| size * stride).collect())
        }
        (None, Padding::Explicit(_)) => None,
    };
    let mut result = vec![x.size()[0], weight.size()[1].saturating_mul(op.conv.groups)];
    result.extend(
        (0..rank)
            .map(|i| sizes[i].saturating_mul(strides[i]).saturating_add(kernel[i] * dilations[i])),
    );
    bounded(&result)?;
    let whole = x.f_convolution(
        weight,
        args.opt(2),
        &strides[..],
        vec![0; rank],
        &dilations[..],
        true,
        output_padding,
        op.conv.groups,
    )?;
    let pads: Vec<(i64, i64)> = match wanted {
        None => resolve(&op.conv.padding, sizes, &kernel, &strides, &dilations)?,
        Some(wanted) => {
            let upper = op.conv.padding == Padding::Same { upper: true };
            let split = |(found, wanted): (&i64, i64)| {
                let (total, missing) = ((found - wanted).max(0), (wanted - found).max(0));
                let (small, large) = (total / 2, total - total / 2);
                if upper { (small, large - missing) } else { (large, small - missing) }
            };
            whole.size()[2..].iter().zip(wanted).map(split).collect()
        }
    };
    let crops: Vec<(i64, i64)> =
        pads.into_iter().map(|(before, after)| (-before, -after)).collect();
    pad(&whole, &crops, 0.0)
}

/// A convolution's settings, one per spatial axis.
struct ConvWindow {
    kernel: Vec<i64>,
    strides: Vec<i64>,
    dilations: Vec<i64>,
}

fn window(op: &Conv, x: &Tensor, weight: &Tensor) -> Result<ConvWindow, OpError> {
    if x.dim() < 3 || weight.dim() != x.dim() {
        return Err(OpError::Other("input and weight need the same rank, 3 or more".into()));
    }
    let rank = x.dim() - 2;
    let kernel = weight.size()[2..].to_vec();
    if !op.kernel.is_empty() && op.kernel != kernel {
        return Err(OpError::Other(format!(
            "kernel_shape {:?} disagrees with the weight {:?}",
            op.kernel,
            weight.size()
        )));
    }
    Ok(ConvWindow {
        kernel,
        strides: or_ones(&op.strides, rank)?,
        dilations: or_ones(&op.dilations, rank)?,
    })
}

/// A setting per axis; if absent, 1 along every axis.
pub fn or_ones(values: &[i64], rank: usize) -> Result<Vec<i64>, OpError> {
    match values.len() {
        0 => Ok(vec![1; rank]),
        n if n == rank => Ok(values.to_vec()),
        n => Err(OpError::Other(format!("settings for {n} spatial axes, the input has {rank}"))),
    }
}

/// The pixels to add before and after, per spatial axis.
pub fn resolve(
    padding: &Padding,
    sizes: &[i64],
    kernel: &[i64],
    strides: &[i64],
    dilations: &[i64],
) -> Result<Vec<(i64, i64)>, OpError> {
    match padding {
        Padding::Explicit(pads) if pads.is_empty() => Ok(vec![(0, 0); sizes.len()]),
        Padding::Explicit(pads) if pads.len() == sizes.len() => Ok(pads.clone()),
        Padding::Explicit(pads) => Err(OpError::Other(format!(
            "pads for {} spatial axes, the input has {}",
            pads.len(),
            sizes.len()
        ))),
        Padding::Same { upper } => {
            let axis = |i: usize| {
                let outputs = (sizes[i] + strides[i] - 1) / strides[i];
                let total = ((outputs - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1
                    - sizes[i])
                    .max(0);
                let (small, large) = (total / 2, total - total / 2);
                if *upper { (small, large) } else { (large, small) }
            };
            Ok((0..sizes.len()).map(axis).collect())
        }
    }
}

/// Refuses padding that makes `x` larger than any network needs.
pub(super) fn bounded_pads(x: &Tensor, pads: &[(i64, i64)]) -> Result<(), OpError> {
    let mut shape = x.size();
    let spatial = shape.len().saturating_sub(pads.len());
    for (dim, (before, after)) in shape[spatial..].iter_mut().zip(pads) {
        *dim = dim.saturating_add(*before).saturating_add(*after);
    }
    bounded(&shape)
}

/// Pads the last `pads.len()` axes with `value`.
pub(super) fn pad(x: &Tensor, pads: &[(i64, i64)], value: f64) -> Result<Tensor, OpError> {
    let last_axis_first: Vec<i64> =
        pads.iter().rev().flat_map(|&(before, after)| [before, after]).collect();
    Ok(x.f_pad(last_axis_first, "constant", value)?)
}
