//! Reads CIFAR-10 and CIFAR-100, in the binary and in the pickled Python version.

use super::pickle::{self, PickleValue};
use crate::{DataError, Dataset, memory, png};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Height and width of every image.
const SIDE: usize = 32;
const PIXELS: usize = 3 * SIDE * SIDE;
const REMEDY: &str = "unpack the data set's archive again";
/// The upper bound of a file's size. The largest, CIFAR-100's training file, has 155 MB.
const MAX_BYTES: u64 = 1 << 30;
/// The files that name the classes of the binary versions.
const NAMES: [&str; 2] = ["batches.meta.txt", "fine_label_names.txt"];
/// The files that name the classes of the pickled versions, and the keys of the names.
const PICKLED_NAMES: [(&str, &str); 2] =
    [("batches.meta", "label_names"), ("meta", "fine_label_names")];

/// Reads `files` of `dir`. Each record has `label_bytes` labels, of which the last counts, and then
/// the pixels.
pub(super) fn binary(
    dir: &Path,
    files: &[String],
    label_bytes: usize,
    classes: Vec<String>,
) -> Result<Dataset, DataError> {
    for path in NAMES.map(|name| dir.join(name)).iter().filter(|path| path.is_file()) {
        let text = String::from_utf8_lossy(&read(path)?).into_owned();
        check_names(path, text.lines().map(str::trim).filter(|line| !line.is_empty()), &classes)?;
    }
    let mut read = CifarRecords::default();
    for path in files.iter().map(|file| dir.join(file)) {
        read_records(&path, label_bytes, classes.len(), &mut read)?;
    }
    Ok(read.into_set(dir, classes))
}

/// Reads the dictionaries in `files` of `dir`: `data` of bytes `[N, 3072]`, and the labels under
/// `label`.
pub(super) fn pickled(
    dir: &Path,
    files: &[String],
    label: &str,
    classes: Vec<String>,
) -> Result<Dataset, DataError> {
    for (path, key) in PICKLED_NAMES.map(|(name, key)| (dir.join(name), key)) {
        if path.is_file() {
            let bytes = read(&path)?;
            let refuse = |problem: String| DataError::invalid(&path, problem, REMEDY);
            let value = pickle::read(&bytes)
                .map_err(|problem| refuse(format!("is not read: it {problem}")))?;
            let names = value.get(key).and_then(PickleValue::items).unwrap_or_default();
            check_names(&path, names.iter().map(|name| name.text().unwrap_or("?")), &classes)?;
        }
    }
    let mut read = CifarRecords::default();
    for path in files.iter().map(|file| dir.join(file)) {
        read_pickle(&path, label, classes.len(), &mut read)?;
    }
    Ok(read.into_set(dir, classes))
}

/// The images and labels of several files.
#[derive(Default)]
struct CifarRecords {
    images: Vec<u8>,
    labels: Vec<u32>,
}

impl CifarRecords {
    fn into_set(self, dir: &Path, classes: Vec<String>) -> Dataset {
        Dataset {
            name: png::display_name(dir),
            images: self.images.into(),
            labels: self.labels,
            channels: 3,
            height: SIDE,
            width: SIDE,
            classes,
        }
    }
}

/// Reads a whole file of at most [`MAX_BYTES`].
fn read(path: &Path) -> Result<Vec<u8>, DataError> {
    let file = File::open(path).map_err(DataError::io(path, "open"))?;
    let length = file.metadata().map_err(DataError::io(path, "open"))?.len();
    if length > MAX_BYTES {
        return Err(DataError::invalid(
            path,
            format!("has {length} bytes, no file of CIFAR"),
            REMEDY,
        ));
    }
    // Memory is needed twice: for the file and for the images copied out of it.
    memory::check(path, 2, length)?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(DataError::io(path, "read"))?;
    Ok(bytes)
}

/// Checks that the class names in a file beside the images are those of the data set.
fn check_names<'a>(
    path: &Path,
    found: impl Iterator<Item = &'a str>,
    classes: &[String],
) -> Result<(), DataError> {
    let found: Vec<_> = found.collect();
    if found.len() != classes.len() {
        let problem = format!("{} class names instead of {}", found.len(), classes.len());
        return Err(DataError::invalid(path, problem, REMEDY));
    }
    match found.iter().zip(classes).enumerate().find(|(_, (found, class))| *found != class) {
        Some((label, (found, class))) => {
            let problem =
                format!("calls class {label} {found:?}, which the data set calls {class:?}");
            Err(DataError::invalid(path, problem, REMEDY))
        }
        None => Ok(()),
    }
}

fn read_records(
    path: &Path,
    labels: usize,
    classes: usize,
    read_before: &mut CifarRecords,
) -> Result<(), DataError> {
    let bytes = read(path)?;
    let record = labels + PIXELS;
    if bytes.is_empty() || bytes.len() % record != 0 {
        let problem =
            format!("{} bytes are not a whole number of records of {record} bytes", bytes.len());
        return Err(DataError::invalid(path, problem, REMEDY));
    }
    let first = read_before.labels.len();
    for record in bytes.chunks_exact(record) {
        read_before.labels.push(record[labels - 1].into());
        read_before.images.extend(&record[labels..]);
    }
    crate::dataset::check_labels(path, &read_before.labels[first..], classes)
}

fn read_pickle(
    path: &Path,
    label: &str,
    classes: usize,
    read_before: &mut CifarRecords,
) -> Result<(), DataError> {
    let refuse = |problem: String| DataError::invalid(path, problem, REMEDY);
    let bytes = read(path)?;
    let value =
        pickle::read(&bytes).map_err(|problem| refuse(format!("is not read: it {problem}")))?;
    let Some(PickleValue::Array { shape, dtype: b"u1", bytes }) = value.get("data") else {
        return Err(refuse("has no array of bytes called `data`".into()));
    };
    let labels = value.get(label).and_then(PickleValue::numbers);
    let labels = labels.ok_or_else(|| refuse(format!("has no whole numbers called `{label}`")))?;
    if shape[..] != [labels.len(), PIXELS] || labels.is_empty() {
        return Err(refuse(format!("has images of shape {shape:?} for {} labels", labels.len())));
    }
    let first = read_before.labels.len();
    // An invalid label becomes `u32::MAX`, which the check below refuses.
    let label = |label| u32::try_from(label).unwrap_or(u32::MAX);
    read_before.labels.extend(labels.into_iter().map(label));
    read_before.images.extend(*bytes);
    crate::dataset::check_labels(path, &read_before.labels[first..], classes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(labels: &[u8], pixel: u8) -> Vec<u8> {
        [labels, &[pixel; PIXELS]].concat()
    }

    fn numbered(count: usize) -> Vec<String> {
        (0..count).map(|class| format!("class {class}")).collect()
    }

    #[test]
    fn records_of_all_files_are_read_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let write =
            |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
        let files: Vec<String> = (1..=5).map(|file| format!("data_batch_{file}.bin")).collect();
        for (file, name) in (1..).zip(&files) {
            write(name, &record(&[file], 10 * file));
        }
        write("test.bin", &[record(&[1, 99], 5), record(&[1, 3], 6)].concat());

        let train = binary(dir.path(), &files, 1, numbered(10)).unwrap();
        assert_eq!(train.labels, [1, 2, 3, 4, 5]);
        let pixels = train.all_pixels().unwrap();
        assert_eq!(pixels.len(), 5 * PIXELS);
        assert_eq!((pixels[0], pixels[5 * PIXELS - 1]), (10, 50));
        assert_eq!(
            binary(dir.path(), &["test.bin".into()], 2, numbered(100)).unwrap().labels,
            [99, 3]
        );
        // Class names beside the images must be the known ones.
        write("batches.meta.txt", (numbered(10).join("\n") + "\n\n").as_bytes());
        binary(dir.path(), &files, 1, numbered(10)).unwrap();
        write("batches.meta.txt", numbered(10).join("\n").replace("class 3", "cat").as_bytes());
        let message = binary(dir.path(), &files, 1, numbered(10)).unwrap_err().to_string();
        assert!(
            message.contains("calls class 3 \"cat\", which the data set calls \"class 3\""),
            "{message}"
        );
        write("batches.meta.txt", numbered(9).join("\n").as_bytes());
        let message = binary(dir.path(), &files, 1, numbered(10)).unwrap_err().to_string();
        assert!(message.contains("batches.meta.txt: 9 class names instead of 10"), "{message}");
    }

    /// A file of the Python version, as Python 2 pickled it.
    fn pickle(labels: &[u8], pixel: u8) -> Vec<u8> {
        let mut file = b"\x80\x02}(U\x06labels](".to_vec();
        labels.iter().for_each(|&label| file.extend([b'K', label]));
        file.extend(b"eU\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K");
        file.push(labels.len() as u8);
        file.extend(b"M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN");
        file.extend(b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T");
        file.extend(((labels.len() * PIXELS) as u32).to_le_bytes());
        file.extend(vec![pixel; labels.len() * PIXELS]);
        file.extend(b"tbu.");
        file
    }

    #[test]
    fn the_python_version_is_read_like_the_binary_one() {
        let dir = tempfile::tempdir().unwrap();
        let write =
            |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
        let files = ["data_batch_1".to_string(), "data_batch_2".to_string()];
        write(&files[0], &pickle(&[3, 9], 7));
        write(&files[1], &pickle(&[0], 8));
        let read = |files: &[String], label: &str| pickled(dir.path(), files, label, numbered(10));
        let set = read(&files, "labels").unwrap();
        let pixels = set.all_pixels().unwrap();
        assert_eq!((set.labels.as_slice(), pixels.len()), ([3, 9, 0].as_slice(), 3 * PIXELS));
        assert_eq!((pixels[0], pixels[3 * PIXELS - 1]), (7, 8));
        let message = read(&files, "fine_labels").unwrap_err().to_string();
        assert!(
            message.contains("data_batch_1: has no whole numbers called `fine_labels`"),
            "{message}"
        );
        write(&files[1], &pickle(&[10], 8));
        let message = read(&files, "labels").unwrap_err().to_string();
        assert!(
            message.contains("data_batch_2: label 10 of image 0, but there are 10 classes"),
            "{message}"
        );
        write(&files[1], b"cos\nsystem\n(U\x02lstR.");
        let message = read(&files, "labels").unwrap_err().to_string();
        assert!(message.contains("data_batch_2: is not read: it calls \"os.system\""), "{message}");
    }

    #[test]
    fn bad_files_are_named_and_explained() {
        let cases = [
            (record(&[1], 0)[1..].to_vec(), "test_batch.bin: 3072 bytes are not a whole number"),
            (vec![], "test_batch.bin: 0 bytes are not a whole number"),
            (record(&[10], 0), "test_batch.bin: label 10 of image 0, but there are 10 classes"),
        ];
        for (records, expected) in cases {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("test_batch.bin"), records).unwrap();
            let message = binary(dir.path(), &["test_batch.bin".into()], 1, numbered(10))
                .unwrap_err()
                .to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
        let empty = tempfile::tempdir().unwrap();
        let message = binary(empty.path(), &["test_batch.bin".into()], 1, numbered(10))
            .unwrap_err()
            .to_string();
        assert!(message.contains("cannot open"), "{message}");
    }
}
