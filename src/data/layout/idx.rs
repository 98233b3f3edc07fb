//! Reads the IDX files of MNIST and Fashion-MNIST, plain or gzipped.

use crate::{DataError, Dataset, Split, memory, png};
use flate2::read::GzDecoder;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

const DOWNLOAD_AGAIN: &str = "the file is damaged or is something else: fetch it again";
/// The upper bound of unpacked bytes, more than any data set that fits in memory.
const MAX_BYTES: usize = 1 << 36;
/// The largest possible gzip ratio. A header that claims more than this times the file's length is
/// damaged.
const MAX_RATIO: usize = 1032;

/// One split: `images` is `[N, height, width]`, `labels` is `[N]`.
struct Idx {
    images: Vec<u8>,
    labels: Vec<u32>,
    height: usize,
    width: usize,
}

fn prefix(split: Split) -> &'static str {
    match split {
        Split::Train => "train",
        Split::Test => "t10k",
    }
}

/// The highest label of `split` in `dir`.
fn highest_label(dir: &Path, split: Split) -> Result<u8, DataError> {
    let (_, labels) = read::<1>(&find(dir, &format!("{}-labels-idx1-ubyte", prefix(split)))?)?;
    Ok(labels.into_iter().max().unwrap_or(0))
}

/// Reads `split` of the data set in `dir`. If `classes` are not known, they are the lines of
/// `classes.txt`, else numbers up to the highest label of both splits.
pub(super) fn dataset(
    dir: &Path,
    split: Split,
    classes: Option<Vec<String>>,
) -> Result<Dataset, DataError> {
    let names = dir.join("classes.txt");
    let classes: Vec<String> = match classes {
        Some(classes) => classes,
        None if names.is_file() => {
            let text = std::fs::read_to_string(&names)
                .map_err(DataError::io(&names, "read the class names"))?;
            text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect()
        }
        None => {
            let highest = highest_label(dir, Split::Train)?.max(highest_label(dir, Split::Test)?);
            (0..=highest).map(|class| class.to_string()).collect()
        }
    };
    let Idx { images, labels, height, width } = load(dir, split, classes.len())?;
    Ok(Dataset {
        name: png::display_name(dir),
        images: images.into(),
        labels,
        channels: 1,
        height,
        width,
        classes,
    })
}

/// Reads the image and the label file of `split` in `dir`. Labels must be below `classes`.
fn load(dir: &Path, split: Split, classes: usize) -> Result<Idx, DataError> {
    let image_path = find(dir, &format!("{}-images-idx3-ubyte", prefix(split)))?;
    let label_path = find(dir, &format!("{}-labels-idx1-ubyte", prefix(split)))?;
    let ([count, height, width], images) = read::<3>(&image_path)?;
    let ([label_count], labels) = read::<1>(&label_path)?;
    if count != label_count {
        let problem =
            format!("{label_count} labels for the {count} images of {}", image_path.display());
        return Err(DataError::invalid(&label_path, problem, "fetch both files again"));
    }
    let labels: Vec<u32> = labels.into_iter().map(u32::from).collect();
    crate::dataset::check_labels(&label_path, &labels, classes)?;
    Ok(Idx { images, labels, height, width })
}

/// `dir/stem`, or else `dir/stem.gz`.
fn find(dir: &Path, stem: &str) -> Result<PathBuf, DataError> {
    present(dir, stem).ok_or_else(|| {
        let problem = format!("has neither {stem} nor {stem}.gz");
        DataError::invalid(
            dir,
            problem,
            "name the directory that has it; `make data` fetches Fashion-MNIST",
        )
    })
}

/// The existing file of `dir/stem` and `dir/stem.gz`.
pub(super) fn present(dir: &Path, stem: &str) -> Option<PathBuf> {
    [dir.join(stem), dir.join(format!("{stem}.gz"))].into_iter().find(|path| path.is_file())
}

/// Reads the `RANK` dimensions and the values.
fn read<const RANK: usize>(path: &Path) -> Result<([usize; RANK], Vec<u8>), DataError> {
    let file = File::open(path).map_err(DataError::io(path, "open"))?;
    let length = file.metadata().map_err(DataError::io(path, "open"))?.len();
    let file = BufReader::new(file);
    let mut stream: Box<dyn Read> = match path.extension() {
        Some(extension) if extension == "gz" => Box::new(GzDecoder::new(file)),
        _ => Box::new(file),
    };
    let magic = read_u32(&mut stream, path)?;
    let expected = 0x0800 + RANK as u32;
    if magic != expected {
        let problem = format!(
            "starts with {magic:#010x} where an IDX file of {RANK} dimensions has {expected:#010x}"
        );
        return Err(DataError::invalid(path, problem, DOWNLOAD_AGAIN));
    }
    let mut sizes = [0; RANK];
    for size in &mut sizes {
        *size = read_u32(&mut stream, path)? as usize;
    }
    let most =
        usize::try_from(length).unwrap_or(usize::MAX).saturating_mul(MAX_RATIO).min(MAX_BYTES);
    let values = read_values(stream, path, &sizes, most)?;
    Ok((sizes, values))
}

/// Reads exactly as many bytes as `sizes` says, at most `most`. Memory grows with the actual data,
/// not with the claimed size.
fn read_values(
    stream: impl Read,
    path: &Path,
    sizes: &[usize],
    most: usize,
) -> Result<Vec<u8>, DataError> {
    let length = sizes.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
    let Some(length) = length.filter(|length| (1..=most).contains(length)) else {
        let problem = format!("its header claims the dimensions {sizes:?}");
        return Err(DataError::invalid(path, problem, DOWNLOAD_AGAIN));
    };
    memory::check(path, sizes[0] as u64, (length / sizes[0]) as u64)?;
    let mut values = Vec::new();
    stream
        .take(length as u64 + 1)
        .read_to_end(&mut values)
        .map_err(|error| damaged(path, &error))?;
    if values.len() == length {
        return Ok(values);
    }
    let found = if values.len() > length { "more".into() } else { values.len().to_string() };
    let problem = format!("its header announces {length} values {sizes:?}, but there are {found}");
    Err(DataError::invalid(path, problem, DOWNLOAD_AGAIN))
}

fn read_u32(stream: &mut impl Read, path: &Path) -> Result<u32, DataError> {
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes).map_err(|error| damaged(path, &error))?;
    Ok(u32::from_be_bytes(bytes))
}

fn damaged(path: &Path, error: &std::io::Error) -> DataError {
    DataError::invalid(path, format!("cannot be read to its end ({error})"), DOWNLOAD_AGAIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    fn idx(magic: u32, sizes: &[u32], values: &[u8]) -> Vec<u8> {
        let mut bytes = magic.to_be_bytes().to_vec();
        bytes.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
        bytes.extend(values);
        bytes
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    const IMAGES: &str = "train-images-idx3-ubyte";
    const LABELS: &str = "train-labels-idx1-ubyte";

    fn load_files(files: &[(&str, Vec<u8>)]) -> Result<Idx, DataError> {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        load(dir.path(), Split::Train, 10)
    }

    fn good_images() -> Vec<u8> {
        idx(0x803, &[2, 2, 3], &(0..12).collect::<Vec<u8>>())
    }

    fn good_labels() -> Vec<u8> {
        idx(0x801, &[2], &[7, 0])
    }

    #[test]
    fn reads_plain_and_gzipped() {
        let zipped_images = format!("{IMAGES}.gz");
        for files in [
            [(IMAGES, good_images()), (LABELS, good_labels())],
            [(zipped_images.as_str(), gzip(&good_images())), (LABELS, good_labels())],
        ] {
            let read = load_files(&files).unwrap();
            assert_eq!((read.height, read.width), (2, 3));
            assert_eq!(read.labels, [7, 0]);
            assert_eq!(read.images, (0..12).collect::<Vec<u8>>());
        }
    }

    #[test]
    fn bad_files_are_named_and_explained() {
        let zipped = gzip(&good_images());
        let mut wrong_sum = zipped.clone();
        let at = wrong_sum.len() - 8;
        wrong_sum[at] ^= 1;
        let mut longer = good_images();
        longer.push(0);
        let images = |bytes: Vec<u8>| vec![(IMAGES, bytes), (LABELS, good_labels())];
        let labels = |bytes: Vec<u8>| vec![(IMAGES, good_images()), (LABELS, bytes)];
        let gz = "train-images-idx3-ubyte.gz";
        let cases = [
            (
                images(good_images()[..14].to_vec()),
                "train-images-idx3-ubyte: cannot be read to its end",
            ),
            (images(vec![]), "cannot be read to its end"),
            (
                images(good_images()[..20].to_vec()),
                "announces 12 values [2, 2, 3], but there are 4",
            ),
            (images(longer), "announces 12 values [2, 2, 3], but there are more"),
            (
                images(good_labels()),
                "starts with 0x00000801 where an IDX file of 3 dimensions has 0x00000803",
            ),
            (images(idx(0x803, &[0, 28, 28], &[])), "claims the dimensions [0, 28, 28]"),
            (images(idx(0x803, &[u32::MAX; 3], &[])), "claims the dimensions [4294967295, "),
            (
                vec![(gz, zipped[..zipped.len() / 2].to_vec()), (LABELS, good_labels())],
                "cannot be read to its end",
            ),
            (
                vec![(gz, zipped[..zipped.len() - 3].to_vec()), (LABELS, good_labels())],
                "cannot be read to its end",
            ),
            (vec![(gz, wrong_sum), (LABELS, good_labels())], "cannot be read to its end"),
            (vec![(gz, good_images()), (LABELS, good_labels())], "cannot be read to its end"),
            (
                labels(idx(0x801, &[3], &[1, 2, 3])),
                "train-labels-idx1-ubyte: 3 labels for the 2 images",
            ),
            (
                labels(idx(0x801, &[2], &[1, 10])),
                "train-labels-idx1-ubyte: label 10 of image 1, but there are 10 classes",
            ),
            (
                vec![(IMAGES, good_images())],
                "has neither train-labels-idx1-ubyte nor train-labels-idx1-ubyte.gz",
            ),
        ];
        for (files, expected) in cases {
            let message = load_files(&files).err().unwrap().to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
    }
}
