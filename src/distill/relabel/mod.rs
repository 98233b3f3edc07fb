//! Relabel: what the teacher says of every augmented, mixed view of the synthetic images, stored so
//! that a student replays exactly those views.
//!
//! "Fast Knowledge Distillation" (FKD), as SRe2L and SC-DD use it. The views depend on the seed,
//! the epoch and the batch alone, so synthetic and real images under the same seed are seen through
//! the same views.

mod ahead;
mod lens;

mod teachers;
mod views;

use std::path::Path;

use crate::progress::Progress;
use crate::teacher::{Bundle, RuntimeError};
use scdd_compute::threads::Threads;
use scdd_data::{DataError, Dataset, Size};
use scdd_experiment::config::{LabelDtype, Mix, RelabelConfig};

pub use ahead::one_ahead;
pub use lens::Lens;
pub use teachers::Teachers;
pub use views::{BatchViews, Views};

use scdd_artifacts::labels::{Dtype, LabelBatch, Meta, MixKind, StoreError, StoredTopK, Writer};

/// Why images could not be labelled.
#[derive(Debug, thiserror::Error)]
pub enum RelabelError {
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("teacher `{teacher}` {what}")]
    Teacher { teacher: String, what: String },
}

/// Labels image sets with the answers of one teacher, or with the mean of several.
pub struct Relabel<'a> {
    /// With their weights in the mean, as [`Teachers::open`] takes them; at least one.
    pub bundles: &'a [(&'a Bundle, f64)],
    pub config: &'a RelabelConfig,
    /// How many small images per row and column each image is a mosaic of (`recover.formation`); a
    /// view is of one of them.
    pub formation: u16,
    pub seed: u64,
    /// Identifies configuration and inputs in the store.
    pub key: &'a str,
    /// What views are made on.
    pub threads: Threads,
}

impl Relabel<'_> {
    /// Labels `set` by `teachers` and writes the store at `path`, whole or not at all. Goes on after
    /// the last whole epoch of an interrupted attempt; says so after each epoch by `epoch_done`.
    ///
    /// # Errors
    /// When a teacher fails, logits can't be stored, or the disk refuses.
    pub fn run(
        &self,
        set: &Dataset,
        teachers: &mut Teachers,
        path: &Path,
        progress: &dyn Progress,
        epoch_done: &mut dyn FnMut(),
    ) -> Result<(), RelabelError> {
        let meta = self.meta(set);
        self.check_classes(set)?;
        let names: Vec<&str> = self.bundles.iter().map(|(bundle, _)| bundle.name()).collect();
        let label = format!("relabel {} with {}", set.name, names.join(" + "));
        let mut progress = progress.start(&label, u64::from(meta.stored_epochs()), "epoch");
        let views = Views::new(self.config, self.formation, self.seed, set, meta.input);
        let lens = Lens::new(self.bundles[0].0, meta.pad)?;
        let mut writer = Writer::open(path, meta.clone())?;
        let first = writer.epochs();
        let batches = (first..meta.stored_epochs()).flat_map(|epoch| match views.epoch(epoch) {
            Ok(batches) => batches.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        });
        let seen = batches.map(|batch: Result<BatchViews, DataError>| {
            let batch = batch?;
            Ok::<_, DataError>((self.threads.run(|| lens.see(set, &batch))?, batch))
        });
        let mut done = u64::from(first) * meta.batches() as u64;
        if first > 0 {
            progress.at(first.into(), "");
        }
        one_ahead(seen, |(images, BatchViews { indices, views, operations, mix })| {
            let logits = teachers.logits(&images)?;
            writer.append(&LabelBatch { indices, views, operations, mix, logits })?;
            done += 1;
            let batches = meta.batches() as u64;
            progress.at(done / batches, "");
            if done.is_multiple_of(batches) {
                epoch_done();
            }
            Ok::<_, RelabelError>(())
        })?;
        let bytes = writer.finish()?;
        progress.finish(&format!("{:.2} MB of labels", bytes as f64 / 1e6));
        Ok(())
    }

    /// The images are of classes that the teachers know.
    fn check_classes(&self, set: &Dataset) -> Result<(), RelabelError> {
        let teacher = self.bundles[0].0;
        let (known, classes) = (teacher.manifest.classes.len(), set.classes.len());
        if classes <= known {
            return Ok(());
        }
        let what = format!(
            "knows {known} classes, the images of {} are of {classes}: label them by another teacher",
            set.name
        );
        Err(RelabelError::Teacher { teacher: teacher.name().into(), what })
    }

    fn meta(&self, set: &Dataset) -> Meta {
        let bundle = self.bundles[0].0;
        let [_, height, width] = bundle.image_shape();
        let hashes: Vec<&str> =
            self.bundles.iter().map(|(bundle, _)| bundle.hash.as_str()).collect();
        Meta {
            images: set.len() as u32,
            classes: bundle.manifest.classes.len() as u32,
            epochs: self.config.epochs,
            batch_size: self.config.batch_size,
            source: set.size(),
            input: Size { height, width },
            mix: match self.config.mix {
                Mix::Cutmix { .. } => MixKind::CutMix,
                Mix::Mixup { .. } => MixKind::MixUp,
                Mix::None {} => MixKind::None,
            },
            dtype: match self.config.dtype {
                LabelDtype::F16 => Dtype::F16,
                LabelDtype::F32 => Dtype::F32,
                LabelDtype::I8 => Dtype::I8,
            },
            teacher_sha256: hashes.join("+"),
            config_hash: self.key.into(),
            top_k: self
                .config
                .top_k
                .map(|top| StoredTopK { k: top.k, temperature: top.temperature as f32 }),
            pad: views::pad(self.config),
            augment: self.config.augment,
            stored_epochs: self.config.stored_epochs.filter(|&stored| stored < self.config.epochs),
        }
    }
}
