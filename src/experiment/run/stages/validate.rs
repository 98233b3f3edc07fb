//! Trains a student on a set of images and tests it.

use std::path::PathBuf;

use super::images::Images;
use super::{Draft, NodeId, StageIdentity, inputs, relabel};
use crate::config::{Decay, Protocol, RelabelConfig, ValidateConfig};
use crate::run::opened::SplitSummary;
use crate::run::real::RealSplit;
use scdd_artifacts::bundle::Bundle;
use scdd_artifacts::stage::{Stage, StageError};

/// Incremented whenever the code gives other bytes for the same input.
const VERSION: u32 = 3;

pub struct ValidateTask<'a> {
    /// The name of the training set.
    pub name: String,
    /// The ImageFolder of the training set.
    pub images: PathBuf,
    /// The views of the images if the student learns their classes.
    pub views: RelabelConfig,
    /// The number of small images per row and column of each image, a mosaic.
    pub formation: u16,
    /// The file of soft labels; `None` if the student learns only the images' classes.
    pub labels: Option<(LabelKind, PathBuf)>,
    pub student: &'a Bundle,
    pub test: &'a RealSplit,
    pub config: ValidateConfig,
    pub seed: u64,
}

/// What soft labels belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelKind {
    /// Views, with which they lie in a label store.
    OfViews,
    /// Images, whose views are drawn as with hard labels. They lie in an array.
    OfImages,
}

/// Soft labels on which a student trains.
#[derive(Debug, Clone)]
pub(in crate::run) struct Labelling {
    pub node: NodeId,
    pub key: String,
    /// The label store, or the array.
    pub file: PathBuf,
    pub kind: LabelKind,
    /// The name of the teachers.
    pub teacher: String,
    /// What the labels are called if none of the experiment's teachers made them.
    pub stranger: Option<String>,
}

/// The stage of training `student` on soft `labels`, or on the images' own classes without them;
/// `verified` is the student's verification.
pub(in crate::run) fn draft<'a>(
    (images, labels): (&Images, Option<&Labelling>),
    (student, verified): (&'a Bundle, NodeId),
    test: &'a RealSplit,
    protocol: &Protocol,
    seed: u64,
) -> Result<Draft<'a>, StageError> {
    let hash = &test.summary.hash;
    let mut inputs = inputs([("images", &images.key), ("student", &student.hash), ("test", hash)]);
    inputs.extend(labels.map(|labels| ("labels".to_owned(), labels.key.clone())));
    let kind = labels.map_or("hard".to_owned(), |labels| format!("by-{}", labels.teacher));
    let (config, identity) = match labels {
        // The labels' key covers their views.
        Some(Labelling { kind: LabelKind::OfViews, .. }) => {
            (protocol.validate.clone(), training(&protocol.validate))
        }
        _ => {
            let (config, views) = (protocol.validate.hard(), relabel::views(&protocol.relabel));
            let identity = training(&config).with("views", &views.json());
            (config, identity)
        }
    };
    let name = format!("{}-{kind}-{}", images.name, student.name());
    let epochs = u64::from(protocol.relabel.epochs);
    let stage = Stage::new("validate", VERSION, &name, &identity.json(), inputs, seed)?
        .of_passes(3 * images.count * epochs + tests(&config, epochs, &test.summary));
    let kind =
        labels.map_or("hard labels".to_owned(), |labels| format!("labels by `{}`", labels.teacher));
    let title = format!("train student `{}` on {}, {kind}", student.name(), images.title);
    let mut needs = vec![verified, images.node];
    needs.extend(labels.map(|labels| labels.node));
    let task = ValidateTask {
        name: format!("{}{}", images.name, if labels.is_none() { ", hard labels" } else { "" }),
        images: images.folder.clone(),
        views: protocol.relabel.clone(),
        formation: images.formation,
        labels: labels.map(|labels| (labels.kind, labels.file.clone())),
        student,
        test,
        config,
        seed,
    };
    Ok(Draft { stage, title, needs, task: super::Task::Validate(Box::new(task)) })
}

/// The settings that a training and its tests depend on.
pub(super) fn training(config: &ValidateConfig) -> StageIdentity {
    let ValidateConfig {
        loss,
        optimizer,
        decay,
        schedule,
        warmup,
        micro_batch,
        hard_epochs,
        ema,
        evaluate_every,
    } = config;
    StageIdentity::default()
        .with("loss", loss)
        .with("optimizer", optimizer)
        .with("schedule", schedule)
        .with("evaluate_every", evaluate_every)
        .unless(Decay::All, "decay", decay)
        .unless(None, "warmup", warmup)
        .unless(None, "micro_batch", micro_batch)
        .unless(None, "hard_epochs", hard_epochs)
        .unless(0.0, "ema", ema)
}

/// The number of test images through the student in all its tests.
pub(super) fn tests(config: &ValidateConfig, epochs: u64, test: &SplitSummary) -> u64 {
    epochs.div_ceil(config.evaluate_every.into()) * test.images()
}
