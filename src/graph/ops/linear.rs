//! Matrix products.

use super::super::attrs::NodeReader;
use super::super::error::GraphError;
use super::{Op, OpSpec};

#[derive(Debug, Clone, PartialEq)]
pub enum Linear {
    /// alpha · A·B + beta · C (input 2, optional), A and B `[M, K]`, `[K, N]` after the
    /// transpositions. <https://onnx.ai/onnx/operators/onnx__Gemm.html>
    Gemm {
        alpha: f64,
        beta: f64,
        transpose_a: bool,
        transpose_b: bool,
    },
    /// Matrix product as NumPy's `matmul`.
    MatMul,
    Einsum {
        equation: String,
    },
}

pub const OPS: &[OpSpec] = &[
    OpSpec::new("Gemm", 6, true, read_gemm),
    OpSpec::new("MatMul", 1, true, |r| {
        r.expect_inputs(2, 2)?;
        Ok(Op::Linear(Linear::MatMul))
    }),
    OpSpec::new("Einsum", 12, true, |r| {
        r.expect_inputs(r.input_count().max(1), usize::MAX)?;
        Ok(Op::Linear(Linear::Einsum { equation: r.string_or("equation", "")? }))
    }),
];

fn read_gemm(r: &mut NodeReader) -> Result<Op, GraphError> {
    r.expect_inputs(2, 3)?;
    if r.opset < 7 {
        r.ignore("broadcast");
    }
    Ok(Op::Linear(Linear::Gemm {
        alpha: r.float_or("alpha", 1.0)?.into(),
        beta: r.float_or("beta", 1.0)?.into(),
        transpose_a: r.flag_or("transA", false)?,
        transpose_b: r.flag_or("transB", false)?,
    }))
}
