//! NumPy archives: reads data sets (`x_train` …, as Keras and MedMNIST write them) and writes
//! distilled sets.

use crate::{DataError, Dataset, Split, dataset, memory, png};
use ndarray::{Array1, Array4, ArrayViewD, Axis, IxDyn};
use ndarray_npy::{NpzWriter, ViewElement, ViewNpyExt};
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;
use zip::ZipArchive;

/// Names of training images, training labels, test images, test labels.
const NAMES: [[&str; 4]; 2] = [
    ["x_train", "y_train", "x_test", "y_test"],
    ["train_images", "train_labels", "test_images", "test_labels"],
];
const REMEDY: &str =
    "write uint8 images [N, H, W] or [N, H, W, C] and whole-number labels [N] with numpy.savez";
/// The upper bound of unpacked bytes, more than any data set that fits in memory. A larger archive
/// is damaged or hostile.
const MAX_BYTES: u64 = 1 << 36;

/// Reads one split of the archive `path`. If `classes` are not known, they are numbers up to the
/// highest label of both splits.
pub(super) fn load(
    path: &Path,
    split: Split,
    classes: Option<Vec<String>>,
) -> Result<Dataset, DataError> {
    let mut archive = open(path)?;
    let has = |archive: &ZipArchive<File>, name: &str| {
        archive.index_for_name(&format!("{name}.npy")).is_some()
    };
    let Some(names) = NAMES.iter().find(|names| names.iter().all(|name| has(&archive, name)))
    else {
        let problem = format!("has neither {} nor {}", NAMES[0].join(", "), NAMES[1].join(", "));
        return Err(DataError::invalid(path, problem, REMEDY));
    };
    let mut all_labels = Vec::new();
    for name in [names[1], names[3]] {
        all_labels.push(labels(path, name, &entry(path, &mut archive, name)?)?);
    }
    let highest = all_labels.iter().flatten().max().map_or(0, |highest| *highest as usize + 1);
    let classes = classes.unwrap_or_else(|| (0..highest).map(|class| class.to_string()).collect());
    let at = if split == Split::Train { 0 } else { 1 };
    let labels = all_labels.swap_remove(at);
    let bytes = entry(path, &mut archive, names[2 * at])?;
    let (images, [channels, height, width]) = images(path, names[2 * at], &bytes, labels.len())?;
    dataset::check_labels(path, &labels, classes.len())?;
    let name = png::display_name(Path::new(path.file_stem().unwrap_or(path.as_os_str())));
    Ok(Dataset { name, images: images.into(), labels, channels, height, width, classes })
}

/// Opens the archive `path`.
pub(crate) fn open(path: &Path) -> Result<ZipArchive<File>, DataError> {
    let file = File::open(path).map_err(DataError::io(path, "open"))?;
    ZipArchive::new(file)
        .map_err(|error| DataError::invalid(path, format!("is no NumPy archive ({error})"), REMEDY))
}

/// The bytes of the array `name`.
pub(crate) fn entry(
    path: &Path,
    archive: &mut ZipArchive<File>,
    name: &str,
) -> Result<Vec<u8>, DataError> {
    let fail = |problem: String| DataError::invalid(path, format!("{name}: {problem}"), REMEDY);
    let file = archive.by_name(&format!("{name}.npy")).map_err(|error| fail(error.to_string()))?;
    // The archive states the unpacked size; the reader below stops there.
    memory::check(path, 2, file.size().min(MAX_BYTES))?;
    let mut bytes = Vec::new();
    let read = file
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| fail(error.to_string()))?;
    if read as u64 > MAX_BYTES {
        Err(fail(format!("more than {MAX_BYTES} bytes")))
    } else {
        Ok(bytes)
    }
}

/// Pixels `[N, C, H, W]` of `count` images, and their shape `[C, H, W]`.
fn images(
    path: &Path,
    name: &str,
    bytes: &[u8],
    count: usize,
) -> Result<(Vec<u8>, [usize; 3]), DataError> {
    let fail = |problem: String| DataError::invalid(path, format!("{name}: {problem}"), REMEDY);
    let array = ArrayViewD::<u8>::view_npy(bytes).map_err(|error| fail(error.to_string()))?;
    let array = if array.ndim() == 3 { array.insert_axis(Axis(3)) } else { array };
    let [n, height, width, channels] = *array.shape() else {
        return Err(fail(format!("has the shape {:?}", array.shape())));
    };
    if n == 0 || n != count || channels == 0 || height == 0 || width == 0 {
        return Err(fail(format!("has the shape {:?} for {count} labels", array.shape())));
    }
    if channels != 1 && channels != 3 && channels == width {
        let shape = array.shape();
        return Err(fail(format!(
            "has the shape {shape:?}, volumes or images with the channels first, which are not read"
        )));
    }
    let planes = array.permuted_axes(IxDyn(&[0, 3, 1, 2]));
    Ok((planes.iter().copied().collect(), [channels, height, width]))
}

/// Whole numbers of any common type, `[N]` or `[N, 1]`.
fn labels(path: &Path, name: &str, bytes: &[u8]) -> Result<Vec<u32>, DataError> {
    let fail = |problem: String| DataError::invalid(path, format!("{name}: {problem}"), REMEDY);
    let found = whole_numbers::<u8>(bytes)
        .or_else(|| whole_numbers::<i64>(bytes))
        .or_else(|| whole_numbers::<i32>(bytes))
        .or_else(|| whole_numbers::<u32>(bytes))
        .or_else(|| whole_numbers::<u64>(bytes))
        .or_else(|| whole_numbers::<u16>(bytes))
        .or_else(|| whole_numbers::<i16>(bytes))
        .or_else(|| whole_numbers::<i8>(bytes));
    let (shape, values) =
        found.ok_or_else(|| fail("are not whole numbers, or the array is damaged".into()))?;
    if !matches!(shape[..], [_] | [_, 1]) {
        return Err(fail(format!("has the shape {shape:?}")));
    }
    let value =
        |value: i128| u32::try_from(value).ok().filter(|label| *label < u32::from(u16::MAX));
    let bad = || fail("a label lies outside 0..=65534".into());
    values.into_iter().map(|label| value(label).ok_or_else(bad)).collect()
}

/// Shape and values of the array, or `None` if its type is not `T`.
fn whole_numbers<T: ViewElement + Copy + Into<i128>>(
    bytes: &[u8],
) -> Option<(Vec<usize>, Vec<i128>)> {
    let array = ArrayViewD::<T>::view_npy(bytes).ok()?;
    Some((array.shape().to_vec(), array.iter().map(|&value| value.into()).collect()))
}

/// The archive of `set`: `images` uint8 \[N, H, W, C\] and `labels` int64 \[N\].
pub fn encode(set: &Dataset) -> Result<Vec<u8>, DataError> {
    let fail = |error: String| {
        DataError::Mismatch(format!("{} cannot be written as a NumPy archive ({error})", set.name))
    };
    let shape = (set.len(), set.channels, set.height, set.width);
    let planes = Array4::from_shape_vec(shape, set.all_pixels()?.into_owned())
        .map_err(|error| fail(error.to_string()))?;
    let images = planes.permuted_axes([0, 2, 3, 1]).as_standard_layout().into_owned();
    let labels: Array1<i64> = set.labels.iter().map(|&label| i64::from(label)).collect();
    let mut writer = NpzWriter::new_compressed(Cursor::new(Vec::new()));
    writer.add_array("images", &images).map_err(|error| fail(error.to_string()))?;
    writer.add_array("labels", &labels).map_err(|error| fail(error.to_string()))?;
    Ok(writer.finish().map_err(|error| fail(error.to_string()))?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array2, Array3};
    use ndarray_npy::NpzReader;

    /// Two gray training images and one test image, 2×3, labelled by `y`.
    fn archive(names: [&str; 4], y: [i64; 3]) -> tempfile::NamedTempFile {
        let file = tempfile::Builder::new().suffix(".npz").tempfile().unwrap();
        let mut writer = NpzWriter::new_compressed(file.reopen().unwrap());
        writer
            .add_array(
                names[0],
                &Array3::from_shape_fn((2, 2, 3), |(n, y, x)| (100 * n + 10 * y + x) as u8),
            )
            .unwrap();
        writer.add_array(names[1], &Array1::from_vec(y[..2].to_vec())).unwrap();
        writer
            .add_array(
                names[2],
                &Array4::from_shape_fn((1, 2, 3, 3), |(_, y, x, c)| (100 * c + 10 * y + x) as u8),
            )
            .unwrap();
        writer.add_array(names[3], &Array2::from_elem((1, 1), y[2] as u8)).unwrap();
        writer.finish().unwrap();
        file
    }

    #[test]
    fn both_spellings_types_and_layouts_are_read() {
        for names in NAMES {
            let file = archive(names, [0, 4, 2]);
            let train = load(file.path(), Split::Train, None).unwrap();
            assert_eq!((train.len(), train.channels, train.height, train.width), (2, 1, 2, 3));
            assert_eq!((train.labels.as_slice(), train.classes.len()), ([0, 4].as_slice(), 5));
            assert_eq!(
                train.all_pixels().unwrap()[..],
                [0, 1, 2, 10, 11, 12, 100, 101, 102, 110, 111, 112]
            );
            let test = load(file.path(), Split::Test, None).unwrap();
            assert_eq!((test.channels, test.labels.as_slice()), (3, [2].as_slice()));
            assert_eq!(
                test.all_pixels().unwrap()[6..12],
                [100, 101, 102, 110, 111, 112],
                "the second channel"
            );
        }
    }

    #[test]
    fn bad_archives_are_explained() {
        let good = archive(NAMES[0], [0, 1, 0]);
        let bytes = std::fs::read(good.path()).unwrap();
        let of = |bytes: &[u8]| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), bytes).unwrap();
            load(file.path(), Split::Train, None).unwrap_err().to_string()
        };
        let message = |file: tempfile::NamedTempFile| {
            load(file.path(), Split::Train, None).unwrap_err().to_string()
        };
        let cases = [
            (of(b"no zip"), "is no NumPy archive"),
            (of(&bytes[..bytes.len() / 2]), "is no NumPy archive"),
            (message(archive(["a", "b", "c", "d"], [0; 3])), "has neither x_train, y_train"),
            (message(archive(NAMES[0], [0, -1, 0])), "y_train: a label lies outside"),
            (
                message(archive(["y_train", "x_train", "x_test", "y_test"], [0; 3])),
                "y_train: has the shape [2, 2, 3]",
            ),
            (load(Path::new("no.npz"), Split::Test, None).unwrap_err().to_string(), "cannot open"),
        ];
        for (message, expected) in cases {
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
        // Any damaged byte gives an error or a set, never a panic.
        for at in (0..bytes.len()).step_by(3) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x5a;
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), damaged).unwrap();
            let _ = load(file.path(), Split::Train, None);
        }
    }

    /// MedMNIST's volumes are `[N, 28, 28, 28]`, PyTorch's images `[N, 3, 32, 32]`. Read as `[N, H,
    /// W, C]` they would have 28 or 32 channels.
    #[test]
    fn volumes_and_channels_first_are_refused() {
        for shape in [(2, 28, 28, 28), (2, 3, 32, 32)] {
            let file = tempfile::Builder::new().suffix(".npz").tempfile().unwrap();
            let mut writer = NpzWriter::new_compressed(file.reopen().unwrap());
            for part in ["train", "test"] {
                writer.add_array(format!("{part}_images"), &Array4::<u8>::zeros(shape)).unwrap();
                writer.add_array(format!("{part}_labels"), &Array2::<u8>::zeros((2, 1))).unwrap();
            }
            writer.finish().unwrap();
            let message = load(file.path(), Split::Train, None).unwrap_err().to_string();
            assert!(
                message.contains("volumes or images with the channels first, which are not read"),
                "{message}"
            );
        }
    }

    #[test]
    fn a_distilled_set_is_written_with_channels_last() {
        let set = Dataset {
            name: "x".into(),
            images: (0..2 * 3 * 2 * 4).map(|value| value as u8).collect::<Vec<_>>().into(),
            labels: vec![1, 0],
            channels: 3,
            height: 2,
            width: 4,
            classes: vec!["a".into(), "b".into()],
        };
        let mut reader = NpzReader::new(Cursor::new(encode(&set).unwrap())).unwrap();
        let images: Array4<u8> = reader.by_name("images").unwrap();
        let labels: Array1<i64> = reader.by_name("labels").unwrap();
        assert_eq!((images.dim(), labels.to_vec()), ((2, 2, 4, 3), vec![1, 0]));
        assert_eq!(images[[1, 1, 2, 0]], set.image(1).unwrap()[4 + 2]);
        assert_eq!(images[[1, 1, 2, 2]], set.image(1).unwrap()[2 * 8 + 4 + 2]);
    }
}
