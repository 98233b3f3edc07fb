//! Reads the binary versions of CIFAR-10 and CIFAR-100.

use super::{DataError, Split};
use std::path::Path;

/// Height and width of every image.
pub(super) const SIDE: usize = 32;
const PIXELS: usize = 3 * SIDE * SIDE;
const REMEDY: &str = "unpack the binary version of the data set again";

/// Which of the two, and thereby how a record looks.
#[derive(Clone, Copy)]
pub(super) enum Variant {
    /// One label byte before the pixels.
    Cifar10,
    /// A coarse and a fine label byte; the fine one counts.
    Cifar100,
}

/// One split: `images` is `[N, 3, 32, 32]`, `labels` is `[N]`.
pub(super) struct Cifar {
    pub images: Vec<u8>,
    pub labels: Vec<u32>,
    pub classes: Vec<String>,
}

impl Variant {
    fn files(self, split: Split) -> &'static [&'static str] {
        match (self, split) {
            (Self::Cifar10, Split::Train) => {
                &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"]
            }
            (Self::Cifar10, Split::Test) => &["test_batch.bin"],
            (Self::Cifar100, Split::Train) => &["train.bin"],
            (Self::Cifar100, Split::Test) => &["test.bin"],
        }
    }

    /// The file of class names, and how many it must hold.
    fn classes(self) -> (&'static str, usize) {
        match self {
            Self::Cifar10 => ("batches.meta.txt", 10),
            Self::Cifar100 => ("fine_label_names.txt", 100),
        }
    }

    fn label_bytes(self) -> usize {
        match self {
            Self::Cifar10 => 1,
            Self::Cifar100 => 2,
        }
    }
}

/// Reads `split` of the data set in `dir`.
pub(super) fn load(dir: &Path, split: Split, variant: Variant) -> Result<Cifar, DataError> {
    let classes = read_classes(dir, variant)?;
    let mut set = Cifar { images: vec![], labels: vec![], classes };
    for file in variant.files(split) {
        read_records(&dir.join(file), variant, &mut set)?;
    }
    Ok(set)
}

fn read_classes(dir: &Path, variant: Variant) -> Result<Vec<String>, DataError> {
    let (file, count) = variant.classes();
    let path = dir.join(file);
    let text = std::fs::read_to_string(&path).map_err(DataError::io(&path, "read the class names"))?;
    let classes: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect();
    if classes.len() != count {
        return Err(DataError::invalid(&path, format!("{} class names instead of {count}", classes.len()), REMEDY));
    }
    Ok(classes)
}

fn read_records(path: &Path, variant: Variant, set: &mut Cifar) -> Result<(), DataError> {
    let bytes = std::fs::read(path).map_err(DataError::io(path, "read"))?;
    let labels = variant.label_bytes();
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
    super::dataset::check_labels(path, &set.labels[first..], set.classes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(labels: &[u8], pixel: u8) -> Vec<u8> {
        [labels, &[pixel; PIXELS]].concat()
    }

    fn numbered(count: usize) -> String {
        (0..count).map(|class| format!("class {class}\n")).collect::<String>() + "\n"
    }

    #[test]
    fn reads_both_variants() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
        write("batches.meta.txt", numbered(10).as_bytes());
        write("fine_label_names.txt", numbered(100).as_bytes());
        for file in 1..=5 {
            write(&format!("data_batch_{file}.bin"), &record(&[file], 10 * file));
        }
        write("test.bin", &[record(&[1, 99], 5), record(&[1, 3], 6)].concat());

        let train = load(dir.path(), Split::Train, Variant::Cifar10).unwrap();
        assert_eq!(train.labels, [1, 2, 3, 4, 5]);
        assert_eq!(train.images.len(), 5 * PIXELS);
        assert_eq!((train.images[0], train.images[5 * PIXELS - 1]), (10, 50));
        assert_eq!(train.classes[9], "class 9");
        assert_eq!(load(dir.path(), Split::Test, Variant::Cifar100).unwrap().labels, [99, 3]);
    }

    #[test]
    fn bad_files_are_named_and_explained() {
        let cases = [
            (numbered(9), record(&[1], 0), "batches.meta.txt: 9 class names instead of 10"),
            (numbered(10), record(&[1], 0)[1..].to_vec(), "test_batch.bin: 3072 bytes are not a whole number"),
            (numbered(10), vec![], "test_batch.bin: 0 bytes are not a whole number"),
            (numbered(10), record(&[10], 0), "test_batch.bin: label 10 of image 0, but there are 10 classes"),
        ];
        for (classes, records, expected) in cases {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("batches.meta.txt"), classes).unwrap();
            std::fs::write(dir.path().join("test_batch.bin"), records).unwrap();
            let message = load(dir.path(), Split::Test, Variant::Cifar10).err().unwrap().to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
        let empty = tempfile::tempdir().unwrap();
        let message = load(empty.path(), Split::Test, Variant::Cifar10).err().unwrap().to_string();
        assert!(message.contains("cannot read the class names"), "{message}");
    }
}
