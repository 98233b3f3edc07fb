//! NumPy archives of images and labels.

use std::path::Path;

use half::f16;
use ndarray::ArrayViewD;
use ndarray_npy::{ViewElement, ViewNpyExt};

use super::arrays::{ArrayNumbers, ImagesAndLabels};
use crate::DataError;
use crate::layout::npz;

/// Names of images and labels, in order of preference.
const NAMES: [[&str; 2]; 5] = [
    ["images", "labels"],
    ["x_train", "y_train"],
    ["train_images", "train_labels"],
    ["x", "y"],
    ["data", "targets"],
];
const REMEDY: &str = "write uint8 images [N, H, W, C] and whole-number labels [N] with numpy.savez(images=…, labels=…)";

pub(super) fn read(path: &Path) -> Result<ImagesAndLabels, DataError> {
    let mut archive = npz::open(path)?;
    let names = NAMES.iter().find(|names| {
        names.iter().all(|name| archive.index_for_name(&format!("{name}.npy")).is_some())
    });
    let Some([images, labels]) = names else {
        let found: Vec<String> = archive.file_names().map(str::to_owned).collect();
        let problem = format!("has no images with labels; its arrays are {}", found.join(", "));
        return Err(DataError::invalid(path, problem, REMEDY));
    };
    let mut array = |name: &str| {
        let bytes = npz::entry(path, &mut archive, name)?;
        numbers(&bytes).ok_or_else(|| {
            let problem = format!("{name}: is damaged, or of a type that is not read");
            DataError::invalid(path, problem, REMEDY)
        })
    };
    Ok(ImagesAndLabels { images: array(images)?, labels: array(labels)? })
}

fn numbers(bytes: &[u8]) -> Option<ArrayNumbers> {
    let bytes_of = || Some(ArrayNumbers::Bytes(ArrayViewD::<u8>::view_npy(bytes).ok()?.to_owned()));
    let doubles = || {
        let array = ArrayViewD::<f64>::view_npy(bytes).ok()?;
        Some(ArrayNumbers::Floats(array.mapv(|value| value as f32)))
    };
    let floats = || Some(ArrayNumbers::Floats(ArrayViewD::<f32>::view_npy(bytes).ok()?.to_owned()));
    bytes_of()
        .or_else(floats)
        .or_else(|| halves(bytes))
        .or_else(doubles)
        .or_else(|| whole::<i64>(bytes))
        .or_else(|| whole::<i32>(bytes))
        .or_else(|| whole::<i16>(bytes))
        .or_else(|| whole::<i8>(bytes))
        .or_else(|| whole::<u16>(bytes))
        .or_else(|| whole::<u32>(bytes))
}

/// `ndarray-npy` knows no half precision, so the same bits are read as whole numbers.
fn halves(bytes: &[u8]) -> Option<ArrayNumbers> {
    let (half, whole) = (b"'<f2'", b"'<u2'");
    // The type stands at the start of the header, a Python dictionary.
    let at = bytes.get(..64)?.windows(half.len()).position(|part| part == half)?;
    let mut bytes = bytes.to_vec();
    bytes[at..at + whole.len()].copy_from_slice(whole);
    let array = ArrayViewD::<u16>::view_npy(&bytes).ok()?;
    Some(ArrayNumbers::Floats(array.mapv(|bits| f16::from_bits(bits).to_f32())))
}

fn whole<T: ViewElement + Copy + Into<i64>>(bytes: &[u8]) -> Option<ArrayNumbers> {
    let array = ArrayViewD::<T>::view_npy(bytes).ok()?;
    Some(ArrayNumbers::Whole(array.mapv(Into::into)))
}
