//! Class folders: one directory of PNG or JPEG files per class, below `train/` and `test/` or
//! `val/`.
//!
//! Two peculiarities of Tiny-ImageNet are read too: `images/` below each class, and `val/images/`
//! with `val/val_annotations.txt`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::decode::{self, Pixels};
use crate::entries::{Entry, Findings, entries, listed};
use crate::images::{ImageFiles, ImagePixels};
use crate::place::without_mark;
use crate::registry::{self, Class, DataSet};
use crate::{DataError, Dataset, Fit, Split, memory, png};

use super::LayoutRequest;

/// Directories of test images, in order of preference.
const TEST_DIRS: [&str; 4] = ["test", "val", "validation", "valid"];
/// The directory of images below a class, or below `val/`, in Tiny-ImageNet.
const IMAGES: &str = "images";
/// The prefix of ImageNet's validation image names.
const IMAGENET_VAL: &str = "ILSVRC2012_val_";
/// The file that names the class of each image in Tiny-ImageNet's `val/images/`.
const ANNOTATIONS: &str = "val_annotations.txt";

/// The images of one split, on disk.
enum FolderPart {
    /// A directory per class.
    Classes(PathBuf),
    /// All images in `images/`, and a file with their classes.
    Annotated(PathBuf),
}

/// Pairs of class directory and class name, in label order.
type FolderLabels = Vec<(String, String)>;

/// Whether `root` holds class folders.
pub(super) fn is_here(root: &Path) -> bool {
    part(root, Split::Train).is_ok_and(|part| part.is_some())
        || part(root, Split::Test).is_ok_and(|part| part.is_some())
}

/// Whether the class folders in `root` belong to `set`.
pub(super) fn is_of(root: &Path, set: &DataSet) -> bool {
    let parts = [Split::Train, Split::Test]
        .into_iter()
        .filter_map(|split| part(root, split).ok().flatten());
    parts.filter_map(|part| part.names().ok()).any(|names| labelling(names, Some(set)).is_ok())
}

/// Reads the split of a folder that is asked for. `map` (directory → class) selects, names and
/// orders the classes.
pub(super) fn load(
    LayoutRequest { place: root, split, known, fit, held, .. }: LayoutRequest,
    map: Option<&[(String, String)]>,
    remarks: &mut Vec<String>,
) -> Result<Dataset, DataError> {
    let wanted = part(root, split)?.ok_or_else(|| missing(root, split))?;
    let other = match split {
        Split::Train => part(root, Split::Test)?,
        Split::Test => part(root, Split::Train)?,
    };
    let names = wanted.names()?;
    let labelling = match map {
        Some(map) => {
            for part in [Some(&wanted), other.as_ref()].into_iter().flatten() {
                check_map(part, map)?;
            }
            map.to_vec()
        }
        None => {
            if let Some(other) = &other {
                check_alike(root, &wanted, &names, other)?;
            }
            labelling(names, known).map_err(|problem| {
                DataError::invalid(
                    &wanted.dir(),
                    problem,
                    "correct the directories, or name them in a `class_map`",
                )
            })?
        }
    };
    let mut findings = Findings::default();
    let files = wanted.files(root, &labelling, &mut findings)?;
    let classes = labelling.into_iter().map(|(_, class)| class).collect();
    let set = read(root, classes, files, fit, held, &mut findings)?;
    findings.conclude(root, remarks)?;
    Ok(set)
}

/// The part of `root` that holds `split`, or `None` if it has no class directories.
fn part(root: &Path, split: Split) -> Result<Option<FolderPart>, DataError> {
    let candidates: &[&str] = match split {
        Split::Train => &["train"],
        Split::Test => &TEST_DIRS,
    };
    for name in candidates {
        let dir = root.join(name);
        if dir.join(ANNOTATIONS).is_file() && dir.join(IMAGES).is_dir() {
            return Ok(Some(FolderPart::Annotated(dir)));
        }
        // Unlabelled test images lie in the directory itself or in `images/`.
        let has_classes =
            |entries: Vec<Entry>| entries.iter().any(|entry| entry.is_dir && entry.name != IMAGES);
        if dir.is_dir() && has_classes(entries(&dir, &mut Vec::new())?) {
            return Ok(Some(FolderPart::Classes(dir)));
        }
    }
    Ok(None)
}

fn missing(root: &Path, split: Split) -> DataError {
    let wanted = match split {
        Split::Train => "train/",
        Split::Test => "test/ or val/",
    };
    let flat = |name: &&&str| entry(&root.join(name), png::is_image).is_some();
    let problem = match TEST_DIRS.iter().filter(|_| split == Split::Test).find(flat) {
        Some(name) => format!("has images in {name}/ itself, not in a directory for each class"),
        None => format!("holds no {wanted} with a directory of images for each class"),
    };
    let of_imagenet = |path: &Path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(IMAGENET_VAL))
    };
    if TEST_DIRS.iter().any(|name| entry(&root.join(name), of_imagenet).is_some()) {
        let remedy = "`python -m exporters fetch imagenet` sorts ImageNet's validation images";
        return DataError::invalid(root, problem, remedy);
    }
    DataError::invalid(
        root,
        problem,
        "sort the images into such directories, or name the directory that holds them",
    )
}

/// The error for a `root` that holds directories of images but does not say which of them are
/// training images.
pub(super) fn without_split(root: &Path) -> Option<DataError> {
    entry(root, |path| entry(path, png::is_image).is_some())?;
    Some(DataError::invalid(
        root,
        "holds directories of images, but no train/ and test/ or val/",
        "move the directories of classes into train/, and some of their images into such directories in test/",
    ))
}

/// The first entry of `directory` that satisfies `is_it`, or `None` if it can't be listed.
fn entry(directory: &Path, is_it: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let entries = fs::read_dir(directory).ok()?;
    entries.filter_map(|entry| Some(entry.ok()?.path())).find(|path| is_it(path))
}

impl FolderPart {
    fn dir(&self) -> PathBuf {
        match self {
            FolderPart::Classes(dir) | FolderPart::Annotated(dir) => dir.clone(),
        }
    }

    /// The names of the class directories.
    fn names(&self) -> Result<BTreeSet<String>, DataError> {
        match self {
            FolderPart::Classes(dir) => {
                let directories =
                    entries(dir, &mut Vec::new())?.into_iter().filter(|entry| entry.is_dir);
                Ok(directories.map(|entry| entry.name).collect())
            }
            FolderPart::Annotated(dir) => {
                Ok(annotations(dir)?.into_iter().map(|(_, class)| class).collect())
            }
        }
    }

    /// The image files of each class of `labelling`, with their labels.
    fn files(
        &self,
        root: &Path,
        labelling: &FolderLabels,
        findings: &mut Findings,
    ) -> Result<Vec<(PathBuf, u32)>, DataError> {
        let mut files = Vec::new();
        match self {
            FolderPart::Classes(dir) => {
                for entry in
                    entries(dir, &mut findings.skipped)?.iter().filter(|entry| !entry.is_dir)
                {
                    findings.problem(root, &entry.path, "lies beside the classes' directories");
                }
                for (label, (name, _)) in (0..).zip(labelling) {
                    let images = images_of(root, &dir.join(name), findings)?;
                    files.extend(images.into_iter().map(|path| (path, label)));
                }
            }
            FolderPart::Annotated(dir) => {
                let labels: BTreeMap<&str, u32> =
                    labelling.iter().map(|(name, _)| name.as_str()).zip(0..).collect();
                let annotated: BTreeMap<String, String> = annotations(dir)?.into_iter().collect();
                let mut unseen: BTreeSet<&str> = annotated.keys().map(String::as_str).collect();
                for path in images_of(root, &dir.join(IMAGES), findings)? {
                    let name = png::display_name(&path);
                    unseen.remove(name.as_str());
                    match annotated.get(&name) {
                        None => {
                            findings.problem(root, &path, format!("has no line in {ANNOTATIONS}"))
                        }
                        Some(class) => {
                            files.extend(labels.get(class.as_str()).map(|&label| (path, label)))
                        }
                    }
                }
                for name in unseen {
                    findings.problem(root, &dir.join(IMAGES).join(name), "is missing");
                }
                files.sort_by(|(a, x), (b, y)| x.cmp(y).then_with(|| a.cmp(b)));
            }
        }
        Ok(files)
    }
}

/// File and class of each line of `val_annotations.txt`.
fn annotations(dir: &Path) -> Result<Vec<(String, String)>, DataError> {
    let path = dir.join(ANNOTATIONS);
    let text = std::fs::read_to_string(&path).map_err(DataError::io(&path, "read the classes"))?;
    let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    let line = |(line, number): (&str, usize)| match line.split('\t').collect::<Vec<_>>()[..] {
        [file, class, ..] => Ok((file.to_string(), class.trim().to_string())),
        _ => Err(DataError::invalid(
            &path,
            format!("has no class in line {number}"),
            "fetch the file again",
        )),
    };
    lines.map(line).collect()
}

/// The image files of the class in `dir`. All other entries are problems.
pub(crate) fn images_of(
    root: &Path,
    dir: &Path,
    findings: &mut Findings,
) -> Result<Vec<PathBuf>, DataError> {
    let mut found = entries(dir, &mut findings.skipped)?;
    if found.iter().any(|entry| entry.is_dir && entry.name == IMAGES) {
        for entry in
            found.iter().filter(|entry| entry.name != IMAGES && !entry.name.ends_with("_boxes.txt"))
        {
            findings.problem(root, &entry.path, format!("lies beside {IMAGES}/"));
        }
        found = entries(&dir.join(IMAGES), &mut findings.skipped)?;
    }
    let mut files = Vec::new();
    for entry in found {
        if entry.is_dir {
            findings.problem(root, &entry.path, "is a directory inside a class");
        } else if png::is_image(&entry.path) {
            files.push(entry.path);
        } else {
            findings.problem(root, &entry.path, "is no file that is called .png, .jpg or .jpeg");
        }
    }
    if files.is_empty() {
        findings.problem(root, dir, "holds no image");
    }
    Ok(files)
}

fn check_map(part: &FolderPart, map: &[(String, String)]) -> Result<(), DataError> {
    let names = part.names()?;
    let missing: Vec<_> =
        map.iter().map(|(name, _)| name).filter(|name| !names.contains(*name)).cloned().collect();
    if missing.is_empty() {
        return Ok(());
    }
    let problem =
        format!("has no directory {}, which the class map names", listed(missing.into_iter()));
    Err(DataError::invalid(&part.dir(), problem, "correct the map, or put the images there"))
}

/// Checks that training and test images have the same classes.
fn check_alike(
    root: &Path,
    part: &FolderPart,
    names: &BTreeSet<String>,
    other: &FolderPart,
) -> Result<(), DataError> {
    let others = other.names()?;
    if *names == others {
        return Ok(());
    }
    let only = |one: &FolderPart, these: &BTreeSet<String>, those: &BTreeSet<String>| {
        let own: Vec<_> = these.difference(those).cloned().collect();
        (!own.is_empty()).then(|| {
            format!("only {}/ has {}", png::display_name(&one.dir()), listed(own.into_iter()))
        })
    };
    let differences: Vec<_> =
        [only(part, names, &others), only(other, &others, names)].into_iter().flatten().collect();
    let problem = format!(
        "its training and test images are of different classes: {}",
        differences.join("; ")
    );
    let remedy = "rename or remove directories until both have the same, or choose classes with a `class_map`";
    Err(DataError::invalid(root, problem, remedy))
}

/// Assigns class directories to labels: as in the `known` data set, else by the number at the end
/// of the names, else by name.
fn labelling(names: BTreeSet<String>, known: Option<&DataSet>) -> Result<FolderLabels, String> {
    let names = ordered(names)?;
    match known {
        Some(known) => matched(names, known),
        None => Ok(readable(names)),
    }
}

/// Sorts by number if all names are a common prefix and a number (`00000`, `new12`, `n01440764`),
/// else alphabetically.
fn ordered(names: BTreeSet<String>) -> Result<Vec<String>, String> {
    let split = |name: &String| {
        let start = name.trim_end_matches(|letter: char| letter.is_ascii_digit()).len();
        Some((name[..start].to_string(), name[start..].parse::<u64>().ok()?))
    };
    let Some(mut numbered) =
        names.iter().map(|name| Some((split(name)?, name))).collect::<Option<Vec<_>>>()
    else {
        return Ok(names.into_iter().collect());
    };
    if numbered.windows(2).any(|pair| pair[0].0.0 != pair[1].0.0) {
        return Ok(names.into_iter().collect());
    }
    numbered.sort();
    if let Some(pair) = numbered.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(format!("has {} and {}, which are the same number", pair[0].1, pair[1].1));
    }
    Ok(numbered.into_iter().map(|(_, name)| name.clone()).collect())
}

/// ImageNet's class names if all directories are named by its WordNet ids, else the directories'
/// names.
pub(crate) fn readable(names: Vec<String>) -> FolderLabels {
    let wnid = |name: &str| {
        name.len() == 9 && name.starts_with('n') && name[1..].bytes().all(|b| b.is_ascii_digit())
    };
    let known = if names.iter().all(|name| wnid(name)) { registry::find("imagenet") } else { None };
    let by_wnid: BTreeMap<&str, &Class> = known
        .iter()
        .flat_map(|set| &set.classes)
        .filter_map(|class| Some((class.wnid()?, class)))
        .collect();
    let classes: Option<Vec<String>> = names
        .iter()
        .map(|name| by_wnid.get(name.as_str()).map(|class| class.name().to_string()))
        .collect();
    let classes = classes.unwrap_or_else(|| names.clone());
    names.into_iter().zip(classes).collect()
}

/// The letters and digits of a name, in lower case, because spellings differ in all else.
pub(crate) fn plain(name: &str) -> String {
    name.chars().filter(|letter| letter.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Whether `name` is the WordNet id or the name of `class`; synonyms after a comma are ignored.
pub(crate) fn names_class(name: &str, class: &Class) -> bool {
    let first = name.split(',').next().unwrap_or(name);
    Some(name) == class.wnid() || plain(first) == plain(class.name())
}

/// Finds the directory of each class of `known` by its WordNet id, its name or its label.
fn matched(names: Vec<String>, known: &DataSet) -> Result<FolderLabels, String> {
    let are_labels = names.len() == known.classes.len()
        && names.iter().zip(0..).all(|(name, label)| name.parse() == Ok::<usize, _>(label));
    let mut left = BTreeMap::new();
    for name in &names {
        if let Some(same) = left.insert(plain(name), name) {
            return Err(format!("has {same} and {name}, which name the same class"));
        }
    }
    let (mut labelling, mut missing) = (Vec::new(), Vec::new());
    for (label, class) in known.classes.iter().enumerate() {
        let directory = if are_labels {
            left.remove(&plain(&names[label]))
        } else {
            class
                .wnid()
                .and_then(|wnid| left.remove(wnid))
                .or_else(|| left.remove(&plain(class.name())))
        };
        match directory {
            Some(directory) => labelling.push((directory.clone(), class.name().to_string())),
            None => missing.push(class.wnid().unwrap_or(class.name()).to_string()),
        }
    }
    let mut problems = Vec::new();
    if !missing.is_empty() {
        problems.push(format!("it lacks {}", listed(missing.into_iter())));
    }
    if !left.is_empty() {
        problems.push(format!("{} is no class of it", listed(left.into_values().cloned())));
    }
    if problems.is_empty() {
        Ok(labelling)
    } else {
        Err(format!("is not {}: {}", known.title, problems.join("; ")))
    }
}

/// Reads directories and class names from a YAML or JSON mapping, in its order.
pub(crate) fn read_class_map(path: &Path) -> Result<Vec<(String, String)>, DataError> {
    let text = std::fs::read_to_string(path).map_err(DataError::io(path, "read the class map"))?;
    let remedy = "write one line `directory: class name` per class, in label order";
    let refuse = |why: String| {
        DataError::invalid(path, format!("is no map of texts to texts ({why})"), remedy)
    };
    // `Mapping`, unlike a map of strings, refuses duplicate keys.
    let tree: serde_yaml::Mapping =
        serde_yaml::from_str(without_mark(&text)).map_err(|error| refuse(error.to_string()))?;
    let entries: Option<Vec<(String, String)>> = tree
        .iter()
        .map(|(name, class)| Some((name.as_str()?.to_string(), class.as_str()?.to_string())))
        .collect();
    let map =
        entries.ok_or_else(|| refuse("something in it is not text; put it in quotes".into()))?;
    let outside = |name: &String| {
        name.is_empty() || name.contains(['/', '\\']) || name == ".." || name == "."
    };
    if let Some((name, _)) = map.iter().find(|(name, _)| outside(name)) {
        return Err(DataError::invalid(
            path,
            format!("names {name:?}, which is no directory's name"),
            remedy,
        ));
    }
    if map.is_empty() {
        return Err(DataError::invalid(path, "names no directory", remedy));
    }
    let mut classes = BTreeSet::new();
    if let Some((_, class)) = map.iter().find(|(_, class)| !classes.insert(class)) {
        return Err(DataError::invalid(
            path,
            format!("calls two directories {class:?}"),
            "give each class its own name",
        ));
    }
    Ok(map)
}

/// The images of `files`, fitted by `fit`. They are decoded now, in parallel, if their pixels take
/// at most `held` bytes, else each time that they are asked for. Undecodable files are problems.
pub(crate) fn read(
    root: &Path,
    classes: Vec<String>,
    files: Vec<(PathBuf, u32)>,
    fit: Fit,
    held: u64,
    findings: &mut Findings,
) -> Result<Dataset, DataError> {
    let (paths, labels): (Vec<PathBuf>, Vec<u32>) = files.into_iter().unzip();
    let shape = match fit {
        Fit::To(shape) => shape,
        Fit::Exact => paths.iter().find_map(|path| shape_of(path)).unwrap_or([1, 1, 1]),
    };
    let [channels, height, width] = shape;
    if ![1, 3].contains(&channels) {
        let problem = format!("holds images, which can't become {channels} channels");
        return Err(DataError::invalid(root, problem, "use a network of 1 or 3 channels"));
    }
    let (count, length) = (paths.len(), channels * height * width);
    let files = ImageFiles { root: root.into(), paths, shape, fit };
    let images = if (count as u64).saturating_mul(length as u64) > held {
        ImagePixels::Files(files)
    } else {
        memory::check(root, count as u64, length as u64)?;
        ImagePixels::Held(files.decode(&(0..count).collect::<Vec<_>>(), findings))
    };
    Ok(Dataset { name: png::display_name(root), images, labels, channels, height, width, classes })
}

/// The shape `[C, H, W]` of an image file; `None` if it can't be decoded.
fn shape_of(path: &Path) -> Option<[usize; 3]> {
    let Pixels { channels, height, width, .. } = decode::decode(&fs::read(path).ok()?).ok()?;
    Some([channels, height, width])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Source;

    /// Creates an image file at each of `files` below a new directory. Its only pixel is the file's
    /// index in the list.
    fn folder(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (value, file) in (0..).zip(files) {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, png::encode(&[value], 1, 1, 1).unwrap()).unwrap();
        }
        dir
    }

    #[test]
    fn images_that_nobody_sorted_are_told_with_what_sorts_them() {
        for (files, parts) in [
            (
                &["train/a/1.png", "val/ILSVRC2012_val_00000001.JPEG"][..],
                ["has images in val/ itself", "`python -m exporters fetch imagenet` sorts"],
            ),
            (&["train/a/1.png", "test/1.png"], ["has images in test/ itself", "sort the images"]),
            (&["train/a/1.png"], ["holds no test/ or val/", "sort the images"]),
            (&["a/1.png", "b/1.png"], ["but no train/ and test/", "move the directories"]),
        ] {
            let message = load(folder(files).path(), Split::Test).unwrap_err();
            assert!(parts.iter().all(|part| message.contains(part)), "{files:?}: {message}");
        }
    }

    fn load(dir: &Path, split: Split) -> Result<(Dataset, Vec<String>), String> {
        let mut remarks = Vec::new();
        let source = Source::open(dir).map_err(|error| error.to_string())?;
        let set = source
            .load(split, Fit::To([1, 1, 1]), &mut remarks)
            .map_err(|error| error.to_string())?;
        Ok((set, remarks))
    }

    /// `tests/goldens/make_folder.py` writes the files; Pillow reads them.
    #[test]
    fn odd_files_become_the_bytes_that_pillow_makes_of_them() {
        let goldens = crate::in_repository("tests/goldens/folder");
        let bytes = fs::read(goldens.join("expected.safetensors")).unwrap();
        let expected = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for (name, shape) in [("gray", [1, 28, 28]), ("rgb", [3, 24, 24])] {
            let source = Source::open(&goldens).unwrap();
            let set = source.load(Split::Train, Fit::To(shape), &mut Vec::new()).unwrap();
            assert_eq!((set.classes.len(), [set.channels, set.height, set.width]), (2, shape));
            let expected = expected.tensor(name).unwrap();
            assert_eq!(expected.shape(), [&[set.len()][..], &shape[..]].concat());
            let length = shape.iter().product();
            for (index, (own, wanted)) in set
                .all_pixels()
                .unwrap()
                .chunks(length)
                .zip(expected.data().chunks(length))
                .enumerate()
            {
                assert!(own == wanted, "{name}: image {index} differs");
            }
        }
        let source = Source::open(&goldens).unwrap();
        let message = source
            .load(Split::Train, Fit::To([2, 28, 28]), &mut Vec::new())
            .unwrap_err()
            .to_string();
        assert!(message.contains("can't become 2 channels"), "{message}");
        let message =
            source.load(Split::Test, Fit::Exact, &mut Vec::new()).unwrap_err().to_string();
        assert!(
            message.contains("holds no test/ or val/ with a directory of images for each class"),
            "{message}"
        );
    }

    #[test]
    fn test_images_lie_in_test_or_in_val() {
        for name in TEST_DIRS {
            let file = |class: &str| format!("{name}/{class}/0.png");
            let dir = folder(&["train/a/0.png", "train/b/0.png", &file("a"), &file("b")]);
            assert_eq!(
                load(dir.path(), Split::Test).unwrap().0.images,
                vec![2, 3].into(),
                "{name}"
            );
        }
        // A test directory without classes is skipped.
        let dir = folder(&["train/a/0.png", "test/images/0.png", "val/a/0.png"]);
        assert_eq!(load(dir.path(), Split::Test).unwrap().0.images, vec![2].into());
    }

    #[test]
    fn tiny_imagenet_is_read_as_it_is_packed() {
        let dir = folder(&[
            "train/n2/images/n2_0.JPEG",
            "train/n1/images/n1_0.JPEG",
            "train/n1/images/n1_1.JPEG",
            "val/images/val_0.JPEG",
            "val/images/val_1.JPEG",
            "test/images/test_0.JPEG",
        ]);
        fs::write(dir.path().join("train/n1/n1_boxes.txt"), "n1_0.JPEG\t0\t0\t1\t1\n").unwrap();
        let annotations = dir.path().join("val/val_annotations.txt");
        fs::write(&annotations, "val_0.JPEG\tn2\t0\t0\t62\t62\nval_1.JPEG\tn1\t0\t0\t62\t62\n")
            .unwrap();
        let (train, _) = load(dir.path(), Split::Train).unwrap();
        assert_eq!(
            (train.labels.as_slice(), &train.all_pixels().unwrap()[..]),
            ([0, 0, 1].as_slice(), [1, 2, 0].as_slice())
        );
        let (test, _) = load(dir.path(), Split::Test).unwrap();
        assert_eq!(
            (test.labels.as_slice(), &test.all_pixels().unwrap()[..]),
            ([0, 1].as_slice(), [4, 3].as_slice())
        );
        assert_eq!(test.classes, ["n1", "n2"]);

        fs::write(&annotations, "val_0.JPEG\tn2\t0\nval_2.JPEG\tn1\t0\n").unwrap();
        let message = load(dir.path(), Split::Test).unwrap_err();
        assert!(
            message.contains("val/images/val_1.JPEG has no line in val_annotations.txt"),
            "{message}"
        );
        assert!(message.contains("val/images/val_2.JPEG is missing"), "{message}");
        fs::write(&annotations, "val_0.JPEG n2\n").unwrap();
        let message = load(dir.path(), Split::Train).unwrap_err();
        assert!(message.contains("val_annotations.txt: has no class in line 1"), "{message}");
    }

    #[test]
    fn numbers_sort_as_numbers_and_words_as_words() {
        let order = |names: &[&str]| {
            ordered(names.iter().map(ToString::to_string).collect()).map(|names| names.join(" "))
        };
        assert_eq!(order(&["0", "1", "10", "2"]).unwrap(), "0 1 2 10");
        assert_eq!(order(&["new010", "new002", "new1"]).unwrap(), "new1 new002 new010");
        assert_eq!(order(&["00001", "00000"]).unwrap(), "00000 00001");
        assert_eq!(order(&["cat10", "cat9", "dog1"]).unwrap(), "cat10 cat9 dog1");
        assert_eq!(order(&["b", "a", "10"]).unwrap(), "10 a b");
        assert_eq!(order(&["1", "01"]).unwrap_err(), "has 01 and 1, which are the same number");
        // A number beyond the integer range is sorted as a word.
        assert_eq!(order(&["99999999999999999999999", "1"]).unwrap(), "1 99999999999999999999999");
    }

    #[test]
    fn directories_by_wordnet_id_have_readable_classes() {
        let dir = folder(&[
            "train/n02102040/0.png",
            "train/n01440764/0.png",
            "val/n01440764/0.png",
            "val/n02102040/0.png",
        ]);
        let (set, _) = load(dir.path(), Split::Train).unwrap();
        assert_eq!(
            (set.classes.join(", "), set.images),
            ("tench, English springer".to_string(), vec![1, 0].into())
        );
        // One id that is not ImageNet's keeps all directory names.
        let dir = folder(&["train/n02102040/0.png", "train/n99999999/0.png"]);
        assert_eq!(load(dir.path(), Split::Train).unwrap().0.classes, ["n02102040", "n99999999"]);
    }

    #[test]
    fn a_known_data_set_is_found_by_ids_names_or_labels() {
        let set = registry::find("imagenette").unwrap();
        let directories = |name: fn(usize, &Class) -> String| -> BTreeSet<String> {
            set.classes.iter().enumerate().map(|(label, class)| name(label, class)).collect()
        };
        let classes = |names| {
            matched(ordered(names).unwrap(), set)
                .unwrap()
                .into_iter()
                .map(|(_, class)| class)
                .collect()
        };
        let spellings: [fn(usize, &Class) -> String; 5] = [
            |_, class| class.wnid().unwrap().into(),
            |_, class| class.name().into(),
            |_, class| class.name().to_uppercase().replace(' ', "_"),
            |label, _| format!("{label:05}"),
            |label, _| label.to_string(),
        ];
        for name in spellings {
            let found: Vec<String> = classes(directories(name));
            assert_eq!(found, set.class_names());
        }
        let mut names = directories(|_, class| class.name().into());
        names.remove("church");
        names.insert("mosque".into());
        let message = matched(ordered(names).unwrap(), set).unwrap_err();
        assert_eq!(message, "is not Imagenette: it lacks n03028079; mosque is no class of it");
    }

    #[test]
    fn classes_of_training_and_test_images_must_agree() {
        let dir =
            folder(&["train/ant/0.png", "train/zzz/0.png", "test/ant/0.png", "test/bee/0.png"]);
        for split in [Split::Train, Split::Test] {
            let message = load(dir.path(), split).unwrap_err();
            assert!(
                message.contains("training and test images are of different classes"),
                "{message}"
            );
            assert!(
                message.contains("only train/ has zzz") && message.contains("only test/ has bee"),
                "{message}"
            );
        }
        let dir = folder(&["train/ant/0.png", "train/bee/0.png", "test/ant/0.png"]);
        let message = load(dir.path(), Split::Train).unwrap_err();
        assert!(
            message.contains("only train/ has bee") && !message.contains("only test/"),
            "{message}"
        );
        // A class map selects the classes.
        let map = dir.path().join("map.yaml");
        fs::write(&map, "ant: an ant").unwrap();
        let source = Source::open(dir.path()).unwrap().with_class_map(&map).unwrap();
        let set = source.load(Split::Train, Fit::To([1, 1, 1]), &mut Vec::new()).unwrap();
        assert_eq!((set.classes, set.images), (vec!["an ant".to_string()], vec![0].into()));
    }

    #[test]
    fn system_entries_are_left_out_and_said() {
        let dir = folder(&[
            "train/a/0.png",
            "train/a/._0.png",
            "train/a/.DS_Store",
            "train/a/Thumbs.db",
            "train/.ipynb_checkpoints/0.png",
            "train/__MACOSX/0.png",
            "test/a/0.png",
        ]);
        let (set, remarks) = load(dir.path(), Split::Train).unwrap();
        assert_eq!((set.classes.len(), set.images), (1, vec![0].into()));
        let [remark] = remarks.as_slice() else { panic!("{remarks:?}") };
        for name in [
            "train/a/._0.png",
            ".DS_Store",
            "Thumbs.db",
            "train/.ipynb_checkpoints",
            "train/__MACOSX",
        ] {
            assert!(remark.contains(name), "{remark}");
        }
        assert!(load(dir.path(), Split::Test).unwrap().1.is_empty());
    }

    #[test]
    fn all_that_is_wrong_is_named_at_once() {
        let dir =
            folder(&["train/a/0.png", "train/b/0.png", "train/loose.png", "train/a/deep/0.png"]);
        let path = |name: &str| dir.path().join("train").join(name);
        fs::create_dir(path("empty")).unwrap();
        fs::write(path("a/1.webp"), "RIFF").unwrap();
        fs::write(path("a/notes.txt"), "of mine").unwrap();
        fs::write(path("b/bad.png"), "no").unwrap();
        fs::write(path("b/short.jpg"), [0xFF, 0xD8, 0xFF]).unwrap();
        let message = load(dir.path(), Split::Train).unwrap_err();
        for part in [
            "7 entries can't be used",
            "train/loose.png lies beside the classes' directories",
            "train/empty holds no image",
            "train/a/1.webp is no file that is called .png, .jpg or .jpeg",
            "train/a/notes.txt is no file",
            "train/a/deep is a directory inside a class",
            "train/b/bad.png is neither a PNG nor a JPEG",
            "train/b/short.jpg is truncated",
        ] {
            assert!(message.contains(part), "{message:?} lacks {part:?}");
        }
        for number in 0..50 {
            fs::write(path("b").join(format!("{number}.jpg")), "no").unwrap();
        }
        let message = load(dir.path(), Split::Train).unwrap_err();
        assert!(
            message.contains("57 entries can't be used") && message.contains("and 37 more"),
            "{message}"
        );
    }

    #[test]
    fn a_class_map_names_orders_and_chooses_classes() {
        let dir = folder(&["train/x/0.png", "train/y/0.png", "train/y/1.png", "train/z/0.png"]);
        let map = dir.path().join("map.yaml");
        let read = |text: &str| {
            fs::write(&map, text).unwrap();
            let source = Source::open(dir.path())?.with_class_map(&map)?;
            source.load(Split::Train, Fit::To([1, 1, 1]), &mut Vec::new())
        };
        let chosen = read("y: first\nx: second\n").unwrap();
        assert_eq!(
            (chosen.classes.join(" "), chosen.labels),
            ("first second".to_string(), vec![0, 0, 1])
        );
        assert_eq!(chosen.images, vec![1, 2, 0].into());
        for (text, expected) in [
            ("coat: coat", "has no directory coat, which the class map names"),
            ("../x: x", "names \"../x\", which is no directory's name"),
            (".: x", "names \".\", which is no directory's name"),
            ("[a, b]", "is no map of texts to texts"),
            ("x: x\nx: y", "is no map of texts to texts"),
            ("x: same\ny: same", "calls two directories \"same\""),
            ("{}", "names no directory"),
        ] {
            let message = read(text).unwrap_err().to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
    }
}
