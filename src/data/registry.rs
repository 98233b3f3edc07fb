//! The data sets that are known by name: one YAML file each in `datasets/`, which the exporters
//! read too.
//!
//! The files are part of the program. Nothing else in it lists names of data sets.

use std::sync::OnceLock;

use serde::Deserialize;

use super::Split;

include!(concat!(env!("OUT_DIR"), "/datasets.rs"));

/// What is known of a data set unread.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSet {
    /// By this, experiments name it; the file is called so too.
    pub name: String,
    /// As people write it, such as `Fashion-MNIST`.
    pub title: String,
    /// On what terms its images may be used.
    pub licence: String,
    /// 1 (gray) or 3 (RGB).
    pub channels: usize,
    /// Height and width of its images in pixels, or those to which networks usually take them.
    pub size: usize,
    /// Mean of the training pixels in 0..1, per channel.
    pub mean: Vec<f64>,
    /// Their standard deviation.
    pub std: Vec<f64>,
    /// Training and test set.
    pub splits: Splits,
    /// What its directory may be called inside a directory of data sets, best first.
    pub directories: Vec<String>,
    /// The forms in which its files are met, best first.
    pub layouts: Vec<DataLayout>,
    /// In label order.
    pub classes: Vec<Class>,
    /// Where `python -m exporters fetch` gets it. Only the exporters read it; a file with it is not
    /// refused.
    fetch: serde_yaml::Value,
}

/// The two parts of a data set.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Splits {
    /// What students learn from.
    pub train: SplitInfo,
    /// What they are judged on.
    pub test: SplitInfo,
}

/// One part of a data set.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitInfo {
    /// How many images it has.
    pub images: usize,
    /// What its directory is called where the images are single files: `train`, `test` or `val`.
    pub folder: String,
}

/// A form of files.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "form", rename_all = "kebab-case", deny_unknown_fields)]
pub enum DataLayout {
    /// Four IDX files named as MNIST's, plain or gzipped.
    Idx,
    /// Records of `label_bytes` labels, of which the last counts, and 3×32×32 pixels.
    CifarBinary {
        /// The training files, in order.
        train: Vec<String>,
        /// The test files, in order.
        test: Vec<String>,
        /// How many label bytes stand before the pixels.
        label_bytes: usize,
    },
    /// The same as pickled dictionaries.
    CifarPickle {
        /// The training files, in order.
        train: Vec<String>,
        /// The test files, in order.
        test: Vec<String>,
        /// The dictionary's key of the labels.
        label: String,
    },
    /// One directory of images for each class, called by its WordNet id or its name, in a directory
    /// for each split.
    ImageFolder,
    /// As Stanford packs it: `train/<wnid>/images/`, and `val/images/` with
    /// `val/val_annotations.txt`.
    TinyImagenet,
    /// A NumPy archive.
    Npz,
    /// Hugging Face's: Parquet files of encoded images and labels.
    Parquet {
        /// The column of the labels.
        label: String,
    },
}

/// A class.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Class {
    /// One that has only a name.
    Named(String),
    /// A set of synonyms of WordNet.
    Wordnet {
        /// Its id, such as `n01440764`, by which directories are called.
        wnid: String,
        /// Its readable name.
        name: String,
    },
}

impl Class {
    /// The readable name.
    pub fn name(&self) -> &str {
        match self {
            Class::Named(name) | Class::Wordnet { name, .. } => name,
        }
    }

    /// The WordNet id, if it has one.
    pub fn wnid(&self) -> Option<&str> {
        match self {
            Class::Named(_) => None,
            Class::Wordnet { wnid, .. } => Some(wnid),
        }
    }
}

impl DataSet {
    /// The readable names of its classes, in label order.
    pub fn class_names(&self) -> Vec<String> {
        self.classes.iter().map(|class| class.name().to_string()).collect()
    }

    /// What is known of `split`.
    pub fn split(&self, split: Split) -> &SplitInfo {
        match split {
            Split::Train => &self.splits.train,
            Split::Test => &self.splits.test,
        }
    }

    /// One line of it: `32×32 RGB, 10 classes, 50,000 training and 10,000 test images`.
    pub fn summary(&self) -> String {
        format!(
            "{size}×{size} {colours}, {classes} classes, {train} training and {test} test images",
            size = self.size,
            colours = if self.channels == 1 { "gray" } else { "RGB" },
            classes = self.classes.len(),
            train = grouped(self.splits.train.images),
            test = grouped(self.splits.test.images),
        )
    }
}

/// The names of all known data sets, in alphabetical order.
pub fn names() -> &'static [&'static str] {
    &NAMES
}

/// The data set of this name; its file is read once.
pub fn find(name: &str) -> Option<&'static DataSet> {
    static READ: [OnceLock<DataSet>; NAMES.len()] = [const { OnceLock::new() }; NAMES.len()];
    let index = NAMES.iter().position(|known| *known == name)?;
    // The text is part of the program, and a test reads each.
    Some(READ[index].get_or_init(|| {
        serde_yaml::from_str(TEXTS[index]).expect("a built-in data set is well formed")
    }))
}

/// `1281167` as `1,281,167`.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&[u8]> = digits.as_bytes().rchunks(3).rev().collect();
    groups.iter().map(|group| String::from_utf8_lossy(group)).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_file_is_whole_and_consistent() {
        for name in names() {
            let set = find(name).unwrap();
            assert_eq!(
                (set.name.as_str(), set.mean.len(), set.std.len()),
                (*name, set.channels, set.channels)
            );
            let distinct: BTreeSet<_> = set.classes.iter().map(Class::name).collect();
            assert_eq!(distinct.len(), set.classes.len(), "{name}: a class's name comes twice");
            let wnids: Vec<_> = set.classes.iter().filter_map(Class::wnid).collect();
            assert!(
                wnids.is_empty() || wnids.len() == set.classes.len(),
                "{name}: only some classes have WordNet ids"
            );
            assert!(
                wnids.windows(2).all(|pair| pair[0] < pair[1]),
                "{name}: WordNet ids are out of order"
            );
            assert!(
                !set.layouts.is_empty() && !set.directories.is_empty() && !set.licence.is_empty()
            );
            assert!(
                [1, 3].contains(&set.channels)
                    && set.mean.iter().chain(&set.std).all(|x| (0.0..1.0).contains(x))
            );
        }
    }

    #[test]
    fn subsets_of_imagenet_have_its_names() {
        let imagenet = find("imagenet").unwrap();
        assert_eq!((imagenet.classes.len(), imagenet.classes[0].name()), (1000, "tench"));
        for (name, count) in [("tiny-imagenet", 200), ("imagenette", 10), ("imagewoof", 10)] {
            let set = find(name).unwrap();
            assert_eq!(set.classes.len(), count);
            assert!(set.classes.iter().all(|class| imagenet.classes.contains(class)), "{name}");
        }
    }

    #[test]
    fn sets_are_described() {
        assert_eq!(find("fashion-mnist").unwrap().class_names()[9], "Ankle boot");
        assert_eq!(
            find("imagenet").unwrap().summary(),
            "224×224 RGB, 1000 classes, 1,281,167 training and 50,000 test images"
        );
        assert!(find("imagenet-21k").is_none());
    }
}
