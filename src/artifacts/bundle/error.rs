//! Faults of a bundle, each with its place.

use std::path::{Path, PathBuf};

use scdd_data::place;
use scdd_graph::GraphError;

/// Why a bundle can't be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("{}: {}", path.display(), place::said(path, source))]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{}: {what}", path.display())]
    Invalid { path: PathBuf, what: String },
    #[error("{}: {source}", path.display())]
    Graph { path: PathBuf, source: GraphError },
}

impl BundleError {
    /// The system's error for `path`.
    pub fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    /// An error about invalid contents of `path`.
    pub fn invalid(path: &Path, what: impl Into<String>) -> Self {
        Self::Invalid { path: path.into(), what: what.into() }
    }
}
