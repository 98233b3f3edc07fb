//! Image grids: some PNG files of an ImageFolder, inlined.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::report::ReportError;

/// The most classes, and images per class, that the page shows.
pub(super) const SHOWN: (usize, usize) = (20, 10);

/// The images of one class.
#[derive(Debug, Serialize)]
pub(in crate::report) struct ClassRow {
    pub class: String,
    /// `data:` URIs.
    pub images: Vec<String>,
}

/// At most as many images of at most as many classes in `folder` as `(classes, images)` in `shown`
/// says, the first ones, and how many classes there are.
pub(in crate::report) fn class_rows(
    folder: &Path,
    classes: &[String],
    shown: (usize, usize),
) -> Result<(Vec<ClassRow>, usize), ReportError> {
    let directories: Vec<PathBuf> =
        sorted(folder)?.into_iter().filter(|path| path.is_dir()).collect();
    let named = directories.len() == classes.len();
    let first = directories.iter().take(shown.0).enumerate();
    let rows = first.map(|(index, directory)| {
        let class = if named { classes[index].clone() } else { file_name(directory) };
        Ok(ClassRow { class, images: data_uris(directory, shown.1)? })
    });
    Ok((rows.collect::<Result<_, ReportError>>()?, directories.len()))
}

/// The first `count` images of a class.
fn data_uris(directory: &Path, count: usize) -> Result<Vec<String>, ReportError> {
    let is_png = |path: &PathBuf| {
        path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png"))
    };
    let files = sorted(directory)?.into_iter().filter(is_png).take(count);
    let inline = |path: PathBuf| {
        let bytes = fs::read(&path).map_err(|source| ReportError::Images { path, source })?;
        Ok(format!("data:image/png;base64,{}", STANDARD.encode(bytes)))
    };
    files.map(inline).collect()
}

/// The directory's entries in alphabetical order, as torchvision's ImageFolder numbers classes.
fn sorted(directory: &Path) -> Result<Vec<PathBuf>, ReportError> {
    let list = || {
        fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()
    };
    let mut paths =
        list().map_err(|source| ReportError::Images { path: directory.to_path_buf(), source })?;
    paths.sort();
    Ok(paths)
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned())
}
