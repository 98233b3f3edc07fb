//! Takes real training images as an image set: a baseline.

use serde_json::json;

use super::images::Described;
use super::{Draft, inputs};
use crate::run::RunError;
use crate::run::matrix::RealChoice;
use crate::run::real::{HashedDataset, require_images};
use scdd_artifacts::stage::Stage;
use scdd_data::Dataset;

/// Incremented whenever the code gives other bytes for the same input.
const VERSION: u32 = 1;

pub struct RealTask<'a> {
    pub train: &'a Dataset,
    pub choice: RealChoice,
    /// Images per class, equal for all classes.
    pub ipc: u32,
    pub seed: u64,
}

/// The stage of `ipc` images of each class of `train`.
pub(in crate::run) fn draft<'a>(
    train: &'a HashedDataset,
    choice: RealChoice,
    ipc: u32,
    seed: u64,
) -> Result<(Draft<'a>, Described), RunError> {
    let HashedDataset { set: train, hash } = train;
    require_images(train, &format!("the baseline `{}`", choice.method()), u64::from(ipc))?;
    let (name, identity, seed) = match choice {
        RealChoice::Random => {
            (format!("{}-ipc{ipc}-seed{seed}", train.name), json!({"ipc": ipc}), seed)
        }
        RealChoice::NearestMean => {
            let name = format!("{}-nearest-mean-ipc{ipc}", train.name);
            (name, json!({"ipc": ipc, "choice": choice.method()}), 0)
        }
    };
    let stage = Stage::new("real", VERSION, &name, &identity, inputs([("data", hash)]), seed)?;
    let title = format!("`{}`, ipc {ipc}, seed {seed}", choice.method());
    let task = super::Task::Real(RealTask { train, choice, ipc, seed });
    let draft = Draft { stage, title: format!("draw {title}"), needs: Vec::new(), task };
    let count = train.classes.len() as u64 * u64::from(ipc);
    Ok((draft, Described { name: format!("real-{name}"), title, count, formation: 1 }))
}
