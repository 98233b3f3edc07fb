//! How a set of images is seen, epoch by epoch: order, views and mix of every batch.

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::recover::CROP_RATIO;
use scdd_data::rng;
use scdd_data::{DataError, Dataset, DrawnMix, Operation, Size, View};
use scdd_experiment::config::{Mix, RelabelConfig, ViewCrop};

/// The views of a set of images. They depend on the seed, the epoch and the batch alone, so nobody
/// need store them: whoever draws them anew draws the same.
#[derive(Clone, Copy)]
pub struct Views<'a> {
    config: &'a RelabelConfig,
    /// How many small images per row and column each image is a mosaic of; a view is of one of
    /// them.
    formation: u16,
    seed: u64,
    images: u32,
    /// Of the images.
    source: Size,
    /// Of the views.
    input: Size,
}

/// What one batch of `n` views is.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchViews {
    /// The images, in batch order, `[n]`.
    pub indices: Vec<u32>,
    /// How each was cropped and mirrored, `[n]`.
    pub views: Vec<View>,
    /// How each was augmented besides, one view's operations after another's; empty where none is.
    pub operations: Vec<Operation>,
    /// How they were mixed after that.
    pub mix: DrawnMix,
}

impl<'a> Views<'a> {
    /// Views of `set`, of the size `input`, as `config` says.
    pub fn new(
        config: &'a RelabelConfig,
        formation: u16,
        seed: u64,
        set: &Dataset,
        input: Size,
    ) -> Self {
        Self { config, formation, seed, images: set.len() as u32, source: set.size(), input }
    }

    /// Epochs that a student trains for.
    pub fn epochs(&self) -> u32 {
        self.config.epochs
    }

    /// Epochs that differ; they are replayed in turn.
    pub fn stored_epochs(&self) -> u32 {
        self.config
            .stored_epochs
            .map_or(self.config.epochs, |stored| stored.min(self.config.epochs))
    }

    /// Images in a batch; an epoch's last one may have fewer.
    pub fn batch_size(&self) -> u32 {
        self.config.batch_size.min(self.images)
    }

    /// Black pixels at each side of an image, in which views lie too.
    pub fn pad(&self) -> u16 {
        pad(self.config)
    }

    /// The size of a view.
    pub fn input(&self) -> Size {
        self.input
    }

    /// The batches of epoch `epoch` (from 0).
    ///
    /// # Errors
    /// When views do not fit the images.
    pub fn epoch(&self, epoch: u32) -> Result<Vec<BatchViews>, DataError> {
        let mut stream = rng::stream(self.seed, "relabel/views", u64::from(epoch));
        let mut order: Vec<u32> = (0..self.images).collect();
        order.shuffle(&mut stream);
        // A stream of its own, so that crops and mixes are the same with and without.
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

/// Black pixels at each side of an image.
pub(super) fn pad(config: &RelabelConfig) -> u16 {
    match config.crop {
        Some(ViewCrop::Padded { pad }) => pad,
        _ => 0,
    }
}
