//! Takes the images of a finished set, and its labels if they are read.

use serde_json::json;

use super::images::Described;
use super::{Draft, inputs};
use crate::run::finished::{OpenedSet, SetLabels};
use crate::run::opened::OpenedImages;
use scdd_artifacts::stage::{Stage, StageError};
use scdd_data::FinishedSource;

/// Incremented whenever the code gives other bytes for the same input.
const VERSION: u32 = 1;

pub struct ImportTask<'a> {
    pub images: &'a OpenedImages<FinishedSource>,
    pub labels: Option<&'a SetLabels>,
}

/// The stage of the finished set `set`, called `name` in the experiment.
pub(in crate::run) fn draft<'a>(
    name: &str,
    set: &'a OpenedSet,
) -> Result<(Draft<'a>, Described), StageError> {
    let OpenedSet { images, ipc, labels, .. } = set;
    let summary = &images.summary;
    let mut inputs = inputs([("images", &summary.hash)]);
    inputs.extend(labels.as_ref().map(|labels| ("labels".to_owned(), labels.hash())));
    let of_stage = format!("finished-ipc{ipc}");
    let stage = Stage::new("import", VERSION, &of_stage, &json!({}), inputs, 0)?;
    let title = format!("finished set `{name}`, ipc {ipc}");
    let task = super::Task::Import(ImportTask { images, labels: labels.as_ref() });
    let draft = Draft { stage, title: format!("import {title}"), needs: Vec::new(), task };
    Ok((draft, Described { name: of_stage, title, count: summary.images(), formation: 1 }))
}
