//! Measures the value of `r_bn: auto` for one teacher.

use super::{Draft, StageIdentity, inputs};
use crate::config::RecoverConfig;
use crate::run::graph::NodeId;
use scdd_artifacts::bundle::Bundle;
use scdd_artifacts::stage::{Stage, StageError};

/// Incremented whenever the code gives other bytes for the same input.
const VERSION: u32 = 2;

pub struct BalanceTask<'a> {
    pub teacher: &'a Bundle,
    pub config: RecoverConfig,
}

/// The balance stage of the method called `method`; `verified` is the teacher's verification.
pub(in crate::run) fn draft<'a>(
    teacher: &'a Bundle,
    (method, config): (&str, &RecoverConfig),
    verified: NodeId,
) -> Result<Draft<'a>, StageError> {
    // The terms are compared once, at the noise of one batch, so settings of further steps do not
    // matter.
    let identity = StageIdentity::default()
        .with("batch_size", &config.batch_size)
        .with("noise_std", &config.noise_std())
        .with("first_bn_multiplier", &config.first_bn_multiplier)
        .with("distance", &config.distance)
        .unless(1.0, "r_var", &config.r_var)
        .unless(0.0, "class_share", &config.class_share)
        .unless(0.0, "r_patch", &config.r_patch)
        .json();
    let stage = Stage::new(
        "balance",
        VERSION,
        teacher.name(),
        &identity,
        inputs([("teacher", &teacher.hash)]),
        0,
    )?
    .of_passes(4 * u64::from(config.batch_size));
    let title =
        format!("balance the loss terms of method `{method}` with teacher `{}`", teacher.name());
    Ok(Draft {
        stage,
        title,
        needs: vec![verified],
        task: super::Task::Balance(Box::new(BalanceTask { teacher, config: config.clone() })),
    })
}
