//! Counts for each class of a finished set the images that a labelling teacher puts into it.
//! Another order of classes shows only there.

use std::path::PathBuf;

use serde_json::json;

use super::images::Images;
use super::{Draft, NodeId, inputs};
use scdd_artifacts::bundle::Bundle;
use scdd_artifacts::stage::{Stage, StageError};

/// Incremented whenever the code gives other bytes for the same input.
const VERSION: u32 = 1;

pub struct RecogniseTask<'a> {
    /// The set's name in the experiment.
    pub name: String,
    /// Whether a class map gives its classes.
    pub is_mapped: bool,
    /// The set's ImageFolder.
    pub images: PathBuf,
    /// A bundle with a classifier.
    pub teacher: &'a Bundle,
    /// The classes of the real data, in label order.
    pub classes: &'a [String],
}

/// The stage for the finished set `images`, called `name`, with a class map if it `is_mapped`;
/// `checks` are the teacher's checks.
pub(in crate::run) fn draft<'a>(
    (name, is_mapped): (&str, bool),
    images: &Images,
    teacher: &'a Bundle,
    classes: &'a [String],
    checks: Vec<NodeId>,
) -> Result<Draft<'a>, StageError> {
    let inputs = inputs([("images", &images.key), ("teacher", &teacher.hash)]);
    let of_stage = format!("{}-by-{}", images.name, teacher.name());
    let stage =
        Stage::new("recognise", VERSION, &of_stage, &json!({}), inputs, 0)?.of_passes(images.count);
    let title = format!("recognise {} by teacher `{}`", images.title, teacher.name());
    let needs = [vec![images.node], checks].concat();
    let (name, images) = (name.to_owned(), images.folder.clone());
    let task = super::Task::Recognise(RecogniseTask { name, is_mapped, images, teacher, classes });
    Ok(Draft { stage, title, needs, task })
}
