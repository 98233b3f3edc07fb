//! PyTorch's files of tensors, as DC, DM, MTT, DATM and DD-Ranking publish them. A file is a ZIP
//! archive of a pickle, which is read without executing anything, and of the tensors' numbers.
//!
//! Read are `{"images": …, "labels": …}`, `[images, labels]`, `{"data": [[images, labels], …]}`
//! with a pair for each repetition, and images alone whose labels are in the file beside that is
//! called `labels…` where theirs is called `images…`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use ndarray::{ArrayD, IxDyn, ShapeBuilder};
use zip::ZipArchive;

use super::arrays::{ArrayNumbers, ImagesAndLabels};
use crate::layout::objects::TensorPlace;
use crate::layout::pickle::{self, PickleValue};
use crate::{DataError, memory, png};

const REMEDY: &str =
    "save tensors alone with torch.save({'images': images, 'labels': labels}, FILE)";
const LABELS_REMEDY: &str = "save both with torch.save({'images': images, 'labels': labels}, FILE), or the labels beside the images in a file that \
                             is called `labels` where theirs is called `images`";
/// Names of images and labels, in order of preference.
const NAMES: [[&str; 2]; 4] =
    [["images", "labels"], ["image", "label"], ["data", "targets"], ["x", "y"]];
/// The most bytes of a pickle without its tensors.
const MAX_PICKLE: u64 = 1 << 24;

/// The file of labels beside the file `path` of images, if there is one.
pub(super) fn labels_beside(path: &Path) -> Option<PathBuf> {
    let name = png::display_name(path);
    let beside = path.with_file_name(name.replacen("images", "labels", 1));
    (name.contains("images") && beside.is_file()).then_some(beside)
}

/// Whether `path` is called like a file of labels beside one of images.
pub(super) fn holds_labels(path: &Path) -> bool {
    let name = png::display_name(path);
    name.contains("labels") && path.with_file_name(name.replace("labels", "images")).is_file()
}

pub(super) fn read(path: &Path, remarks: &mut Vec<String>) -> Result<ImagesAndLabels, DataError> {
    let mut file = TorchFile::open(path)?;
    let pickle = file.entry("data.pkl", MAX_PICKLE)?;
    let root = pickle::read(&pickle)
        .map_err(|problem| DataError::invalid(path, format!("its pickle {problem}"), REMEDY))?;
    let named = || NAMES.iter().find_map(|[x, y]| Some((root.get(x)?, root.get(y)?)));
    let repeated = || repetitions(path, &root, remarks);
    let (images, labels) = match &root {
        PickleValue::Tensor(images) => return file.with_labels_beside(images),
        _ => pair(&root).or_else(named).or_else(repeated).ok_or_else(|| {
            DataError::invalid(path, "holds no images with labels", LABELS_REMEDY)
        })?,
    };
    match (images, labels) {
        (PickleValue::Tensor(images), PickleValue::Tensor(labels)) => {
            Ok(ImagesAndLabels { images: file.numbers(images)?, labels: file.numbers(labels)? })
        }
        _ => Err(DataError::invalid(path, "has images or labels that are no tensors", REMEDY)),
    }
}

type PickledPair<'p, 'a> = (&'p PickleValue<'a>, &'p PickleValue<'a>);

/// The two elements of a list or tuple of two.
fn pair<'p, 'a>(value: &'p PickleValue<'a>) -> Option<PickledPair<'p, 'a>> {
    let [images, labels] = value.items()? else { return None };
    Some((images, labels))
}

/// The first of the sets that DC's and DM's files have, one for each repetition of the method.
fn repetitions<'p, 'a>(
    path: &Path,
    root: &'p PickleValue<'a>,
    remarks: &mut Vec<String>,
) -> Option<PickledPair<'p, 'a>> {
    let sets = root.get("data")?.items()?;
    let first = pair(sets.first()?)?;
    if sets.len() > 1 {
        remarks.push(format!(
            "{}: has {} sets, one for each repetition; the first is taken",
            path.display(),
            sets.len()
        ));
    }
    Some(first)
}

struct TorchFile<'a> {
    path: &'a Path,
    archive: ZipArchive<File>,
    /// The directory in the archive.
    prefix: String,
}

impl<'a> TorchFile<'a> {
    fn open(path: &'a Path) -> Result<Self, DataError> {
        let file = File::open(path).map_err(DataError::io(path, "open"))?;
        let archive = ZipArchive::new(file).map_err(|error| {
            let problem = format!("is no file of tensors as PyTorch writes since 1.6 ({error})");
            DataError::invalid(path, problem, "load it with PyTorch, and save it again")
        })?;
        let pickle = archive.file_names().find_map(|name| name.strip_suffix("data.pkl"));
        let Some(prefix) = pickle.map(str::to_owned) else {
            return Err(DataError::invalid(path, "has no data.pkl", REMEDY));
        };
        Ok(Self { path, archive, prefix })
    }

    fn refuse(&self, problem: impl Into<String>) -> DataError {
        DataError::invalid(self.path, problem, REMEDY)
    }

    /// The bytes of an entry, at most `limit`.
    fn entry(&mut self, name: &str, limit: u64) -> Result<Vec<u8>, DataError> {
        let path = self.path;
        let fail = |problem: String| {
            DataError::invalid(path, format!("{name}: {problem}"), "fetch or save the file again")
        };
        let entry = self.archive.by_name(&format!("{}{name}", self.prefix));
        let entry = entry.map_err(|error| fail(error.to_string()))?;
        if entry.size() > limit {
            return Err(fail(format!("has {} bytes, {limit} at most are right", entry.size())));
        }
        let size = entry.size();
        memory::check(path, 1, size)?;
        let mut bytes = Vec::new();
        entry.take(size).read_to_end(&mut bytes).map_err(|error| fail(error.to_string()))?;
        Ok(bytes)
    }

    /// These images, with the labels of the file beside.
    fn with_labels_beside(mut self, images: &TensorPlace) -> Result<ImagesAndLabels, DataError> {
        let Some(beside) = labels_beside(self.path) else {
            let problem = "holds images without labels";
            return Err(DataError::invalid(self.path, problem, LABELS_REMEDY));
        };
        let images = self.numbers(images)?;
        let mut file = TorchFile::open(&beside)?;
        let pickle = file.entry("data.pkl", MAX_PICKLE)?;
        let root = pickle::read(&pickle).map_err(|problem| {
            DataError::invalid(&beside, format!("its pickle {problem}"), REMEDY)
        })?;
        match &root {
            PickleValue::Tensor(labels) => {
                Ok(ImagesAndLabels { images, labels: file.numbers(labels)? })
            }
            _ => Err(DataError::invalid(&beside, "is no tensor of labels", LABELS_REMEDY)),
        }
    }

    /// The numbers of a tensor.
    fn numbers(&mut self, tensor: &TensorPlace) -> Result<ArrayNumbers, DataError> {
        if self.archive.index_for_name(&format!("{}byteorder", self.prefix)).is_some()
            && self.entry("byteorder", 16)? != b"little"
        {
            return Err(self.refuse("was saved with the most significant byte first"));
        }
        let Ok(key) = std::str::from_utf8(tensor.key) else {
            return Err(self.refuse("names its numbers by no text"));
        };
        let bytes = self.entry(&format!("data/{key}"), u64::MAX)?;
        let array = match tensor.dtype {
            "ByteStorage" => placed(tensor, &bytes, |[byte]| byte).map(ArrayNumbers::Bytes),
            "CharStorage" => placed(tensor, &bytes, |b: [u8; 1]| i64::from(i8::from_le_bytes(b)))
                .map(ArrayNumbers::Whole),
            "ShortStorage" => placed(tensor, &bytes, |b| i64::from(i16::from_le_bytes(b)))
                .map(ArrayNumbers::Whole),
            "IntStorage" => placed(tensor, &bytes, |b| i64::from(i32::from_le_bytes(b)))
                .map(ArrayNumbers::Whole),
            "LongStorage" => placed(tensor, &bytes, i64::from_le_bytes).map(ArrayNumbers::Whole),
            "HalfStorage" => {
                placed(tensor, &bytes, |b| f16::from_le_bytes(b).to_f32()).map(ArrayNumbers::Floats)
            }
            "BFloat16Storage" => placed(tensor, &bytes, |b| bf16::from_le_bytes(b).to_f32())
                .map(ArrayNumbers::Floats),
            "FloatStorage" => placed(tensor, &bytes, f32::from_le_bytes).map(ArrayNumbers::Floats),
            _ => placed(tensor, &bytes, |b| f64::from_le_bytes(b) as f32).map(ArrayNumbers::Floats),
        };
        array.ok_or_else(|| self.refuse("has a tensor that reaches beyond its numbers"))
    }
}

/// The elements of `tensor` among the numbers in `bytes`, each of `B` bytes. `None` if they lie
/// beyond.
fn placed<T: Clone, const B: usize>(
    tensor: &TensorPlace,
    bytes: &[u8],
    number: impl Fn([u8; B]) -> T,
) -> Option<ArrayD<T>> {
    let (numbers, []) = bytes.as_chunks::<B>() else { return None };
    let TensorPlace { offset, shape, strides, .. } = tensor;
    let count = shape.iter().try_fold(1usize, |count, side| count.checked_mul(*side))?;
    // Expanded tensors would take more memory than their file.
    if count > numbers.len() {
        return None;
    }
    let part = numbers.get(*offset..)?;
    let view = ndarray::ArrayView::from_shape(IxDyn(shape).strides(IxDyn(strides)), part);
    Some(view.ok()?.mapv(number))
}
