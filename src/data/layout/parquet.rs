//! Parquet files of image data sets as on the Hugging Face Hub: a column of encoded images and one
//! of labels.
//!
//! `train-00000-of-00002.parquet` or `train/0000.parquet`, in up to three levels of directories, is
//! training data; `test…` or `validation…` is test data. Class names are in the file's metadata, as
//! the `datasets` library writes them.

use std::collections::BTreeSet;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use parquet::basic::Type;
use parquet::column::reader::get_typed_column_reader;
use parquet::data_type::{DataType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::{ColumnDescriptor, SchemaDescriptor};

use super::rows::{ParquetRows, RowPlace};
use super::{LayoutRequest, folder};
use crate::entries::{Findings, entries};
use crate::images::ImagePixels;
use crate::registry::DataSet;
use crate::{DataError, Dataset, Fit, Split, memory, png};

const REMEDY: &str = "fetch it again, or write it anew with the `datasets` library";
/// The depth to which directories are searched.
const DEPTH: usize = 3;
/// The number of values that are read at once.
const ROWS: usize = 256;
/// Names of label columns, in order of preference.
const LABELS: [&str; 4] = ["label", "labels", "fine_label", "class"];
/// Names of image columns, in order of preference.
const IMAGES: [&str; 2] = ["image", "img"];
/// Prefixes of test files, in order of preference. ImageNet's `test` has no labels.
const TEST: [&str; 5] = ["test", "validation", "valid", "val", "dev"];

/// Whether `dir` holds training or test files.
pub(super) fn is_here(dir: &Path) -> bool {
    files(dir).is_ok_and(|files| !files.is_empty())
}

/// The name of the label column of the files in `dir`.
pub(super) fn label_name(dir: &Path) -> Result<String, DataError> {
    let files = files(dir)?;
    let Some((_, path)) = files.first() else {
        return Err(DataError::invalid(dir, "holds no Parquet file", REMEDY));
    };
    guarded(dir, || {
        let opened = Opened::new(path, None)?;
        Ok(opened.schema().column(opened.label).path().string())
    })
}

/// Runs `work`. The crate may panic on damaged files, so a panic becomes an error.
pub(super) fn guarded<T>(
    dir: &Path,
    work: impl FnOnce() -> Result<T, DataError>,
) -> Result<T, DataError> {
    // After a panic the error ends the reading, so nobody sees what `work` left half changed.
    let done = catch_unwind(AssertUnwindSafe(work));
    done.unwrap_or_else(|_| Err(DataError::invalid(dir, "holds a damaged Parquet file", REMEDY)))
}

/// Reads the split that is asked for. Labels are in the column `label`.
pub(super) fn load(
    request: LayoutRequest,
    label: &str,
    remarks: &mut Vec<String>,
) -> Result<Dataset, DataError> {
    guarded(request.place, || load_split(request, label, remarks))
}

fn load_split(
    LayoutRequest { place: dir, split, known, fit, held, .. }: LayoutRequest,
    label: &str,
    remarks: &mut Vec<String>,
) -> Result<Dataset, DataError> {
    let all = files(dir)?;
    let mut parts = match split {
        Split::Train => vec![of_split(&all, "train")],
        Split::Test => TEST.iter().map(|name| of_split(&all, name)).collect(),
    };
    parts.retain(|part| !part.is_empty());
    let Some(last) = parts.pop() else {
        let wanted = if split == Split::Train { "train" } else { "test or validation" };
        return Err(DataError::invalid(
            dir,
            format!("has no Parquet file called {wanted}"),
            REMEDY,
        ));
    };
    // If the preferred test files have no labels, the next ones are taken.
    let mut chosen = last;
    for part in parts {
        if labelled(&part, label)? {
            chosen = part;
            break;
        }
    }
    let ParquetTable { mut set, names } = read(dir, chosen, label, fit, held, remarks)?;
    set.classes = match (known, names) {
        (None, Some(names)) => {
            folder::readable(names).into_iter().map(|(_, class)| class).collect()
        }
        (None, None) => (0..=highest_label(&all, label)?).map(|class| class.to_string()).collect(),
        (Some(known), names) => {
            reorder(dir, &mut set.labels, names, known, remarks)?;
            known.class_names()
        }
    };
    crate::dataset::check_labels(dir, &set.labels, set.classes.len())?;
    Ok(set)
}

/// Reads all training files of `place`, or all files of it if none is called so. Images keep their
/// size, and classes are called as the files have it, or by their numbers.
pub(crate) fn load_all(place: &Path, remarks: &mut Vec<String>) -> Result<Dataset, DataError> {
    guarded(place, || {
        let files = plain_files(place)?;
        let Some(first) = files.first() else {
            return Err(DataError::invalid(place, "holds no Parquet file", REMEDY));
        };
        let label = {
            let opened = Opened::new(first, None)?;
            opened.schema().column(opened.label).path().string()
        };
        let ParquetTable { mut set, names } =
            read(place, files, &label, Fit::Exact, u64::MAX, remarks)?;
        let highest = set.labels.iter().max().copied().unwrap_or(0);
        set.classes = names.unwrap_or_else(|| (0..=highest).map(|n| n.to_string()).collect());
        crate::dataset::check_labels(place, &set.labels, set.classes.len())?;
        Ok(set)
    })
}

/// A Parquet file at or below `place`.
pub(crate) fn any_file(place: &Path) -> Result<Option<PathBuf>, DataError> {
    Ok(plain_files(place)?.into_iter().next())
}

fn plain_files(place: &Path) -> Result<Vec<PathBuf>, DataError> {
    if place.is_file() {
        return Ok(vec![place.into()]);
    }
    let training = of_split(&files(place)?, "train");
    if !training.is_empty() {
        return Ok(training);
    }
    let own = entries(place, &mut Vec::new())?.into_iter().map(|entry| entry.path);
    Ok(own.filter(|path| path.extension().is_some_and(|kind| kind == "parquet")).collect())
}

/// Translates labels from the order of the file's class `names` to the order of `known`.
fn reorder(
    dir: &Path,
    labels: &mut [u32],
    names: Option<Vec<String>>,
    known: &DataSet,
    remarks: &mut Vec<String>,
) -> Result<(), DataError> {
    let Some(names) = names else { return Ok(()) };
    if names.len() != known.classes.len() {
        let problem =
            format!("has {} classes, {} has {}", names.len(), known.title, known.classes.len());
        return Err(DataError::invalid(
            dir,
            problem,
            "to use another data set, name it by its path",
        ));
    }
    let class =
        |name: &String| known.classes.iter().position(|class| folder::names_class(name, class));
    let order: Option<Vec<usize>> = names.iter().map(class).collect();
    let distinct = |order: &Vec<usize>| order.iter().collect::<BTreeSet<_>>().len() == order.len();
    match order.filter(distinct) {
        Some(order) => {
            for label in labels {
                if let Some(&at) = order.get(*label as usize) {
                    *label = at as u32;
                }
            }
        }
        None => remarks.push(format!(
            "{}: its classes are called otherwise than those of {} ({:?} …); its labels are taken in that order",
            dir.display(),
            known.title,
            names.first().map_or("", String::as_str)
        )),
    }
    Ok(())
}

/// Images and labels, and the class names if the files contain them.
struct ParquetTable {
    set: Dataset,
    /// Class names in label order.
    names: Option<Vec<String>>,
}

/// The highest label of all `files`.
fn highest_label(files: &[(&str, PathBuf)], label: &str) -> Result<u32, DataError> {
    let mut highest = 0;
    for (_, path) in files {
        let labels = Opened::new(path, Some(label))?.labels()?;
        highest = labels
            .into_iter()
            .filter_map(|label| u32::try_from(label).ok())
            .max()
            .unwrap_or(0)
            .max(highest);
    }
    // Larger labels are refused when they are read.
    Ok(highest.min(u16::MAX.into()))
}

/// Parquet files with the names of their splits; training files are listed first, as `train`.
fn files(dir: &Path) -> Result<Vec<(&'static str, PathBuf)>, DataError> {
    let mut found = Vec::new();
    search(dir, None, DEPTH, &mut found)?;
    Ok(found)
}

fn search(
    dir: &Path,
    split: Option<&'static str>,
    depth: usize,
    found: &mut Vec<(&'static str, PathBuf)>,
) -> Result<(), DataError> {
    for entry in entries(dir, &mut Vec::new())? {
        let is = |name: &&&str| {
            let rest = entry.name.strip_prefix(**name);
            rest.is_some_and(|rest| !rest.starts_with(|letter: char| letter.is_ascii_alphabetic()))
        };
        let own = ["train"].iter().chain(&TEST).find(is).copied().or(split);
        if entry.is_dir && depth > 0 {
            search(&entry.path, own, depth - 1, found)?;
        } else if entry.path.extension().is_some_and(|extension| extension == "parquet")
            && !entry.is_dir
        {
            found.extend(own.map(|split| (split, entry.path)));
        }
    }
    Ok(())
}

fn of_split(files: &[(&'static str, PathBuf)], name: &str) -> Vec<PathBuf> {
    files.iter().filter(|(split, _)| *split == name).map(|(_, path)| path.clone()).collect()
}

fn labelled(files: &[PathBuf], label: &str) -> Result<bool, DataError> {
    for path in files {
        if Opened::new(path, Some(label))?.labels()?.iter().any(|label| *label >= 0) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// An open file, and its columns of images and labels.
pub(super) struct Opened<'a> {
    path: &'a Path,
    reader: SerializedFileReader<File>,
    pub(super) image: usize,
    label: usize,
}

impl<'a> Opened<'a> {
    pub(super) fn new(path: &'a Path, label: Option<&str>) -> Result<Self, DataError> {
        let file = File::open(path).map_err(DataError::io(path, "open"))?;
        let reader = SerializedFileReader::new(file).map_err(damaged(path))?;
        let schema = reader.metadata().file_metadata().schema_descr();
        let refuse = |what: &str| {
            let columns: Vec<_> =
                schema.columns().iter().map(|column| column.path().string()).collect();
            let problem =
                format!("has no column of {what}; its columns are {}", columns.join(", "));
            DataError::invalid(path, problem, "write one image and one whole-number label per row")
        };
        let image = image_column(schema).ok_or_else(|| refuse("encoded images"))?;
        let label = label_column(schema, label).ok_or_else(|| refuse(label.unwrap_or("labels")))?;
        Ok(Self { path, reader, image, label })
    }

    fn schema(&self) -> &SchemaDescriptor {
        self.reader.metadata().file_metadata().schema_descr()
    }

    /// All labels; −1 means no label.
    fn labels(&self) -> Result<Vec<i64>, DataError> {
        let groups = (0..self.reader.num_row_groups()).map(|group| self.labels_of(group));
        Ok(groups.collect::<Result<Vec<_>, _>>()?.concat())
    }

    fn labels_of(&self, group: usize) -> Result<Vec<i64>, DataError> {
        let mut labels = Vec::new();
        let mut push = |label: Option<i64>| labels.push(label.unwrap_or(-1));
        match self.schema().column(self.label).physical_type() {
            Type::INT32 => self.column::<Int32Type>(group, self.label, |values| {
                values.into_iter().for_each(|value| push(value.map(i64::from)));
            })?,
            _ => self.column::<Int64Type>(group, self.label, |values| {
                values.into_iter().for_each(&mut push);
            })?,
        }
        Ok(labels)
    }

    /// Passes the values of a row group's column to `give`, batch by batch. Null values are `None`.
    pub(super) fn column<T: DataType>(
        &self,
        group: usize,
        column: usize,
        mut give: impl FnMut(Vec<Option<T::T>>),
    ) -> Result<(), DataError> {
        let group = self.reader.get_row_group(group).map_err(damaged(self.path))?;
        let reader = group.get_column_reader(column).map_err(damaged(self.path))?;
        let mut reader = get_typed_column_reader::<T>(reader);
        let present = self.schema().column(column).max_def_level();
        loop {
            let (mut levels, mut values) = (Vec::new(), Vec::new());
            let (rows, ..) = reader
                .read_records(ROWS, Some(&mut levels), None, &mut values)
                .map_err(damaged(self.path))?;
            if rows == 0 {
                return Ok(());
            }
            let mut values = values.into_iter();
            if present == 0 {
                give(values.map(Some).collect());
            } else {
                give(
                    levels
                        .iter()
                        .map(|level| if *level == present { values.next() } else { None })
                        .collect(),
                );
            }
        }
    }

    /// The class names in the metadata of the `datasets` library.
    fn names(&self) -> Option<Vec<String>> {
        let metadata = self.reader.metadata().file_metadata();
        let text = metadata
            .key_value_metadata()?
            .iter()
            .find(|entry| entry.key == "huggingface")?
            .value
            .as_ref()?;
        let tree: serde_json::Value = serde_json::from_str(text).ok()?;
        let column = metadata.schema_descr().column(self.label).path().string();
        let names = tree.get("info")?.get("features")?.get(column)?.get("names")?.as_array()?;
        names.iter().map(|name| name.as_str().map(str::to_string)).collect()
    }
}

/// The column of the encoded images: `image.bytes`, `image`, or the same of `img`; else any
/// `….bytes`.
fn image_column(schema: &SchemaDescriptor) -> Option<usize> {
    let columns = || schema.columns().iter().enumerate();
    let is_plain = |column: &ColumnDescriptor| {
        column.physical_type() == Type::BYTE_ARRAY && column.max_rep_level() == 0
    };
    let called = |name: &str| {
        columns().find(|(_, column)| is_plain(column) && column.path().string() == name)
    };
    IMAGES
        .iter()
        .find_map(|name| called(&format!("{name}.bytes")).or_else(|| called(name)))
        .or_else(|| {
            columns()
                .find(|(_, column)| is_plain(column) && column.path().string().ends_with(".bytes"))
        })
        .map(|(index, _)| index)
}

fn label_column(schema: &SchemaDescriptor, wanted: Option<&str>) -> Option<usize> {
    let is_number = |column: &ColumnDescriptor| {
        matches!(column.physical_type(), Type::INT32 | Type::INT64) && column.max_rep_level() == 0
    };
    let called = |name: &str| {
        schema
            .columns()
            .iter()
            .position(|column| is_number(column) && column.path().string() == name)
    };
    match wanted {
        Some(name) => called(name),
        None => LABELS.iter().find_map(|name| called(name)),
    }
}

/// The rows of `files`. Their images are decoded now if their pixels take at most `held` bytes,
/// else each time that they are asked for.
fn read(
    dir: &Path,
    files: Vec<PathBuf>,
    label: &str,
    fit: Fit,
    held: u64,
    remarks: &mut Vec<String>,
) -> Result<ParquetTable, DataError> {
    if let Fit::To([channels, ..]) = fit
        && ![1, 3].contains(&channels)
    {
        let problem = format!("holds images, which can't become {channels} channels");
        return Err(DataError::invalid(dir, problem, "use a network of 1 or 3 channels"));
    }
    let mut findings = Findings::default();
    let (mut places, mut labels, mut names) = (Vec::new(), Vec::new(), None);
    for (file, path) in (0..).zip(&files) {
        let opened = Opened::new(path, Some(label))?;
        names = names.or_else(|| opened.names());
        let mut row = 0;
        for group in 0..opened.reader.num_row_groups() {
            let of_group = opened.labels_of(group)?;
            let images = opened.reader.metadata().row_group(group).num_rows();
            if usize::try_from(images) != Ok(of_group.len()) {
                let problem = format!("has {images} images and {} labels", of_group.len());
                return Err(DataError::invalid(path, problem, REMEDY));
            }
            for (at, label) in (0..).zip(of_group) {
                match u32::try_from(label) {
                    Ok(label) if label < u32::from(u16::MAX) => labels.push(label),
                    _ => findings.problem(dir, path, format!("row {row} has the label {label}")),
                }
                places.push(RowPlace { file, group: group as u32, at, row });
                row += 1;
            }
        }
    }
    if labels.is_empty() {
        return Err(DataError::invalid(dir, "holds no image", REMEDY));
    }
    let rows = ParquetRows::new(dir.into(), files, label.into(), places, fit)?;
    let (count, [channels, height, width]) = (rows.len(), rows.shape());
    let length = channels * height * width;
    let images = if (count as u64).saturating_mul(length as u64) > held {
        ImagePixels::Rows(rows)
    } else {
        memory::check(dir, count as u64, length as u64)?;
        ImagePixels::Held(rows.decode(&(0..count).collect::<Vec<_>>(), &mut findings)?)
    };
    findings.conclude(dir, remarks)?;
    let name = png::display_name(dir);
    let set = Dataset { name, images, labels, channels, height, width, classes: Vec::new() };
    Ok(ParquetTable { set, names })
}

fn damaged(path: &Path) -> impl Fn(ParquetError) -> DataError {
    let path = path.to_path_buf();
    move |error| {
        DataError::invalid(&path, format!("is not a readable Parquet file ({error})"), REMEDY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Source, registry};
    use parquet::basic::Compression;
    use parquet::data_type::{ByteArray, ByteArrayType};
    use parquet::file::metadata::KeyValue;
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use std::fs;
    use std::sync::Arc;

    /// Writes a file like the `datasets` library: nullable columns, class names in the metadata.
    fn write(path: &Path, label: &str, rows: &[(Option<Vec<u8>>, i64)], names: Option<&[String]>) {
        write_by(Compression::SNAPPY, path, label, rows, names);
    }

    fn write_by(
        compression: Compression,
        path: &Path,
        label: &str,
        rows: &[(Option<Vec<u8>>, i64)],
        names: Option<&[String]>,
    ) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let schema = format!(
            "message schema {{ OPTIONAL GROUP image {{ OPTIONAL BYTE_ARRAY bytes; OPTIONAL BYTE_ARRAY path (UTF8); }} OPTIONAL INT64 {label}; }}"
        );
        let names = names.map(|names| {
            let features = serde_json::json!({"info": {"features": {label: {"names": names, "_type": "ClassLabel"}}}});
            vec![KeyValue::new("huggingface".into(), features.to_string())]
        });
        let properties = WriterProperties::builder()
            .set_compression(compression)
            .set_key_value_metadata(names)
            .build();
        let schema = Arc::new(parse_message_type(&schema).unwrap());
        let mut writer =
            SerializedFileWriter::new(File::create(path).unwrap(), schema, Arc::new(properties))
                .unwrap();
        for rows in rows.chunks(2) {
            let mut group = writer.next_row_group().unwrap();
            let mut column = group.next_column().unwrap().unwrap();
            let bytes: Vec<ByteArray> =
                rows.iter().filter_map(|(image, _)| image.clone().map(ByteArray::from)).collect();
            let levels: Vec<i16> =
                rows.iter().map(|(image, _)| if image.is_some() { 2 } else { 1 }).collect();
            column.typed::<ByteArrayType>().write_batch(&bytes, Some(&levels), None).unwrap();
            column.close().unwrap();
            let mut column = group.next_column().unwrap().unwrap();
            column
                .typed::<ByteArrayType>()
                .write_batch(&[], Some(&vec![1; rows.len()]), None)
                .unwrap();
            column.close().unwrap();
            let mut column = group.next_column().unwrap().unwrap();
            let labels: Vec<i64> = rows.iter().map(|(_, label)| *label).collect();
            column
                .typed::<Int64Type>()
                .write_batch(&labels, Some(&vec![1; rows.len()]), None)
                .unwrap();
            column.close().unwrap();
            group.close().unwrap();
        }
        writer.close().unwrap();
    }

    fn image(value: u8) -> Option<Vec<u8>> {
        Some(png::encode(&[value], 1, 1, 1).unwrap())
    }

    fn read(source: &Source, split: Split) -> Result<(Dataset, Vec<String>), String> {
        let mut remarks = Vec::new();
        let set = source
            .load(split, Fit::To([1, 1, 1]), &mut remarks)
            .map_err(|error| error.to_string())?;
        Ok((set, remarks))
    }

    #[test]
    fn files_of_the_hub_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["ant".to_string(), "bee".to_string(), "cat".to_string()];
        let file = |name: &str| dir.path().join("data").join(name);
        write(
            &file("train-00000-of-00002.parquet"),
            "label",
            &[(image(1), 0), (image(2), 2), (image(3), 1)],
            Some(&names),
        );
        write(&file("train-00001-of-00002.parquet"), "label", &[(image(4), 1)], Some(&names));
        write(&file("validation-00000-of-00001.parquet"), "label", &[(image(5), 2)], Some(&names));
        // Test files without labels are skipped.
        write(&file("test-00000-of-00001.parquet"), "label", &[(image(6), -1)], Some(&names));
        fs::write(dir.path().join("README.md"), "a card").unwrap();
        let source = Source::open(dir.path()).unwrap();
        let (train, remarks) = read(&source, Split::Train).unwrap();
        assert_eq!((train.images, train.labels), (vec![1, 2, 3, 4].into(), vec![0, 2, 1, 1]));
        assert_eq!((train.classes.as_slice(), remarks.len()), (names.as_slice(), 0));
        let (test, _) = read(&source, Split::Test).unwrap();
        assert_eq!((test.images, test.labels), (vec![5].into(), vec![2]));
    }

    #[test]
    fn every_compression_that_writers_offer_is_read() {
        use Compression::{BROTLI, GZIP, LZ4, LZ4_RAW, UNCOMPRESSED, ZSTD};
        let all = [
            UNCOMPRESSED,
            GZIP(Default::default()),
            BROTLI(Default::default()),
            LZ4,
            LZ4_RAW,
            ZSTD(Default::default()),
        ];
        for compression in all {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("train-0.parquet");
            write_by(compression, &path, "label", &[(image(7), 0), (image(8), 1)], None);
            let (train, _) = read(&Source::open(dir.path()).unwrap(), Split::Train).unwrap();
            assert_eq!(
                (train.images, train.labels),
                (vec![7, 8].into(), vec![0, 1]),
                "{compression}"
            );
        }
    }

    #[test]
    fn without_names_classes_are_numbers_and_directories_may_name_splits() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("default/train/0000.parquet"), "fine_label", &[(image(1), 0)], None);
        write(&dir.path().join("default/test/0000.parquet"), "fine_label", &[(image(2), 3)], None);
        let source = Source::open(dir.path()).unwrap();
        let (train, _) = read(&source, Split::Train).unwrap();
        assert_eq!(train.classes, ["0", "1", "2", "3"]);
        assert_eq!(read(&source, Split::Test).unwrap().0.labels, [3]);
    }

    #[test]
    fn labels_of_a_known_set_follow_its_own_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut names = registry::find("cifar-10").unwrap().class_names();
        names.swap(0, 3);
        let path = dir.path().join("cifar-10/data/test-0.parquet");
        write(&path, "label", &[(image(1), 0), (image(2), 9)], Some(&names));
        let source = Source::find_at("cifar-10", dir.path()).unwrap();
        let (test, remarks) = read(&source, Split::Test).unwrap();
        assert_eq!((test.labels, test.classes[3].as_str()), (vec![3, 9], "cat"));
        assert!(remarks[0].contains("2 test images, where CIFAR-10 has 10000"), "{remarks:?}");
        write(&path, "label", &[(image(1), 0)], Some(&names[..9]));
        assert!(read(&source, Split::Test).unwrap_err().contains("has 9 classes, CIFAR-10 has 10"));
    }

    #[test]
    fn files_of_a_finished_set_need_no_split() {
        let dir = tempfile::tempdir().unwrap();
        let rows = [(image(7), 1), (image(9), 0)];
        write(&dir.path().join("distilled.parquet"), "label", &rows, None);
        for place in [dir.path().to_path_buf(), dir.path().join("distilled.parquet")] {
            let set = load_all(&place, &mut Vec::new()).unwrap();
            assert_eq!((set.images, set.labels), (vec![7, 9].into(), vec![1, 0]));
            assert_eq!(set.classes, ["0", "1"]);
        }
        // Files of a split of its own come first.
        let names = ["cat", "dog"].map(String::from);
        write(&dir.path().join("train.parquet"), "label", &rows[..1], Some(&names));
        let set = load_all(dir.path(), &mut Vec::new()).unwrap();
        assert_eq!((set.images, set.classes), (vec![7].into(), names.to_vec()));
    }

    #[test]
    fn bad_rows_are_all_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("train-0.parquet");
        let rows = [
            (image(1), 0),
            (None, 0),
            (Some(b"no".to_vec()), 1),
            (image(2), -1),
            (image(3), 70_000),
        ];
        write(&path, "label", &rows, None);
        let message = read(&Source::open(dir.path()).unwrap(), Split::Train).unwrap_err();
        for part in [
            "4 entries can't be used",
            "train-0.parquet row 1 has no image",
            "row 2 is neither a PNG nor a JPEG",
            "row 3 has the label -1",
            "row 4 has the label 70000",
        ] {
            assert!(message.contains(part), "{message:?} lacks {part:?}");
        }
        write(&path, "score", &[(image(1), 0)], None);
        let message = Source::open(dir.path()).unwrap_err().to_string();
        assert!(
            message.contains(
                "has no column of labels; its columns are image.bytes, image.path, score"
            ),
            "{message}"
        );
    }

    #[test]
    fn rows_that_are_read_anew_give_the_bytes_of_those_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let rows: Vec<_> = (1..8).map(|value| (image(value), i64::from(value % 3))).collect();
        write(&dir.path().join("train-0.parquet"), "label", &rows[..5], None);
        write(&dir.path().join("train-1.parquet"), "label", &rows[5..], None);
        let source = Source::open(dir.path()).unwrap();
        let load = |held| {
            source.load_holding(held, Split::Train, Fit::To([3, 2, 2]), &mut Vec::new()).unwrap()
        };
        let (held, anew) = (load(84), load(83));
        assert!(anew.images.are_read_anew() && !held.images.are_read_anew());
        assert_eq!((&anew.labels, &anew.classes), (&held.labels, &held.classes));
        assert_eq!(anew.all_pixels().unwrap(), held.all_pixels().unwrap());
        assert_eq!(anew.hash().unwrap(), held.hash().unwrap());
        let chosen = [6, 0, 3, 3];
        assert_eq!(anew.pixels(&chosen).unwrap(), held.pixels(&chosen).unwrap());
        let message = anew.pixels(&[7]).unwrap_err().to_string();
        assert!(message.contains("image 7 of"), "{message}");
        // A file that changes later is told.
        let bad = [(image(6), 0), (Some(b"no".to_vec()), 1)];
        write(&dir.path().join("train-1.parquet"), "label", &bad, None);
        let message = load(83).hash().unwrap_err().to_string();
        assert!(message.contains("train-1.parquet row 1 is neither a PNG nor a JPEG"), "{message}");
        fs::remove_file(dir.path().join("train-1.parquet")).unwrap();
        assert!(anew.pixels(&[0, 6]).is_err());
    }

    /// Any damaged or missing byte gives an error or a set, never a panic.
    #[test]
    fn damaged_files_never_panic() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("train-0.parquet");
        write(&path, "label", &[(image(1), 0), (image(2), 1), (image(3), 1)], None);
        let whole = fs::read(&path).unwrap();
        let read = || Source::open(dir.path()).map(|source| read(&source, Split::Train));
        for at in 0..whole.len() {
            for flip in [0x01, 0x80, 0x5A, 0xFF] {
                let mut damaged = whole.clone();
                damaged[at] ^= flip;
                fs::write(&path, &damaged).unwrap();
                let _ = read();
            }
            fs::write(&path, &whole[..at]).unwrap();
            assert!(
                read().is_err_and(|_| true) || read().is_ok_and(|set| set.is_err()),
                "{at} bytes"
            );
        }
    }
}
