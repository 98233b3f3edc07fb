//! Normalisation layers, in inference mode.

use super::super::attrs::NodeReader;
use super::super::error::GraphError;
use super::{Op, OpSpec};

/// Normalisation of input 0 `[N, C, …]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Norm {
    /// Inputs 1–4, each `[C]`: scale, bias, running mean, running variance.
    /// <https://onnx.ai/onnx/operators/onnx__BatchNormalization.html>
    Batch { epsilon: f64 },
    /// Inputs 1 and 2, each `[C]`: scale, bias. Statistics per image and channel.
    Instance { epsilon: f64 },
    /// Inputs 1 and (optional) 2: scale, bias, both of the shape from `axis` on. Outputs 1 and 2:
    /// mean and inverse standard deviation.
    Layer { axis: i64, epsilon: f64 },
    /// Inputs 1 and 2: scale, bias; per channel, or per group before opset 21.
    Group { groups: i64, epsilon: f64, per_group: bool },
    /// Input 1: scale, of the shape from `axis` on.
    Rms { axis: i64, epsilon: f64 },
    /// Local response normalisation over `size` neighbouring channels.
    Lrn { size: i64, alpha: f64, beta: f64, bias: f64 },
    /// Division by the p-norm along `axis`.
    Lp { axis: i64, p: i64 },
}

pub const OPS: &[OpSpec] = &[
    OpSpec::new("BatchNormalization", 6, true, read_batch),
    OpSpec::new("InstanceNormalization", 6, true, |r| {
        r.expect_inputs(3, 3)?;
        Ok(Op::Norm(Norm::Instance { epsilon: r.float_or("epsilon", 1e-5)?.into() }))
    }),
    OpSpec::new("LayerNormalization", 17, true, read_layer),
    OpSpec::new("GroupNormalization", 18, true, read_group),
    OpSpec::new("RMSNormalization", 23, true, |r| {
        r.expect_inputs(2, 2)?;
        r.ignore("stash_type");
        Ok(Op::Norm(Norm::Rms {
            axis: r.int_or("axis", -1)?,
            epsilon: r.float_or("epsilon", 1e-5)?.into(),
        }))
    }),
    OpSpec::new("LRN", 1, true, read_lrn),
    OpSpec::new("LpNormalization", 1, true, |r| {
        r.expect_inputs(1, 1)?;
        let p = r.int_or("p", 2)?;
        if !(1..=2).contains(&p) {
            return Err(r.error(format!("p is {p}, neither 1 nor 2")));
        }
        Ok(Op::Norm(Norm::Lp { axis: r.int_or("axis", -1)?, p }))
    }),
];

fn read_batch(r: &mut NodeReader) -> Result<Op, GraphError> {
    r.expect_inputs(5, 5)?;
    r.ignore("momentum");
    if r.int_or("training_mode", 0)? != 0 || (r.opset < 7 && r.int_or("is_test", 0)? == 0) {
        return Err(r.error("it is in training mode; export the network in evaluation mode"));
    }
    if r.opset < 9 && r.int_or("spatial", 1)? != 1 {
        return Err(r.error("per-activation statistics (spatial 0) are not supported"));
    }
    Ok(Op::Norm(Norm::Batch { epsilon: r.float_or("epsilon", 1e-5)?.into() }))
}

fn read_layer(r: &mut NodeReader) -> Result<Op, GraphError> {
    r.expect_inputs(2, 3)?;
    r.ignore("stash_type");
    Ok(Op::Norm(Norm::Layer {
        axis: r.int_or("axis", -1)?,
        epsilon: r.float_or("epsilon", 1e-5)?.into(),
    }))
}

fn read_group(r: &mut NodeReader) -> Result<Op, GraphError> {
    r.expect_inputs(3, 3)?;
    r.ignore("stash_type");
    let groups = r.int_or("num_groups", 0)?;
    if groups < 1 {
        return Err(r.error(format!("num_groups is {groups}, less than 1")));
    }
    let epsilon = r.float_or("epsilon", 1e-5)?.into();
    Ok(Op::Norm(Norm::Group { groups, epsilon, per_group: r.opset < 21 }))
}

fn read_lrn(r: &mut NodeReader) -> Result<Op, GraphError> {
    r.expect_inputs(1, 1)?;
    let size = r.int_or("size", 0)?;
    if !(1..=1 << 16).contains(&size) {
        return Err(r.error(format!("size is {size}, outside 1..=65536")));
    }
    Ok(Op::Norm(Norm::Lrn {
        size,
        alpha: r.float_or("alpha", 1e-4)?.into(),
        beta: r.float_or("beta", 0.75)?.into(),
        bias: r.float_or("bias", 1.0)?.into(),
    }))
}
