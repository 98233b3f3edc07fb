//! An experiment as data. Nothing here computes, and nothing here knows who does.
//!
//! 1. [`config`]: the YAML file, with its presets, checked.
//! 2. [`run`]: the graph of the stages that an experiment consists of, and what finished ones say.
//! 3. [`report`]: tables and pages of results.
//! 4. [`export`]: distilled sets in the forms that others read.

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
