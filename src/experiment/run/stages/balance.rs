//! Measures the value of `r_bn: auto` for one teacher.

use super::recover::terms;
use super::{Draft, NodeId, inputs};
use crate::config::RecoverConfig;
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
    let stage = Stage::new(
        "balance",
        VERSION,
        teacher.name(),
        &terms(config),
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
