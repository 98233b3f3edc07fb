//! Measures the accuracy on a set's images of a network that took no part in their synthesis.

use std::path::PathBuf;

use serde_json::json;

use super::images::Images;
use super::{Draft, NodeId, inputs};
use scdd_artifacts::bundle::Bundle;
use scdd_artifacts::stage::{Stage, StageError};

/// Incremented whenever the code gives other bytes for the same input.
const VERSION: u32 = 1;

pub struct VerifierTask<'a> {
    /// The set's ImageFolder.
    pub images: PathBuf,
    pub verifier: &'a Bundle,
}

/// The verifier's stage; `verified` is its own verification.
pub(in crate::run) fn draft<'a>(
    images: &Images,
    verifier: &'a Bundle,
    verified: NodeId,
    seed: u64,
) -> Result<Draft<'a>, StageError> {
    let name = format!("{}-by-{}", images.name, verifier.name());
    let inputs = inputs([("images", &images.key), ("verifier", &verifier.hash)]);
    let stage =
        Stage::new("verifier", VERSION, &name, &json!({}), inputs, seed)?.of_passes(images.count);
    let title = format!("verify {} by `{}`", images.title, verifier.name());
    let task = super::Task::Verifier(VerifierTask { images: images.folder.clone(), verifier });
    Ok(Draft { stage, title, needs: vec![images.node, verified], task })
}
