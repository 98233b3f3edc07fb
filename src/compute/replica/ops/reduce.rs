//! Reductions.

use tch::{Kind, Tensor};

use super::super::error::OpError;
use super::{Args, axis_of};
use scdd_graph::ops::{Reduce, ReduceKind};

pub fn run(op: Reduce, args: &Args) -> Result<Tensor, OpError> {
    let x = args.get(0)?;
    match op {
        Reduce::Axes { kind, keep_dims, noop_if_empty } => {
            let axes = args.opt_i64s(1)?.unwrap_or_default();
            let axes: Vec<i64> = match axes.is_empty() {
                true if noop_if_empty => Vec::new(),
                true => (0..x.dim() as i64).collect(),
                false => axes.into_iter().map(|a| axis_of(a, x.dim())).collect::<Result<_, _>>()?,
            };
            reduce(kind, x, &axes, keep_dims)
        }
        Reduce::Arg { max, axis, keep_dims, last } => {
            let axis = axis_of(axis, x.dim())?;
            let y = if last { x.f_flip([axis])? } else { x.shallow_clone() };
            let index =
                if max { y.f_argmax(axis, keep_dims)? } else { y.f_argmin(axis, keep_dims)? };
            Ok(if last { index.f_neg()?.f_add_scalar(x.size()[axis as usize] - 1)? } else { index })
        }
        Reduce::CumSum { exclusive, reverse } => {
            let axis = args.i64s(1)?.first().copied().unwrap_or(0);
            let axis = axis_of(axis, x.dim())?;
            let turn = |t: &Tensor| if reverse { t.f_flip([axis]) } else { Ok(t.shallow_clone()) };
            let y = turn(x)?;
            let mut sums = y.f_cumsum(axis, x.kind())?;
            if exclusive {
                sums = sums.f_sub(&y)?;
            }
            Ok(turn(&sums)?)
        }
    }
}

fn reduce(kind: ReduceKind, x: &Tensor, axes: &[i64], keep: bool) -> Result<Tensor, OpError> {
    let sum = |x: &Tensor| -> Result<Tensor, OpError> {
        if axes.is_empty() {
            return Ok(x.shallow_clone());
        }
        Ok(x.f_sum_dim_intlist(axes, keep, x.kind())?)
    };
    Ok(match kind {
        ReduceKind::Sum => sum(x)?,
        ReduceKind::Mean => {
            let count: i64 = axes.iter().map(|&a| x.size()[a as usize]).product();
            let total = sum(x)?;
            if x.is_floating_point() {
                total.f_div_scalar(count)?
            } else {
                total.f_div_scalar_mode(count, "trunc")?
            }
        }
        ReduceKind::Max | ReduceKind::Min if axes.is_empty() => x.shallow_clone(),
        // Over no elements, the maximum (minimum) is the type's least (greatest) value.
        ReduceKind::Max | ReduceKind::Min if axes.iter().any(|&a| x.size()[a as usize] == 0) => {
            let shape = x.f_to_kind(Kind::Double)?.f_sum_dim_intlist(axes, keep, Kind::Double)?;
            let bound = if kind == ReduceKind::Max { f64::NEG_INFINITY } else { f64::INFINITY };
            match x.kind() {
                Kind::Bool => {
                    shape.f_full_like(f64::from(u8::from(bound > 0.0)))?.f_to_kind(Kind::Bool)?
                }
                other => shape.f_full_like(bound)?.f_to_kind(other)?,
            }
        }
        ReduceKind::Max => extreme(x, |t| t.f_amax(axes, keep))?,
        ReduceKind::Min => extreme(x, |t| t.f_amin(axes, keep))?,
        ReduceKind::Prod => prod(x, axes, keep)?,
        ReduceKind::L1 => sum(&x.f_abs()?)?,
        ReduceKind::L2 => {
            sum(&x.f_square()?)?.f_to_kind(float_kind(x))?.f_sqrt()?.f_to_kind(x.kind())?
        }
        ReduceKind::LogSum => sum(x)?.f_log()?,
        ReduceKind::LogSumExp if axes.is_empty() => x.shallow_clone(),
        ReduceKind::LogSumExp => x.f_logsumexp(axes, keep)?,
        ReduceKind::SumSquare => sum(&x.f_square()?)?,
    })
}

fn float_kind(x: &Tensor) -> Kind {
    if x.is_floating_point() { x.kind() } else { Kind::Double }
}

/// The maximum (minimum) over several axes; libtorch has none for booleans.
fn extreme(
    x: &Tensor,
    f: impl Fn(&Tensor) -> Result<Tensor, tch::TchError>,
) -> Result<Tensor, OpError> {
    if x.kind() == Kind::Bool {
        return Ok(f(&x.f_to_kind(Kind::Uint8)?)?.f_to_kind(Kind::Bool)?);
    }
    Ok(f(x)?)
}

fn prod(x: &Tensor, axes: &[i64], keep: bool) -> Result<Tensor, OpError> {
    let mut descending = axes.to_vec();
    descending.sort_unstable_by(|a, b| b.cmp(a));
    let first = x.shallow_clone();
    Ok(descending.into_iter().try_fold(first, |y, axis| y.f_prod_dim_int(axis, keep, x.kind()))?)
}
