//! Distilled sets that other code made: class folders of PNG or JPEG files, NumPy archives,
//! PyTorch files of tensors, Parquet files.
//!
//! ```text
//! files ─► folders │ npz, torch ─► arrays │ Parquet ─► classes ─► checks ─► Dataset
//! ```

mod arrays;
mod classes;
mod folders;
mod npz;
mod soft;
mod torch;

pub use soft::SoftLabels;

use std::path::{Path, PathBuf};

use arrays::ImagesAndLabels;

use super::decode;
use super::layout::{folder, parquet};
use super::{DataError, Dataset, Normalization, Signature, Size, signature};
use super::{entries, png};

/// The forms that are read.
const FORMS: &str = "name a directory with a directory of PNG or JPEG files per class, an .npz archive or a .pt file of images and labels, \
                     or Parquet files";

/// A finished set on disk, and what it must be.
#[derive(Debug, Clone, PartialEq)]
pub struct FinishedSource {
    /// The directory or file.
    pub place: PathBuf,
    /// A YAML or JSON file that maps the set's own classes (names of directories, or labels as
    /// text) to names of `classes`.
    pub class_map: Option<PathBuf>,
    /// The name of the real data.
    pub data: String,
    /// The classes of the real data, in label order.
    pub classes: Vec<String>,
    /// `[channels, height, width]` of the images.
    pub shape: [usize; 3],
    /// Whether images of another size are scaled to it.
    pub resize: bool,
    /// How the values of floating-point images were made from pixels in 0..=1; `None` if they are
    /// such pixels.
    pub normalization: Option<Normalization>,
}

/// A set as its files have it. Labels number the set's own classes.
struct OwnSet {
    set: Dataset,
    /// What the set calls the classes that it has, by its labels.
    names: Vec<String>,
}

impl FinishedSource {
    /// Reads the set, sorted by class; images of one class keep their order. `remarks` receives
    /// notes for the user.
    ///
    /// # Errors
    /// When the files can't be read, a class has no image, classes can't be told, or images have
    /// another shape.
    pub fn load(&self, remarks: &mut Vec<String>) -> Result<Dataset, DataError> {
        let OwnSet { set, names } = self.read(remarks)?;
        let map = self.class_map.as_deref().map(folder::read_class_map).transpose()?;
        let place = self.place.as_path();
        let numbers = classes::numbers(place, &names, (&self.data, &self.classes), map.as_deref())?;
        let set = sorted(set, &numbers, self.classes.clone())?;
        self.check_classes(&set)?;
        self.fitted(set)
    }

    /// The signature of the files. `None` if a file changed within the last two seconds, or can't
    /// be looked at.
    pub fn signature(&self) -> Option<Signature> {
        let labels = torch::labels_beside(&self.place);
        let places: Vec<&Path> =
            [Some(self.place.as_path()), labels.as_deref()].into_iter().flatten().collect();
        signature::of_places(&places, self.class_map.as_deref(), &format!("{self:?}"))
    }

    fn read(&self, remarks: &mut Vec<String>) -> Result<OwnSet, DataError> {
        let file = self.file()?;
        if file.is_dir() {
            return folders::read(&file, remarks);
        }
        if let Some(arrays) = self.arrays(&file, remarks)? {
            return arrays::own_set(&file, arrays, self, remarks);
        }
        let mut set = parquet::load_all(&self.place, remarks)?;
        let names = std::mem::take(&mut set.classes);
        Ok(OwnSet { set, names })
    }

    /// The file of the set, or the directory of its class folders.
    fn file(&self) -> Result<PathBuf, DataError> {
        let place = self.place.as_path();
        let found = std::fs::metadata(place).map_err(DataError::io(place, "open"))?;
        if found.is_file() { Ok(place.to_path_buf()) } else { file_in(place) }
    }

    /// The arrays in `file`; `None` of class folders and Parquet files.
    fn arrays(
        &self,
        file: &Path,
        remarks: &mut Vec<String>,
    ) -> Result<Option<ImagesAndLabels>, DataError> {
        let kind = file.extension().map(|kind| kind.to_string_lossy().to_lowercase());
        match kind.as_deref() {
            Some("npz") => npz::read(file).map(Some),
            Some("pt" | "pth") => torch::read(file, remarks).map(Some),
            Some("parquet") => Ok(None),
            _ if file.is_dir() => Ok(None),
            _ => Err(DataError::invalid(&self.place, "is no form of a finished set", FORMS)),
        }
    }

    fn check_classes(&self, set: &Dataset) -> Result<(), DataError> {
        let mut counts = vec![0; self.classes.len()];
        set.labels.iter().for_each(|&label| counts[label as usize] += 1);
        let missing = (0..counts.len()).filter(|&class| counts[class] == 0);
        let missing: Vec<String> =
            missing.map(|class| format!("{class} (`{}`)", self.classes[class])).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let what = if missing.len() == 1 { "class" } else { "classes" };
        let listed = entries::listed(missing.into_iter());
        Err(DataError::invalid(
            &self.place,
            format!("holds no image of {what} {listed} of {}", self.data),
            "a student needs images of every class: add them, or correct the class map",
        ))
    }

    /// Checks that the networks take images of `found` channels.
    fn check_channels(&self, found: usize) -> Result<(), DataError> {
        let wanted = self.shape[0];
        if found == wanted {
            return Ok(());
        }
        Err(DataError::invalid(
            &self.place,
            format!("holds images of {found} channels, the networks take {wanted}"),
            "convert the images, or name networks that take them",
        ))
    }

    /// The images in the shape that they must have.
    fn fitted(&self, set: Dataset) -> Result<Dataset, DataError> {
        let [channels, height, width] = self.shape;
        let refuse =
            |problem: String, remedy| Err(DataError::invalid(&self.place, problem, remedy));
        self.check_channels(set.channels)?;
        if set.size() == (Size { height, width }) {
            return Ok(set);
        }
        if !self.resize {
            let problem = format!(
                "holds images of {}x{} pixels, the networks take {height}x{width}",
                set.height, set.width
            );
            return refuse(
                problem,
                "set `resize: true` beside `images`, or name networks of that size",
            );
        }
        let length = channels * height * width;
        super::memory::check(&self.place, set.len() as u64, length as u64)?;
        let from = [set.channels, set.height, set.width];
        let mut images = Vec::with_capacity(set.len() * length);
        for index in 0..set.len() {
            images.extend(decode::stretched(&set.image(index)?, from, [height, width]));
        }
        Ok(Dataset { images: images.into(), height, width, ..set })
    }
}

/// The images sorted by their class `numbers[own label]`.
fn sorted(set: Dataset, numbers: &[u32], classes: Vec<String>) -> Result<Dataset, DataError> {
    let own: Vec<u32> = set.labels.iter().map(|&label| numbers[label as usize]).collect();
    if own.is_sorted() {
        return Ok(Dataset { labels: own, classes, ..set });
    }
    let order = order(&own);
    let labels = order.iter().map(|&index| own[index]).collect();
    let images = set.pixels(&order)?.into_owned().into();
    Ok(Dataset { images, labels, classes, ..set })
}

/// The indices of images with these `labels`, class after class; those of one class keep their
/// order.
fn order(labels: &[u32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..labels.len()).collect();
    order.sort_by_key(|&index| labels[index]);
    order
}

/// The only array file of `directory`, its first Parquet file, or the directory of its class
/// folders.
fn file_in(directory: &Path) -> Result<PathBuf, DataError> {
    if let Some(root) = folders::root(directory)? {
        return Ok(root);
    }
    let found = entries::entries(directory, &mut Vec::new())?;
    let of_kind = |kinds: &[&str]| {
        let is_it = |path: &&PathBuf| {
            path.is_file() && path.extension().is_some_and(|kind| kinds.iter().any(|k| kind == *k))
        };
        found.iter().map(|entry| &entry.path).filter(is_it).cloned().collect::<Vec<_>>()
    };
    let arrays: Vec<PathBuf> = of_kind(&["npz", "pt", "pth"])
        .into_iter()
        .filter(|path| !torch::holds_labels(path))
        .collect();
    match arrays.as_slice() {
        [only] => return Ok(only.clone()),
        [] => {}
        several => {
            let names = entries::listed(several.iter().map(|path| png::display_name(path)));
            let problem = format!("holds several files of arrays: {names}");
            return Err(DataError::invalid(directory, problem, "name the one that is meant"));
        }
    }
    match parquet::any_file(directory)? {
        Some(file) => Ok(file),
        None if found.iter().any(|entry| png::is_image(&entry.path)) => Err(DataError::invalid(
            directory,
            "holds images themselves, not in a directory for each class",
            "sort the images into directories that are called like their classes or 00000, 00001, …",
        )),
        None => Err(DataError::invalid(directory, "holds no images", FORMS)),
    }
}

#[cfg(test)]
mod tests;
