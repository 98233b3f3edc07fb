//! Finds data sets on disk, detects their layout and reads them.

use std::path::{Path, PathBuf};

use super::layout::{self, DataLayout, LayoutRequest};
use super::registry::{self, DataSet};
use super::{DataError, Dataset, Fit, Split, held_out, png};

const SYSTEM_DIR: &str = "/usr/share/datasets";
/// The most bytes of decoded image files that stay in memory: 7,000 images of 3x224x224.
const HELD: u64 = 1 << 30;
/// A data set on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// Its directory or file.
    place: PathBuf,
    layout: DataLayout,
    /// Its registry entry, if it has one.
    known: Option<&'static DataSet>,
    /// For class folders: a YAML or JSON file, directory → class name, in label order.
    class_map: Option<PathBuf>,
    /// Training images that stand in for the test set; 0: the test set itself.
    held_out: usize,
}

impl Source {
    /// Finds a data set of the [registry] by its name, in any of its layouts.
    ///
    /// If the environment variable `SCDD_DATA` is set, only that directory is searched; it holds
    /// the data set's directory, or is it. Otherwise `data/` of the current directory and of each
    /// directory above it are searched, then `/usr/share/datasets`.
    ///
    /// # Errors
    /// When the name is unknown, or no such directory holds the data set.
    pub fn find(name: &str) -> Result<Self, DataError> {
        let here = std::env::current_dir().map_err(DataError::io(Path::new("."), "resolve"))?;
        Self::find_from(name, std::env::var_os("SCDD_DATA").map(PathBuf::from).as_deref(), &here)
    }

    /// Like [`Source::find`], but searches only `place`, which is the data set's directory or file,
    /// or holds it.
    pub fn find_at(name: &str, place: &Path) -> Result<Self, DataError> {
        let set = registered(name)?;
        match inside(set, place).or_else(|| Self::of(set, place)) {
            Some(source) => Ok(source),
            None => Err(missing(set, inside_and_itself(set, place))),
        }
    }

    fn find_from(name: &str, chosen: Option<&Path>, here: &Path) -> Result<Self, DataError> {
        let set = registered(name)?;
        if let Some(chosen) = chosen {
            let itself = || Self::of(set, chosen).filter(|source| source.is_certain(set));
            let looked = || inside_and_itself(set, chosen);
            return inside(set, chosen).or_else(itself).ok_or_else(|| missing(set, looked()));
        }
        let mut roots: Vec<PathBuf> = here.ancestors().map(|dir| dir.join("data")).collect();
        roots.push(SYSTEM_DIR.into());
        roots.iter().find_map(|root| inside(set, root)).ok_or_else(|| {
            missing(
                set,
                roots
                    .iter()
                    .flat_map(|root| set.directories.iter().map(|dir| root.join(dir)))
                    .collect(),
            )
        })
    }

    /// Opens the data set in `place`, a directory or an archive, and detects its layout.
    ///
    /// # Errors
    /// When `place` has no known layout.
    pub fn open(place: &Path) -> Result<Self, DataError> {
        std::fs::metadata(place).map_err(DataError::io(place, "open"))?;
        // Files that only one data set has name it.
        let sets = registry::names().iter().filter_map(|name| registry::find(name));
        for set in sets {
            let named = set.layouts.iter().filter(|layout| layout.form().is_none());
            if let Some(layout) = named.into_iter().find(|layout| layout.lies_in(place)) {
                let (place, layout) = (place.into(), layout.clone());
                return Ok(Self { place, layout, known: Some(set), class_map: None, held_out: 0 });
            }
        }
        let (layout, place) = DataLayout::detect(place)?;
        Ok(Self { place, layout, known: None, class_map: None, held_out: 0 })
    }

    /// The same source with a `class_map` that selects, names and orders the class folders.
    ///
    /// # Errors
    /// When the source has no class folders.
    pub fn with_class_map(self, class_map: &Path) -> Result<Self, DataError> {
        if !self.is_folder() {
            let problem = "has no class folders, which a class map could name";
            return Err(DataError::invalid(&self.place, problem, "leave `class_map` out"));
        }
        Ok(Self { class_map: Some(class_map.into()), ..self })
    }

    /// The same data with `images` training images in place of the test set, which is not read;
    /// the others are the training set. Classes give equally many; which images does not depend on
    /// the experiment's seed, so that all seeds are tested on the same. 0 changes nothing.
    pub fn holding_out(self, images: usize) -> Self {
        Self { held_out: images, ..self }
    }

    /// Training images that stand in for the test set; 0: the test set itself.
    pub(crate) fn held_out(&self) -> usize {
        self.held_out
    }

    /// Whether the source consists of image files in class folders.
    pub fn is_folder(&self) -> bool {
        self.layout.form() == Some(layout::IMAGE_FOLDER)
    }

    /// Whether its images are single files or encoded, so that they are fitted.
    pub fn has_single_files(&self) -> bool {
        matches!(
            self.layout,
            DataLayout::ImageFolder | DataLayout::TinyImagenet | DataLayout::Parquet { .. }
        )
    }

    /// Its registry entry, if it has one.
    pub fn known(&self) -> Option<&'static DataSet> {
        self.known
    }

    /// Its directory or file.
    pub(crate) fn place(&self) -> &Path {
        &self.place
    }

    /// The file that selects, names and orders the class folders, if there is one.
    pub(crate) fn class_map(&self) -> Option<&Path> {
        self.class_map.as_deref()
    }

    /// The layout of its files.
    pub fn layout(&self) -> &DataLayout {
        &self.layout
    }

    /// The directory of its files.
    pub fn directory(&self) -> &Path {
        if self.place.is_file() { self.place.parent().unwrap_or(&self.place) } else { &self.place }
    }

    /// Finds `set` in `place`, in any of its layouts.
    fn of(set: &'static DataSet, place: &Path) -> Option<Self> {
        // Any data set may lie there packed.
        let layouts = set.layouts.iter().chain([&DataLayout::Packed]);
        let mut found = layouts.map(|layout| Some((layout, layout.locate(set, place)?)));
        let (layout, place) = found.find_map(|found| found)?;
        Some(Self { place, layout: layout.clone(), known: Some(set), class_map: None, held_out: 0 })
    }

    /// Whether the files alone prove that they are `set`, whatever their directory's name.
    fn is_certain(&self, set: &DataSet) -> bool {
        self.layout.proves(&self.place, set)
    }

    /// Reads one split. Image files are fitted by `fit`; other layouts are not changed. Image files
    /// of up to a gigabyte of pixels are decoded into memory, more each time that they are asked
    /// for.
    ///
    /// `remarks` receives notes for the user about things that are odd but not wrong.
    ///
    /// # Errors
    /// When a file is missing, damaged or too large, or classes don't agree.
    pub fn load(
        &self,
        split: Split,
        fit: Fit,
        remarks: &mut Vec<String>,
    ) -> Result<Dataset, DataError> {
        self.load_holding(HELD, split, fit, remarks)
    }

    /// As [`load`](Self::load), with at most `held` bytes of decoded image files in memory.
    ///
    /// # Errors
    /// Those of [`load`](Self::load).
    pub fn load_holding(
        &self,
        held: u64,
        split: Split,
        fit: Fit,
        remarks: &mut Vec<String>,
    ) -> Result<Dataset, DataError> {
        if self.held_out == 0 {
            return self.read(held, split, fit, remarks);
        }
        let train = self.read(held, Split::Train, fit, remarks)?;
        let (images, all) = (self.held_out, train.len());
        if images >= all {
            let problem = format!("has {all} training images, of which {images} can't be held out");
            return Err(DataError::invalid(&self.place, problem, "set a smaller `data.held_out`"));
        }
        held_out::part(train, split, images)
    }

    /// Reads one split as it is on disk.
    fn read(
        &self,
        held: u64,
        split: Split,
        fit: Fit,
        remarks: &mut Vec<String>,
    ) -> Result<Dataset, DataError> {
        let Self { place, layout, known, class_map, held_out: _ } = self;
        let (known, class_map) = (*known, class_map.as_deref());
        let set =
            layout.load(LayoutRequest { place, split, known, class_map, fit, held }, remarks)?;
        let name = match (known, layout) {
            (Some(known), _) => known.name.clone(),
            (None, DataLayout::Packed) => set.name.clone(),
            _ => png::display_name(Path::new(place.file_stem().unwrap_or_default())),
        };
        if let Some(known) = known
            && class_map.is_none()
            && set.len() != known.split(split).images
        {
            let (found, whole) = (set.len(), known.split(split).images);
            let part = if split == Split::Train { "training" } else { "test" };
            remarks.push(format!(
                "{}: {found} {part} images, where {} has {whole}",
                place.display(),
                known.title
            ));
        }
        Ok(Dataset { name, ..set })
    }
}

fn registered(name: &str) -> Result<&'static DataSet, DataError> {
    registry::find(name).ok_or_else(|| DataError::Unknown {
        name: name.into(),
        known: registry::names().join(", "),
    })
}

fn missing(set: &DataSet, looked: Vec<PathBuf>) -> DataError {
    DataError::Missing { name: set.name.clone(), looked }
}

/// The places of `set` below `place`, and `place`.
fn inside_and_itself(set: &DataSet, place: &Path) -> Vec<PathBuf> {
    set.directories.iter().map(|dir| place.join(dir)).chain([place.into()]).collect()
}

/// Finds `set` in one of its directories below `root`, or in its archive there.
fn inside(set: &'static DataSet, root: &Path) -> Option<Source> {
    set.directories.iter().find_map(|dir| Source::of(set, &root.join(dir)))
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
        for part in [
            "data set mnist not found",
            "/a/b/data/mnist, ",
            "`python -m exporters fetch mnist`",
            "SCDD_DATA",
        ] {
            assert!(message.contains(part), "{message:?} lacks {part:?}");
        }
        let found = |name: &str, chosen: Option<&Path>| {
            Source::find_from(name, chosen, &here).unwrap().directory().to_path_buf()
        };
        let above = put("data/mnist", "t10k-labels-idx1-ubyte.gz");
        assert_eq!(found("mnist", None), above);
        let own = put("a/b/data/mnist", "t10k-labels-idx1-ubyte");
        assert_eq!(found("mnist", None), own);
        // If a place is named, only it is searched.
        let message = Source::find_from("mnist", Some(&root.path().join("x")), &here)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("looked in")
                && message.contains("/x/mnist, ")
                && !message.contains("/a/b"),
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
            format!(
                "unknown data set \"imagenet-21k\"; known are {known}; give other images as an image folder"
            )
        );
    }

    /// Writes two training and two test images of one pixel, 5 and 6, as IDX files.
    fn write_idx(dir: &Path, train: [u8; 2], test: [u8; 2]) {
        for (prefix, labels) in [("train", train), ("t10k", test)] {
            let images = [&[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1][..], &[5, 6]].concat();
            fs::write(dir.join(format!("{prefix}-images-idx3-ubyte")), images).unwrap();
            let labels = [&[0, 0, 8, 1, 0, 0, 0, 2][..], &labels].concat();
            fs::write(dir.join(format!("{prefix}-labels-idx1-ubyte")), labels).unwrap();
        }
    }

    #[test]
    fn more_than_the_training_images_cant_be_held_out() {
        let dir = tempfile::tempdir().unwrap();
        write_idx(dir.path(), [0, 1], [1, 0]);
        let held = |images| Source::open(dir.path()).unwrap().holding_out(images);
        let test = Dataset::load(&held(1), Split::Test).unwrap();
        assert_eq!((&*test.all_pixels().unwrap(), test.labels.as_slice()), (&[5][..], &[0][..]));
        let signature = |images| held(images).signature(Split::Test, Fit::Exact).map(|of| of.name);
        assert!(signature(1).is_none() || signature(1) != signature(0));
        let message = Dataset::load(&held(2), Split::Train).unwrap_err().to_string();
        assert!(
            message.contains("has 2 training images, of which 2 can't be held out")
                && message.contains("`data.held_out`"),
            "{message}"
        );
    }

    #[test]
    fn idx_files_of_any_classes_are_read() {
        let dir = tempfile::tempdir().unwrap();
        write_idx(dir.path(), [0, 3], [1, 2]);
        let source = Source::open(dir.path()).unwrap();
        let test = Dataset::load(&source, Split::Test).unwrap();
        assert_eq!(
            (test.labels.as_slice(), test.classes.join(" ")),
            ([1, 2].as_slice(), "0 1 2 3".to_string())
        );
        fs::write(dir.path().join("classes.txt"), "a\nb\nc\n\nd\n").unwrap();
        assert_eq!(Dataset::load(&source, Split::Train).unwrap().classes, ["a", "b", "c", "d"]);
        fs::write(dir.path().join("classes.txt"), "a\nb\n").unwrap();
        let message = Dataset::load(&source, Split::Train).unwrap_err().to_string();
        assert!(message.contains("label 3 of image 1, but there are 2 classes"), "{message}");
    }
}
