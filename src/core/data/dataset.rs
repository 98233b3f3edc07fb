//! A labelled data set in memory, and where it is found on disk.

use super::registry::{self, DataSet, Layout};
use super::{DataError, Fit, Size, cifar, idx, npz, png};
use std::path::{Path, PathBuf};

const SYSTEM_DIR: &str = "/usr/share/datasets";

/// The part of a data set: what students learn from, or what they are judged on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// The training images.
    Train,
    /// The test images.
    Test,
}

impl Split {
    /// The part's directory in an image folder.
    fn directory(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Test => "test",
        }
    }
}

/// A data set on disk: its kind, and the directory that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A data set of the [registry].
    Known {
        /// Its name.
        name: &'static str,
        /// The form in which it lies there.
        layout: &'static Layout,
        /// Where its files lie.
        directory: PathBuf,
    },
    /// Four IDX files named as MNIST's are, of any classes.
    Idx(PathBuf),
    /// Image files in `train/<class>/` and `test/<class>/`.
    ImageFolder(PathBuf),
    /// The same, with a file that says which directories are which classes.
    MappedFolder {
        /// Where the files lie.
        directory: PathBuf,
        /// YAML or JSON: directory → class name, in label order.
        map: PathBuf,
    },
    /// A NumPy archive.
    Npz(PathBuf),
}

impl Source {
    /// Finds a data set of the [registry] by its name.
    ///
    /// Looks in the directory that the environment variable `SCDD_DATA` names (which holds the data set's directory or is it) and nowhere else;
    /// without the variable in `data/` of the current directory and of each directory above it, then in `/usr/share/datasets`.
    pub fn find(name: &str) -> Result<Self, DataError> {
        let here = std::env::current_dir().map_err(DataError::io(Path::new("."), "resolve"))?;
        Self::find_from(name, std::env::var_os("SCDD_DATA").map(PathBuf::from).as_deref(), &here)
    }

    /// As [`Source::find`], in `directory` alone.
    pub fn find_at(name: &str, directory: &Path) -> Result<Self, DataError> {
        Self::find_from(name, Some(directory), directory)
    }

    /// Where its files lie.
    pub fn directory(&self) -> &Path {
        match self {
            Self::Known { directory: dir, .. }
            | Self::Idx(dir)
            | Self::ImageFolder(dir)
            | Self::MappedFolder { directory: dir, .. } => dir,
            Self::Npz(file) => file.parent().unwrap_or(file),
        }
    }

    fn find_from(name: &str, chosen: Option<&Path>, here: &Path) -> Result<Self, DataError> {
        let Some(set) = registry::find(name) else {
            return Err(DataError::Unknown { name: name.into(), known: registry::names().join(", ") });
        };
        let looked = candidates(set, chosen, here);
        let mut found = looked.iter().flat_map(|dir| set.layouts.iter().map(move |layout| (dir, layout)));
        match found.find(|(dir, layout)| lies_in(dir, layout)) {
            Some((dir, layout)) => Ok(Self::Known { name: &set.name, layout, directory: dir.clone() }),
            None => Err(DataError::Missing { name: name.into(), looked }),
        }
    }
}

/// The directories that may hold `set`, best first.
fn candidates(set: &DataSet, chosen: Option<&Path>, here: &Path) -> Vec<PathBuf> {
    let inside = |root: &Path| set.directories.iter().map(|dir| root.join(dir)).collect::<Vec<_>>();
    if let Some(chosen) = chosen {
        return [inside(chosen), vec![chosen.to_path_buf()]].concat();
    }
    let mut found: Vec<_> = here.ancestors().flat_map(|dir| inside(&dir.join("data"))).collect();
    found.extend(inside(Path::new(SYSTEM_DIR)));
    found
}

/// Whether `dir` holds files of this form.
fn lies_in(dir: &Path, layout: &Layout) -> bool {
    match layout {
        Layout::Idx => idx::present(dir, "t10k-labels-idx1-ubyte").is_some(),
        Layout::CifarBinary { test, .. } => test.iter().all(|file| dir.join(file).is_file()),
        _ => false,
    }
}

/// Images with labels, all of one size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// What the set is called.
    pub name: String,
    /// Pixels 0..=255, `[N, C, H, W]`.
    pub images: Vec<u8>,
    /// `[N]`, each below `classes.len()`.
    pub labels: Vec<u32>,
    /// C.
    pub channels: usize,
    /// H.
    pub height: usize,
    /// W.
    pub width: usize,
    /// Class names in label order.
    pub classes: Vec<String>,
}

impl Dataset {
    /// Reads one split of `source` into memory, as it is.
    pub fn load(source: &Source, split: Split) -> Result<Self, DataError> {
        Self::load_as(source, split, Fit::Exact)
    }

    /// As [`load`](Self::load), with images of a folder that become what `fit` says; those of other sources stay as they are.
    pub fn load_as(source: &Source, split: Split, fit: Fit) -> Result<Self, DataError> {
        match source {
            Source::Known { name, layout, directory } => load_known(name, layout, directory, split),
            Source::Idx(dir) => load_unnamed_idx(dir, split),
            Source::ImageFolder(dir) => png::read_folder(&dir.join(split.directory()), fit),
            Source::MappedFolder { directory, map } => {
                png::read_mapped(&directory.join(split.directory()), &png::read_class_map(map)?, fit)
            }
            Source::Npz(file) => npz::load(file, split),
        }
    }

    /// How many images there are.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Height and width of every image.
    pub fn size(&self) -> Size {
        Size { height: self.height, width: self.width }
    }

    /// The pixels of image `index` `[C, H, W]`, or `None` where there is no such image.
    pub fn image(&self, index: usize) -> Option<&[u8]> {
        let length = self.channels * self.height * self.width;
        let start = index.checked_mul(length)?;
        self.images.get(start..start.checked_add(length)?)
    }
}

fn load_known(name: &str, layout: &Layout, dir: &Path, split: Split) -> Result<Dataset, DataError> {
    let unknown = || DataError::Unknown { name: name.into(), known: registry::names().join(", ") };
    let classes = registry::find(name).ok_or_else(unknown)?.class_names();
    match layout {
        Layout::CifarBinary { train, test, label_bytes } => {
            let files = if split == Split::Train { train } else { test };
            let cifar::Cifar { images, labels } = cifar::load(dir, files, *label_bytes, classes.len())?;
            Ok(Dataset {
                name: name.into(),
                images,
                labels,
                channels: 3,
                height: cifar::SIDE,
                width: cifar::SIDE,
                classes,
            })
        }
        _ => load_idx(name, dir, split, classes),
    }
}

fn load_idx(name: &str, dir: &Path, split: Split, classes: Vec<String>) -> Result<Dataset, DataError> {
    let idx::Idx { images, labels, height, width } = idx::load(dir, split, classes.len())?;
    Ok(Dataset { name: name.into(), images, labels, channels: 1, height, width, classes })
}

/// A set called as its directory, whose classes are the lines of `classes.txt`, else numbers up to the highest label of both splits.
fn load_unnamed_idx(dir: &Path, split: Split) -> Result<Dataset, DataError> {
    let names = dir.join("classes.txt");
    let classes: Vec<String> = if names.is_file() {
        let text = std::fs::read_to_string(&names).map_err(DataError::io(&names, "read the class names"))?;
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect()
    } else {
        let highest = idx::highest_label(dir, Split::Train)?.max(idx::highest_label(dir, Split::Test)?);
        (0..=highest).map(|class| class.to_string()).collect()
    };
    load_idx(&png::display_name(dir), dir, split, classes)
}

/// Checks that each of the labels read from `path` names one of `classes` classes.
pub(super) fn check_labels(path: &Path, labels: &[u32], classes: usize) -> Result<(), DataError> {
    match labels.iter().position(|label| *label as usize >= classes) {
        None => Ok(()),
        Some(image) => {
            let problem = format!("label {} of image {image}, but there are {classes} classes", labels[image]);
            Err(DataError::invalid(path, problem, "the file belongs to another data set or is damaged"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn looks_where_it_says() {
        let root = tempfile::tempdir().unwrap();
        let here = root.path().join("a/b");
        fs::create_dir_all(&here).unwrap();
        let put = |dir: &str, file: &str| {
            fs::create_dir_all(root.path().join(dir)).unwrap();
            fs::write(root.path().join(dir).join(file), []).unwrap();
            root.path().join(dir)
        };

        let message = Source::find_from("mnist", None, &here).unwrap_err().to_string();
        for part in ["data set mnist not found", "/a/b/data/mnist, ", "`make data`", "SCDD_DATA"] {
            assert!(message.contains(part), "{message:?} lacks {part:?}");
        }
        let found = |name: &str, chosen: Option<&Path>| {
            Source::find_from(name, chosen, &here).unwrap().directory().to_path_buf()
        };
        let above = put("data/mnist", "t10k-labels-idx1-ubyte.gz");
        assert_eq!(found("mnist", None), above);
        let own = put("a/b/data/mnist", "t10k-labels-idx1-ubyte");
        assert_eq!(found("mnist", None), own);
        // A place that was named is the only one.
        let message = Source::find_from("mnist", Some(&root.path().join("x")), &here).unwrap_err().to_string();
        assert!(
            message.contains("looked in") && message.contains("/x/mnist, ") && !message.contains("/a/b"),
            "{message}"
        );
        let itself = put("chosen", "test.bin");
        assert_eq!(found("cifar-100", Some(&itself)), itself);
        let inside = put("chosen/cifar-100-binary", "test.bin");
        assert_eq!(found("cifar-100", Some(&itself)), inside);
    }

    #[test]
    fn unknown_names_list_the_known() {
        let message = Source::find("imagenet-21k").unwrap_err().to_string();
        let known = registry::names().join(", ");
        assert!(known.contains("cifar-100, fashion-mnist"), "{known}");
        assert_eq!(
            message,
            format!("unknown data set \"imagenet-21k\"; known are {known}; give other images as an image folder")
        );
    }

    #[test]
    fn images_are_sliced_by_index() {
        let set = Dataset {
            name: "tiny".into(),
            images: (0..12).collect(),
            labels: vec![0, 1],
            channels: 1,
            height: 2,
            width: 3,
            classes: vec!["a".into(), "b".into()],
        };
        assert_eq!(set.image(1).unwrap(), [6, 7, 8, 9, 10, 11]);
        assert!(set.image(2).is_none() && set.image(usize::MAX).is_none());
        assert_eq!((set.len(), set.is_empty(), set.size()), (2, false, Size { height: 2, width: 3 }));
    }

    #[test]
    fn idx_files_of_any_classes_are_read() {
        let dir = tempfile::tempdir().unwrap();
        for (prefix, labels) in [("train", [0u8, 3]), ("t10k", [1, 2])] {
            let images = [&[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1][..], &[5, 6]].concat();
            fs::write(dir.path().join(format!("{prefix}-images-idx3-ubyte")), images).unwrap();
            let labels = [&[0, 0, 8, 1, 0, 0, 0, 2][..], &labels].concat();
            fs::write(dir.path().join(format!("{prefix}-labels-idx1-ubyte")), labels).unwrap();
        }
        let source = Source::Idx(dir.path().into());
        let test = Dataset::load(&source, Split::Test).unwrap();
        assert_eq!((test.labels.as_slice(), test.classes.join(" ")), ([1, 2].as_slice(), "0 1 2 3".to_string()));
        fs::write(dir.path().join("classes.txt"), "a\nb\nc\n\nd\n").unwrap();
        assert_eq!(Dataset::load(&source, Split::Train).unwrap().classes, ["a", "b", "c", "d"]);
        fs::write(dir.path().join("classes.txt"), "a\nb\n").unwrap();
        let message = Dataset::load(&source, Split::Train).unwrap_err().to_string();
        assert!(message.contains("label 3 of image 1, but there are 2 classes"), "{message}");
    }

    /// The data set is not part of the repository: `make data` fetches it, and without it there is nothing to check here.
    #[test]
    fn reads_fashion_mnist_where_present() {
        let Ok(source) = Source::find("fashion-mnist") else { return };
        for (split, count) in [(Split::Train, 60_000), (Split::Test, 10_000)] {
            let set = Dataset::load(&source, split).unwrap();
            assert_eq!((set.len(), set.channels, set.height, set.width), (count, 1, 28, 28));
            for class in 0..10 {
                assert_eq!(set.labels.iter().filter(|label| **label == class).count(), count / 10);
            }
        }
        let test = Dataset::load(&source, Split::Test).unwrap();
        assert_eq!(test.labels[..4], [9, 2, 1, 1]);
        assert_eq!(test.classes[9], "Ankle boot");
    }
}
