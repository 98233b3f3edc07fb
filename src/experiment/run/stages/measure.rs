//! Measures a teacher, whose classes students learn, on real test images. A wrong class order shows
//! only there.

use serde_json::json;

use super::{Draft, NodeId, inputs};
use crate::run::real::HashedDataset;
use scdd_artifacts::bundle::{Bundle, Measured};
use scdd_artifacts::stage::{Stage, StageError};
use scdd_data::Dataset;

/// Incremented whenever the code gives other bytes for the same input.
const VERSION: u32 = 1;

pub struct MeasureTask<'a> {
    /// A bundle with a classifier.
    pub teacher: &'a Bundle,
    /// The real test set.
    pub test: &'a Dataset,
}

/// The measuring stage; `verified` is the teacher's verification.
pub(in crate::run) fn draft<'a>(
    teacher: &'a Bundle,
    test: &'a HashedDataset,
    verified: NodeId,
) -> Result<Draft<'a>, StageError> {
    let HashedDataset { set: test, hash } = test;
    let inputs = inputs([("teacher", &teacher.hash), ("test", hash)]);
    let passes = Measured::images_of(test.len(), test.classes.len());
    let stage = Stage::new("measure", VERSION, teacher.name(), &json!({}), inputs, 0)?
        .of_passes(passes as u64);
    let title = format!("measure teacher `{}` on {}", teacher.name(), test.name);
    Ok(Draft {
        stage,
        title,
        needs: vec![verified],
        task: super::Task::Measure(MeasureTask { teacher, test }),
    })
}
