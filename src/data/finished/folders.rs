//! Class folders, as SRe2L, SC-DD, CDA, DWA, CV-DD, FADRM, LPLD and RDED write them
//! (`new000/class000_id000.jpg`, `00000/…`), named by classes or WordNet ids, below `train/`
//! (Hugging Face) or `images/` (`scdd export-set`).

use std::path::{Path, PathBuf};

use super::OwnSet;
use crate::entries::{Findings, entries};
use crate::layout::folder;
use crate::{DataError, Fit, png};

/// Directories that may hold the class folders.
const INNER: [&str; 2] = ["train", "images"];

/// The directory of class folders at or below `place`.
pub(super) fn root(place: &Path) -> Result<Option<PathBuf>, DataError> {
    for root in INNER.iter().map(|name| place.join(name)).chain([place.to_path_buf()]) {
        if root.is_dir() && !class_folders(&root)?.is_empty() {
            return Ok(Some(root));
        }
    }
    Ok(None)
}

/// The names of the directories in `root`, if one of them holds images.
fn class_folders(root: &Path) -> Result<Vec<String>, DataError> {
    let all: Vec<_> =
        entries(root, &mut Vec::new())?.into_iter().filter(|entry| entry.is_dir).collect();
    let holds_images = |path: &Path| {
        entries(path, &mut Vec::new()).is_ok_and(|inner| {
            inner.iter().any(|entry| !entry.is_dir && png::is_image(&entry.path))
        })
    };
    let is_there = all.iter().any(|entry| holds_images(&entry.path));
    Ok(if is_there { all.into_iter().map(|entry| entry.name).collect() } else { Vec::new() })
}

/// Reads the class folders in `root`. Files beside them that are no images are passed over.
pub(super) fn read(root: &Path, remarks: &mut Vec<String>) -> Result<OwnSet, DataError> {
    let mut findings = Findings::default();
    let names = class_folders(root)?;
    for entry in entries(root, &mut findings.skipped)? {
        if !entry.is_dir && png::is_image(&entry.path) {
            findings.problem(root, &entry.path, "lies beside the classes' directories");
        }
    }
    let mut files = Vec::new();
    for (label, name) in (0..).zip(&names) {
        let images = folder::images_of(root, &root.join(name), &mut findings)?;
        files.extend(images.into_iter().map(|path| (path, label)));
    }
    let set = folder::read(root, names.clone(), files, Fit::Exact, u64::MAX, &mut findings)?;
    findings.conclude(root, remarks)?;
    Ok(OwnSet { set, names })
}
