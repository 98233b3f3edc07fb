//! Writes and reads sets of images: one directory per class, whose name begins with the label, and
//! one PNG file per image. torchvision's `ImageFolder` reads them too, unless a class has no image.

use super::entries::{Findings, entries};
use super::layout::folder;
use super::{DataError, Dataset, Fit, memory};
use image::{ExtendedColorType, ImageFormat};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The directory of class `index` of a set, such as `03_dress` for class `Dress` of ten. Names sort
/// in class order.
pub fn class_dir(index: usize, classes: &[String]) -> String {
    let digits = classes.len().saturating_sub(1).to_string().len().max(2);
    let name = classes.get(index).map_or("", String::as_str);
    format!("{index:0digits$}_{}", slug(name))
}

/// The file of the `number`th image of its class: `00007.png`.
pub fn file_name(number: usize) -> String {
    format!("{number:05}.png")
}

/// The PNG file of `pixels` `[C, H, W]`: 8-bit gray for one channel, RGB for three.
pub fn encode(
    pixels: &[u8],
    channels: usize,
    height: usize,
    width: usize,
) -> Result<Vec<u8>, DataError> {
    let refuse = |message: String| Err(DataError::Mismatch(message));
    let color = match channels {
        1 => ExtendedColorType::L8,
        3 => ExtendedColorType::Rgb8,
        _ => {
            return refuse(format!(
                "an image of {channels} channels; only 1 or 3 can be written as PNG"
            ));
        }
    };
    let (Ok(rows), Ok(columns)) = (u32::try_from(height), u32::try_from(width)) else {
        return refuse(format!("{height}x{width} pixels; PNG cannot hold so large an image"));
    };
    if pixels.len() != channels * height * width {
        return refuse(format!(
            "{} pixel values for {channels}x{height}x{width}; pass one image [C, H, W]",
            pixels.len()
        ));
    }
    let mut file = std::io::Cursor::new(Vec::new());
    image::write_buffer_with_format(
        &mut file,
        &interleave(pixels, channels),
        columns,
        rows,
        color,
        ImageFormat::Png,
    )
    .map_err(|error| DataError::Mismatch(format!("an image cannot be written as PNG ({error})")))?;
    Ok(file.into_inner())
}

/// Reads a set of images that recover wrote. The numbers at the beginning of directory names are
/// the labels. Classes are named like their directories; a class without a directory is named by
/// its number. All images must have the size and channels of the first. They are decoded when they
/// are asked for if they take more than half of the free memory.
///
/// # Errors
/// When a directory's name begins with no number, two have the same number, a directory has no
/// image, or a file can't be read.
pub fn read_set(dir: &Path) -> Result<Dataset, DataError> {
    let mut findings = Findings::default();
    let (mut classes, files) = list(dir, &mut findings)?;
    let Some(count) = classes.keys().last().map(|label| label + 1) else {
        return Err(DataError::invalid(
            dir,
            "holds no class directory",
            "name the directory of a set's images",
        ));
    };
    let names = (0..count)
        .map(|label| classes.remove(&label).unwrap_or_else(|| format!("{label:02}")))
        .collect();
    let set = folder::read(dir, names, files, Fit::Exact, memory::half_of_free(), &mut findings)?;
    // The remarks are dropped: this program wrote the set, so only system files were skipped.
    findings.conclude(dir, &mut Vec::new())?;
    Ok(set)
}

/// The image files of a set, in the order of [`read_set`].
pub fn set_files(dir: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut findings = Findings::default();
    let (_, files) = list(dir, &mut findings)?;
    findings.conclude(dir, &mut Vec::new())?;
    Ok(files.into_iter().map(|(path, _)| path).collect())
}

/// The image files of a set, with their labels.
type LabelledFiles = Vec<(PathBuf, u32)>;

/// The class directories of a set by label, and its image files with their labels.
fn list(
    dir: &Path,
    findings: &mut Findings,
) -> Result<(BTreeMap<u32, String>, LabelledFiles), DataError> {
    let (mut classes, mut files) = (BTreeMap::new(), Vec::new());
    for entry in entries(dir, &mut findings.skipped)?.into_iter().filter(|entry| entry.is_dir) {
        let Some(label) = label_of(&entry.name) else {
            findings.problem(dir, &entry.path, "does not begin with the number of a class");
            continue;
        };
        if let Some(same) = classes.insert(label, entry.name) {
            findings.problem(dir, &entry.path, format!("has the number of {same}"));
        }
        let images = entries(&entry.path, &mut findings.skipped)?
            .into_iter()
            .filter(|entry| is_image(&entry.path));
        let before = files.len();
        files.extend(images.map(|image| (image.path, label)));
        if files.len() == before {
            findings.problem(dir, &entry.path, "holds no image");
        }
    }
    Ok((classes, files))
}

/// The number at the beginning of a class directory's name.
fn label_of(name: &str) -> Option<u32> {
    name.split_once('_')?.0.parse().ok().filter(|label| *label < u32::from(u16::MAX))
}

/// Whether the name is that of a PNG or JPEG file.
pub(super) fn is_image(path: &Path) -> bool {
    let known = ["png", "jpg", "jpeg"];
    path.extension()
        .is_some_and(|extension| known.iter().any(|known| extension.eq_ignore_ascii_case(known)))
}

/// The last part of `path`, used as a display name.
pub(super) fn display_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// Lower-case ASCII letters and digits; any other characters between them become one hyphen.
fn slug(name: &str) -> String {
    let words: Vec<_> = name
        .split(|letter: char| !letter.is_ascii_alphanumeric())
        .filter(|w| !w.is_empty())
        .collect();
    if words.is_empty() { "class".into() } else { words.join("-").to_ascii_lowercase() }
}

/// `[C, H, W]` to `[H, W, C]`.
pub(super) fn interleave(pixels: &[u8], channels: usize) -> Vec<u8> {
    let plane = pixels.len() / channels;
    let mut interleaved = vec![0; pixels.len()];
    for (channel, plane) in pixels.chunks_exact(plane).enumerate() {
        for (pixel, &value) in interleaved.chunks_exact_mut(channels).zip(plane) {
            pixel[channel] = value;
        }
    }
    interleaved
}

/// `[H, W, C]` to `[C, H, W]`.
pub(super) fn planes(pixels: &[u8], channels: usize) -> Vec<u8> {
    let mut planes = vec![0; pixels.len()];
    for (channel, plane) in planes.chunks_exact_mut(pixels.len() / channels).enumerate() {
        for (value, pixel) in plane.iter_mut().zip(pixels.chunks_exact(channels)) {
            *value = pixel[channel];
        }
    }
    planes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn set(channels: usize) -> Dataset {
        Dataset {
            name: "set".into(),
            images: (0..4 * channels * 6)
                .map(|at| (at * 37 % 256) as u8)
                .collect::<Vec<_>>()
                .into(),
            labels: vec![0, 0, 1, 2],
            channels,
            height: 2,
            width: 3,
            classes: vec!["T-shirt/top".into(), "Ankle boot".into(), "éß".into()],
        }
    }

    /// Writes `set` below `dir` as recover does.
    fn write_set(dir: &Path, set: &Dataset) {
        for (index, label) in set.labels.iter().enumerate() {
            let class = dir.join(class_dir(*label as usize, &set.classes));
            fs::create_dir_all(&class).unwrap();
            let image =
                encode(&set.image(index).unwrap(), set.channels, set.height, set.width).unwrap();
            fs::write(class.join(file_name(index)), image).unwrap();
        }
    }

    #[test]
    fn round_trip_is_lossless() {
        for channels in [1, 3] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("set");
            write_set(&path, &set(channels));
            assert!(path.join("00_t-shirt-top/00001.png").is_file());
            let classes =
                ["00_t-shirt-top", "01_ankle-boot", "02_class"].map(String::from).to_vec();
            assert_eq!(read_set(&path).unwrap(), Dataset { classes, ..set(channels) });
        }
    }

    #[test]
    fn class_directories_sort_in_class_order() {
        for count in [3, 100, 101, 1000] {
            let classes: Vec<_> = (0..count).map(|class| format!("{}", count - class)).collect();
            let dirs: Vec<_> = (0..count).map(|class| class_dir(class, &classes)).collect();
            assert!(dirs.is_sorted(), "{dirs:?}");
        }
        assert_eq!(class_dir(7, &vec![String::new(); 1000]), "007_class");
    }

    /// Reads a written set after `spoil` has changed it.
    fn read_spoilt(spoil: impl Fn(&Path)) -> String {
        let dir = tempfile::tempdir().unwrap();
        write_set(dir.path(), &set(1));
        spoil(dir.path());
        read_set(dir.path()).unwrap_err().to_string()
    }

    #[test]
    fn bad_folders_are_explained() {
        let other = |channels, height, width| {
            move |dir: &Path| {
                let pixels = vec![0; channels * height * width];
                fs::write(
                    dir.join("01_ankle-boot/1.png"),
                    encode(&pixels, channels, height, width).unwrap(),
                )
                .unwrap();
            }
        };
        let cases = [
            (read_spoilt(other(1, 3, 3)), "1.png is 1x3x3, but the images before it are 1x2x3"),
            (read_spoilt(other(3, 2, 3)), "1.png is 3x2x3, but the images before it are 1x2x3"),
            (
                read_spoilt(|dir| fs::write(dir.join("02_class/00003.png"), "no").unwrap()),
                "02_class/00003.png is neither a PNG nor a JPEG file",
            ),
            (
                read_spoilt(|dir| fs::remove_file(dir.join("02_class/00003.png")).unwrap()),
                "02_class holds no image",
            ),
            (
                read_spoilt(|dir| fs::rename(dir.join("02_class"), dir.join("class")).unwrap()),
                "class does not begin with the number of a class",
            ),
            (
                read_spoilt(|dir| fs::rename(dir.join("02_class"), dir.join("1_class")).unwrap()),
                "1_class has the number of 01_ankle-boot",
            ),
            (
                read_set(tempfile::tempdir().unwrap().path()).unwrap_err().to_string(),
                "holds no class directory",
            ),
            (read_set(Path::new("no such directory")).unwrap_err().to_string(), "cannot list"),
        ];
        for (message, expected) in cases {
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
    }

    /// A missing class does not change the other labels.
    #[test]
    fn labels_are_those_of_the_directories_names() {
        let dir = tempfile::tempdir().unwrap();
        write_set(dir.path(), &set(1));
        fs::remove_dir_all(dir.path().join("01_ankle-boot")).unwrap();
        let read = read_set(dir.path()).unwrap();
        assert_eq!((read.labels, read.classes.len()), (vec![0, 0, 2], 3));
        assert_eq!(read.classes, ["00_t-shirt-top", "01", "02_class"]);
        assert_eq!(set_files(dir.path()).unwrap().len(), 3);
        // Directories are sorted as numbers, not as text.
        let dir = tempfile::tempdir().unwrap();
        for name in ["2_b", "10_a"] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("0.png"), encode(&[1; 6], 1, 2, 3).unwrap())
                .unwrap();
        }
        assert_eq!(read_set(dir.path()).unwrap().labels, [10, 2]);
    }

    #[test]
    fn what_png_cannot_hold_is_explained() {
        let message = encode(&[0; 12], 2, 2, 3).unwrap_err().to_string();
        assert!(message.contains("2 channels; only 1 or 3"), "{message}");
        let message = encode(&[0; 5], 1, 2, 3).unwrap_err().to_string();
        assert!(message.contains("5 pixel values for 1x2x3"), "{message}");
    }
}
