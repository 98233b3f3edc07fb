//! Takes the first images of each class of a larger recovered set.

use std::path::PathBuf;

use serde_json::json;

use super::images::{Described, Images};
use super::{Draft, inputs};
use scdd_artifacts::stage::{Stage, StageError};

/// Incremented whenever the code gives other bytes for the same input.
const VERSION: u32 = 1;

pub struct SubsetTask {
    /// The ImageFolder of the whole set.
    pub folder: PathBuf,
    /// Images per class.
    pub ipc: u32,
}

/// The stage of the first `ipc` images of each class of `whole`, which has `of` images per class.
pub(in crate::run) fn draft<'a>(
    whole: &Images,
    of: u32,
    ipc: u32,
) -> Result<(Draft<'a>, Described), StageError> {
    let name = format!("{}-first{ipc}", whole.name);
    let title = format!("{}, the first {ipc} of each class", whole.title);
    let inputs = inputs([("images", &whole.key)]);
    let stage = Stage::new("subset", VERSION, &name, &json!({"ipc": ipc}), inputs, 0)?;
    let task = super::Task::Subset(SubsetTask { folder: whole.folder.clone(), ipc });
    let draft = Draft { stage, title: format!("take {title}"), needs: vec![whole.node], task };
    let count = whole.count / u64::from(of) * u64::from(ipc);
    Ok((draft, Described { name, title, count, formation: whole.formation }))
}
