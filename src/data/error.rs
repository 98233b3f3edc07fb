//! Errors of data on disk and of a transform's arguments.

use std::io;
use std::path::{Path, PathBuf};

use crate::place;

/// An error of the data modules: the place, the problem and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The operating system refused to read or write.
    #[error("{}: cannot {action}: {}", path.display(), place::said(path, source))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The attempted action, as an infinitive.
        action: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// A file's contents violate its format.
    #[error("{}: {problem}; {remedy}", path.display())]
    Invalid {
        /// The file or directory.
        path: PathBuf,
        /// The fault.
        problem: String,
        /// What the user can do.
        remedy: &'static str,
    },
    /// No searched directory holds the data set.
    #[error(
        "data set {name} not found; looked in {}; run `{}`, or set SCDD_DATA to the directory that holds it",
        list(looked),
        fetching(name)
    )]
    Missing {
        /// The data set's name.
        name: String,
        /// All searched directories, in order.
        looked: Vec<PathBuf>,
    },
    /// No data set has this name.
    #[error("unknown data set {name:?}; known are {known}; give other images as an image folder")]
    Unknown {
        /// The name given.
        name: String,
        /// The known names.
        known: String,
    },
    /// A batch is not stored image after image.
    #[error(
        "the batch is not contiguous in [N, C, H, W] order; pass an owned array in standard layout"
    )]
    Layout,
    /// Two arguments do not match.
    #[error("{0}")]
    Mismatch(String),
}

impl DataError {
    /// Wraps a failure to `action` (an infinitive) `path`.
    pub(super) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, action, source }
    }

    /// An error about the contents of `path`.
    pub(super) fn invalid(path: &Path, problem: impl Into<String>, remedy: &'static str) -> Self {
        Self::Invalid { path: path.to_path_buf(), problem: problem.into(), remedy }
    }
}

/// The command that fetches the data set.
fn fetching(name: &str) -> String {
    if name == "fashion-mnist" {
        "make data".into()
    } else {
        format!("python -m exporters fetch {name}")
    }
}

fn list(paths: &[PathBuf]) -> String {
    let names: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    names.join(", ")
}
