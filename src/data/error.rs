//! What can be wrong with data on disk or with the arguments of a transform.

use std::io;
use std::path::{Path, PathBuf};

use crate::place;

/// An error of the [`data`](crate::data) modules: what was wrong, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The operating system refused to read or write.
    #[error("{}: cannot {action}: {}", path.display(), place::said(path, source))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried, as an infinitive.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A file does not hold what its format demands.
    #[error("{}: {problem}; {remedy}", path.display())]
    Invalid {
        /// The file or directory.
        path: PathBuf,
        /// What was found.
        problem: String,
        /// What the user can do.
        remedy: &'static str,
    },
    /// No directory holds the data set.
    #[error(
        "data set {name} not found; looked in {}; run `{}`, or set SCDD_DATA to the directory that holds it",
        list(looked),
        fetching(name)
    )]
    Missing {
        /// The data set's name.
        name: String,
        /// Every directory looked at, in order.
        looked: Vec<PathBuf>,
    },
    /// The data set's name means nothing.
    #[error("unknown data set {name:?}; known are {known}; give other images as an image folder")]
    Unknown {
        /// The name given.
        name: String,
        /// The names that would do.
        known: String,
    },
    /// A batch is not stored image after image.
    #[error(
        "the batch is not contiguous in [N, C, H, W] order; pass an owned array in standard layout"
    )]
    Layout,
    /// Two arguments do not fit each other.
    #[error("{0}")]
    Mismatch(String),
}

impl DataError {
    /// Wraps a failed attempt to `action` (an infinitive) `path`.
    pub(super) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, action, source }
    }

    /// A complaint about the contents of `path`.
    pub(super) fn invalid(path: &Path, problem: impl Into<String>, remedy: &'static str) -> Self {
        Self::Invalid { path: path.to_path_buf(), problem: problem.into(), remedy }
    }
}

/// What fetches the data set.
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
