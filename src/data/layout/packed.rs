//! Packed data sets, which `scdd pack` writes: per split one NumPy array of pixels, which is read
//! part by part, and one of labels.
//!
//! `packed.json` names the classes and the images' shape; `train-images.npy` is uint8
//! `[N, C, H, W]`, `train-labels.npy` int64 `[N]`, and `test-…` likewise. NumPy reads them too.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use ndarray::Array1;
use ndarray_npy::ReadNpyExt;
use serde::{Deserialize, Serialize};

use crate::images::{ImagePixels, PackedImages};
use crate::registry::DataSet;
use crate::{DataError, Dataset, Split};

/// The file that describes a packed data set. It is written last.
pub(crate) const DESCRIPTION: &str = "packed.json";
/// The version of the format.
const VERSION: u32 = 1;
/// Bytes before the pixels.
pub(crate) const HEADER: usize = 128;
const REMEDY: &str = "pack the data set again";

/// What is known of a packed data set without its arrays.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PackedSet {
    pub version: u32,
    pub name: String,
    /// Class names in label order.
    pub classes: Vec<String>,
    /// `[C, H, W]`.
    pub shape: [usize; 3],
    /// Mean of the training pixels in 0..1, per channel; none where it is not known.
    pub mean: Option<Vec<f64>>,
    /// Standard deviation of the same.
    pub std: Option<Vec<f64>>,
    /// By name, `train` and `test`.
    pub splits: BTreeMap<String, PackedSplit>,
}

/// One split of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PackedSplit {
    pub images: usize,
    /// BLAKE3 of pixels and labels, 64 hex digits.
    pub hash: String,
}

impl PackedSet {
    /// The description of a set of this version.
    pub fn new(set: &Dataset, known: Option<&DataSet>) -> Self {
        Self {
            version: VERSION,
            name: set.name.clone(),
            classes: set.classes.clone(),
            shape: [set.channels, set.height, set.width],
            mean: known.map(|known| known.mean.clone()),
            std: known.map(|known| known.std.clone()),
            splits: BTreeMap::new(),
        }
    }
}

/// Whether a packed data set lies in `dir`.
pub(super) fn is_here(dir: &Path) -> bool {
    dir.join(DESCRIPTION).is_file()
}

/// Whether the packed data set in `dir` has the classes of `set`.
pub(super) fn is_of(dir: &Path, set: &DataSet) -> bool {
    is_here(dir) && described(dir).is_ok_and(|found| found.classes == set.class_names())
}

fn described(dir: &Path) -> Result<PackedSet, DataError> {
    let path = dir.join(DESCRIPTION);
    let text = fs::read(&path).map_err(DataError::io(&path, "read"))?;
    let found: PackedSet = serde_json::from_slice(&text).map_err(|error| {
        DataError::invalid(&path, format!("describes no packed data set ({error})"), REMEDY)
    })?;
    if found.version != VERSION {
        let problem = format!("is of version {}, but {VERSION} is read", found.version);
        return Err(DataError::invalid(&path, problem, REMEDY));
    }
    Ok(found)
}

/// Opens one split. Its pixels are read when they are asked for.
pub(super) fn load(dir: &Path, split: Split) -> Result<Dataset, DataError> {
    let PackedSet { name, classes, shape, splits, .. } = described(dir)?;
    let Some(PackedSplit { images, hash }) = splits.get(split.name()).cloned() else {
        let problem = format!("has no {} images", split.name());
        return Err(DataError::invalid(dir, problem, "pack the data set without --only"));
    };
    let file = pixels_file(dir, split);
    check_header(&file, images, shape)?;
    let labels = read_labels(&labels_file(dir, split), images)?;
    crate::dataset::check_labels(&labels_file(dir, split), &labels, classes.len())?;
    let images =
        ImagePixels::Packed(PackedImages { file, places: (0..images).collect(), hash: Some(hash) });
    let [channels, height, width] = shape;
    Ok(Dataset { name, images, labels, channels, height, width, classes })
}

/// The array of a split's pixels in `dir`.
pub(crate) fn pixels_file(dir: &Path, split: Split) -> PathBuf {
    dir.join(format!("{}-images.npy", split.name()))
}

fn labels_file(dir: &Path, split: Split) -> PathBuf {
    dir.join(format!("{}-labels.npy", split.name()))
}

/// The beginning of the `.npy` file of so many images.
pub(crate) fn pixels_header(images: usize, [channels, height, width]: [usize; 3]) -> Vec<u8> {
    header("|u1", &format!("{images}, {channels}, {height}, {width}"))
}

/// The beginning of a `.npy` file as NumPy writes it: version, and what the array is.
fn header(kind: &str, shape: &str) -> Vec<u8> {
    let what = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(((HEADER - 10) as u16).to_le_bytes());
    bytes.extend(what.bytes());
    bytes.resize(HEADER - 1, b' ');
    bytes.push(b'\n');
    bytes
}

/// Checks that the file holds as many images of this shape.
fn check_header(path: &Path, images: usize, shape: [usize; 3]) -> Result<(), DataError> {
    let mut file = File::open(path).map_err(DataError::io(path, "open"))?;
    let length = file.metadata().map_err(DataError::io(path, "open"))?.len();
    let pixels = [images]
        .iter()
        .chain(&shape)
        .try_fold(1_u64, |product, &side| product.checked_mul(side as u64));
    let mut found = vec![0; HEADER];
    let is_read = file.read_exact(&mut found).is_ok();
    let expected = pixels.and_then(|pixels| pixels.checked_add(HEADER as u64));
    if is_read && expected == Some(length) && found == pixels_header(images, shape) {
        return Ok(());
    }
    let problem = format!("is no array of {images} images of {shape:?}");
    Err(DataError::invalid(path, problem, REMEDY))
}

fn read_labels(path: &Path, images: usize) -> Result<Vec<u32>, DataError> {
    let refuse = |problem: String| DataError::invalid(path, problem, REMEDY);
    let file = File::open(path).map_err(DataError::io(path, "open"))?;
    let labels = Array1::<i64>::read_npy(BufReader::new(file))
        .map_err(|error| refuse(format!("holds no labels ({error})")))?;
    if labels.len() != images {
        return Err(refuse(format!("has {} labels for {images} images", labels.len())));
    }
    // A number that is no label becomes one that no class has.
    Ok(labels.iter().map(|&label| u32::try_from(label).unwrap_or(u32::MAX)).collect())
}

/// Writes the labels of a split into `dir`.
pub(crate) fn write_labels(dir: &Path, split: Split, labels: &[u32]) -> Result<(), DataError> {
    let path = labels_file(dir, split);
    let mut bytes = header("<i8", &format!("{},", labels.len()));
    bytes.extend(labels.iter().flat_map(|&label| i64::from(label).to_le_bytes()));
    let io = |error| DataError::io(&path, "write")(error);
    let mut file = File::create(&path).map_err(io)?;
    file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(io)
}
