//! Computes the teachers' soft labels of a set of images.

use std::path::PathBuf;

use serde_json::Value;

use super::images::Images;
use super::{Draft, NodeId, StageIdentity, inputs};
use crate::config::{RelabelConfig, TeacherBn};
use scdd_artifacts::bundle::Bundle;
use scdd_artifacts::stage::{Stage, StageError};

/// Incremented whenever the code gives other bytes for the same input.
const VERSION: u32 = 3;

pub struct RelabelTask<'a> {
    /// The set's name.
    pub name: String,
    /// The set's ImageFolder.
    pub images: PathBuf,
    /// The number of small images per row and column of each image, a mosaic.
    pub formation: u16,
    /// At least one, each with its weight in the mean.
    pub teachers: Vec<(&'a Bundle, f64)>,
    pub config: &'a RelabelConfig,
    pub seed: u64,
    /// The stage's key.
    pub key: String,
}

/// The labelling stage by `teachers`, at least one, and their common name; `checks` are the
/// teachers' checks.
pub(in crate::run) fn draft<'a>(
    images: &Images,
    teachers: Vec<(&'a Bundle, f64)>,
    checks: Vec<NodeId>,
    config: &'a RelabelConfig,
    seed: u64,
) -> Result<(Draft<'a>, String), StageError> {
    let (first, others) = (teachers[0].0, &teachers[1..]);
    let together = if others.is_empty() { String::new() } else { format!("+{}", others.len()) };
    let teacher = format!("{}{together}", first.name());
    let mut inputs = inputs([("images", &images.key), ("teacher", &first.hash)]);
    inputs.extend(
        (1..)
            .zip(others)
            .map(|(number, (other, _))| (format!("teacher {number}"), other.hash.clone())),
    );
    let weights = teachers.iter().map(|(_, weight)| *weight).collect();
    let name = format!("{}-by-{teacher}", images.name);
    let stage = Stage::new("relabel", VERSION, &name, &identity(config, weights), inputs, seed)?
        .of_passes(images.count * u64::from(config.epochs_to_store()));
    let title = format!("relabel {} by teacher `{teacher}`", images.title);
    let needs = [vec![images.node], checks].concat();
    let (name, formation, key) = (images.name.clone(), images.formation, stage.key());
    let task =
        RelabelTask { name, images: images.folder.clone(), formation, teachers, config, seed, key };
    Ok((Draft { stage, title, needs, task: super::Task::Relabel(task) }, teacher))
}

fn identity(config: &RelabelConfig, weights: Vec<f64>) -> Value {
    let RelabelConfig {
        teacher_bn,
        micro_batch,
        dtype,
        top_k,
        // The hashes of its teachers are inputs; only their weights remain.
        ensemble: _,
        // The device does not change the labels.
        provider: _,
        fallback: _,
        // Part of the views.
        epochs: _,
        batch_size: _,
        crop: _,
        flip: _,
        augment: _,
        mix: _,
        stored_epochs: _,
    } = config;
    views(config)
        .with("dtype", dtype)
        .unless(TeacherBn::Running, "teacher_bn", teacher_bn)
        .unless(None, "micro_batch", micro_batch)
        .unless(vec![1.0], "weights", &weights)
        .unless(None, "top_k", top_k)
        .json()
}

/// The settings that views depend on, independent of the labelling teacher.
pub(super) fn views(config: &RelabelConfig) -> StageIdentity {
    let RelabelConfig {
        epochs,
        batch_size,
        crop,
        flip,
        augment,
        mix,
        stored_epochs,
        teacher_bn: _,
        micro_batch: _,
        ensemble: _,
        dtype: _,
        top_k: _,
        provider: _,
        fallback: _,
    } = config;
    StageIdentity::default()
        .with("epochs", epochs)
        .with("batch_size", batch_size)
        .with("mix", mix)
        .unless(None, "crop", crop)
        .unless(false, "flip", flip)
        .unless(None, "augment", augment)
        .unless(None, "stored_epochs", stored_epochs)
}
