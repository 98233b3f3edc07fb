//! The files in stage directories: their names, and how they are written and read.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use scdd_data::{DataError, png};

use crate::records::Item;
use crate::stage::{StageError, WorkDir};

/// Why a stage's file could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error("{}: {what}; remove the directory and run again", path.display())]
    Damaged { path: PathBuf, what: String },
}

/// The `ImageFolder` directory of an image set.
pub const FOLDER: &str = "images";
/// The soft-label store.
pub const LABELS: &str = "labels.scdd";
/// The soft labels of a finished set's images themselves, float32 \[N, K\].
pub const SOFT_LABELS: &str = "soft_labels.npy";
/// Figures of the soft labels; older stages lack it.
pub const LABEL_FIGURES: &str = "labels.json";
/// The course of a student's training.
pub const TRAINING: &str = "training.json";
/// The weights of a trained student.
pub const STUDENT: &str = "student.safetensors";
/// The verification verdict of a bundle.
pub const VERDICT: &str = "verdict.json";
/// A verifier's accuracy on images.
pub const ACCURACY: &str = "accuracy.json";
/// A teacher's accuracy on real test images.
pub const MEASURED: &str = "measured.json";
/// A labelling teacher's answers on a finished set.
pub const RECOGNISED: &str = "recognised.json";
/// The measured value of `r_bn: auto`.
pub const AUTO: &str = "r_bn.json";

/// The state of a training under way.
pub const TRAINING_STATE: &str = "training.under-way";

/// The state of a batch of a recovery under way.
pub fn batch_state(batch: usize) -> String {
    format!("batch-{batch:05}.under-way")
}

/// The ending of a soft-label store under way, after the store's name.
pub const STORE_UNDER_WAY: &str = ".under-way";

/// An epoch of the soft-label store that was labelled apart from the others, until the store has
/// it.
pub fn label_epoch(epoch: u32) -> String {
    format!("{LABELS}{}", epoch_apart(epoch))
}

/// The ending of such a file, after the store's name.
pub fn epoch_apart(epoch: u32) -> String {
    format!(".epoch-{epoch:05}")
}

/// The folder of the loss curves.
pub const CURVES: &str = "curves";

/// The loss curve of a batch's recovery, one line of JSON per point. The file is written when the
/// batch is complete.
pub fn curve(batch: usize) -> String {
    format!("{CURVES}/batch-{batch:05}.jsonl")
}

/// The `ImageFolder` directory of a set's images after `step` of its steps.
pub fn snapshot(step: u32) -> PathBuf {
    format!("snapshots/step-{step:06}").into()
}

/// The path of an image in `folder`, an `ImageFolder` directory.
pub fn image(folder: &Path, item: Item, classes: &[String]) -> PathBuf {
    let class = folder.join(png::class_dir(item.class as usize, classes));
    class.join(png::file_name(item.number as usize))
}

/// Images that are encoded before any of them is written.
const ENCODED_AT_ONCE: usize = 64;

/// Writes each of `items` atomically as a PNG in `<folder>/<class>/`; `pixels` is `[N, C, H, W]`.
/// They are encoded in parallel: one after another that takes longer than a step on a GPU.
pub fn write_images(
    work: &WorkDir,
    folder: &Path,
    classes: &[String],
    items: &[Item],
    pixels: &[u8],
    shape: [usize; 3],
) -> Result<(), FileError> {
    let [channels, height, width] = shape;
    let length = channels * height * width;
    let parts = items.chunks(ENCODED_AT_ONCE).zip(pixels.chunks(ENCODED_AT_ONCE * length));
    for (items, pixels) in parts {
        let encode = |pixels| png::encode(pixels, channels, height, width);
        let files: Vec<_> = pixels.par_chunks_exact(length).map(encode).collect();
        for (item, file) in items.iter().zip(files) {
            work.write(image(folder, *item, classes), &file?)?;
        }
    }
    Ok(())
}

/// Writes `value` as indented JSON.
pub fn write_json(work: &WorkDir, file: &str, value: &impl Serialize) -> Result<(), FileError> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| FileError::Damaged { path: work.path().join(file), what: e.to_string() })?;
    work.write(file, format!("{text}\n").as_bytes())?;
    Ok(())
}

/// Reads a file that [`write_json`] wrote.
///
/// # Errors
/// When the file is missing or damaged.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, FileError> {
    let damaged = |what: String| FileError::Damaged { path: PathBuf::from(path), what };
    let text = std::fs::read_to_string(path).map_err(|e| damaged(e.to_string()))?;
    serde_json::from_str(&text).map_err(|e| damaged(e.to_string()))
}
