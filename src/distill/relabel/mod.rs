//! Relabel: computes the teacher's soft labels for every augmented, mixed view of the synthetic
//! images, and stores them so that a student replays exactly those views.
//!
//! "Fast Knowledge Distillation" (FKD), as SRe2L and SC-DD use it. The views depend on the seed,
//! the epoch and the batch alone, so synthetic and real images under one seed get the same views.

mod teachers;

use std::collections::BTreeSet;
use std::iter;
use std::path::Path;
use std::sync::mpsc::channel;

use ndarray::{Array2, s};

use crate::progress::Progress;
use crate::teacher::{Bundle, ImageMemory, RuntimeError};
use crate::views::{BatchViews, ViewRenderer, Views, one_ahead};
use scdd_data::{DataError, Dataset, Size};
use scdd_experiment::config::{LabelDtype, Mix, RelabelConfig};

pub use teachers::{AnsweringPlaces, LabelPlace, Teachers};

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
    /// The caller ended the labelling.
    #[error("the labelling ended early: {0}")]
    Ended(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("teacher `{teacher}` {what}")]
    Teacher { teacher: String, what: String },
}

/// Is called after each batch with whether it ended an epoch. An error ends the labelling.
type BatchDone<'a> = dyn FnMut(bool) -> Result<(), Box<dyn std::error::Error + Send + Sync>> + 'a;

/// Labels image sets with the logits of one teacher, or with the mean logits of several.
pub struct Relabel<'a> {
    pub config: &'a RelabelConfig,
    /// Small images per row and column of the mosaic that each image is (`recover.formation`). A
    /// view shows one of them.
    pub formation: u16,
    pub seed: u64,
    /// The key of configuration and inputs, written into the store.
    pub key: &'a str,
}

impl Relabel<'_> {
    /// Labels `set` with `teachers` and writes the store at `path`, whole or not at all. An
    /// interrupted attempt resumes after its last whole epoch. Epochs that were labelled apart by
    /// [`run_epoch`](Self::run_epoch) are taken over. Calls `batch_done` after each batch with
    /// whether it ended an epoch.
    ///
    /// # Errors
    /// When a teacher or `batch_done` fails, or the labels can't be stored or written.
    pub fn run(
        &self,
        set: &Dataset,
        teachers: &mut Teachers,
        path: &Path,
        progress: &dyn Progress,
        batch_done: &mut BatchDone,
    ) -> Result<(), RelabelError> {
        let (views, meta) = self.prepare(set, teachers)?;
        let label = self.label(set, teachers);
        let mut progress = progress.start(&label, u64::from(meta.stored_epochs()), "epoch");
        let batches = meta.batches() as u64;
        let mut writer = Writer::open(path, meta.clone())?;
        let apart = writer.epochs_apart()?;
        let own = (writer.epochs()..meta.stored_epochs()).filter(|epoch| !apart.contains(epoch));
        absorb(&mut writer, &apart)?;
        let mut done = 0;
        self.answer(set, &views, own.collect(), teachers, &mut |batch| {
            writer.append(&batch)?;
            done += 1;
            let ends_epoch = done % batches == 0;
            if ends_epoch {
                absorb(&mut writer, &apart)?;
            }
            progress.at(writer.epochs().into(), "");
            batch_done(ends_epoch).map_err(RelabelError::Ended)
        })?;
        let bytes = writer.finish()?;
        progress.finish(&format!("{:.2} MB of labels", bytes as f64 / 1e6));
        Ok(())
    }

    /// Labels one stored `epoch` apart from the others, for the store at `path`. Only one process
    /// may be at an epoch. Calls `batch_done` after each batch.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_epoch(
        &self,
        set: &Dataset,
        teachers: &mut Teachers,
        path: &Path,
        epoch: u32,
        batch_done: &mut BatchDone,
    ) -> Result<(), RelabelError> {
        let (views, meta) = self.prepare(set, teachers)?;
        let mut writer = Writer::open_epoch(path, meta, epoch)?;
        self.answer(set, &views, vec![epoch], teachers, &mut |batch| {
            writer.append(&batch)?;
            batch_done(false).map_err(RelabelError::Ended)
        })?;
        Ok(writer.finish_epoch()?)
    }

    /// The work's name for people.
    pub fn label(&self, set: &Dataset, teachers: &Teachers) -> String {
        let names: Vec<&str> = teachers.bundles().into_iter().map(|one| one.name()).collect();
        format!("relabel {} with {}", set.name, names.join(" + "))
    }

    fn prepare(
        &self,
        set: &Dataset,
        teachers: &Teachers,
    ) -> Result<(Views<'_>, Meta), RelabelError> {
        let bundles = teachers.bundles();
        check_classes(bundles[0], set)?;
        let [_, height, width] = bundles[0].image_shape();
        let views = Views::new(self.config, self.formation, self.seed, set, Size { height, width });
        let meta = self.meta(set, &bundles, &views);
        Ok((views, meta))
    }

    /// Feeds the batches of `epochs` with the teachers' logits to `consume`, in order.
    fn answer(
        &self,
        set: &Dataset,
        views: &Views,
        epochs: Vec<u32>,
        teachers: &mut Teachers,
        consume: &mut dyn FnMut(LabelBatch) -> Result<(), RelabelError>,
    ) -> Result<(), RelabelError> {
        let together = teachers.batches_together(self.config.batch_size);
        Self::answer_together(together, (set, views), epochs, teachers, consume)
    }

    /// As [`answer`](Self::answer); so many batches go through the teachers `together`.
    fn answer_together(
        together: usize,
        (set, views): (&Dataset, &Views),
        epochs: Vec<u32>,
        teachers: &mut Teachers,
        consume: &mut dyn FnMut(LabelBatch) -> Result<(), RelabelError>,
    ) -> Result<(), RelabelError> {
        let renderer = ViewRenderer::new(teachers.bundles()[0], views.pad())?;
        let threads = teachers.threads();
        let draw = |memory: &mut ImageMemory, batches: &[BatchViews]| {
            let mut room = memory.room(batches.iter().map(|batch| batch.indices.len()).sum())?;
            let mut start = 0;
            for batch in batches {
                let end = start + batch.indices.len();
                let target = room.slice_mut(s![start..end, .., .., ..]);
                threads.run(|| renderer.render_into(set, batch, target))?;
                start = end;
            }
            Ok::<_, RelabelError>(())
        };
        // While the teachers answer what lies in one, the next batches are drawn into the other.
        let (answered, free) = channel();
        for _ in 0..2 {
            // This end is open.
            let _ = answered.send(teachers.image_memory());
        }
        let mut batches = epochs.into_iter().flat_map(|epoch| match views.epoch(epoch) {
            Ok(batches) => batches.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        });
        let seen = iter::from_fn(move || {
            let batches: Result<Vec<BatchViews>, DataError> =
                batches.by_ref().take(together).collect();
            let batches = match batches {
                Ok(batches) if batches.is_empty() => return None,
                Ok(batches) => batches,
                Err(error) => return Some(Err(error.into())),
            };
            // The other end is open as long as there is work.
            let mut memory = free.recv().ok()?;
            Some(draw(&mut memory, &batches).map(|()| (memory, batches)))
        });
        one_ahead(seen, |(memory, batches): (ImageMemory, Vec<BatchViews>)| {
            let logits = logits_of(&memory, &batches, teachers)?;
            // After the last batches nobody waits for it.
            let _ = answered.send(memory);
            batches.into_iter().zip(logits).try_for_each(|(batch, logits)| {
                let BatchViews { indices, views, operations, mix } = batch;
                consume(LabelBatch { indices, views, operations, mix, logits })
            })
        })
    }

    fn meta(&self, set: &Dataset, bundles: &[&Bundle], views: &Views) -> Meta {
        let hashes: Vec<&str> = bundles.iter().map(|bundle| bundle.hash.as_str()).collect();
        Meta {
            images: set.len() as u32,
            classes: bundles[0].manifest.classes.len() as u32,
            epochs: self.config.epochs,
            batch_size: self.config.batch_size,
            source: set.size(),
            input: views.input(),
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
                .map(|top| StoredTopK { k: top.k, temperature: top.temperature.map(|t| t as f32) }),
            pad: views.pad(),
            augment: self.config.augment,
            stored_epochs: Some(self.config.epochs_to_store())
                .filter(|&stored| stored < self.config.epochs),
        }
    }
}

/// The logits of each of these `batches`, whose images lie one after another in `memory`.
fn logits_of(
    memory: &ImageMemory,
    batches: &[BatchViews],
    teachers: &mut Teachers,
) -> Result<Vec<Array2<f32>>, RelabelError> {
    let logits = teachers.logits(memory)?;
    if batches.len() == 1 {
        return Ok(vec![logits]);
    }
    let mut start = 0;
    let rows = |batch: &BatchViews| {
        let end = start + batch.indices.len();
        let rows = logits.slice(s![start..end, ..]).to_owned();
        start = end;
        rows
    };
    Ok(batches.iter().map(rows).collect())
}

/// Takes over the epochs that come next and were labelled apart.
fn absorb(writer: &mut Writer, apart: &BTreeSet<u32>) -> Result<(), StoreError> {
    while apart.contains(&writer.epochs()) {
        writer.absorb()?;
    }
    Ok(())
}

/// Checks that the teachers have the classes of the images.
fn check_classes(teacher: &Bundle, set: &Dataset) -> Result<(), RelabelError> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::teacher::Runtime;
    use scdd_compute::threads::Threads;

    /// As on a GPU, where small batches are labelled together.
    #[test]
    fn batches_that_are_answered_together_get_their_own_labels() {
        let folder = crate::in_repository("onnx/fashion-mnist");
        let bundle = Bundle::load(&folder.join("resnet18-w16-supervised")).unwrap();
        let config: RelabelConfig = serde_json::from_value(serde_json::json!({
            "epochs": 2, "batch_size": 4, "crop": null, "flip": true,
            "mix": {"type": "cutmix", "alpha": 1.0}, "teacher_bn": "running", "ensemble": [],
            "dtype": "f32", "top_k": null, "stored_epochs": null, "provider": "cpu", "fallback": null
        }))
        .unwrap();
        let images = crate::ten_images(&bundle.manifest.classes);
        let (runtime, threads) = (Runtime::open(None).unwrap(), Threads::all());
        let place = LabelPlace { tensors: tch::Device::Cpu, tf32: false };
        let bundles = [(&bundle, 1.0)];
        let mut teachers =
            Teachers::open(&bundles, &runtime, &config, place, &threads, &|_| ()).unwrap();
        assert_eq!(teachers.batches_together(4), 1, "the CPU's labels would change");
        let views = Views::new(&config, 1, 3, &images, Size { height: 28, width: 28 });
        let [alone, together] = [1, 4].map(|together| {
            let mut found = Vec::new();
            let mut consume = |batch| {
                found.push(batch);
                Ok(())
            };
            let of = (&images, &views);
            Relabel::answer_together(together, of, vec![0, 1], &mut teachers, &mut consume)
                .unwrap();
            found
        });
        assert_eq!((alone.len(), together.len()), (6, 6));
        for (number, (a, b)) in alone.iter().zip(&together).enumerate() {
            assert_eq!((&a.indices, &a.views, &a.mix), (&b.indices, &b.views, &b.mix));
            assert_eq!(a.logits.dim(), b.logits.dim());
            let apart = (&a.logits - &b.logits).mapv(f32::abs).fold(0.0, |m: f32, &v| m.max(v));
            assert!(apart < 1e-4, "batch {number}: {apart}");
        }
    }
}
