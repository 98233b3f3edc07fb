//! Measures a teacher, whose classes students learn, on real test images. A wrong class order shows
//! only there.

use serde_json::json;

use super::{Draft, NodeId, inputs};
use crate::run::real::RealSplit;
use scdd_artifacts::bundle::{Bundle, Measured};
use scdd_artifacts::stage::{Stage, StageError};

/// Incremented whenever the code gives other bytes for the same input.
const VERSION: u32 = 1;

pub struct MeasureTask<'a> {
    /// A bundle with a classifier.
    pub teacher: &'a Bundle,
    /// The real test set.
    pub test: &'a RealSplit,
}

/// The measuring stage; `verified` is the teacher's verification.
pub(in crate::run) fn draft<'a>(
    teacher: &'a Bundle,
    test: &'a RealSplit,
    verified: NodeId,
) -> Result<Draft<'a>, StageError> {
    let about = &test.summary;
    let inputs = inputs([("teacher", &teacher.hash), ("test", &about.hash)]);
    let passes = Measured::images_of(about.images() as usize, about.classes.len());
    let stage = Stage::new("measure", VERSION, teacher.name(), &json!({}), inputs, 0)?
        .of_passes(passes as u64);
    let title = format!("measure teacher `{}` on {}", teacher.name(), about.name);
    Ok(Draft {
        stage,
        title,
        needs: vec![verified],
        task: super::Task::Measure(MeasureTask { teacher, test }),
    })
}
