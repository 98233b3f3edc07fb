//! Counts how many of a set's images a network that had no part in them puts into their classes.

use std::path::PathBuf;

use serde_json::json;

use super::images::Images;
use super::{Draft, inputs};
use crate::run::graph::NodeId;
use scdd_artifacts::bundle::Bundle;
use scdd_artifacts::stage::{Stage, StageError};

/// Raised whenever the code gives other bytes for the same input.
const VERSION: u32 = 1;

pub struct VerifierTask<'a> {
    /// An ImageFolder.
    pub images: PathBuf,
    pub verifier: &'a Bundle,
}

/// The verifier was `verified` before.
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
