//! Image folders: one directory per class, one file per image. Distilled sets are kept in this form, as PNG, and torchvision's `ImageFolder` reads it as is.
//! Folders of real images may hold JPEG files too, and images of any size, which are [fitted](Fit) to the networks.

use super::{DataError, Dataset};
use image::imageops::{self, FilterType};
use image::{DynamicImage, ExtendedColorType, GrayImage, ImageBuffer, ImageFormat, ImageReader, Luma, Pixel, RgbImage};
use std::path::{Path, PathBuf};

type Image<P> = ImageBuffer<P, Vec<u8>>;

/// What images of a folder become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// They stay as they are: all PNG, of the size and the channels of the first.
    Exact,
    /// PNG or JPEG of any size and colours, brought to `[channels, height, width]` as the exporters do it: scaled bilinearly so that it is covered with
    /// 8/7 of its size, of which the centre stays. An image of that very size is not scaled.
    To([usize; 3]),
}

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

/// A set of images as recover writes it: [`read_folder`] of PNG files that are alike.
pub fn read_set(dir: &Path) -> Result<Dataset, DataError> {
    read_folder(dir, Fit::Exact)
}

/// Reads every image of every directory in `dir`; sorted directories are the classes, in label order, under the directories' names.
pub fn read_folder(dir: &Path, fit: Fit) -> Result<Dataset, DataError> {
    let class_dirs = entries(dir)?.into_iter().filter(|path| path.is_dir());
    read_classes(dir, class_dirs.map(|path| (display_name(&path), path)).collect(), fit)
}

/// As [`read_folder`], of the directories that `map` names, which are the classes in its order.
pub fn read_mapped(dir: &Path, map: &[(String, String)], fit: Fit) -> Result<Dataset, DataError> {
    if let Some((missing, _)) = map.iter().find(|(name, _)| !dir.join(name).is_dir()) {
        let problem = format!("has no directory {missing}, which the class map names");
        return Err(DataError::invalid(dir, problem, "correct the map, or put the images there"));
    }
    read_classes(dir, map.iter().map(|(name, class)| (class.clone(), dir.join(name))).collect(), fit)
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

/// The images of each directory, whose class has the name beside it.
fn read_classes(dir: &Path, class_dirs: Vec<(String, PathBuf)>, fit: Fit) -> Result<Dataset, DataError> {
    let (is_image, kinds): (fn(&Path) -> bool, _) = match fit {
        Fit::Exact => (is_png, "holds no PNG file"),
        Fit::To([1 | 3, ..]) => (|path| is_png(path) || is_jpeg(path), "holds no PNG or JPEG file"),
        Fit::To([channels, ..]) => {
            let problem = format!("holds images, which can't become {channels} channels");
            return Err(DataError::invalid(dir, problem, "networks of 1 or 3 channels can see them"));
        }
    };
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
        for path in entries(class_dir)?.iter().filter(|path| is_image(path)) {
            push_image(&mut set, path, label, fit)?;
        }
        if set.len() == before {
            return Err(DataError::invalid(class_dir, kinds, "every class needs an image"));
        }
    }
    if set.is_empty() {
        let remedy = "give a directory with one directory of images per class";
        return Err(DataError::invalid(dir, "holds no class directory", remedy));
    }
    Ok(set)
}

fn push_image(set: &mut Dataset, path: &Path, label: u32, fit: Fit) -> Result<(), DataError> {
    let (channels, height, width, pixels) = match fit {
        Fit::Exact => read_image(path)?,
        Fit::To([channels, height, width]) => {
            let pixels = fitted(decoded(path)?, [channels, height, width]);
            (channels, height, width, pixels)
        }
    };
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

/// The image of a PNG or JPEG file.
fn decoded(path: &Path) -> Result<DynamicImage, DataError> {
    let mut reader = ImageReader::open(path).map_err(DataError::io(path, "open"))?;
    let (format, kind) = if is_jpeg(path) { (ImageFormat::Jpeg, "JPEG") } else { (ImageFormat::Png, "PNG") };
    reader.set_format(format);
    reader.decode().map_err(|error| {
        DataError::invalid(path, format!("is not a readable {kind} ({error})"), "replace or remove the file")
    })
}

/// The pixels `[C, H, W]` of `image` in this shape, of one channel or three.
fn fitted(image: DynamicImage, [channels, height, width]: [usize; 3]) -> Vec<u8> {
    if channels != 1 {
        return planes(&covering(image.into_rgb8(), height, width).into_raw(), 3);
    }
    let gray = if image.color().has_color() { to_gray(&image.into_rgb8()) } else { image.into_luma8() };
    covering(gray, height, width).into_raw()
}

/// Scaled and cut to `height` × `width`.
fn covering<P: Pixel<Subpixel = u8> + 'static>(image: Image<P>, height: usize, width: usize) -> Image<P> {
    let (rows, columns) = (height as u32, width as u32);
    if (image.height(), image.width()) == (rows, columns) {
        return image;
    }
    let scale =
        f64::max(height as f64 / f64::from(image.height()), width as f64 / f64::from(image.width())) * 8.0 / 7.0;
    let scaled = |side: u32, least: u32| ((f64::from(side) * scale).round_ties_even() as u32).max(least);
    let (tall, wide) = (scaled(image.height(), rows), scaled(image.width(), columns));
    let image = imageops::resize(&image, wide, tall, FilterType::Triangle);
    imageops::crop_imm(&image, (wide - columns) / 2, (tall - rows) / 2, columns, rows).to_image()
}

/// By ITU-R 601, in Pillow's arithmetic.
fn to_gray(image: &RgbImage) -> GrayImage {
    let luma = |[red, green, blue]: [u8; 3]| {
        ((u32::from(red) * 19_595 + u32::from(green) * 38_470 + u32::from(blue) * 7_471 + 0x8000) >> 16) as u8
    };
    GrayImage::from_fn(image.width(), image.height(), |x, y| Luma([luma(image.get_pixel(x, y).0)]))
}

/// Channels, height, width and pixels `[C, H, W]`.
fn read_image(path: &Path) -> Result<(usize, usize, usize, Vec<u8>), DataError> {
    let image = decoded(path)?;
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

/// Whether the name is that of a JPEG file.
fn is_jpeg(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["jpg", "jpeg"].iter().any(|known| extension.eq_ignore_ascii_case(known)))
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
            read_mapped(&dir.path().join("set"), &read_class_map(&dir.path().join("map.yaml"))?, Fit::Exact)
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

    /// `tests/goldens/make_folder.py` writes the files; the exporters read them.
    #[test]
    fn other_sizes_and_kinds_of_files_are_fitted_as_the_exporters_do() {
        let goldens = crate::in_repository("tests/goldens/folder");
        let bytes = fs::read(goldens.join("expected.safetensors")).unwrap();
        let expected = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for (name, shape) in [("gray", [1, 28, 28]), ("rgb", [3, 24, 24])] {
            let set = read_folder(&goldens, Fit::To(shape)).unwrap();
            assert_eq!((set.classes.len(), [set.channels, set.height, set.width]), (2, shape));
            let expected = expected.tensor(name).unwrap();
            assert_eq!(expected.shape(), [&[set.len()][..], &shape[..]].concat());
            let off: Vec<u8> = set.images.iter().zip(expected.data()).map(|(a, b)| a.abs_diff(*b)).collect();
            assert!(off.iter().all(|&off| off <= 2), "{name}: {:?} levels", off.iter().max());
            assert!(off.iter().map(|&off| f64::from(off)).sum::<f64>() / (off.len() as f64) < 0.3, "{name}");
        }
        let message = read_folder(&goldens, Fit::To([2, 28, 28])).unwrap_err().to_string();
        assert!(message.contains("can't become 2 channels"), "{message}");
        let alike = |pixels: &[u8]| {
            fitted(DynamicImage::ImageLuma8(image::GrayImage::from_raw(3, 2, pixels.to_vec()).unwrap()), [1, 2, 3])
        };
        assert_eq!(alike(&[1, 2, 3, 4, 5, 255]), [1, 2, 3, 4, 5, 255]);
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
