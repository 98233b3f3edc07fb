//! Faults of a bundle, each with its place.

use std::io;
use std::path::{Path, PathBuf};

use super::files::MANIFEST;
use scdd_data::place;
use scdd_graph::GraphError;

/// Why a bundle can't be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("{}: {}{}", path.display(), place::said(path, source), remedy(path, source))]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {what}", path.display())]
    Invalid { path: PathBuf, what: String },
    #[error("{}: {source}", path.display())]
    Graph { path: PathBuf, source: GraphError },
}

/// What makes a bundle, if there is none.
fn remedy(path: &Path, source: &io::Error) -> &'static str {
    let is_bundle = path.file_name().is_some_and(|name| name == MANIFEST);
    match source.kind() {
        io::ErrorKind::NotFound if is_bundle => {
            "; `python -m exporters export` writes a teacher's bundle, `export-student` a student's"
        }
        _ => "",
    }
}

impl BundleError {
    /// The system's error for `path`.
    pub fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    /// An error about invalid contents of `path`.
    pub fn invalid(path: &Path, what: impl Into<String>) -> Self {
        Self::Invalid { path: path.into(), what: what.into() }
    }
}
