//! Elementwise arithmetic, comparison and logic.

use tch::{Kind, Tensor};

use super::super::error::OpError;
use super::{Args, bounded};
use scdd_graph::ops::{Binary, Unary};

pub fn run_unary(op: Unary, args: &Args) -> Result<Tensor, OpError> {
    let x = args.get(0)?;
    Ok(match op {
        Unary::Abs => x.f_abs()?,
        Unary::Neg => x.f_neg()?,
        Unary::Exp => x.f_exp()?,
        Unary::Log => x.f_log()?,
        Unary::Sqrt => x.f_sqrt()?,
        Unary::Reciprocal => x.f_reciprocal()?,
        Unary::Erf => x.f_erf()?,
        Unary::Tanh => x.f_tanh()?,
        Unary::Sin => x.f_sin()?,
        Unary::Cos => x.f_cos()?,
        Unary::Tan => x.f_tan()?,
        Unary::Asin => x.f_asin()?,
        Unary::Acos => x.f_acos()?,
        Unary::Atan => x.f_atan()?,
        Unary::Sinh => x.f_sinh()?,
        Unary::Cosh => x.f_cosh()?,
        Unary::Asinh => x.f_asinh()?,
        Unary::Acosh => x.f_acosh()?,
        Unary::Atanh => x.f_atanh()?,
        Unary::Sign => x.f_sign()?,
        Unary::Floor => x.f_floor()?,
        Unary::Ceil => x.f_ceil()?,
        Unary::Round => x.f_round()?,
        Unary::Not => x.f_logical_not()?,
        Unary::IsNaN => x.f_isnan()?,
        Unary::IsInf { negative: true, positive: true } => x.f_isinf()?,
        Unary::IsInf { negative: true, positive: false } => x.f_isneginf()?,
        Unary::IsInf { negative: false, positive: true } => x.f_isposinf()?,
        Unary::IsInf { negative: false, positive: false } => {
            x.f_zeros_like()?.f_to_kind(Kind::Bool)?
        }
        Unary::Identity => x.shallow_clone(),
    })
}

pub fn run_binary(op: Binary, args: &Args) -> Result<Tensor, OpError> {
    bounded(&broadcast(&args.all()?))?;
    match op {
        Binary::Min => fold(args, |a, b| a.f_minimum(b)),
        Binary::Max => fold(args, |a, b| a.f_maximum(b)),
        Binary::Sum => fold(args, |a, b| a.f_add(b)),
        Binary::Mean => {
            let count = args.all()?.len() as f64;
            Ok(fold(args, |a, b| a.f_add(b))?.f_div_scalar(count)?)
        }
        Binary::Where => Ok(args.get(1)?.f_where_self(args.get(0)?, args.get(2)?)?),
        _ => two(op, args.get(0)?, args.get(1)?),
    }
}

/// The shape that all inputs broadcast to, if they are compatible.
fn broadcast(inputs: &[&Tensor]) -> Vec<i64> {
    let sizes: Vec<Vec<i64>> = inputs.iter().map(|t| t.size()).collect();
    let rank = sizes.iter().map(Vec::len).max().unwrap_or(0);
    let dim = |size: &Vec<i64>, i: usize| (i + size.len()).checked_sub(rank).map_or(1, |j| size[j]);
    (0..rank).map(|i| sizes.iter().map(|size| dim(size, i)).max().unwrap_or(1)).collect()
}

fn fold(
    args: &Args,
    f: impl Fn(&Tensor, &Tensor) -> Result<Tensor, tch::TchError>,
) -> Result<Tensor, OpError> {
    let all = args.all()?;
    let first = all.first().ok_or_else(|| OpError::Other("no inputs".into()))?.shallow_clone();
    Ok(all[1..].iter().try_fold(first, |sum, t| f(&sum, t))?)
}

fn two(op: Binary, a: &Tensor, b: &Tensor) -> Result<Tensor, OpError> {
    Ok(match op {
        Binary::Add => a.f_add(b)?,
        Binary::Sub => a.f_sub(b)?,
        Binary::Mul => a.f_mul(b)?,
        Binary::Div if a.is_floating_point() => a.f_div(b)?,
        Binary::Div => a.f_div_tensor_mode(b, "trunc")?,
        Binary::Pow => a.f_pow(b)?.f_to_kind(a.kind())?,
        Binary::Mod { fmod: true } => a.f_fmod_tensor(b)?,
        Binary::Mod { fmod: false } => a.f_remainder_tensor(b)?,
        Binary::And => a.f_logical_and(b)?,
        Binary::Or => a.f_logical_or(b)?,
        Binary::Xor => a.f_logical_xor(b)?,
        Binary::Equal => a.f_eq_tensor(b)?,
        Binary::Less => a.f_lt_tensor(b)?,
        Binary::LessOrEqual => a.f_le_tensor(b)?,
        Binary::Greater => a.f_gt_tensor(b)?,
        Binary::GreaterOrEqual => a.f_ge_tensor(b)?,
        Binary::Min | Binary::Max | Binary::Sum | Binary::Mean | Binary::Where => {
            return Err(OpError::Other("not an operator of two inputs".into()));
        }
    }
    .f_to_kind(result_kind(op, a))?)
}

/// The result's type: arithmetic keeps the type that both operands share, comparisons give
/// booleans.
fn result_kind(op: Binary, a: &Tensor) -> Kind {
    match op {
        Binary::Add
        | Binary::Sub
        | Binary::Mul
        | Binary::Div
        | Binary::Pow
        | Binary::Mod { .. } => a.kind(),
        _ => Kind::Bool,
    }
}
