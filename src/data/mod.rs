//! Images and labels: read from disk, normalised, cropped, shifted, mixed, and written back.
//!
//! - [`view`]: crops, flips and shifts as linear maps with exact adjoints;
//!
//! Batches are [`Array4<f32>`](ndarray::Array4) in standard layout, shape `[N, C, H, W]`.

pub mod view;

mod error;

pub use error::DataError;
pub use view::{Resample, Shift, Size, View};

use ndarray::Array4;

/// The values of `batch`, image after image.
fn values(batch: &Array4<f32>) -> Result<&[f32], DataError> {
    batch.as_slice().ok_or(DataError::Layout)
}

/// The values of `batch`, image after image, to be written.
fn values_mut(batch: &mut Array4<f32>) -> Result<&mut [f32], DataError> {
    batch.as_slice_mut().ok_or(DataError::Layout)
}
