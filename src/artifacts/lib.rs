//! All that lies on disk: what it is called, how it is written, and how it is read back.
//!
//! - [`atomic`]: files and directories that appear whole or not at all;
//! - [`bundle`]: a network with its BN statistics, as the exporters wrote it;
//! - [`stage`]: directories that hold the result of one stage each;
//! - [`files`]: the files in those directories; [`records`]: the figures in these files;
//! - [`labels`]: the store of soft labels;
//! - [`own`]: files for people, which are replaced only as long as nobody edited them.

pub mod atomic;
pub mod bundle;
pub mod files;
pub mod labels;
pub mod own;
pub mod records;
pub mod stage;

/// A file of the repository.
#[cfg(test)]
fn in_repository(path: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}
