//! Activations.

use tch::{Kind, Tensor};

use super::super::error::OpError;
use super::{Args, axis_of};
use scdd_graph::ops::Activation;

pub fn run(op: Activation, args: &Args) -> Result<Vec<Tensor>, OpError> {
    let x = args.get(0)?;
    let y = match op {
        Activation::Relu => x.f_relu()?,
        Activation::LeakyRelu { alpha } => {
            x.f_maximum(&x.f_zeros_like()?)?.f_add(&(x.f_minimum(&x.f_zeros_like()?)? * alpha))?
        }
        Activation::PRelu { per_channel } => prelu(x, args.get(1)?, per_channel)?,
        Activation::Elu { alpha } => elu(x, alpha, 1.0)?,
        Activation::Selu { alpha, gamma } => elu(x, alpha, 1.0)?.f_mul_scalar(gamma)?,
        Activation::Celu { alpha } => elu(x, alpha, alpha)?,
        Activation::Gelu { tanh } => x.f_gelu(if tanh { "tanh" } else { "none" })?,
        Activation::Sigmoid => x.f_sigmoid()?,
        Activation::HardSigmoid { alpha, beta } => {
            x.f_mul_scalar(alpha)?.f_add_scalar(beta)?.f_clamp(0.0, 1.0)?
        }
        Activation::HardSwish => x.f_hardswish()?,
        Activation::Mish => x.f_mish()?,
        Activation::Softplus => x.f_logaddexp(&x.f_zeros_like()?)?,
        Activation::Softsign => x.f_div(&x.f_abs()?.f_add_scalar(1.0)?)?,
        Activation::ThresholdedRelu { alpha } => x.f_mul(&x.f_gt(alpha)?.f_to_kind(x.kind())?)?,
        Activation::Shrink { lambda, bias } => {
            let beyond = x.f_abs()?.f_gt(lambda)?.f_to_kind(x.kind())?;
            x.f_sub(&x.f_sign()?.f_mul_scalar(bias)?)?.f_mul(&beyond)?.f_to_kind(x.kind())?
        }
        Activation::Swish { alpha } => x.f_mul(&x.f_mul_scalar(alpha)?.f_sigmoid()?)?,
        Activation::Clip => clip(x, args.opt(1), args.opt(2))?,
        Activation::Softmax { axis } => x.f_softmax(axis_of(axis, x.dim())?, None::<Kind>)?,
        Activation::LogSoftmax { axis } => {
            x.f_log_softmax(axis_of(axis, x.dim())?, None::<Kind>)?
        }
        Activation::FlatSoftmax { axis, log } => flat_softmax(x, axis, log)?,
        Activation::Dropout => return dropout(x, args),
    };
    Ok(vec![y])
}

fn prelu(x: &Tensor, slope: &Tensor, per_channel: bool) -> Result<Tensor, OpError> {
    let zero = x.f_zeros_like()?;
    let slope = if per_channel {
        let mut shape = vec![1; x.dim()];
        *shape.get_mut(1).ok_or_else(|| OpError::Other("the input has no channels".into()))? = -1;
        slope.f_reshape(shape)?
    } else {
        slope.shallow_clone()
    };
    Ok(x.f_maximum(&zero)?.f_add(&x.f_minimum(&zero)?.f_mul(&slope)?)?)
}

/// x where x is positive, else alpha · (exp(x / scale) − 1).
fn elu(x: &Tensor, alpha: f64, scale: f64) -> Result<Tensor, OpError> {
    let zero = x.f_zeros_like()?;
    let negative = x.f_minimum(&zero)?.f_div_scalar(scale)?.f_expm1()?.f_mul_scalar(alpha)?;
    Ok(x.f_maximum(&zero)?.f_add(&negative)?)
}

/// The bounds are one-element tensors. If min > max, the result is max, as ONNX specifies.
fn clip(x: &Tensor, min: Option<&Tensor>, max: Option<&Tensor>) -> Result<Tensor, OpError> {
    let scalar = |t: &Tensor| t.f_reshape([] as [i64; 0])?.f_to_kind(x.kind());
    let mut y = x.shallow_clone();
    if let Some(min) = min {
        y = y.f_clamp_min_tensor(&scalar(min)?)?;
    }
    if let Some(max) = max {
        y = y.f_clamp_max_tensor(&scalar(max)?)?;
    }
    Ok(y)
}

fn flat_softmax(x: &Tensor, axis: i64, log: bool) -> Result<Tensor, OpError> {
    let axis = if axis == x.dim() as i64 { axis } else { axis_of(axis, x.dim())? };
    let rows: i64 = x.size()[..axis as usize].iter().product();
    let flat = x.f_reshape([rows, -1])?;
    let y =
        if log { flat.f_log_softmax(1, None::<Kind>)? } else { flat.f_softmax(1, None::<Kind>)? };
    Ok(y.f_reshape(x.size())?)
}

fn dropout(x: &Tensor, args: &Args) -> Result<Vec<Tensor>, OpError> {
    if let Some(training) = args.opt(2)
        && training.f_int64_value(&[])? != 0
    {
        return Err(OpError::Other(
            "training mode is on; export the network in evaluation mode".into(),
        ));
    }
    let mut outputs = vec![x.shallow_clone()];
    if args.outputs() > 1 {
        outputs.push(x.f_ones_like()?.f_to_kind(Kind::Bool)?);
    }
    Ok(outputs)
}
