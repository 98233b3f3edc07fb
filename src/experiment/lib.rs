//! An experiment as data. This crate computes nothing and does not depend on the crates that do.
//!
//! 1. [`config`]: the YAML file, with its presets, checked.
//! 2. [`run`]: the graph of an experiment's stages, and the results of finished ones.
//! 3. [`report`]: tables and pages of results.
//! 4. [`export`]: distilled sets in common formats.

#![forbid(unsafe_code)]

pub mod config;
pub mod export;
pub mod report;
pub mod run;

/// A file of the repository.
#[cfg(test)]
fn in_repository(path: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}
