//! The soft labels in a finished set's own file: one distribution over the classes for each image,
//! the same in all its views.

use std::io::Cursor;
use std::path::Path;

use ndarray::{Array2, ArrayView2};
use ndarray_npy::{ReadNpyExt, WriteNpyExt};

use super::{FinishedSource, arrays, classes, order};
use crate::layout::folder;
use crate::{DataError, png};

/// How far a row of probabilities may sum from 1: half precision of a thousand classes.
const SLACK: f32 = 0.02;
const UNCLEAR: &str = "save probabilities whose rows sum to 1, such as softmax(logits), or logits that are not cut off at 0";

/// A distribution over the classes for each image of a set, in the order of its images.
#[derive(Debug, Clone, PartialEq)]
pub struct SoftLabels {
    /// `[N, K]`, each row 0..=1 with the sum 1.
    probabilities: Array2<f32>,
}

impl FinishedSource {
    /// The soft labels beside the images in the set's file, sorted as [`load`](Self::load) sorts
    /// the images. Rows of probabilities are scaled to the sum 1; of logits it is the softmax.
    ///
    /// # Errors
    /// When the file can't be read, holds no soft labels, has others than a column per class, or
    /// does not tell probabilities from logits.
    pub fn soft_labels(&self) -> Result<SoftLabels, DataError> {
        let path = self.file()?;
        let refuse = |problem: String| {
            let remedy = "leave `labels` out, so that the set is labelled anew";
            DataError::invalid(&path, problem, remedy)
        };
        let Some(arrays) = self.arrays(&path, &mut Vec::new())? else {
            return Err(refuse("has no soft labels of its own".into()));
        };
        let shape = arrays.labels.shape().to_vec();
        let own = arrays::classes(&path, &arrays.labels, &mut Vec::new())?;
        let [images, columns] = shape[..] else {
            return Err(refuse(format!("has labels of the shape {shape:?}, a class per image")));
        };
        if columns != self.classes.len() {
            let problem = format!(
                "has labels of the shape {shape:?}, but {} has {} classes",
                self.data,
                self.classes.len()
            );
            return Err(refuse(problem));
        }
        let names: Vec<String> = (0..columns).map(|column| column.to_string()).collect();
        let map = self.class_map.as_deref().map(folder::read_class_map).transpose()?;
        let own_data = (self.data.as_str(), self.classes.as_slice());
        let numbers = classes::numbers(&path, &names, own_data, map.as_deref())?;
        let labels: Vec<u32> = own.iter().map(|&column| numbers[column as usize]).collect();
        let given = probabilities(&path, &arrays.labels.floats(), columns)?;
        let mut sorted = Array2::zeros((images, columns));
        for (row, image) in order(&labels).into_iter().enumerate() {
            for (column, &class) in numbers.iter().enumerate() {
                sorted[[row, class as usize]] = given[image * columns + column];
            }
        }
        Ok(SoftLabels { probabilities: sorted })
    }
}

impl SoftLabels {
    /// `[N, K]`, each row 0..=1 with the sum 1.
    pub fn probabilities(&self) -> ArrayView2<'_, f32> {
        self.probabilities.view()
    }

    /// BLAKE3 of shape and probabilities, 64 hex digits.
    pub fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for side in self.probabilities.shape() {
            hasher.update(&(*side as u64).to_le_bytes());
        }
        self.probabilities.iter().for_each(|value| {
            hasher.update(&value.to_le_bytes());
        });
        hasher.finalize().to_hex().to_string()
    }

    /// The bytes of a `.npy` file of the probabilities.
    ///
    /// # Errors
    /// When they can't be written.
    pub fn encode(&self) -> Result<Vec<u8>, DataError> {
        let mut bytes = Vec::new();
        self.probabilities.write_npy(&mut bytes).map_err(|error| {
            DataError::Mismatch(format!("soft labels cannot be written as a NumPy array ({error})"))
        })?;
        Ok(bytes)
    }

    /// The labels of `images` images in the file `path`, as [`encode`](Self::encode) made it.
    ///
    /// # Errors
    /// When the file can't be read, or labels another number of images.
    pub fn read(path: &Path, images: usize) -> Result<Self, DataError> {
        let bytes = std::fs::read(path).map_err(DataError::io(path, "read"))?;
        let damaged = |what: String| {
            DataError::invalid(path, what, "remove the stage's directory and run again")
        };
        let probabilities = Array2::<f32>::read_npy(Cursor::new(bytes))
            .map_err(|error| damaged(format!("holds no soft labels ({error})")))?;
        if probabilities.nrows() != images {
            let name = png::display_name(path);
            return Err(damaged(format!("{name} does not label {images} images")));
        }
        Ok(Self { probabilities })
    }
}

/// The rows of `values` `[N, columns]` as probabilities. Some value below 0 makes them logits; else
/// each row must sum to 1.
fn probabilities(path: &Path, values: &[f32], columns: usize) -> Result<Vec<f32>, DataError> {
    let rows = || values.chunks_exact(columns);
    if values.iter().any(|&value| value < 0.0) {
        return Ok(rows().flat_map(softmax).collect());
    }
    let sums: Vec<f32> = rows().map(|row| row.iter().sum()).collect();
    let (low, high) = sums.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &sum| {
        (low.min(sum), high.max(sum))
    });
    if low < 1.0 - SLACK || high > 1.0 + SLACK {
        let problem = format!(
            "has soft labels without a value below 0 whose rows sum to {low:.2} to {high:.2}, which are neither probabilities nor surely logits"
        );
        return Err(DataError::invalid(path, problem, UNCLEAR));
    }
    Ok(rows().zip(sums).flat_map(|(row, sum)| row.iter().map(move |value| value / sum)).collect())
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let raised: Vec<f64> = logits.iter().map(|&logit| f64::from(logit - most).exp()).collect();
    let sum: f64 = raised.iter().sum();
    raised.into_iter().map(|value| (value / sum) as f32).collect()
}
