//! Image folders: one directory per class, one PNG per image. Distilled sets are kept in this form, and torchvision's `ImageFolder` reads it as is.

use super::{DataError, Dataset};
use image::{DynamicImage, ExtendedColorType, ImageFormat, ImageReader};
use std::path::{Path, PathBuf};

/// The directory of class `index` of a set: `03_dress` for class `Dress` of ten. Sorted names are in class order.
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
pub fn encode(pixels: &[u8], channels: usize, height: usize, width: usize) -> Result<Vec<u8>, DataError> {
    let refuse = |message: String| Err(DataError::Mismatch(message));
    let color = match channels {
        1 => ExtendedColorType::L8,
        3 => ExtendedColorType::Rgb8,
        _ => return refuse(format!("an image of {channels} channels; only 1 or 3 can be written as PNG")),
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
    image::write_buffer_with_format(&mut file, &interleave(pixels, channels), columns, rows, color, ImageFormat::Png)
        .map_err(|error| DataError::Mismatch(format!("an image cannot be written as PNG ({error})")))?;
    Ok(file.into_inner())
}

/// Reads every PNG file of every directory in `dir`; sorted directories are the classes, in label order, under the directories' names.
///
/// All images must have the size and the channels of the first.
pub fn read_set(dir: &Path) -> Result<Dataset, DataError> {
    let class_dirs = entries(dir)?.into_iter().filter(|path| path.is_dir());
    read_classes(dir, class_dirs.map(|path| (display_name(&path), path)).collect())
}

/// As [`read_set`], of the directories that `map` names, which are the classes in its order.
pub fn read_mapped(dir: &Path, map: &[(String, String)]) -> Result<Dataset, DataError> {
    if let Some((missing, _)) = map.iter().find(|(name, _)| !dir.join(name).is_dir()) {
        let problem = format!("has no directory {missing}, which the class map names");
        return Err(DataError::invalid(dir, problem, "correct the map, or put the images there"));
    }
    read_classes(dir, map.iter().map(|(name, class)| (class.clone(), dir.join(name))).collect())
}

/// The directories and class names of a YAML or JSON mapping, in its order.
pub fn read_class_map(path: &Path) -> Result<Vec<(String, String)>, DataError> {
    let text = std::fs::read_to_string(path).map_err(DataError::io(path, "read the class map"))?;
    let remedy = "write one line `directory: class name` per class, in label order";
    let refuse = |why: String| DataError::invalid(path, format!("is no map of texts to texts ({why})"), remedy);
    // A mapping, unlike a map of strings, refuses a key that comes twice.
    let tree: serde_yaml::Mapping = serde_yaml::from_str(&text).map_err(|error| refuse(error.to_string()))?;
    let entries: Option<Vec<(String, String)>> =
        tree.iter().map(|(name, class)| Some((name.as_str()?.to_string(), class.as_str()?.to_string()))).collect();
    let map = entries.ok_or_else(|| refuse("something in it is not text; put it in quotes".into()))?;
    let outside = |name: &String| name.is_empty() || name.contains(['/', '\\']) || name == "..";
    if let Some((name, _)) = map.iter().find(|(name, _)| outside(name)) {
        return Err(DataError::invalid(path, format!("names {name:?}, which is no directory's name"), remedy));
    }
    Ok(map)
}

/// The PNG files of each directory, whose class has the name beside it.
fn read_classes(dir: &Path, class_dirs: Vec<(String, PathBuf)>) -> Result<Dataset, DataError> {
    let mut set = Dataset {
        name: display_name(dir),
        images: vec![],
        labels: vec![],
        channels: 0,
        height: 0,
        width: 0,
        classes: class_dirs.iter().map(|(class, _)| class.clone()).collect(),
    };
    for (label, (_, class_dir)) in (0..).zip(&class_dirs) {
        let before = set.len();
        for path in entries(class_dir)?.iter().filter(|path| is_png(path)) {
            push_image(&mut set, path, label)?;
        }
        if set.len() == before {
            return Err(DataError::invalid(class_dir, "holds no PNG file", "every class needs an image"));
        }
    }
    if set.is_empty() {
        let remedy = "give a directory with one directory of PNG files per class";
        return Err(DataError::invalid(dir, "holds no class directory", remedy));
    }
    Ok(set)
}

fn push_image(set: &mut Dataset, path: &Path, label: u32) -> Result<(), DataError> {
    let (channels, height, width, pixels) = read_image(path)?;
    if set.is_empty() {
        (set.channels, set.height, set.width) = (channels, height, width);
    }
    let first = (set.channels, set.height, set.width);
    if (channels, height, width) != first {
        let problem =
            format!("is {channels}x{height}x{width}, but the images before it are {}x{}x{}", first.0, first.1, first.2);
        return Err(DataError::invalid(path, problem, "bring all images to one size and one colour type"));
    }
    set.images.extend(pixels);
    set.labels.push(label);
    Ok(())
}

/// Channels, height, width and pixels `[C, H, W]`.
fn read_image(path: &Path) -> Result<(usize, usize, usize, Vec<u8>), DataError> {
    let mut reader = ImageReader::open(path).map_err(DataError::io(path, "open"))?;
    reader.set_format(ImageFormat::Png);
    let image = reader.decode().map_err(|error| {
        DataError::invalid(path, format!("is not a readable PNG ({error})"), "replace or remove the file")
    })?;
    let (height, width) = (image.height() as usize, image.width() as usize);
    match image {
        DynamicImage::ImageLuma8(gray) => Ok((1, height, width, gray.into_raw())),
        DynamicImage::ImageRgb8(rgb) => Ok((3, height, width, planes(&rgb.into_raw(), 3))),
        other => {
            let problem = format!("has the colour type {:?}", other.color());
            Err(DataError::invalid(path, problem, "convert it to 8-bit gray or RGB"))
        }
    }
}

/// The entries of `dir`, sorted by name.
pub(crate) fn entries(dir: &Path) -> Result<Vec<PathBuf>, DataError> {
    let listing = std::fs::read_dir(dir).map_err(DataError::io(dir, "list"))?;
    let paths: Result<Vec<_>, _> = listing.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths.map_err(DataError::io(dir, "list"))?;
    paths.sort();
    Ok(paths)
}

/// Whether the name is that of a PNG file.
pub(crate) fn is_png(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png"))
}

/// The last part of `path`, which names what lies there.
pub(super) fn display_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// Lower-case ASCII letters and digits, everything else between them as one hyphen.
fn slug(name: &str) -> String {
    let words: Vec<_> = name.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|w| !w.is_empty()).collect();
    if words.is_empty() { "class".into() } else { words.join("-").to_ascii_lowercase() }
}

/// `[C, H, W]` to `[H, W, C]`.
pub(super) fn interleave(pixels: &[u8], channels: usize) -> Vec<u8> {
    let plane = pixels.len() / channels;
    (0..plane).flat_map(|position| (0..channels).map(move |channel| pixels[channel * plane + position])).collect()
}

/// `[H, W, C]` to `[C, H, W]`.
pub(super) fn planes(pixels: &[u8], channels: usize) -> Vec<u8> {
    (0..channels).flat_map(|channel| pixels.iter().skip(channel).step_by(channels).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn set(channels: usize) -> Dataset {
        Dataset {
            name: "set".into(),
            images: (0..4 * channels * 6).map(|value| (value * 37 % 256) as u8).collect(),
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
            let image = encode(set.image(index).unwrap(), set.channels, set.height, set.width).unwrap();
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
            let classes = ["00_t-shirt-top", "01_ankle-boot", "02_class"].map(String::from).to_vec();
            assert_eq!(read_set(&path).unwrap(), Dataset { classes, ..set(channels) });
        }
    }

    #[test]
    fn a_class_map_names_orders_and_chooses_classes() {
        let dir = tempfile::tempdir().unwrap();
        write_set(&dir.path().join("set"), &set(1));
        let read = |text: &str| {
            fs::write(dir.path().join("map.yaml"), text).unwrap();
            read_mapped(&dir.path().join("set"), &read_class_map(&dir.path().join("map.yaml"))?)
        };
        let chosen = read("02_class: last\n00_t-shirt-top: first\n").unwrap();
        assert_eq!((chosen.classes, chosen.labels), (vec!["last".to_string(), "first".to_string()], vec![0, 1, 1]));
        assert_eq!(chosen.images, [&set(1).images[18..], &set(1).images[..12]].concat());
        for (text, expected) in [
            ("03_coat: coat", "has no directory 03_coat, which the class map names"),
            ("../x: x", "names \"../x\", which is no directory's name"),
            ("[a, b]", "is no map of texts to texts"),
            ("a: x\na: y", "is no map of texts to texts"),
            ("{}", "holds no class directory"),
        ] {
            let message = read(text).unwrap_err().to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
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
                fs::write(dir.join("01_ankle-boot/1.png"), encode(&pixels, channels, height, width).unwrap()).unwrap();
            }
        };
        let cases = [
            (read_spoilt(other(1, 3, 3)), "1.png: is 1x3x3, but the images before it are 1x2x3"),
            (read_spoilt(other(3, 2, 3)), "1.png: is 3x2x3, but the images before it are 1x2x3"),
            (read_spoilt(|dir| fs::write(dir.join("02_class/00003.png"), "no").unwrap()), "is not a readable PNG"),
            (
                read_spoilt(|dir| fs::remove_file(dir.join("02_class/00003.png")).unwrap()),
                "02_class: holds no PNG file",
            ),
            (
                read_spoilt(|dir| {
                    let path = dir.join("02_class/00003.png");
                    image::save_buffer(path, &[0; 24], 3, 2, ExtendedColorType::Rgba8).unwrap();
                }),
                "has the colour type Rgba8; convert it to 8-bit gray or RGB",
            ),
            (read_set(tempfile::tempdir().unwrap().path()).unwrap_err().to_string(), "holds no class directory"),
            (read_set(Path::new("no such directory")).unwrap_err().to_string(), "cannot list"),
        ];
        for (message, expected) in cases {
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
    }

    #[test]
    fn truncated_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        let bytes = encode(&[1; 12], 3, 2, 2).unwrap();
        for length in 0..bytes.len() - 12 {
            fs::write(&path, &bytes[..length]).unwrap();
            assert!(read_image(&path).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn what_png_cannot_hold_is_explained() {
        let message = encode(&[0; 12], 2, 2, 3).unwrap_err().to_string();
        assert!(message.contains("2 channels; only 1 or 3"), "{message}");
        let message = encode(&[0; 5], 1, 2, 3).unwrap_err().to_string();
        assert!(message.contains("5 pixel values for 1x2x3"), "{message}");
    }
}
