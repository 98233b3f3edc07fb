//! Reads the binary versions of CIFAR-10 and CIFAR-100.

use super::DataError;
use std::path::Path;

/// Height and width of every image.
pub(super) const SIDE: usize = 32;
const PIXELS: usize = 3 * SIDE * SIDE;
const REMEDY: &str = "unpack the binary version of the data set again";

/// One split: `images` is `[N, 3, 32, 32]`, `labels` is `[N]`.
pub(super) struct Cifar {
    pub images: Vec<u8>,
    pub labels: Vec<u32>,
}

/// Reads `files` of `dir`, whose records have `label_bytes` labels before the pixels, of which the last counts.
pub(super) fn load(dir: &Path, files: &[String], label_bytes: usize, classes: usize) -> Result<Cifar, DataError> {
    let mut set = Cifar { images: vec![], labels: vec![] };
    for file in files {
        read_records(&dir.join(file), label_bytes, classes, &mut set)?;
    }
    Ok(set)
}

fn read_records(path: &Path, labels: usize, classes: usize, set: &mut Cifar) -> Result<(), DataError> {
    let bytes = std::fs::read(path).map_err(DataError::io(path, "read"))?;
    let record = labels + PIXELS;
    if bytes.is_empty() || bytes.len() % record != 0 {
        let problem = format!("{} bytes are not a whole number of records of {record} bytes", bytes.len());
        return Err(DataError::invalid(path, problem, REMEDY));
    }
    let first = set.labels.len();
    for record in bytes.chunks_exact(record) {
        set.labels.push(record[labels - 1].into());
        set.images.extend(&record[labels..]);
    }
    super::dataset::check_labels(path, &set.labels[first..], classes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(labels: &[u8], pixel: u8) -> Vec<u8> {
        [labels, &[pixel; PIXELS]].concat()
    }

    #[test]
    fn records_of_all_files_are_read_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
        let files: Vec<String> = (1..=5).map(|file| format!("data_batch_{file}.bin")).collect();
        for (file, name) in (1..).zip(&files) {
            write(name, &record(&[file], 10 * file));
        }
        write("test.bin", &[record(&[1, 99], 5), record(&[1, 3], 6)].concat());

        let train = load(dir.path(), &files, 1, 10).unwrap();
        assert_eq!(train.labels, [1, 2, 3, 4, 5]);
        assert_eq!(train.images.len(), 5 * PIXELS);
        assert_eq!((train.images[0], train.images[5 * PIXELS - 1]), (10, 50));
        assert_eq!(load(dir.path(), &["test.bin".into()], 2, 100).unwrap().labels, [99, 3]);
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
            let message = load(dir.path(), &["test_batch.bin".into()], 1, 10).err().unwrap().to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
        let empty = tempfile::tempdir().unwrap();
        let message = load(empty.path(), &["test_batch.bin".into()], 1, 10).err().unwrap().to_string();
        assert!(message.contains("cannot read"), "{message}");
    }
}
