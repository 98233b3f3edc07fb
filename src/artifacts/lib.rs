//! Everything on disk: names, formats, writing and reading.
//!
//! - [`atomic`]: atomic writes of files and directories;
//! - [`bundle`]: a network with its BN statistics, as the exporters wrote it;
//! - [`stage`]: directories that hold the result of one stage each;
//! - [`files`]: the files in those directories; [`records`]: the figures in these files;
//! - [`labels`]: the soft-label store;
//! - [`remembered`]: what was found out about files once;
//! - [`own`]: generated files for people, which are replaced only if nobody edited them.

pub mod atomic;
pub mod bundle;
pub mod files;
pub mod labels;
pub mod own;
pub mod records;
pub mod remembered;
pub mod stage;

/// A file of the repository.
#[cfg(test)]
fn in_repository(path: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}
