//! The keys of `data` and of `finished`.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::LazyLock;

use scdd_data::layout::FORMS;
use scdd_data::registry;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::json;

use super::is_neutral;
use crate::config::range::within;

/// A distilled set that other code made; in an experiment file `NAME: PLACE` is short for `NAME:
/// {images: PLACE}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FinishedSet {
    /// Class folders, an `.npz` archive, a `.pt` file of tensors, or Parquet files; a path relative
    /// to the working directory.
    pub images: PathBuf,
    /// Soft labels in place of those by `relabel_teachers`. `null` is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<GivenLabels>,
    /// A YAML or JSON file that maps the set's own classes (names of directories, or labels in
    /// quotes) to names of the data's classes. By default classes are told by their names, else by
    /// the numbers in them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_map: Option<PathBuf>,
    /// How floating-point images were made from pixels in 0..=1; `null` if they are pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalised: Option<Normalised>,
    /// Whether images of another size than the networks' are scaled to it, bilinearly.
    #[serde(default, skip_serializing_if = "is_neutral")]
    pub resize: bool,
}

/// Soft labels that belong to a finished set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "snake_case",
    expecting = "are no labels: set `own` for the soft labels in the set's `.npz` or `.pt` file, or the path of a label store"
)]
pub enum GivenLabels {
    /// A distribution over the classes for each image, in the set's own `.npz` or `.pt` file.
    Own,
    /// The label store that `scdd export-set` wrote beside the images.
    #[serde(untagged)]
    Store(PathBuf),
}

/// A normalisation of pixels in 0..=1, by a mean and a standard deviation per channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "snake_case",
    expecting = "is no normalisation: set `dataset`, or {mean: […], std: […]} with a number per channel; ZCA whitening can't be undone"
)]
pub enum Normalised {
    /// By the constants of the known data set.
    Dataset,
    /// By these constants.
    #[serde(untagged)]
    By(MeanAndStd),
}

/// Constants of each channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MeanAndStd {
    /// Means of pixels in 0..=1.
    #[schemars(transform = within("[0, 1]"))]
    pub mean: Vec<f64>,
    /// Standard deviations, above 0 and at most 1.
    #[schemars(transform = within("(0, 1]"))]
    pub std: Vec<f64>,
}

/// A labelled data set with a test set and a training set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Name of a known data set, or the form of the files.
    #[serde(rename = "type")]
    pub kind: DataKind,
    /// Path of the data. Without it, a data set that is known by name is searched in `SCDD_DATA`,
    /// else in `data/` of the working directory or a directory above; its place belongs to the
    /// machine, not to the experiment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// For an image folder: a YAML or JSON file that maps directories to class names, in label
    /// order; directories that it omits are not read. By default every directory is a class with
    /// its own name, in alphabetical order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_map: Option<PathBuf>,
    /// Training images, equally many of each class, in place of the test set, 0 (off) to 1e9:
    /// choose a recipe by them, and report it on the test set, which has then chosen nothing.
    /// Starts and baselines take the other training images.
    #[serde(default, skip_serializing_if = "is_neutral")]
    #[schemars(transform = within("[0, 1e9]"))]
    pub held_out: u32,
}

/// A data set of the [registry], or a form of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataKind {
    /// A known data set, by its name.
    Known(&'static str),
    /// Files of this form.
    Form(&'static str),
    /// No real data.
    None,
}

/// What an experiment without real data says, and its description in the schema.
const NO_DATA: (&str, &str) =
    ("none", "No real data: images are recovered, and no student is trained on them.");

impl DataKind {
    /// The name under which the data set is searched, if it is a known one.
    pub fn known_name(self) -> Option<&'static str> {
        match self {
            DataKind::Known(name) => Some(name),
            _ => None,
        }
    }

    /// The name in an experiment file.
    pub fn name(self) -> &'static str {
        match self {
            DataKind::Known(name) | DataKind::Form(name) => name,
            DataKind::None => NO_DATA.0,
        }
    }

    /// All names that an experiment file accepts: known data sets, then forms of files.
    fn all() -> &'static [&'static str] {
        static NAMES: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
            let forms = FORMS.iter().map(|form| form.name);
            registry::names().iter().copied().chain(forms).chain([NO_DATA.0]).collect()
        });
        &NAMES
    }
}

impl Serialize for DataKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for DataKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let known = registry::names().iter().find(|name| **name == text);
        let form = || FORMS.iter().find(|form| form.name == text);
        let none = || (text == NO_DATA.0).then_some(DataKind::None);
        known
            .map(|name| DataKind::Known(name))
            .or_else(|| form().map(|form| DataKind::Form(form.name)))
            .or_else(none)
            .ok_or_else(|| D::Error::unknown_variant(&text, DataKind::all()))
    }
}

impl JsonSchema for DataKind {
    fn schema_name() -> Cow<'static, str> {
        "DataKind".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let sets = registry::names().iter().filter_map(|name| registry::find(name));
        let sets =
            sets.map(|set| json!({"const": set.name, "description": format!("{}: {}.", set.title, set.summary())}));
        let forms = FORMS.iter().map(|form| (form.name, form.about)).chain([NO_DATA]);
        let forms = forms.map(|(name, about)| json!({"const": name, "description": about}));
        json_schema!({
            "description": "A data set known by name, or a form of files.",
            "anyOf": sets.chain(forms).collect::<Vec<_>>(),
        })
    }
}
