//! The bytes that stages will write, before they are made.

use super::Task;
use crate::config::{LabelDtype, RelabelConfig};
use scdd_artifacts::bundle::Bundle;
use scdd_artifacts::labels::{Dtype, StoredTopK, bytes_per_view};

/// Expected bytes of the result of `task`, which lets so many images pass through networks: pixels
/// before compression, all soft labels, a student's parameters. Of other kinds 0, a few kilobytes.
pub fn bytes(task: &Task, passes: u64) -> u64 {
    match task {
        Task::Recover(task) => {
            let images = task.chosen.len() as u64 * u64::from(task.ipc);
            images * pixels(task.teacher.image_shape())
        }
        Task::Real(task) => {
            let about = &task.train.summary;
            about.classes.len() as u64 * u64::from(task.ipc) * pixels(about.shape)
        }
        Task::Relabel(task) => passes * per_view(task.teachers[0].0, task.config),
        Task::Validate(task) => parameters(task.student),
        _ => 0,
    }
}

fn pixels(shape: [usize; 3]) -> u64 {
    shape.iter().product::<usize>() as u64
}

fn per_view(teacher: &Bundle, config: &RelabelConfig) -> u64 {
    let dtype = match config.dtype {
        LabelDtype::F16 => Dtype::F16,
        LabelDtype::F32 => Dtype::F32,
        LabelDtype::I8 => Dtype::I8,
    };
    let top_k = config
        .top_k
        .map(|top| StoredTopK { k: top.k, temperature: top.temperature.map(|t| t as f32) });
    bytes_per_view(teacher.manifest.classes.len(), dtype, top_k, config.augment)
}

/// Bytes of a student's float32 parameters.
fn parameters(student: &Bundle) -> u64 {
    let shapes = student.manifest.init.iter().map(|init| &init.shape);
    4 * shapes.map(|shape| shape.iter().map(|&side| side as u64).product::<u64>()).sum::<u64>()
}
