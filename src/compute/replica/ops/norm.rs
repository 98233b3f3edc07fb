//! Normalisation layers.

use tch::{Kind, Tensor};

use super::super::Mode;
use super::super::error::OpError;
use super::{Args, axis_of};
use scdd_graph::ops::Norm;

pub fn run(op: Norm, args: &Args) -> Result<Vec<Tensor>, OpError> {
    let x = args.get(0)?;
    let y = match op {
        Norm::Batch { epsilon } => batch_norm(args, epsilon, Mode::Eval)?,
        Norm::Instance { epsilon } => {
            x.f_instance_norm(args.opt(1), args.opt(2), None, None, true, 0.0, epsilon, false)?
        }
        Norm::Layer { axis, epsilon } => {
            let axis = axis_of(axis, x.dim())? as usize;
            let shape = x.size()[axis..].to_vec();
            let fit = |t: Option<&Tensor>| t.map(|t| t.f_broadcast_to(&shape[..])).transpose();
            let (scale, bias) = (fit(args.opt(1))?, fit(args.opt(2))?);
            let y = x.f_layer_norm(&shape[..], scale, bias, epsilon, false)?;
            return if args.outputs() > 1 {
                with_statistics(y, x, axis, epsilon)
            } else {
                Ok(vec![y])
            };
        }
        Norm::Group { groups, epsilon, per_group } => group_norm(args, groups, epsilon, per_group)?,
        Norm::Rms { axis, epsilon } => {
            let axis = axis_of(axis, x.dim())?;
            let axes: Vec<i64> = (axis..x.dim() as i64).collect();
            let square = x.f_square()?.f_mean_dim(&axes[..], true, None::<Kind>)?;
            x.f_mul(&square.f_add_scalar(epsilon)?.f_rsqrt()?)?.f_mul(args.get(1)?)?
        }
        Norm::Lrn { size, alpha, beta, bias } => lrn(x, size, alpha, beta, bias)?,
        Norm::Lp { axis, p } => {
            let axis = axis_of(axis, x.dim())?;
            let norm = x.f_norm_scalaropt_dim(p, [axis], true)?;
            // A zero vector stays zero.
            let safe = norm.f_where_self(&norm.f_ne(0.0)?, &norm.f_ones_like()?)?;
            x.f_div(&safe)?
        }
    };
    Ok(vec![y])
}

/// `y`, and the mean and inverse standard deviation of `x` over the axes from `axis` on.
fn with_statistics(
    y: Tensor,
    x: &Tensor,
    axis: usize,
    epsilon: f64,
) -> Result<Vec<Tensor>, OpError> {
    let axes: Vec<i64> = (axis as i64..x.dim() as i64).collect();
    let (var, mean) = x.f_var_mean_dim(&axes[..], false, true)?;
    Ok(vec![y, mean, var.f_add_scalar(epsilon)?.f_rsqrt()?])
}

/// PyTorch's default momentum of running statistics: the weight of the batch's.
pub const BN_MOMENTUM: f64 = 0.1;

/// BatchNorm of `[N, C, …]`, by the running or the batch's statistics.
pub fn batch_norm(args: &Args, epsilon: f64, mode: Mode) -> Result<Tensor, OpError> {
    let x = args.get(0)?;
    let (scale, bias, mean, var) = (args.get(1)?, args.get(2)?, args.get(3)?, args.get(4)?);
    let running = (mode != Mode::Batch).then_some((mean, var)).unzip();
    let training = mode != Mode::Eval;
    let normalise = |x: &Tensor| {
        x.f_batch_norm(
            Some(scale),
            Some(bias),
            running.0,
            running.1,
            training,
            BN_MOMENTUM,
            epsilon,
            true,
        )
    };
    if let &[1, _, _, _] = &x.size()[..] {
        // A fault of libtorch 2.13 on the CPU: if the gradient of a batch of one image was
        // transposed into tokens, the backward pass of an image takes its innermost channels for
        // rows, and returns a wrong gradient without an error. With a row of pixels instead of an
        // image it is right.
        return Ok(normalise(&x.f_flatten(2, 3)?)?.f_view_as(x)?);
    }
    Ok(normalise(x)?)
}

fn group_norm(args: &Args, groups: i64, epsilon: f64, per_group: bool) -> Result<Tensor, OpError> {
    let x = args.get(0)?;
    let (scale, bias) = (args.get(1)?, args.get(2)?);
    let channels =
        *x.size().get(1).ok_or_else(|| OpError::Other("the input has no channels".into()))?;
    if channels % groups != 0 {
        return Err(OpError::Other(format!(
            "{channels} channels do not divide into {groups} groups"
        )));
    }
    let spread = |t: &Tensor| {
        if per_group && groups != channels {
            t.f_repeat_interleave_self_int(channels / groups, 0, None)
        } else {
            t.f_contiguous()
        }
    };
    Ok(x.f_group_norm(groups, Some(spread(scale)?), Some(spread(bias)?), epsilon, false)?)
}

/// x / (bias + alpha/size · Σ x² over the neighbouring channels)^beta.
fn lrn(x: &Tensor, size: i64, alpha: f64, beta: f64, bias: f64) -> Result<Tensor, OpError> {
    let shape = x.size();
    let &[n, c, ..] = &shape[..] else {
        return Err(OpError::Other("the input needs two axes or more".into()));
    };
    let squares = x.f_square()?.f_reshape([n, 1, c, -1])?;
    let padded = squares.f_pad([0, 0, (size - 1) / 2, size / 2], "constant", 0.0)?;
    let mean = padded.f_avg_pool2d([size, 1], [1, 1], [0, 0], false, true, None)?;
    let divisor = mean.f_mul_scalar(alpha)?.f_add_scalar(bias)?.f_pow_tensor_scalar(beta)?;
    Ok(x.f_div(&divisor.f_reshape(shape)?)?)
}
