//! Activations: one input, one output of the same shape, with settings.

use super::super::attrs::NodeReader;
use super::super::constant::Constant;
use super::super::error::GraphError;
use super::{Op, OpSpec};

/// An activation function of input 0. <https://onnx.ai/onnx/operators/>
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    Relu,
    LeakyRelu {
        alpha: f64,
    },
    /// Slope in input 1, broadcast to input 0; before opset 7 one per channel.
    PRelu {
        per_channel: bool,
    },
    Elu {
        alpha: f64,
    },
    Selu {
        alpha: f64,
        gamma: f64,
    },
    Celu {
        alpha: f64,
    },
    Gelu {
        tanh: bool,
    },
    Sigmoid,
    HardSigmoid {
        alpha: f64,
        beta: f64,
    },
    HardSwish,
    Mish,
    Softplus,
    Softsign,
    ThresholdedRelu {
        alpha: f64,
    },
    /// 0 within ±`lambda`; outside, the value is shifted towards 0 by `bias`.
    Shrink {
        lambda: f64,
        bias: f64,
    },
    /// x · sigmoid(alpha · x).
    Swish {
        alpha: f64,
    },
    /// Bounds in the optional inputs 1 and 2.
    Clip,
    Softmax {
        axis: i64,
    },
    LogSoftmax {
        axis: i64,
    },
    /// The definition before opset 13: softmax over all dims from `axis` on, flattened into one.
    FlatSoftmax {
        axis: i64,
        log: bool,
    },
    /// Inference mode: passes input 0 through; a second output is an all-true mask.
    Dropout,
}

pub const OPS: &[OpSpec] = &[
    OpSpec::new("Relu", 1, true, |r| unary(r, Activation::Relu)),
    OpSpec::new("LeakyRelu", 1, true, |r| {
        let alpha = r.float_or("alpha", 0.01)?.into();
        unary(r, Activation::LeakyRelu { alpha })
    }),
    OpSpec::new("PRelu", 6, true, |r| {
        r.expect_inputs(2, 2)?;
        Ok(Op::Activation(Activation::PRelu { per_channel: r.opset < 7 }))
    }),
    OpSpec::new("Elu", 1, true, |r| {
        let alpha = r.float_or("alpha", 1.0)?.into();
        unary(r, Activation::Elu { alpha })
    }),
    OpSpec::new("Selu", 1, true, |r| {
        let alpha = r.float_or("alpha", 1.673_263_2)?.into();
        let gamma = r.float_or("gamma", 1.050_701)?.into();
        unary(r, Activation::Selu { alpha, gamma })
    }),
    OpSpec::new("Celu", 12, true, |r| {
        let alpha = r.float_or("alpha", 1.0)?.into();
        unary(r, Activation::Celu { alpha })
    }),
    OpSpec::new("Gelu", 20, true, read_gelu),
    OpSpec::new("Sigmoid", 1, true, |r| unary(r, Activation::Sigmoid)),
    OpSpec::new("HardSigmoid", 1, true, |r| {
        let alpha = r.float_or("alpha", 0.2)?.into();
        let beta = r.float_or("beta", 0.5)?.into();
        unary(r, Activation::HardSigmoid { alpha, beta })
    }),
    OpSpec::new("HardSwish", 14, true, |r| unary(r, Activation::HardSwish)),
    OpSpec::new("Mish", 18, true, |r| unary(r, Activation::Mish)),
    OpSpec::new("Softplus", 1, true, |r| unary(r, Activation::Softplus)),
    OpSpec::new("Softsign", 1, true, |r| unary(r, Activation::Softsign)),
    OpSpec::new("ThresholdedRelu", 10, true, |r| {
        let alpha = r.float_or("alpha", 1.0)?.into();
        unary(r, Activation::ThresholdedRelu { alpha })
    }),
    OpSpec::new("Shrink", 9, true, |r| {
        let lambda = r.float_or("lambd", 0.5)?.into();
        let bias = r.float_or("bias", 0.0)?.into();
        unary(r, Activation::Shrink { lambda, bias })
    }),
    OpSpec::new("Swish", 24, true, |r| {
        let alpha = r.float_or("alpha", 1.0)?.into();
        unary(r, Activation::Swish { alpha })
    }),
    OpSpec::new("Clip", 6, true, read_clip),
    OpSpec::new("Softmax", 1, true, |r| read_softmax(r, false)),
    OpSpec::new("LogSoftmax", 1, true, |r| read_softmax(r, true)),
    OpSpec::new("Dropout", 7, true, read_dropout),
];

fn unary(r: &NodeReader, op: Activation) -> Result<Op, GraphError> {
    r.expect_inputs(1, 1)?;
    Ok(Op::Activation(op))
}

fn read_gelu(r: &mut NodeReader) -> Result<Op, GraphError> {
    let tanh = match r.string_or("approximate", "none")?.as_str() {
        "none" => false,
        "tanh" => true,
        other => return Err(r.error(format!("unknown approximation `{other}`"))),
    };
    unary(r, Activation::Gelu { tanh })
}

/// The bounds are attributes at opset 6 and inputs from opset 11 on.
fn read_clip(r: &mut NodeReader) -> Result<Op, GraphError> {
    r.expect_inputs(1, 3)?;
    if r.opset < 11 {
        for (index, name) in [(1, "min"), (2, "max")] {
            if let Some(bound) = r.float(name)? {
                r.inject(index, Constant::from_f32s(&[], &[bound]));
            }
        }
    }
    Ok(Op::Activation(Activation::Clip))
}

fn read_softmax(r: &mut NodeReader, log: bool) -> Result<Op, GraphError> {
    if r.opset < 13 {
        let axis = r.int_or("axis", 1)?;
        return unary(r, Activation::FlatSoftmax { axis, log });
    }
    let axis = r.int_or("axis", -1)?;
    unary(r, if log { Activation::LogSoftmax { axis } } else { Activation::Softmax { axis } })
}

/// The executor refuses training mode: the input's value is known only there.
fn read_dropout(r: &mut NodeReader) -> Result<Op, GraphError> {
    r.expect_inputs(1, 3)?;
    r.ignore("ratio");
    r.ignore("seed");
    Ok(Op::Activation(Activation::Dropout))
}
