//! Verifies that the replica of a bundle computes the same as its ONNX graph, for the bundle's
//! exact state on disk.

use serde_json::json;

use super::{Draft, inputs};
use scdd_artifacts::bundle::Bundle;
use scdd_artifacts::stage::{Stage, StageError};

/// Incremented whenever the code gives other bytes for the same input.
const VERSION: u32 = 1;

pub struct VerifyTask<'a> {
    pub bundle: &'a Bundle,
}

pub(in crate::run) fn draft(bundle: &Bundle) -> Result<Draft<'_>, StageError> {
    let inputs = inputs([("bundle", &bundle.hash)]);
    let stage = Stage::new("verify", VERSION, bundle.name(), &json!({}), inputs, 0)?.of_passes(1);
    let title = format!("verify `{}`", bundle.name());
    Ok(Draft { stage, title, needs: Vec::new(), task: super::Task::Verify(VerifyTask { bundle }) })
}
