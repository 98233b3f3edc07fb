//! The layouts of files, a module each. Everything that others need to know of a layout is here:
//! how it is detected, how it is read, and what an experiment file calls it.

mod cifar;
pub(crate) mod folder;
mod idx;
pub mod npz;
pub(crate) mod objects;
pub(crate) mod packed;
pub(crate) mod parquet;
pub(crate) mod pickle;
pub(crate) mod rows;

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::registry::DataSet;
use crate::{DataError, Dataset, Fit, Split};

/// The layouts that [`DataLayout::detect`] finds.
const LAYOUTS: &str = "name a directory of IDX files, of CIFAR's batches, of Parquet files, or of train/ and test/ or val/ with a \
                       directory of PNG or JPEG files per class, or an .npz archive";
const TEST_LABELS: &str = "t10k-labels-idx1-ubyte";

/// A layout of files.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "form", rename_all = "kebab-case", deny_unknown_fields)]
pub enum DataLayout {
    /// Four IDX files with MNIST's names, plain or gzipped.
    Idx,
    /// Records of `label_bytes` labels, of which the last counts, and 3×32×32 pixels.
    CifarBinary {
        /// The training files, in order.
        train: Vec<String>,
        /// The test files, in order.
        test: Vec<String>,
        /// The number of label bytes before the pixels.
        label_bytes: usize,
    },
    /// The same data as pickled dictionaries.
    CifarPickle {
        /// The training files, in order.
        train: Vec<String>,
        /// The test files, in order.
        test: Vec<String>,
        /// The key of the labels in the dictionary.
        label: String,
    },
    /// In a directory per split, one directory of images per class, named by WordNet id or class
    /// name.
    ImageFolder,
    /// Stanford's layout: `train/<wnid>/images/`, and `val/images/` with `val/val_annotations.txt`.
    TinyImagenet,
    /// A NumPy archive.
    Npz,
    /// The Hugging Face Hub's layout: Parquet files of encoded images and labels.
    Parquet {
        /// The name of the label column.
        label: String,
    },
    /// What `scdd pack` writes: a NumPy array of pixels and one of labels per split.
    Packed,
}

/// A form of files that a data set of one's own may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataForm {
    /// Its name in an experiment file.
    pub name: &'static str,
    /// Its description in the schema of experiment files.
    pub about: &'static str,
}

const IDX: DataForm = DataForm {
    name: "idx",
    about: "Four IDX files named as MNIST's are, in the directory `path`; a line of its `classes.txt`, if there is one, names a class.",
};
/// The form that a `class_map` belongs to.
pub const IMAGE_FOLDER: DataForm = DataForm {
    name: "image-folder",
    about: "PNG or JPEG files in `train/<class>/` and `test/<class>/` (or `val/<class>/`) of the directory `path`, or as Tiny-ImageNet is packed. Those of another size or other colours than the first teacher's are scaled bilinearly to cover 8/7 of its size, cut to their centre, and converted.",
};
const NPZ: DataForm = DataForm {
    name: "npz",
    about: "A NumPy archive: `x_train`, `y_train`, `x_test`, `y_test` (or MedMNIST's names); uint8 images [N, H, W] or [N, H, W, C].",
};
const PARQUET: DataForm = DataForm {
    name: "parquet",
    about: "Parquet files in the directory `path`, with a column of encoded images and one of labels, as the Hugging Face Hub keeps data sets; images are fitted as those of an image folder.",
};
const PACKED: DataForm = DataForm {
    name: "packed",
    about: "The directory `path` that `scdd pack` wrote, at the first teacher's size.",
};
/// All forms.
pub const FORMS: [DataForm; 5] = [IDX, IMAGE_FOLDER, NPZ, PARQUET, PACKED];

/// One split of a data set, as it is to be read.
#[derive(Clone, Copy)]
pub(crate) struct LayoutRequest<'a> {
    /// The directory or file.
    pub place: &'a Path,
    pub split: Split,
    /// The registry entry of the data set, if it has one.
    pub known: Option<&'static DataSet>,
    /// For class folders: a YAML or JSON file, directory → class name, in label order.
    pub class_map: Option<&'a Path>,
    pub fit: Fit,
    /// The most bytes of decoded image files to hold in memory. More are decoded when asked for.
    pub held: u64,
}

impl DataLayout {
    /// The form of the files; `None` if only known data sets have them.
    pub fn form(&self) -> Option<DataForm> {
        match self {
            DataLayout::Idx => Some(IDX),
            DataLayout::ImageFolder | DataLayout::TinyImagenet => Some(IMAGE_FOLDER),
            DataLayout::Npz => Some(NPZ),
            DataLayout::Parquet { .. } => Some(PARQUET),
            DataLayout::Packed => Some(PACKED),
            DataLayout::CifarBinary { .. } | DataLayout::CifarPickle { .. } => None,
        }
    }

    /// The layout of `place`, a directory or file, that shows by itself, without the name of a data
    /// set; and the directory or file that has it.
    ///
    /// # Errors
    /// When a Parquet file can't be read, or nothing has a layout.
    pub(crate) fn detect(place: &Path) -> Result<(Self, PathBuf), DataError> {
        let here = |layout| Ok((layout, place.to_path_buf()));
        if is_archive(place) && place.is_file() {
            return here(DataLayout::Npz);
        }
        for layout in [DataLayout::Packed, DataLayout::Idx] {
            if layout.lies_in(place) {
                return here(layout);
            }
        }
        if folder::is_here(place) {
            return here(DataLayout::ImageFolder);
        }
        if parquet::is_here(place) {
            return here(DataLayout::Parquet { label: parquet::label_name(place)? });
        }
        match archives(place).as_slice() {
            [archive] => Ok((DataLayout::Npz, archive.clone())),
            _ => {
                let plain = || DataError::invalid(place, "holds no data set", LAYOUTS);
                Err(folder::without_split(place).unwrap_or_else(plain))
            }
        }
    }

    /// Where the files of `set` in this layout are: `place`, or a file in it.
    pub(crate) fn locate(&self, set: &DataSet, place: &Path) -> Option<PathBuf> {
        let own = match self {
            DataLayout::Npz if is_archive(place) => place.into(),
            DataLayout::Npz => place.join(&set.name).with_extension("npz"),
            DataLayout::Packed => return packed::is_of(place, set).then(|| place.into()),
            layout => return layout.lies_in(place).then(|| place.into()),
        };
        own.is_file().then_some(own)
    }

    /// Whether the directory `dir` holds files of this layout.
    pub(crate) fn lies_in(&self, dir: &Path) -> bool {
        match self {
            DataLayout::Idx => idx::present(dir, TEST_LABELS).is_some(),
            DataLayout::CifarBinary { test, .. } | DataLayout::CifarPickle { test, .. } => {
                test.iter().all(|file| dir.join(file).is_file())
            }
            DataLayout::ImageFolder | DataLayout::TinyImagenet => folder::is_here(dir),
            DataLayout::Parquet { .. } => parquet::is_here(dir),
            DataLayout::Packed => packed::is_here(dir),
            DataLayout::Npz => false,
        }
    }

    /// Whether the files in `place` prove that they are `set`, whatever their directory's name.
    pub(crate) fn proves(&self, place: &Path, set: &DataSet) -> bool {
        match self {
            DataLayout::Idx
            | DataLayout::CifarBinary { .. }
            | DataLayout::CifarPickle { .. }
            | DataLayout::Npz
            | DataLayout::Packed => true,
            DataLayout::ImageFolder | DataLayout::TinyImagenet => folder::is_of(place, set),
            DataLayout::Parquet { .. } => {
                let name = place.file_name().map(Path::new);
                set.directories.iter().any(|dir| Some(Path::new(dir)) == name)
            }
        }
    }

    /// Reads one split. Notes for the user go to `remarks`.
    ///
    /// # Errors
    /// When a file is missing, damaged or too large, or classes don't agree.
    pub(crate) fn load(
        &self,
        request: LayoutRequest,
        remarks: &mut Vec<String>,
    ) -> Result<Dataset, DataError> {
        let LayoutRequest { place, split, known, class_map, .. } = request;
        let classes = known.map(DataSet::class_names);
        match self {
            DataLayout::Idx => idx::dataset(place, split, classes),
            DataLayout::CifarBinary { train, test, label_bytes } => {
                let files = if split == Split::Train { train } else { test };
                cifar::binary(place, files, *label_bytes, classes.unwrap_or_default())
            }
            DataLayout::CifarPickle { train, test, label } => {
                let files = if split == Split::Train { train } else { test };
                cifar::pickled(place, files, label, classes.unwrap_or_default())
            }
            DataLayout::ImageFolder | DataLayout::TinyImagenet => {
                let map = class_map.map(folder::read_class_map).transpose()?;
                folder::load(request, map.as_deref(), remarks)
            }
            DataLayout::Npz => npz::load(place, split, classes),
            DataLayout::Parquet { label } => parquet::load(request, label, remarks),
            DataLayout::Packed => packed::load(place, split),
        }
    }
}

/// Whether `path` has the name of a NumPy archive.
fn is_archive(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("npz"))
}

/// The NumPy archives in `dir`.
fn archives(dir: &Path) -> Vec<PathBuf> {
    let entries = crate::entries::entries(dir, &mut Vec::new()).unwrap_or_default();
    entries.into_iter().map(|entry| entry.path).filter(|path| is_archive(path)).collect()
}
