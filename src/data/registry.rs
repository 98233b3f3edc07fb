//! The data sets that are known by name. Each is one YAML file in `datasets/`, which the exporters
//! read too.
//!
//! The files are compiled into the program. No other code lists names of data sets.

use std::sync::OnceLock;

use serde::Deserialize;

use crate::layout::DataLayout;

use super::Split;

include!(concat!(env!("OUT_DIR"), "/datasets.rs"));

/// A known data set's description.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSet {
    /// The name in experiments, and the file's name.
    pub name: String,
    /// The display name, such as `Fashion-MNIST`.
    pub title: String,
    /// The licence of the images.
    pub licence: String,
    /// 1 (gray) or 3 (RGB).
    pub channels: usize,
    /// Height and width of the images in pixels, or the usual input size of networks.
    pub size: usize,
    /// Mean of the training pixels in 0..1, per channel.
    pub mean: Vec<f64>,
    /// Standard deviation of the training pixels, per channel.
    pub std: Vec<f64>,
    /// Training and test set.
    pub splits: Splits,
    /// Names of its directory within a directory of data sets, in order of preference.
    pub directories: Vec<String>,
    /// The layouts of its files, in order of preference.
    pub layouts: Vec<DataLayout>,
    /// The classes in label order.
    pub classes: Vec<Class>,
    /// The sources for `python -m exporters fetch`. Only the exporters read them; the field exists
    /// so that they are not refused.
    fetch: serde_yaml::Value,
}

/// The two parts of a data set.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Splits {
    /// The training set.
    pub train: SplitInfo,
    /// The test set, on which students are evaluated.
    pub test: SplitInfo,
}

/// One part of a data set.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitInfo {
    /// The number of images.
    pub images: usize,
    /// The directory's name if the images are single files: `train`, `test` or `val`.
    pub folder: String,
}

/// A class.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Class {
    /// A class with a name only.
    Named(String),
    /// A WordNet synset.
    Wordnet {
        /// The WordNet id, such as `n01440764`, which names directories.
        wnid: String,
        /// The readable name.
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

    /// The WordNet id, if the class has one.
    pub fn wnid(&self) -> Option<&str> {
        match self {
            Class::Named(_) => None,
            Class::Wordnet { wnid, .. } => Some(wnid),
        }
    }
}

impl DataSet {
    /// The readable class names, in label order.
    pub fn class_names(&self) -> Vec<String> {
        self.classes.iter().map(|class| class.name().to_string()).collect()
    }

    /// The description of `split`.
    pub fn split(&self, split: Split) -> &SplitInfo {
        match split {
            Split::Train => &self.splits.train,
            Split::Test => &self.splits.test,
        }
    }

    /// A summary in one line: `32×32 RGB, 10 classes, 50,000 training and 10,000 test images`.
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

/// The data set of this name. Its file is parsed once.
pub fn find(name: &str) -> Option<&'static DataSet> {
    static READ: [OnceLock<DataSet>; NAMES.len()] = [const { OnceLock::new() }; NAMES.len()];
    let index = NAMES.iter().position(|known| *known == name)?;
    // The text is compiled into the program, and a test parses each.
    Some(READ[index].get_or_init(|| {
        serde_yaml::from_str(TEXTS[index]).expect("a built-in data set is well formed")
    }))
}

/// Formats `1281167` as `1,281,167`.
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
