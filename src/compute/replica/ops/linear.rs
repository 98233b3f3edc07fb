//! Matrix products.

use tch::Tensor;

use super::super::error::OpError;
use super::Args;
use scdd_graph::ops::Linear;

pub fn run(op: &Linear, args: &Args) -> Result<Tensor, OpError> {
    match op {
        Linear::Gemm { alpha, beta, transpose_a, transpose_b } => {
            let flip = |t: &Tensor, yes: bool| {
                if yes { t.f_transpose(0, 1) } else { Ok(t.shallow_clone()) }
            };
            let scaled =
                |t: Tensor, factor: f64| if factor == 1.0 { Ok(t) } else { t.f_mul_scalar(factor) };
            let (a, b) = (args.get(0)?, args.get(1)?);
            if a.dim() != 2 || b.dim() != 2 {
                return Err(OpError::Other("both matrices need rank 2".into()));
            }
            let (a, b) = (flip(a, *transpose_a)?, flip(b, *transpose_b)?);
            match args.opt(2) {
                Some(c) if *alpha == 1.0 && *beta == 1.0 => Ok(c.f_addmm(&a, &b)?),
                Some(c) => {
                    Ok(scaled(a.f_matmul(&b)?, *alpha)?
                        .f_add(&scaled(c.shallow_clone(), *beta)?)?)
                }
                None => Ok(scaled(a.f_matmul(&b)?, *alpha)?),
            }
        }
        Linear::MatMul => Ok(args.get(0)?.f_matmul(args.get(1)?)?),
        Linear::Einsum { equation } => Ok(Tensor::f_einsum(equation, &args.all()?, None::<i64>)?),
    }
}
