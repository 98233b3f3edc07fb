//! The part of `scdd` that links no tensor library, so that what it can do by itself is done at once: loading libtorch alone takes a quarter of a
//! second. The crate `scdd` re-exports all of it, and adds what computes.
//!
//! What to read first, from the bottom up:
//!
//! 1. [`graph`]: ONNX bytes become a typed graph.
//! 2. [`data`]: data sets, augmentation views, mixing, images on disk.
//! 3. [`teacher`]: the bundle on disk.
//! 4. [`config`], [`run`], [`report`]: an experiment, the stages that it consists of, what it found.
//! 5. [`export`]: distilled sets in the forms that others read.
//! 6. [`cli`]: the command line, and the commands that need no network.

pub mod cli;
pub mod config;
pub use scdd_data as data;
pub mod export;
pub use scdd_graph as graph;
pub mod own;
pub use scdd_data::place;
pub mod report;
pub use scdd_data::rng;
pub mod run;
pub mod teacher;

/// A file of the repository.
#[cfg(test)]
fn in_repository(path: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}
