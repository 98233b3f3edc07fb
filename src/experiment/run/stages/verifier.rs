//! Measures the accuracy on a set's images of a network that took no part in their synthesis.

use std::path::PathBuf;

use serde_json::json;

use super::images::Images;
use super::{Draft, NodeId, inputs};
use crate::config::RecoverConfig;
use scdd_artifacts::bundle::Bundle;
use scdd_artifacts::files;
use scdd_artifacts::stage::{Stage, StageError};

/// Incremented whenever the code gives other bytes for the same input.
const VERSION: u32 = 1;

pub struct VerifierTask<'a> {
    /// The set's ImageFolder.
    pub images: PathBuf,
    /// Small images per row and column of the mosaic that each image is.
    pub formation: u16,
    /// The images on the way: the number of steps, and the ImageFolder.
    pub snapshots: Vec<(u32, PathBuf)>,
    pub verifier: &'a Bundle,
}

/// The verifier's stage for `images` of the method `recover`; `verified` is its own verification.
pub(in crate::run) fn draft<'a>(
    images: &Images,
    recover: &RecoverConfig,
    (verifier, verified): (&'a Bundle, NodeId),
    seed: u64,
) -> Result<Draft<'a>, StageError> {
    // The first images of a larger set have none of their own.
    let is_whole = images.recovery == images.node;
    let of_stage = images.folder.parent().filter(|_| is_whole);
    let snapshots: Vec<(u32, PathBuf)> = of_stage.map_or_else(Vec::new, |stage| {
        let steps = recover.snapshot_steps();
        steps.map(|step| (step, stage.join(files::snapshot(step)))).collect()
    });
    let small = u64::from(images.formation).pow(2);
    let passes = images.count * small * (1 + snapshots.len() as u64);
    let name = format!("{}-by-{}", images.name, verifier.name());
    let inputs = inputs([("images", &images.key), ("verifier", &verifier.hash)]);
    // Sets that were judged before mosaics could be keep their keys.
    let parameters =
        if images.formation > 1 { json!({"formation": images.formation}) } else { json!({}) };
    let stage = Stage::new("verifier", VERSION, &name, &parameters, inputs, seed)?;
    let stage = stage.of_passes(passes);
    let title = format!("verify {} by `{}`", images.title, verifier.name());
    let task = VerifierTask {
        images: images.folder.clone(),
        formation: images.formation,
        snapshots,
        verifier,
    };
    let task = super::Task::Verifier(task);
    Ok(Draft { stage, title, needs: vec![images.node, verified], task })
}
