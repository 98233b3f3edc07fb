//! Operators that make tensors from shapes and numbers. Their results are shapes and stay on the
//! CPU.

use tch::{Device, Kind, Tensor};

use super::super::error::OpError;
use super::super::tensor_of;
use super::{Args, MOST_ELEMENTS, bounded};
use scdd_graph::ops::ShapeOp;

pub fn run(op: &ShapeOp, args: &Args) -> Result<Tensor, OpError> {
    match op {
        ShapeOp::Shape { start, end } => {
            let size = args.get(0)?.size();
            let rank = size.len() as i64;
            let wrap = |v: i64| if v < 0 { v.saturating_add(rank) } else { v }.clamp(0, rank);
            let (start, end) = (wrap(*start), wrap(end.unwrap_or(rank)));
            Ok(Tensor::from_slice(&size[start as usize..end.max(start) as usize]))
        }
        ShapeOp::Size => Ok(Tensor::from(args.get(0)?.numel() as i64)),
        ShapeOp::ConstantOfShape { value } => {
            let shape = args.i64s(0)?;
            bounded(&shape)?;
            Ok(tensor_of(value)?
                .f_reshape([] as [i64; 0])?
                .f_expand(shape, false)?
                .f_contiguous()?)
        }
        ShapeOp::Range => range(args),
    }
}

fn range(args: &Args) -> Result<Tensor, OpError> {
    let kind = args.get(0)?.kind();
    let number = |i: usize| -> Result<f64, OpError> {
        Ok(f64::try_from(args.get(i)?.f_reshape([])?.f_to_kind(Kind::Double)?)?)
    };
    let (start, limit, delta) = (number(0)?, number(1)?, number(2)?);
    let count = ((limit - start) / delta).ceil().max(0.0);
    if delta == 0.0 || !count.is_finite() || count > MOST_ELEMENTS as f64 {
        return Err(OpError::Other(format!("range from {start} to {limit} in steps of {delta}")));
    }
    let steps = Tensor::f_arange(count as i64, (Kind::Double, Device::Cpu))?;
    Ok(steps.f_mul_scalar(delta)?.f_add_scalar(start)?.f_to_kind(kind)?)
}
