//! Arrays of images and labels become pixels and classes.

use std::collections::BTreeSet;
use std::path::Path;

use ndarray::{Array4, ArrayD, Axis, IxDyn};

use super::{FinishedSource, OwnSet};
use crate::{DataError, Dataset, Normalization, png};

const SHAPES: &str = "save images as [N, C, H, W] or [N, H, W, C], labels as [N]";
/// How far floating-point pixels may lie outside of 0..=1 by rounding alone.
const SLACK: f32 = 1e-3;

/// The numbers of an array file, in C order.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ArrayNumbers {
    Bytes(ArrayD<u8>),
    Whole(ArrayD<i64>),
    Floats(ArrayD<f32>),
}

/// The images and the labels of an array file.
pub(super) struct ImagesAndLabels {
    pub images: ArrayNumbers,
    pub labels: ArrayNumbers,
}

impl ArrayNumbers {
    pub(super) fn shape(&self) -> &[usize] {
        match self {
            ArrayNumbers::Bytes(array) => array.shape(),
            ArrayNumbers::Whole(array) => array.shape(),
            ArrayNumbers::Floats(array) => array.shape(),
        }
    }

    /// All numbers, in C order.
    pub(super) fn floats(&self) -> Vec<f32> {
        match self {
            ArrayNumbers::Bytes(array) => array.iter().map(|&byte| byte.into()).collect(),
            ArrayNumbers::Whole(array) => array.iter().map(|&number| number as f32).collect(),
            ArrayNumbers::Floats(array) => array.iter().copied().collect(),
        }
    }
}

/// The set that the arrays of `path` hold, as `source` wants it.
pub(super) fn own_set(
    path: &Path,
    arrays: ImagesAndLabels,
    source: &FinishedSource,
    remarks: &mut Vec<String>,
) -> Result<OwnSet, DataError> {
    let ImagesAndLabels { images, labels } = arrays;
    let labels = classes(path, &labels, remarks)?;
    let (pixels, [channels, height, width]) = pixels(path, images, source, remarks)?;
    let count = pixels.len() / (channels * height * width).max(1);
    if count != labels.len() {
        let problem = format!("has {count} images and {} labels", labels.len());
        return Err(DataError::invalid(path, problem, "give one label for each image"));
    }
    // The labels that occur are the set's own classes.
    let own: Vec<i64> = labels.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    let names: Vec<String> = own.iter().map(ToString::to_string).collect();
    let label = |label: &i64| own.binary_search(label).unwrap_or_default() as u32;
    let name = png::display_name(Path::new(path.file_stem().unwrap_or(path.as_os_str())));
    let labels = labels.iter().map(label).collect();
    let set = Dataset {
        name,
        images: pixels.into(),
        labels,
        channels,
        height,
        width,
        classes: names.clone(),
    };
    Ok(OwnSet { set, names })
}

/// The labels `[N]` or `[N, 1]`; of soft ones `[N, K]` the classes with the largest values.
pub(super) fn classes(
    path: &Path,
    labels: &ArrayNumbers,
    remarks: &mut Vec<String>,
) -> Result<Vec<i64>, DataError> {
    let shape = labels.shape();
    let refuse = |problem: String| DataError::invalid(path, problem, SHAPES);
    let width = match shape {
        [_] => 1,
        [_, width] => *width,
        _ => return Err(refuse(format!("has labels of the shape {shape:?}"))),
    };
    let whole =
        |value: f32| (value.fract() == 0.0 && value.abs() < 65535.0).then_some(value as i64);
    match labels {
        ArrayNumbers::Bytes(array) if width == 1 => {
            return Ok(array.iter().map(|&b| b.into()).collect());
        }
        ArrayNumbers::Whole(array) if width == 1 => return Ok(array.iter().copied().collect()),
        _ => {}
    }
    let floats = labels.floats();
    if floats.iter().any(|value| !value.is_finite()) {
        return Err(refuse("has labels that are no finite numbers".into()));
    }
    if width == 1 {
        let all: Option<Vec<i64>> = floats.into_iter().map(whole).collect();
        return all.ok_or_else(|| refuse("has labels that are no whole numbers".into()));
    }
    remarks.push(format!(
        "{}: of its soft labels {shape:?} the largest gives an image's class; students learn them with `labels: own`",
        path.display()
    ));
    let largest = |row: &[f32]| {
        let best = |best: usize, at: usize| if row[at] > row[best] { at } else { best };
        (0..row.len()).fold(0, best) as i64
    };
    Ok(floats.chunks_exact(width.max(1)).map(largest).collect())
}

/// Pixels `[N, C, H, W]` and `[C, H, W]`.
fn pixels(
    path: &Path,
    images: ArrayNumbers,
    source: &FinishedSource,
    remarks: &mut Vec<String>,
) -> Result<(Vec<u8>, [usize; 3]), DataError> {
    match images {
        ArrayNumbers::Bytes(array) => {
            let images = channels_first(path, array, source.shape)?;
            let (_, channels, height, width) = images.dim();
            Ok((images.into_iter().collect(), [channels, height, width]))
        }
        ArrayNumbers::Whole(array) => {
            if array.iter().any(|value| !(0..=255).contains(value)) {
                let problem = "has images of whole numbers outside of 0..=255";
                return Err(DataError::invalid(path, problem, "save pixels as uint8"));
            }
            pixels(path, ArrayNumbers::Bytes(array.mapv(|value| value as u8)), source, remarks)
        }
        ArrayNumbers::Floats(array) => {
            let images = channels_first(path, array, source.shape)?;
            let (_, channels, height, width) = images.dim();
            if let Some(constants) = source.normalization.as_ref().map(Normalization::channels) {
                source.check_channels(channels)?;
                if constants != channels {
                    let problem = format!("has {channels} channels, `normalised` {constants}");
                    return Err(DataError::invalid(
                        path,
                        problem,
                        "give a mean and a deviation for each",
                    ));
                }
            }
            let pixels = of_floats(path, images, source.normalization.as_ref(), remarks)?;
            Ok((pixels, [channels, height, width]))
        }
    }
}

/// The images `[N, C, H, W]`. Of two possible orders of axes the one is taken that gives the
/// `wanted` shape.
fn channels_first<T: Copy>(
    path: &Path,
    array: ArrayD<T>,
    wanted: [usize; 3],
) -> Result<Array4<T>, DataError> {
    let refuse = |shape: &[usize]| {
        DataError::invalid(path, format!("has images of the shape {shape:?}"), SHAPES)
    };
    let array = if array.ndim() == 3 { array.insert_axis(Axis(1)) } else { array };
    let shape = array.shape().to_vec();
    let &[count, a, b, c] = shape.as_slice() else { return Err(refuse(&shape)) };
    if count == 0 || a * b * c == 0 {
        return Err(refuse(&shape));
    }
    let is_first = [a, b, c] == wanted || [1, 3].contains(&a) && [c, a, b] != wanted;
    let array = match is_first {
        true => array,
        false if [1, 3].contains(&c) => array.permuted_axes(IxDyn(&[0, 3, 1, 2])),
        false => return Err(refuse(&shape)),
    };
    array.into_dimensionality().map_err(|_| refuse(&shape))
}

/// Floating-point images as pixels: in 0..=1 or 0..=255, or normalised.
fn of_floats(
    path: &Path,
    images: Array4<f32>,
    normalization: Option<&Normalization>,
    remarks: &mut Vec<String>,
) -> Result<Vec<u8>, DataError> {
    let (low, high) = images
        .iter()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &v| (low.min(v), high.max(v)));
    if images.iter().any(|value| !value.is_finite()) {
        let problem = "has images with values that are no finite numbers";
        return Err(DataError::invalid(path, problem, "export the images again"));
    }
    let plain = |scale: f32| {
        let bytes = images.iter().map(|v| (v * scale).round().clamp(0.0, 255.0) as u8);
        Ok(bytes.collect())
    };
    let Some(normalization) = normalization else {
        let is_byte = |value: &f32| value.fract() == 0.0 && (0.0..=255.0).contains(value);
        return match () {
            () if low >= -SLACK && high <= 1.0 + SLACK => plain(255.0),
            () if images.iter().all(is_byte) => plain(1.0),
            () => Err(DataError::invalid(
                path,
                format!(
                    "has images with values from {low:.2} to {high:.2}, which are normalised or whitened, not pixels"
                ),
                "set `normalised: dataset` or `normalised: {mean: […], std: […]}` beside `images` if a mean and a deviation made them; ZCA whitening can't \
                 be undone without its matrix: turn such images into pixels where they were made",
            )),
        };
    };
    if low >= -SLACK && high <= 1.0 + SLACK {
        let problem =
            format!("has images with values from {low:.2} to {high:.2}, which are pixels");
        return Err(DataError::invalid(path, problem, "leave `normalised` out"));
    }
    clipped(path, &images, normalization, remarks);
    let images = images.as_standard_layout().into_owned();
    normalization.to_pixels(&images)
}

/// Remarks on values that no pixel has.
fn clipped(
    path: &Path,
    images: &Array4<f32>,
    normalization: &Normalization,
    remarks: &mut Vec<String>,
) {
    let range = normalization.range();
    let outside = images.indexed_iter().filter(|((_, channel, _, _), value)| {
        range
            .get(*channel)
            .is_some_and(|(low, high)| !(low - SLACK..=high + SLACK).contains(*value))
    });
    let share = 100.0 * outside.count() as f64 / images.len().max(1) as f64;
    if share > 0.0 {
        remarks.push(format!(
            "{}: {share:.1} % of its values are darker than black or brighter than white and become these",
            path.display()
        ));
    }
}
