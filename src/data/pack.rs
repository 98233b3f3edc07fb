//! Packs a data set: all images at a network's size as one array of bytes per split, which is read
//! part by part without decoding.

use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::layout::packed::{self, DESCRIPTION, HEADER, PackedSet, PackedSplit};
use super::{DataError, Dataset, Fit, Signature, Source, Split};

/// The file that says of what an unfinished directory is the beginning.
const BEGUN: &str = "begun.json";

/// How far packing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackProgress {
    /// The split that is being packed.
    pub split: Split,
    /// Its images that are packed.
    pub done: usize,
    /// All its images.
    pub images: usize,
}

/// A packed split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PackedFile {
    /// `train` or `test`.
    pub split: &'static str,
    /// How many images it has.
    pub images: usize,
    /// BLAKE3 of pixels and labels, 64 hex digits.
    pub hash: String,
}

/// What an unfinished directory is the beginning of.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct PackBegun {
    fit: Option<[usize; 3]>,
    /// Name and state of the files of each split.
    files: Vec<(String, String)>,
}

/// Packs the `splits` of `source`, with image files fitted by `fit`, into the new directory
/// `target`. It appears when it is whole; until then its parts lie beside it, in a directory with
/// `.partial` at the end of its name, and a later call for the same files goes on from there.
///
/// `tell` is called after each part, `remarks` receives notes for the user.
///
/// # Errors
/// When `target` exists, another process is packing it, or something can't be read or written.
pub fn pack(
    source: &Source,
    splits: &[Split],
    fit: Fit,
    target: &Path,
    tell: &mut dyn FnMut(PackProgress),
    remarks: &mut Vec<String>,
) -> Result<Vec<PackedFile>, DataError> {
    if fs::symlink_metadata(target).is_ok() {
        return Err(DataError::invalid(target, "exists already", "choose another --out"));
    }
    let (directory, _lock) = begin(source, splits, fit, target)?;
    let (mut about, mut written) = (None, Vec::new());
    for &split in splits {
        let set = source.load_holding(0, split, fit, remarks)?;
        let about = about.get_or_insert_with(|| PackedSet::new(&set, source.known()));
        check_alike(target, about, &set)?;
        let hash = write_images(&directory, split, &set, tell)?;
        packed::write_labels(&directory, split, &set.labels)?;
        let images = set.len();
        about.splits.insert(split.name().into(), PackedSplit { images, hash: hash.clone() });
        written.push(PackedFile { split: split.name(), images, hash });
    }
    let description = directory.join(DESCRIPTION);
    let text = serde_json::to_vec_pretty(&about).map_err(|e| DataError::Mismatch(e.to_string()))?;
    let mut file = File::create(&description).map_err(DataError::io(&description, "write"))?;
    file.write_all(&text)
        .and_then(|()| file.sync_all())
        .map_err(DataError::io(&description, "write"))?;
    let begun = directory.join(BEGUN);
    fs::remove_file(&begun).map_err(DataError::io(&begun, "remove"))?;
    fs::rename(&directory, target).map_err(DataError::io(target, "rename the packed data to"))?;
    Ok(written)
}

/// The directory of the parts, which holds nothing of other files, and its lock.
fn begin(
    source: &Source,
    splits: &[Split],
    fit: Fit,
    target: &Path,
) -> Result<(PathBuf, File), DataError> {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let directory = target.with_file_name(name);
    fs::create_dir_all(&directory).map_err(DataError::io(&directory, "create"))?;
    let lock = File::open(&directory).map_err(DataError::io(&directory, "open"))?;
    if lock.try_lock().is_err() {
        let remedy = "wait for it, or choose another --out";
        return Err(DataError::invalid(&directory, "is being packed by another process", remedy));
    }
    let signatures: Option<Vec<Signature>> =
        splits.iter().map(|&split| source.signature(split, fit)).collect();
    let files = signatures.iter().flatten().map(|s| (s.name.clone(), s.state.clone())).collect();
    let begun = PackBegun { fit: if let Fit::To(shape) = fit { Some(shape) } else { None }, files };
    let file = directory.join(BEGUN);
    let known: Option<PackBegun> =
        fs::read(&file).ok().and_then(|t| serde_json::from_slice(&t).ok());
    // Files that may yet change give no beginning to go on from.
    if signatures.is_none() || known.as_ref() != Some(&begun) {
        for split in [Split::Train, Split::Test] {
            let stale = packed::pixels_file(&directory, split);
            if stale.exists() {
                fs::remove_file(&stale).map_err(DataError::io(&stale, "remove"))?;
            }
        }
        let text = serde_json::to_vec(&begun).map_err(|e| DataError::Mismatch(e.to_string()))?;
        fs::write(&file, text).map_err(DataError::io(&file, "write"))?;
    }
    Ok((directory, lock))
}

/// Checks that `set` has the classes and the shape of the split before it.
fn check_alike(target: &Path, about: &PackedSet, set: &Dataset) -> Result<(), DataError> {
    let shape = [set.channels, set.height, set.width];
    if about.classes == set.classes && about.shape == shape {
        return Ok(());
    }
    let problem = format!(
        "can't hold both splits: the test images are {shape:?} of {} classes, the training images {:?} of {}",
        set.classes.len(),
        about.shape,
        about.classes.len()
    );
    Err(DataError::invalid(target, problem, "pack one of them with --only"))
}

/// Writes the pixels of `set`, after those that are there already, and returns the hash of all
/// pixels and labels.
fn write_images(
    directory: &Path,
    split: Split,
    set: &Dataset,
    tell: &mut dyn FnMut(PackProgress),
) -> Result<String, DataError> {
    let path = packed::pixels_file(directory, split);
    let shape = [set.channels, set.height, set.width];
    let length = shape.iter().product::<usize>().max(1);
    let io = |error| DataError::io(&path, "write")(error);
    let mut options = OpenOptions::new();
    let mut file =
        options.read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
    let there = file.metadata().map_err(io)?.len().saturating_sub(HEADER as u64);
    let done = ((there / length as u64) as usize).min(set.len());
    file.write_all(&packed::pixels_header(set.len(), shape)).map_err(io)?;
    file.set_len(HEADER as u64 + done as u64 * length as u64).map_err(io)?;
    let mut hasher = blake3::Hasher::new();
    hash_rest(&file, &mut hasher).map_err(io)?;
    file.seek(SeekFrom::End(0)).map_err(io)?;
    for part in set.parts_from(done) {
        let pixels = set.pixels(&part)?;
        file.write_all(&pixels).map_err(io)?;
        hasher.update(&pixels);
        let done = part.last().map_or(0, |last| last + 1);
        tell(PackProgress { split, done, images: set.len() });
    }
    file.sync_all().map_err(io)?;
    Ok(set.hash_with_labels(hasher))
}

/// Adds what follows in `file`.
fn hash_rest(file: &File, hasher: &mut blake3::Hasher) -> std::io::Result<()> {
    let (mut reader, mut part) = (BufReader::new(file), vec![0; 1 << 20]);
    loop {
        match reader.read(&mut part)? {
            0 => return Ok(()),
            read => hasher.update(&part[..read]),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::png;
    use std::time::{Duration, SystemTime};

    const FIT: Fit = Fit::To([3, 24, 24]);

    fn folder() -> Source {
        Source::open(&crate::in_repository("tests/goldens/folder")).unwrap()
    }

    fn pack_train(source: &Source, target: &Path) -> Result<Vec<PackedFile>, DataError> {
        pack(source, &[Split::Train], FIT, target, &mut |_| (), &mut Vec::new())
    }

    fn load(place: &Path, split: Split) -> Result<Dataset, DataError> {
        Source::open(place)?.load(split, Fit::Exact, &mut Vec::new())
    }

    #[test]
    fn a_packed_folder_gives_the_bytes_of_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("packed");
        let written = pack_train(&folder(), &target).unwrap();
        let own = folder().load(Split::Train, FIT, &mut Vec::new()).unwrap();
        let hash = own.hash().unwrap();
        assert_eq!(written, [PackedFile { split: "train", images: 23, hash: hash.clone() }]);
        let set = load(&target, Split::Train).unwrap();
        assert!(set.images.are_read_anew());
        assert_eq!(
            (&set.labels, &set.classes, set.size()),
            (&own.labels, &own.classes, own.size())
        );
        assert_eq!((set.name.as_str(), set.channels), ("folder", 3));
        assert_eq!(set.all_pixels().unwrap(), own.all_pixels().unwrap());
        assert_eq!(set.pixels(&[22, 3]).unwrap(), own.pixels(&[22, 3]).unwrap());
        assert_eq!(set.hash().unwrap(), hash);
        assert!(set.image(23).is_err());
        // The exporters read these files in their own test.
        let golden = crate::in_repository("tests/goldens/packed");
        for file in fs::read_dir(&golden).unwrap().map(|entry| entry.unwrap().file_name()) {
            let [ours, theirs] =
                [&target, &golden].map(|place| fs::read(place.join(&file)).unwrap());
            assert!(ours == theirs, "{}", file.display());
        }
        let message = load(&target, Split::Test).unwrap_err().to_string();
        assert!(message.contains("has no test images") && message.contains("--only"), "{message}");
        let message = pack_train(&folder(), &target).unwrap_err().to_string();
        assert!(message.contains("exists already; choose another --out"), "{message}");
    }

    #[test]
    fn known_data_are_found_packed_with_what_is_known_of_them() {
        let known = crate::registry::find("imagenette").unwrap();
        let dir = tempfile::tempdir().unwrap();
        for split in ["train", "val"] {
            for (value, class) in (0..).zip(&known.classes) {
                put(
                    &dir.path().join("imagenette2"),
                    &format!("{split}/{}/0.png", class.wnid().unwrap()),
                    value,
                );
            }
        }
        let source = Source::find_at("imagenette", dir.path()).unwrap();
        let (target, mut remarks) = (dir.path().join("packed"), Vec::new());
        let splits = [Split::Train, Split::Test];
        let fit = Fit::To([3, 4, 4]);
        pack(&source, &splits, fit, &target, &mut |_| (), &mut remarks).unwrap();
        let found = Source::find_at("imagenette", &target).unwrap();
        for split in splits {
            let [own, packed] =
                [&source, &found].map(|s| s.load(split, fit, &mut Vec::new()).unwrap());
            assert_eq!(packed.hash().unwrap(), own.hash().unwrap());
            assert_eq!((packed.name, packed.classes), (own.name, own.classes));
            // A part that is held out is the same of files in memory, read anew, and packed.
            let held_out = |source: &Source, held| {
                let source = source.clone().holding_out(4);
                source.load_holding(held, split, fit, &mut Vec::new()).unwrap()
            };
            let own = held_out(&source, u64::MAX);
            for other in [held_out(&source, 0), held_out(&found, 0)] {
                assert!(other.images.are_read_anew());
                assert_eq!(other.all_pixels().unwrap(), own.all_pixels().unwrap());
                assert_eq!(
                    (other.hash().unwrap(), &other.labels),
                    (own.hash().unwrap(), &own.labels)
                );
            }
        }
        let text = fs::read_to_string(target.join(DESCRIPTION)).unwrap();
        let about: PackedSet = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (about.mean.as_ref(), about.std.as_ref()),
            (Some(&known.mean), Some(&known.std))
        );
        assert!(Source::find_at("imagewoof", &target).is_err(), "its classes are others");
    }

    fn put(root: &Path, file: &str, value: u8) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, png::encode(&[value, 9, 7, value], 1, 2, 2).unwrap()).unwrap();
        let hour_ago = SystemTime::now() - Duration::from_secs(3600);
        File::options().append(true).open(&path).unwrap().set_modified(hour_ago).unwrap();
    }

    #[test]
    fn packing_goes_on_where_it_stopped_unless_the_files_are_others() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("data");
        // Parts hold 16 MB, which are five images.
        for number in 0..12 {
            put(&root, &format!("train/c/{number:02}.png"), number);
        }
        let (source, target) = (Source::open(&root).unwrap(), dir.path().join("packed"));
        let fit = Fit::To([3, 1000, 1000]);
        let run = |stop_at: usize, told: &mut Vec<usize>| {
            let stopped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let mut tell = |progress: PackProgress| {
                    told.push(progress.done);
                    assert!(progress.done != stop_at, "killed");
                };
                pack(&source, &[Split::Train], fit, &target, &mut tell, &mut Vec::new())
            }));
            stopped.map(Result::unwrap).is_ok()
        };
        let partial = dir.path().join("packed.partial");
        let mut told = Vec::new();
        assert!(!run(5, &mut told) && partial.is_dir() && !target.exists());
        // A part of an image that was being written.
        let pixels = packed::pixels_file(&partial, Split::Train);
        File::options().append(true).open(&pixels).unwrap().write_all(b"half").unwrap();
        assert!(!run(10, &mut told));
        assert!(run(0, &mut told) && !partial.exists());
        assert_eq!(told, [5, 10, 12]);
        let own = source.load(Split::Train, fit, &mut Vec::new()).unwrap();
        let set = load(&target, Split::Train).unwrap();
        assert!(set.all_pixels().unwrap() == own.all_pixels().unwrap());
        assert_eq!(set.hash().unwrap(), own.hash().unwrap());
        // Other files are packed from the beginning.
        fs::remove_dir_all(&target).unwrap();
        assert!(!run(5, &mut told));
        put(&root, "train/c/12.png", 99);
        told.clear();
        assert!(run(0, &mut told));
        assert_eq!(told, [5, 10, 13]);
    }

    #[test]
    fn damaged_packs_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("packed");
        pack_train(&folder(), &target).unwrap();
        let whole = |file: &str| fs::read(target.join(file)).unwrap();
        let pixels = whole("train-images.npy");
        let about = String::from_utf8(whole(DESCRIPTION)).unwrap();
        let cases: [(&str, Vec<u8>, &str); 6] = [
            (
                "train-images.npy",
                pixels[..pixels.len() - 1].into(),
                "is no array of 23 images of [3, 24, 24]",
            ),
            ("train-images.npy", [&b"x"[..], &pixels[1..]].concat(), "is no array of 23 images"),
            ("train-labels.npy", b"no".into(), "holds no labels"),
            (DESCRIPTION, about.replace("23", "22").into(), "is no array of 22 images"),
            (
                DESCRIPTION,
                about.replace("\"version\": 1", "\"version\": 2").into(),
                "is of version 2, but 1 is read",
            ),
            (DESCRIPTION, b"{}".into(), "describes no packed data set (missing field"),
        ];
        for (file, bytes, expected) in cases {
            let before = whole(file);
            fs::write(target.join(file), bytes).unwrap();
            let message = load(&target, Split::Train).unwrap_err().to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
            assert!(message.contains("pack the data set again"), "{message}");
            fs::write(target.join(file), before).unwrap();
        }
        load(&target, Split::Train).unwrap();
    }
}
