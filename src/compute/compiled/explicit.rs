//! Operators with explicit backward passes besides convolutions and passes: pools, the classifier,
//! concatenation, reshaping.

use tch::{Kind, TchError, Tensor};

use super::value::Value;
use crate::replica::ops::conv::{or_ones, resolve};
use scdd_graph::ValueId;
use scdd_graph::ops::{Pool, PoolKind};

/// An operator with an explicit backward pass.
pub enum Operator {
    /// Maximum over windows with symmetric padding.
    MaxPool {
        kernel: Vec<i64>,
        stride: Vec<i64>,
        pad: Vec<i64>,
        dilation: Vec<i64>,
    },
    AveragePool {
        kernel: Vec<i64>,
        stride: Vec<i64>,
        pad: Vec<i64>,
        count_include_pad: bool,
    },
    /// The mean over both spatial axes, in the output's own shape.
    GlobalAverage,
    /// x · weightᵀ + bias, weight `[K, C]`.
    Linear {
        weight: Tensor,
        bias: Option<Tensor>,
    },
    Concat {
        axis: i64,
    },
    /// Any operator that only changes the shape.
    Reshape,
}

/// A step with an explicit backward pass.
pub struct ExplicitStep {
    pub name: String,
    pub operator: Operator,
    /// The inputs with their sizes.
    pub inputs: Vec<(ValueId, Vec<i64>)>,
    pub out: ValueId,
    pub size: Vec<i64>,
}

/// The state that an [`ExplicitStep`] saves for the backward pass.
pub enum SavedExplicit {
    Nothing,
    Input(Value),
    InputAndIndices(Value, Tensor),
}

impl ExplicitStep {
    pub fn forward(&self, inputs: &[Value]) -> Result<(Value, SavedExplicit), TchError> {
        let x = &inputs[0];
        Ok(match &self.operator {
            Operator::MaxPool { kernel, stride, pad, dilation } => {
                let x = x.channels_last()?;
                let (y, indices) = x.tensor().f_max_pool2d_with_indices(
                    &kernel[..],
                    &stride[..],
                    &pad[..],
                    &dilation[..],
                    false,
                )?;
                (y.into(), SavedExplicit::InputAndIndices(x, indices))
            }
            Operator::AveragePool { kernel, stride, pad, count_include_pad } => {
                let x = x.channels_last()?;
                let y = x.tensor().f_avg_pool2d(
                    &kernel[..],
                    &stride[..],
                    &pad[..],
                    false,
                    *count_include_pad,
                    None,
                )?;
                (y.into(), SavedExplicit::Input(x))
            }
            Operator::GlobalAverage => {
                let mean = x.tensor().f_mean_dim(&[2i64, 3][..], true, None::<Kind>)?;
                (mean.f_reshape(&self.size[..])?.into(), SavedExplicit::Nothing)
            }
            Operator::Linear { weight, bias } => {
                (x.tensor().f_linear(weight, bias.as_ref())?.into(), SavedExplicit::Nothing)
            }
            Operator::Concat { axis } => {
                let parts: Vec<&Tensor> = inputs.iter().map(Value::tensor).collect();
                (Tensor::f_cat(&parts, *axis)?.into(), SavedExplicit::Nothing)
            }
            Operator::Reshape => {
                (x.view(x.tensor().f_reshape(&self.size[..])?), SavedExplicit::Nothing)
            }
        })
    }

    /// The gradients of the inputs, in their order.
    pub fn backward(&self, kept: &SavedExplicit, gradient: &Value) -> Result<Vec<Value>, TchError> {
        let g = gradient.tensor();
        let size = &self.inputs[0].1;
        let pulled = match (&self.operator, kept) {
            (
                Operator::MaxPool { kernel, stride, pad, dilation },
                SavedExplicit::InputAndIndices(x, indices),
            ) => {
                let (k, s, p, d) = (&kernel[..], &stride[..], &pad[..], &dilation[..]);
                x.tensor().f_max_pool2d_with_indices_backward(g, k, s, p, d, false, indices)?
            }
            (
                Operator::AveragePool { kernel, stride, pad, count_include_pad },
                SavedExplicit::Input(x),
            ) => {
                let (k, s, p) = (&kernel[..], &stride[..], &pad[..]);
                x.tensor().f_avg_pool2d_backward(g, k, s, p, false, *count_include_pad, None)?
            }
            (Operator::GlobalAverage, _) => {
                let share =
                    g.f_div_scalar(size[2] * size[3])?.f_reshape([size[0], size[1], 1, 1])?;
                share.f_expand(&size[..], false)?
            }
            (Operator::Linear { weight, .. }, _) => g.f_matmul(weight)?,
            (Operator::Concat { axis }, _) => {
                let mut start = 0;
                let parts = self.inputs.iter().map(|(_, size)| {
                    let length = size[*axis as usize];
                    start += length;
                    Ok(gradient.view(g.f_narrow(*axis, start - length, length)?))
                });
                return parts.collect();
            }
            (Operator::Reshape, _) => return Ok(vec![gradient.view(g.f_reshape(&size[..])?)]),
            (Operator::MaxPool { .. } | Operator::AveragePool { .. }, _) => {
                return Err(TchError::Shape("a pool kept nothing for its backward pass".into()));
            }
        };
        Ok(vec![pulled.into()])
    }
}

/// The pool, if libtorch computes its windows directly; `None` for other windows, which the replica
/// handles.
pub fn window(pool: &Pool, h: i64, w: i64) -> Option<Operator> {
    let Pool::Window { kind, kernel, strides, dilations, padding, ceil } = pool else {
        return None;
    };
    let (stride, dilation) = (or_ones(strides, 2).ok()?, or_ones(dilations, 2).ok()?);
    let kernel = or_ones(kernel, 2).ok()?;
    let pads = resolve(padding, &[h, w], &kernel, &stride, &dilation).ok()?;
    let symmetric =
        pads.iter().zip(&kernel).all(|(&(before, after), &k)| before == after && 2 * before <= k);
    let plain = dilation == [1, 1];
    if !symmetric || *ceil {
        return None;
    }
    let pad = pads.iter().map(|p| p.0).collect();
    match kind {
        PoolKind::Max => Some(Operator::MaxPool { kernel, stride, pad, dilation }),
        PoolKind::Average { count_include_pad } if plain => Some(Operator::AveragePool {
            kernel,
            stride,
            pad,
            count_include_pad: *count_include_pad,
        }),
        PoolKind::Average { .. } => None,
    }
}
