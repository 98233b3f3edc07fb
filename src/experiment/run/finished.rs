//! Distilled sets that other code made, opened and checked before anything is made.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::opened::{FirstReading, OpenedImages, ReadImages, SplitSummary};
use super::{RunError, every};
use crate::config::{
    Experiment, FinishedSet, GivenLabels, MeanAndStd, Mix, Normalised, Protocol, ViewCrop,
};
use scdd_artifacts::labels::{LabelStore, Meta, MixKind};
use scdd_data::{
    DataError, Dataset, FinishedSource, Normalization, Signature, SoftLabels, registry,
};

impl ReadImages for FinishedSource {
    fn signature(&self) -> Option<Signature> {
        FinishedSource::signature(self)
    }

    fn load(&self, remarks: &mut Vec<String>) -> Result<Dataset, DataError> {
        FinishedSource::load(self, remarks)
    }

    fn place(&self) -> &Path {
        &self.place
    }
}

/// A finished set that fits the experiment.
pub struct OpenedSet {
    pub images: OpenedImages<FinishedSource>,
    /// Images per class, on average and rounded: one of the experiment's `ipc`.
    pub ipc: u32,
    /// The soft labels that belong to it, if they are read.
    pub labels: Option<SetLabels>,
    /// Notes for the user.
    pub remarks: Vec<String>,
}

/// Soft labels that are read with a finished set.
pub enum SetLabels {
    /// Those of each image, in the set's own file.
    Own(SoftLabels),
    /// Those of views.
    Store(ReadLabels),
}

impl SetLabels {
    /// The identity of their contents.
    pub fn hash(&self) -> String {
        match self {
            SetLabels::Own(labels) => labels.hash(),
            SetLabels::Store(labels) => labels.hash.clone(),
        }
    }
}

/// A label store beside a finished set.
pub struct ReadLabels {
    pub file: PathBuf,
    /// The identity of its contents.
    pub hash: String,
    pub meta: Meta,
}

/// All finished sets of `experiment`, by their names, for networks that take images of this
/// `shape`.
///
/// # Errors
/// All sets that can't be read or do not fit.
pub(super) fn open(
    experiment: &Experiment,
    test: &SplitSummary,
    shape: [usize; 3],
) -> Result<BTreeMap<String, OpenedSet>, RunError> {
    let open = |(name, set): (&String, &FinishedSet)| {
        Ok((name.clone(), open_set(experiment, (name, set), test, shape)?))
    };
    Ok(every(experiment.finished.iter().map(open))?.into_iter().collect())
}

fn open_set(
    experiment: &Experiment,
    (name, set): (&str, &FinishedSet),
    test: &SplitSummary,
    shape: [usize; 3],
) -> Result<OpenedSet, RunError> {
    let source = FinishedSource {
        place: set.images.clone(),
        class_map: set.class_map.clone(),
        data: test.name.clone(),
        classes: test.classes.clone(),
        shape,
        resize: set.resize,
        normalization: normalization(experiment, set)?,
    };
    let own = match set.labels {
        Some(GivenLabels::Own) => Some(SetLabels::Own(source.soft_labels()?)),
        _ => None,
    };
    let images = OpenedImages::open(source, FirstReading::default())?;
    let summary = &images.summary;
    let ipc = (summary.images() as f64 / summary.classes.len().max(1) as f64).round() as u32;
    if !experiment.ipc.contains(&ipc) {
        let what = format!(
            "holds {}, but `ipc` is {:?}: set `ipc: {ipc}`, or leave out `finished.{name}`",
            per_class(summary),
            experiment.ipc
        );
        return Err(RunError::Misfit { path: set.images.clone(), what });
    }
    let mut remarks = summary.remarks().to_vec();
    if summary.counts.iter().any(|&count| count != u64::from(ipc)) {
        remarks.push(format!(
            "`{name}` holds {}, not the same number of each: its rows stand at ipc {ipc}",
            per_class(summary)
        ));
    }
    let labels = match &set.labels {
        Some(GivenLabels::Store(file)) => {
            Some(SetLabels::Store(read_labels(file, summary, shape)?))
        }
        _ => own,
    };
    if let Some(SetLabels::Store(ReadLabels { file, meta, .. })) = &labels
        && meta.top_k.is_some_and(|top| top.temperature.is_none())
        && let Some((protocol, _)) = experiment
            .protocols
            .iter()
            .find(|(_, protocol)| protocol.validate.loss.needs_all_logits())
    {
        let what = format!(
            "leaves classes without a logit, which only a KL loss can learn: set another `protocols.{protocol}.validate.loss`"
        );
        return Err(RunError::Misfit { path: file.clone(), what });
    }
    Ok(OpenedSet { images, ipc, labels, remarks })
}

/// How many images a set has, for example `8 to 12 images per class (9.7 on average)`.
fn per_class(summary: &SplitSummary) -> String {
    let least = summary.counts.iter().min().copied().unwrap_or(0);
    let most = summary.counts.iter().max().copied().unwrap_or(0);
    if least == most {
        return format!("{least} image{} per class", if least == 1 { "" } else { "s" });
    }
    let mean = summary.images() as f64 / summary.classes.len().max(1) as f64;
    format!("{least} to {most} images per class ({mean:.1} on average)")
}

fn normalization(
    experiment: &Experiment,
    set: &FinishedSet,
) -> Result<Option<Normalization>, DataError> {
    let (mean, std) = match &set.normalised {
        None => return Ok(None),
        Some(Normalised::By(MeanAndStd { mean, std })) => (mean, std),
        Some(Normalised::Dataset) => {
            match experiment.data.kind.known_name().and_then(registry::find) {
                Some(known) => (&known.mean, &known.std),
                // The configuration's check refuses this.
                None => return Ok(None),
            }
        }
    };
    let narrow = |values: &[f64]| values.iter().map(|&value| value as f32).collect();
    Normalization::new(narrow(mean), narrow(std)).map(Some)
}

/// Opens the label store `file`, which must belong to as many images and classes of this shape.
fn read_labels(
    file: &Path,
    images: &SplitSummary,
    [_, height, width]: [usize; 3],
) -> Result<ReadLabels, RunError> {
    let refuse = |what: String| Err(RunError::Misfit { path: file.into(), what });
    if file.extension().is_some_and(|kind| ["npz", "npy", "pt", "pth"].iter().any(|k| kind == *k)) {
        return refuse(
            "is no label store: set `labels: own` for soft labels in the set's own file".into(),
        );
    }
    let store = LabelStore::open(file)?;
    let meta = store.meta().clone();
    if u64::from(meta.images) != images.images() {
        return refuse(format!(
            "labels {} images, but the set has {}: give the labels that were exported with it",
            meta.images,
            images.images()
        ));
    }
    let sizes = [meta.source, meta.input].map(|size| [size.height, size.width]);
    if meta.classes as usize != images.classes.len() || sizes != [[height, width]; 2] {
        return refuse(format!(
            "labels {} classes on images of {}x{} pixels, but the set has {} classes and {height}x{width} pixels: give the labels that were exported with it",
            meta.classes,
            meta.source.height,
            meta.source.width,
            images.classes.len()
        ));
    }
    Ok(ReadLabels { file: file.into(), hash: store.identity(), meta })
}

impl ReadLabels {
    /// The settings in which the labels differ from `protocol`; empty if they were made under it as
    /// far as the store tells.
    pub fn differences(&self, protocol: &Protocol) -> Vec<String> {
        let (meta, relabel) = (&self.meta, &protocol.relabel);
        let pad = if let Some(ViewCrop::Padded { pad }) = relabel.crop { pad } else { 0 };
        let mix = match relabel.mix {
            Mix::Cutmix { .. } => MixKind::CutMix,
            Mix::Mixup { .. } => MixKind::MixUp,
            Mix::None {} => MixKind::None,
        };
        let all = [
            ("epochs", meta.epochs == relabel.epochs, meta.epochs.to_string()),
            ("batch_size", meta.batch_size == relabel.batch_size, meta.batch_size.to_string()),
            (
                "stored_epochs",
                meta.stored_epochs() == relabel.epochs_to_store(),
                meta.stored_epochs().to_string(),
            ),
            ("mix", meta.mix == mix, format!("{:?}", meta.mix)),
            ("crop.pad", meta.pad == pad, meta.pad.to_string()),
            ("augment", meta.augment == relabel.augment, format!("{:?}", meta.augment)),
        ];
        let differs = all.into_iter().filter(|(_, is_same, _)| !is_same);
        differs.map(|(key, _, value)| format!("`relabel.{key}` was {value}")).collect()
    }
}
