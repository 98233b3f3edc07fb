//! Relabel: what the teacher says of every augmented, mixed view of the synthetic images, stored so that a student replays exactly those views.
//!
//! "Fast Knowledge Distillation" (FKD), as SRe2L and SC-DD use it. The views depend on the seed, the epoch and the batch alone, so synthetic and
//! real images under the same seed are seen through the same views.

pub mod store;

use std::path::Path;

use ndarray::Array4;

use crate::config::{Device, Fallback, LabelDtype, Mix as MixConfig, RelabelConfig};
use crate::data::view::apply_batch;
use crate::data::{DataError, Dataset, Mix, Normalization, Resample, Size, View};
use crate::progress::Progress;
use crate::recover::CROP_RATIO;
use crate::rng;
use crate::teacher::{Bundle, Provider, Runtime, RuntimeError, Session, SessionOptions};

use store::{Dtype, LabelBatch, Meta, MixKind, StoreError, Writer};

/// Why images could not be labelled.
#[derive(Debug, thiserror::Error)]
pub enum RelabelError {
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A session where the configuration wants it, and a remark where that is not what was asked for first.
///
/// # Errors
/// When CUDA is asked for, is not to be had, and no fallback is configured.
pub fn open_session(
    bundle: &Bundle,
    runtime: &Runtime,
    config: &RelabelConfig,
) -> Result<(Session, Option<String>), RelabelError> {
    let open = |provider| {
        let options = SessionOptions { provider, optimize: true, threads: 0 };
        runtime.session(bundle.name(), &bundle.model, &[], options)
    };
    let may_fall_back = config.provider == Device::Auto || config.fallback == Some(Fallback::Cpu);
    if config.provider == Device::Cpu {
        return Ok((open(Provider::Cpu)?, None));
    }
    match open(Provider::Cuda) {
        Ok(session) => Ok((session, None)),
        Err(RuntimeError::NoCuda { what }) if may_fall_back => {
            let remark = format!("no CUDA in ONNX Runtime ({what}): soft labels are computed on the CPU");
            Ok((open(Provider::Cpu)?, Some(remark)))
        }
        Err(error) => Err(error.into()),
    }
}

/// Labels image sets with one teacher's answers.
pub struct Relabel<'a> {
    pub bundle: &'a Bundle,
    pub config: &'a RelabelConfig,
    pub seed: u64,
    /// Identifies configuration and inputs in the store.
    pub key: &'a str,
}

impl Relabel<'_> {
    /// Labels `set` through `session` and writes the store at `path`, whole or not at all.
    ///
    /// # Errors
    /// When the session fails, logits can't be stored, or the disk refuses.
    pub fn run(
        &self,
        set: &Dataset,
        session: &mut Session,
        path: &Path,
        progress: &dyn Progress,
    ) -> Result<(), RelabelError> {
        let Self { bundle, config, seed, .. } = *self;
        let p = &bundle.manifest.preprocessing;
        let normalization = Normalization::new(p.mean.clone(), p.std.clone())?;
        let views = Views { config, seed, source: set.size(), input: Size { height: p.height, width: p.width } };
        progress.start(&format!("relabel with {}", bundle.name()), u64::from(config.epochs), "epoch");
        let mut writer = Writer::create(path, self.meta(set, &views))?;
        for epoch in 0..config.epochs {
            for (indices, views, mix) in views.epoch(set.len(), epoch)? {
                let images = see(set, &normalization, &indices, &views, &mix, bundle)?;
                let logits = session.logits(&images)?;
                writer.append(&LabelBatch { indices, views, mix, logits })?;
            }
            progress.at(u64::from(epoch) + 1, "");
        }
        writer.finish()?;
        progress.finish("");
        Ok(())
    }

    fn meta(&self, set: &Dataset, views: &Views) -> Meta {
        Meta {
            images: set.len() as u32,
            classes: self.bundle.manifest.classes.len() as u32,
            epochs: self.config.epochs,
            batch_size: self.config.batch_size,
            source: views.source,
            input: views.input,
            mix: match self.config.mix {
                MixConfig::Cutmix { .. } => MixKind::CutMix,
                MixConfig::Mixup { .. } => MixKind::MixUp,
                MixConfig::None {} => MixKind::None,
            },
            dtype: match self.config.dtype {
                LabelDtype::F16 => Dtype::F16,
                LabelDtype::F32 => Dtype::F32,
            },
            teacher_sha256: self.bundle.hash.clone(),
            config_hash: self.key.into(),
        }
    }
}

/// What a network sees: the images of `set` at `indices`, normalised for `bundle`, through `views`, mixed; `[n, C, H, W]`.
///
/// # Errors
/// When set, views and network do not fit each other.
pub fn see(
    set: &Dataset,
    normalization: &Normalization,
    indices: &[u32],
    views: &[View],
    mix: &Mix,
    bundle: &Bundle,
) -> Result<Array4<f32>, DataError> {
    let [channels, height, width] = bundle.image_shape();
    let output = Size { height, width };
    let picked: Vec<usize> = indices.iter().map(|&i| i as usize).collect();
    let images = normalization.batch(set, &picked)?;
    let maps = views.iter().map(|v| Resample::new(v, set.size(), output)).collect::<Result<Vec<_>, _>>()?;
    let mut seen = Array4::zeros((indices.len(), channels, height, width));
    apply_batch(&maps, &images, &mut seen)?;
    if matches!(mix, Mix::None) {
        return Ok(seen);
    }
    let mut mixed = Array4::zeros(seen.raw_dim());
    mix.apply(&seen, &mut mixed)?;
    Ok(mixed)
}

/// Draws order, views and mix of every epoch.
struct Views<'a> {
    config: &'a RelabelConfig,
    seed: u64,
    source: Size,
    input: Size,
}

/// Indices, views and mix of one batch.
type BatchViews = (Vec<u32>, Vec<View>, Mix);

impl Views<'_> {
    fn epoch(&self, images: usize, epoch: u32) -> Result<Vec<BatchViews>, DataError> {
        use rand::seq::SliceRandom;
        let mut stream = rng::stream(self.seed, "relabel/views", u64::from(epoch));
        let mut order: Vec<u32> = (0..images as u32).collect();
        order.shuffle(&mut stream);
        let batch = |indices: &[u32]| {
            let views = indices.iter().map(|_| self.view(&mut stream)).collect::<Result<Vec<_>, _>>()?;
            let mix = match self.config.mix {
                MixConfig::Cutmix { alpha } => Mix::cut_mix(&mut stream, indices.len(), self.input, alpha as f32)?,
                MixConfig::Mixup { alpha } => Mix::mix_up(&mut stream, indices.len(), alpha as f32)?,
                MixConfig::None {} => Mix::None,
            };
            Ok((indices.to_vec(), views, mix))
        };
        order.chunks(self.config.batch_size as usize).map(batch).collect()
    }

    fn view(&self, stream: &mut rand_chacha::ChaCha8Rng) -> Result<View, DataError> {
        let view = match self.config.crop {
            Some(crop) => View::random_resized_crop(
                stream,
                self.source,
                (crop.scale[0] as f32, crop.scale[1] as f32),
                CROP_RATIO,
            )?,
            None => View::full(self.source)?,
        };
        Ok(if self.config.flip { view.with_random_flip(stream, 0.5) } else { view })
    }
}
