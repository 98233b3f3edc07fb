//! Takes real training images as an image set: a baseline.

use serde_json::json;

use super::images::Described;
use super::{Draft, inputs};
use crate::run::RunError;
use crate::run::matrix::RealChoice;
use crate::run::real::{RealSplit, require_images};
use scdd_artifacts::stage::Stage;

/// Incremented whenever the code gives other bytes for the same input.
const VERSION: u32 = 1;

pub struct RealTask<'a> {
    pub train: &'a RealSplit,
    pub choice: RealChoice,
    /// Images per class, equal for all classes.
    pub ipc: u32,
    pub seed: u64,
}

/// The stage of `ipc` images of each class of `train`.
pub(in crate::run) fn draft<'a>(
    train: &'a RealSplit,
    choice: RealChoice,
    ipc: u32,
    seed: u64,
) -> Result<(Draft<'a>, Described), RunError> {
    let about = &train.summary;
    require_images(about, &format!("the baseline `{}`", choice.method()), u64::from(ipc))?;
    let (name, identity, seed) = match choice {
        RealChoice::Random => {
            (format!("{}-ipc{ipc}-seed{seed}", about.name), json!({"ipc": ipc}), seed)
        }
        RealChoice::NearestMean => {
            let name = format!("{}-nearest-mean-ipc{ipc}", about.name);
            (name, json!({"ipc": ipc, "choice": choice.method()}), 0)
        }
    };
    let stage =
        Stage::new("real", VERSION, &name, &identity, inputs([("data", &about.hash)]), seed)?;
    let title = format!("`{}`, ipc {ipc}, seed {seed}", choice.method());
    let task = super::Task::Real(RealTask { train, choice, ipc, seed });
    let draft = Draft { stage, title: format!("draw {title}"), needs: Vec::new(), task };
    let count = about.classes.len() as u64 * u64::from(ipc);
    Ok((draft, Described { name: format!("real-{name}"), title, count, formation: 1 }))
}
