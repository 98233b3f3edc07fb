//! Images and labels: read from disk, normalised, cropped, shifted, mixed, and written back.
//!
//! - [`dataset`]: a labelled data set, in memory or in files that are read when asked for;
//! - [`source`]: finds data sets on disk and detects their layout;
//! - [`sample`]: a class-balanced subset;
//! - [`normalize`]: pixels to network input and back;
//! - [`view`]: crops, flips and shifts as linear maps with exact adjoints;
//! - [`augment`]: RandAugment and DSA;
//! - [`mix`]: CutMix and MixUp within a batch;
//! - [`jpeg`]: JPEG compression of an image;
//! - [`finished`]: distilled sets that other code made;
//! - [`pack()`]: a data set as one array of bytes per split;
//! - [`png`]: folders of PNG images, the form of distilled sets;
//! - [`layout`]: the layouts of files, a module each;
//! - [`registry`]: the data sets that are known by name;
//! - [`rng`]: counter-based random numbers;
//! - [`place`]: error texts for unreadable files.
//!
//! Batches are [`Array4<f32>`](ndarray::Array4) in standard layout, shape `[N, C, H, W]`.

#![forbid(unsafe_code)]

pub mod augment;
pub mod dataset;
pub mod finished;
pub mod jpeg;
pub mod layout;
pub mod mix;
pub mod normalize;
pub mod place;
pub mod png;
pub mod registry;
pub mod rng;
pub mod sample;
pub mod source;
pub mod view;

mod decode;
mod entries;
mod error;
mod held_out;
mod images;
mod memory;
mod pack;
mod signature;

pub use augment::{Augment, Operation};
pub use dataset::{Dataset, Split};
pub use decode::Fit;
pub use error::DataError;
pub use finished::{FinishedSource, SoftLabels};
pub use images::ImagePixels;
pub use layout::npz;
pub use mix::DrawnMix;
pub use normalize::Normalization;
pub use pack::{PackProgress, PackedFile, pack};
pub use signature::Signature;
pub use source::Source;
pub use view::{Resample, Shift, Size, View};

use ndarray::ArrayRef4;

/// The values of `batch`, image after image.
fn values(batch: &ArrayRef4<f32>) -> Result<&[f32], DataError> {
    batch.as_slice().ok_or(DataError::Layout)
}

/// The mutable values of `batch`, image after image.
fn values_mut(batch: &mut ArrayRef4<f32>) -> Result<&mut [f32], DataError> {
    batch.as_slice_mut().ok_or(DataError::Layout)
}

/// A file of the repository.
#[cfg(test)]
fn in_repository(path: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}
