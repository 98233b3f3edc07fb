//! The views of a set of images in each epoch: order, crops, augmentation and mix of every batch.

mod prefetch;
mod render;

pub use prefetch::one_ahead;
pub use render::ViewRenderer;

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use scdd_data::rng;
use scdd_data::{DataError, Dataset, DrawnMix, Operation, Size, View};
use scdd_experiment::config::{Mix, RelabelConfig, ViewCrop};

/// torchvision's range of a random crop's width divided by its height.
pub(crate) const CROP_RATIO: (f32, f32) = (3.0 / 4.0, 4.0 / 3.0);

/// The views of a set of images. They depend on the seed, the epoch and the batch alone, so they
/// need not be stored: drawing them again gives the same views.
#[derive(Clone, Copy)]
pub struct Views<'a> {
    config: &'a RelabelConfig,
    /// Small images per row and column of the mosaic that each image is. A view shows one of them.
    formation: u16,
    seed: u64,
    images: u32,
    /// The size of the images.
    source: Size,
    /// The size of the views.
    input: Size,
}

/// The views of one batch, `n` in number.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchViews {
    /// The indices of the images, in batch order, `[n]`.
    pub indices: Vec<u32>,
    /// The crop and flip of each view, `[n]`.
    pub views: Vec<View>,
    /// The further augmentations, one view's operations after another's; empty without
    /// augmentation.
    pub operations: Vec<Operation>,
    /// The mix that is applied last.
    pub mix: DrawnMix,
}

impl<'a> Views<'a> {
    /// Views of size `input` of the images of `set`, as `config` specifies.
    pub fn new(
        config: &'a RelabelConfig,
        formation: u16,
        seed: u64,
        set: &Dataset,
        input: Size,
    ) -> Self {
        Self { config, formation, seed, images: set.len() as u32, source: set.size(), input }
    }

    /// The epochs of a student's training.
    pub fn epochs(&self) -> u32 {
        self.config.epochs
    }

    /// The epochs with views of their own; they are repeated in turn.
    pub fn stored_epochs(&self) -> u32 {
        self.config.epochs_to_store()
    }

    /// Images per batch. The last batch of an epoch may have fewer.
    pub fn batch_size(&self) -> u32 {
        self.config.batch_size.min(self.images)
    }

    /// Width of the black border around each image in pixels. Views may reach into it.
    pub fn pad(&self) -> u16 {
        match self.config.crop {
            Some(ViewCrop::Padded { pad }) => pad,
            _ => 0,
        }
    }

    /// The size of a view.
    pub fn input(&self) -> Size {
        self.input
    }

    /// The batches of epoch `epoch` (from 0).
    ///
    /// # Errors
    /// When the views do not fit the images.
    pub fn epoch(&self, epoch: u32) -> Result<Vec<BatchViews>, DataError> {
        let mut stream = rng::stream(self.seed, "relabel/views", u64::from(epoch));
        let mut order: Vec<u32> = (0..self.images).collect();
        order.shuffle(&mut stream);
        // A separate stream, so that crops and mixes are the same with and without augmentation.
        let mut augment = rng::stream(self.seed, "relabel/augment", u64::from(epoch));
        let batch = |indices: &[u32]| {
            let views =
                indices.iter().map(|_| self.view(&mut stream)).collect::<Result<Vec<_>, _>>()?;
            let (count, input) = (indices.len(), self.input);
            let mix = match self.config.mix {
                Mix::Cutmix { alpha } => {
                    DrawnMix::cut_mix(&mut stream, count, input, alpha as f32)?
                }
                Mix::Mixup { alpha } => DrawnMix::mix_up(&mut stream, count, alpha as f32)?,
                Mix::None {} => DrawnMix::None,
            };
            let operations =
                self.config.augment.map(|a| a.draw(&mut augment, count, self.source, input));
            Ok(BatchViews {
                indices: indices.to_vec(),
                views,
                operations: operations.unwrap_or_default(),
                mix,
            })
        };
        order.chunks(self.config.batch_size as usize).map(batch).collect()
    }

    fn view(&self, stream: &mut ChaCha8Rng) -> Result<View, DataError> {
        let cell = View::random_cell(stream, self.source, self.formation)?;
        let view = match self.config.crop {
            Some(ViewCrop::Resized { scale: [low, high] }) => {
                let scale = (low as f32, high as f32);
                View::random_resized_crop(stream, cell.size(), scale, CROP_RATIO)?.inside(&cell)
            }
            Some(ViewCrop::Padded { pad }) => cell.shifted(stream, 2 * pad),
            None => cell,
        };
        Ok(if self.config.flip { view.with_random_flip(stream, 0.5) } else { view })
    }
}
