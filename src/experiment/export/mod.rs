//! Exports distilled sets in common formats, each with its soft labels and a data card.
//!
//! ```text
//! <set>/README.md      the data card: contents, teacher, settings, licence
//! <set>/labels/*.scdd  the stored soft labels, one file per protocol and teacher
//! <set>/…              the images, in the chosen format
//! ```

mod card;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::run::Bundles;
use crate::run::distilled::DistilledSet;
use scdd_artifacts::atomic::DirectoryAside;
use scdd_artifacts::stage::{StageError, write_atomic};
use scdd_data::{DataError, Dataset, npz, png};

/// Why a set could not be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("{}: is there already; remove it, or choose another directory", path.display())]
    Exists { path: PathBuf },
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Write(#[from] StageError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error("the settings cannot be written: {0}")]
    Settings(#[from] serde_yaml::Error),
}

/// The format of the images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// `images/<class>/<number>.png`, which torchvision's ImageFolder reads
    Imagefolder,
    /// `images.npz`: `images` uint8 \[N, H, W, C\], `labels` int64 \[N\]
    Npz,
    /// `train/<class>/<number>.png` with `train/metadata.jsonl`, which the Hugging Face datasets
    /// library reads as `imagefolder`
    Huggingface,
}

/// Writes `set` atomically into `directory/<its name>` and returns that directory.
///
/// `data` names the real data, `classes` its classes in label order.
///
/// # Errors
/// When the directory exists already, or something can't be read or written.
pub fn export(
    set: &DistilledSet,
    bundles: &Bundles,
    data: &str,
    format: Format,
    directory: &Path,
) -> Result<PathBuf, ExportError> {
    let target = directory.join(&set.name);
    // A dangling link would be replaced, too.
    if fs::symlink_metadata(&target).is_ok() {
        return Err(ExportError::Exists { path: target });
    }
    let aside = DirectoryAside::beside(&target).map_err(error("write in", directory))?;
    let root = aside.path();
    let mut images = png::read_set(&set.folder)?;
    let bundle = &bundles[&set.teacher];
    if bundle.manifest.classes.len() == images.classes.len() {
        images.classes = bundle.manifest.classes.clone();
    }
    match format {
        Format::Imagefolder => copy_images(&set.folder, &root.join("images"))?,
        Format::Npz => write_atomic(&root.join("images.npz"), &npz::encode(&images)?)?,
        Format::Huggingface => {
            copy_images(&set.folder, &root.join("train"))?;
            write_atomic(
                &root.join("train/metadata.jsonl"),
                metadata(&set.folder, &images)?.as_bytes(),
            )?;
        }
    }
    for (name, _, file) in &set.labels {
        copy(file, &root.join("labels").join(format!("{name}.scdd")))?;
    }
    write_atomic(
        &root.join("README.md"),
        card::card(set, bundles, &images, data, format)?.as_bytes(),
    )?;
    aside.keep(&target).map_err(error("rename to", &target))?;
    Ok(target)
}

fn error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ExportError {
    let path = path.to_path_buf();
    move |source| ExportError::Io { action, path, source }
}

fn copy(from: &Path, to: &Path) -> Result<(), ExportError> {
    let directory = to.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory).map_err(error("create", directory))?;
    fs::copy(from, to).map_err(error("copy to", to))?;
    Ok(())
}

/// Copies an ImageFolder, class by class.
fn copy_images(from: &Path, to: &Path) -> Result<(), ExportError> {
    for file in image_files(from)? {
        copy(&from.join(&file), &to.join(&file))?;
    }
    Ok(())
}

/// `<class directory>/<file>` of every image, in label order and then by name, as [`png::read_set`]
/// numbers them.
fn image_files(folder: &Path) -> Result<Vec<PathBuf>, ExportError> {
    let files = png::set_files(folder)?;
    Ok(files
        .iter()
        .filter_map(|path| Some(path.strip_prefix(folder).ok()?.to_path_buf()))
        .collect())
}

/// One line per image: its file, label and class.
fn metadata(folder: &Path, images: &Dataset) -> Result<String, ExportError> {
    let line = |(file, &label): (&PathBuf, &u32)| {
        let class = &images.classes[label as usize];
        format!(
            "{}\n",
            json!({"file_name": file.to_string_lossy(), "label": label, "class": class})
        )
    };
    Ok(image_files(folder)?.iter().zip(&images.labels).map(line).collect())
}
