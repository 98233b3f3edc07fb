//! The methods of dataset distillation.
//!
//! 1. [`teacher`]: a bundle's network, verified, in ONNX Runtime and as libtorch operations.
//! 2. [`recover`]: images from BN statistics. 3. [`relabel`]: their soft labels. 4. [`validate`]:
//!    students trained on both.
//! 5. [`inspect`]: the information in teachers' statistics, side by side.

pub mod inspect;
pub mod keeper;
pub mod progress;
pub mod recover;
pub mod relabel;
mod state_file;
pub mod teacher;
pub mod validate;
pub mod views;

/// A file of the repository, for tests.
#[cfg(test)]
fn in_repository(path: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// Ten images of 28×28 of `classes`, one each, for tests.
#[cfg(test)]
fn ten_images(classes: &[String]) -> scdd_data::Dataset {
    scdd_data::Dataset {
        name: "x".into(),
        images: (0..10 * 784).map(|i| (i * 7 % 251) as u8).collect::<Vec<_>>().into(),
        labels: (0..10).collect(),
        channels: 1,
        height: 28,
        width: 28,
        classes: classes.to_vec(),
    }
}
