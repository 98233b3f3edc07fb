//! The soft-label store: one indexed, memory-mapped file per relabelling.
//!
//! A relabelling visits the images in batches, for some epochs. Per batch, the store keeps the
//! teacher's exact input (order, views, mix) and its output (logits), so that a student can train
//! on the same input.
//!
//! # Format, version 4
//!
//! Everything is little-endian. `E` stored epochs of `B = ceil(images / batch_size)` batches; the
//! last batch of an epoch may be smaller; `n` is a batch's size, `K` the number of classes.
//!
//! | bytes | holds |
//! | --- | --- |
//! | 8 | magic `SCDDSOFT` |
//! | 4 | version, u32: 4 |
//! | 4 | length `M` of the metadata, u32 |
//! | M | metadata, JSON (below), padded with zeros to a multiple of 8 from the file's start |
//! | 8 · (E·B + 1) | index, u64: at `e·B + b` the start of batch `b` of epoch `e`; last, the end |
//! | 32 | the head's hash: SHA-256 of everything before |
//! | … | the epochs: records, of a multiple of 8 bytes each, then 32 bytes of hash |
//!
//! An epoch's hash is the SHA-256 of the head's hash, the epoch's number as u64, and its records. A
//! reader therefore checks each epoch when it first reads it, without the others, and a file that
//! ends after an epoch is valid up to there.
//!
//! A record:
//!
//! | bytes | holds |
//! | --- | --- |
//! | 4 | mix, u32: 0 none, 1 CutMix, 2 MixUp |
//! | 4 | λ, f32: the own image's share (1 without a mix) |
//! | 8 | the CutMix box, u16 × 4: top, left, height, width in the input (else zeros) |
//! | 4n | the images' indices in batch order, u32 |
//! | 4n | the partners' positions in the batch, u32: a permutation (without a mix: zeros) |
//! | 8n | the views, u16 × 4 each: top, left, height, width in the bordered image |
//! | 16A·n | with `augment`: A operations a view: number, u32, and three values, f32 |
//! | R·n | the rows of logits (below), one per view |
//! | n | flips, u8: 1 if the view is mirrored |
//! | 0 … 7 | zeros, to a multiple of 8 |
//!
//! A row holds `V` numbers. Without `top_k` these are the `K` logits. With `top_k`, `V = k + 1`:
//! the `k` largest logits in descending order, then one common logit for all other classes. It
//! divides their total probability, at the softmax temperature of `top_k`, equally among them. If
//! that temperature is `null`, `V = k`, and the other classes have no probability.
//!
//! | bytes | holds |
//! | --- | --- |
//! | 2k | with `top_k`: the classes of the `k` largest logits, u16 |
//! | 4 | with `i8`: the number of code 0 and the step from one code to the next, f16 each |
//! | V · 4, 2 or 1 | the numbers: f32, f16 or u8 codes (number = lowest + step · code) |
//!
//! The metadata, in this order (`source` and `input` are the sizes of the synthetic images and of
//! the teacher's input):
//!
//! ```json
//! {"images": 100, "classes": 10, "epochs": 300, "batch_size": 50,
//!  "source": {"height": 28, "width": 28}, "input": {"height": 28, "width": 28},
//!  "mix": "cut_mix", "dtype": "f16", "teacher_sha256": "64 hex digits", "config_hash": "any text",
//!  "top_k": {"k": 3, "temperature": 20.0}, "pad": 4, "stored_epochs": 30,
//!  "augment": {"type": "rand_augment", "operations": 2, "magnitude": 9}}
//! ```
//!
//! The keys of the last two lines are omitted if they are not used. `pad` is the width of the
//! border of black pixels around a source image. Of `epochs` only the first `stored_epochs` are in
//! the file; epoch `e` is epoch `e mod stored_epochs` of these. With `{"type": "rand_augment"}` `A`
//! is its `operations`, which act on the source image's pixels; with `{"type": "dsa"}` `A` is 1,
//! and the operation acts on the normalised view. [`scdd_data::augment`] defines the operations and
//! their numbers.
//!
//! Stores of versions 1 to 3 had one BLAKE3 of the whole file at their end; they are refused and
//! must be labelled again.

mod figures;
mod record;
mod rows;
mod store;
#[cfg(test)]
mod tests;
mod writer;

use ndarray::Array2;
use rows::Rows;
pub use rows::{Dtype, NO_PROBABILITY, StoredTopK};
use scdd_data::{Augment, DrawnMix, Operation, Size, View};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io;
use std::path::{Path, PathBuf};

pub use store::LabelStore;
pub use writer::Writer;

const MAGIC: &[u8; 8] = b"SCDDSOFT";
const VERSION: u32 = 4;
/// Bytes of magic, version and the metadata's length.
const PREFIX: usize = 16;
const MAX_METADATA: usize = 1 << 20;
/// Bytes of a SHA-256.
const HASH: usize = 32;
/// Bytes of a record's mix, λ and box.
const RECORD_PREFIX: u64 = 16;
/// Bytes of a view besides logits and operations: two indices, its box, its flip.
const VIEW: u64 = 17;
/// Bytes of an operation: its number and three values.
const OPERATION: usize = 16;
const RELABEL_AGAIN: &str = "the file is damaged: remove it and relabel again";
const RELABEL_IN_THIS_FORM: &str = "remove it and relabel again, or use the program that wrote it";

/// An error of the soft-label store: the place, the problem and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused access.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The store.
        path: PathBuf,
        /// The attempted action, as an infinitive.
        action: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The file is not a store, or is incomplete.
    #[error("{}: {problem}; {remedy}", path.display())]
    Invalid {
        /// The store.
        path: PathBuf,
        /// The fault.
        problem: String,
        /// The remedy.
        remedy: &'static str,
    },
    /// The store can't represent the caller's metadata or batch.
    #[error("{}: cannot store {problem}", path.display())]
    Unfit {
        /// The store.
        path: PathBuf,
        /// The unsuitable value.
        problem: String,
    },
    /// There is no such batch.
    #[error(
        "batch {batch} of epoch {epoch} asked for, but there are {epochs} epochs of {batches} batches"
    )]
    OutOfRange {
        /// The requested epoch.
        epoch: usize,
        /// The requested batch.
        batch: usize,
        /// Epochs in the store.
        epochs: usize,
        /// Batches per epoch.
        batches: usize,
    },
}

/// The kind of mix that batches of a store may have; any single batch may be unmixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MixKind {
    /// No mix.
    None,
    /// CutMix.
    CutMix,
    /// MixUp.
    MixUp,
}

/// A store's metadata.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meta {
    /// The number of synthetic images, at least 1.
    pub images: u32,
    /// The number of classes, K, at least 1.
    pub classes: u32,
    /// The number of epochs that a student trains, at least 1.
    pub epochs: u32,
    /// Images per batch, at least 1; the last batch of an epoch may have fewer.
    pub batch_size: u32,
    /// The size of the synthetic images. Views are boxes in these images with their border.
    pub source: Size,
    /// The size of the teacher's input. CutMix boxes lie in it.
    pub input: Size,
    /// The kind of mix that batches may have.
    pub mix: MixKind,
    /// The number format of logits.
    pub dtype: Dtype,
    /// SHA-256 of the teacher's graph, in hex digits.
    pub teacher_sha256: String,
    /// The hash of the configuration that made the labels.
    pub config_hash: String,
    /// The number of logits stored individually per row; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<StoredTopK>,
    /// The width of the black border added at each side of an image before views are cropped.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub pad: u16,
    /// The number of epochs in the file, which are replayed in turn, 1 to below `epochs`; absent:
    /// all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_epochs: Option<u32>,
    /// Augmentations of views besides crop and flip; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub augment: Option<Augment>,
}

fn is_zero(number: &u16) -> bool {
    *number == 0
}

/// One batch: the teacher's input and its output.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelBatch {
    /// The images, in batch order `[n]`, each below [`Meta::images`].
    pub indices: Vec<u32>,
    /// The crop and flip of each image, `[n]`.
    pub views: Vec<View>,
    /// The augmentations of each view, `[n · A]`, view after view, as many as [`Meta::augment`]
    /// says.
    pub operations: Vec<Operation>,
    /// The mix of the augmented views.
    pub mix: DrawnMix,
    /// The teacher's logits `[n, K]`. Logits read from a store are rounded to its number format and
    /// `top_k`.
    pub logits: Array2<f32>,
}

/// Positions in a file, which follow from the metadata alone.
#[derive(Debug)]
struct StoreLayout {
    batches: u64,
    last_batch: u64,
    /// Bytes of a full record, and of an epoch's last record.
    record: u64,
    last_record: u64,
    index: u64,
    records: u64,
    /// The file's length.
    end: u64,
}

/// Bytes of a view in a store of these settings, without the few of each batch.
pub fn bytes_per_view(
    classes: usize,
    dtype: Dtype,
    top_k: Option<StoredTopK>,
    augment: Option<Augment>,
) -> u64 {
    let operations = augment.map_or(0, Augment::per_view);
    (Rows { classes, dtype, top_k }.bytes() + OPERATION * operations) as u64 + VIEW
}

impl Meta {
    /// Batches per epoch.
    pub fn batches(&self) -> usize {
        self.images.div_ceil(self.batch_size.max(1)) as usize
    }

    /// The number of epochs in the file.
    pub fn stored_epochs(&self) -> u32 {
        self.stored_epochs.unwrap_or(self.epochs)
    }

    /// The size of an image with its border, in which views are boxes.
    pub fn canvas(&self) -> Size {
        let border = 2 * usize::from(self.pad);
        Size { height: self.source.height + border, width: self.source.width + border }
    }

    fn rows(&self) -> Rows {
        Rows { classes: self.classes as usize, dtype: self.dtype, top_k: self.top_k }
    }

    /// The metadata's fault, or `None`.
    fn problem(&self) -> Option<String> {
        let canvas = self.canvas();
        let sides = [
            self.source.height,
            self.source.width,
            canvas.height,
            canvas.width,
            self.input.height,
            self.input.width,
        ];
        if [self.images, self.classes, self.epochs, self.batch_size].contains(&0) {
            return Some("no images, classes, epochs or batches: each must be at least 1".into());
        }
        if sides.iter().any(|side| !(1..=usize::from(u16::MAX)).contains(side)) {
            let border = if self.pad == 0 {
                String::new()
            } else {
                format!(" with a border of {}", self.pad)
            };
            return Some(format!(
                "images of {:?}{border} seen as {:?}: sides must be 1 to 65535",
                self.source, self.input
            ));
        }
        if let Some(stored) = self.stored_epochs.filter(|stored| !(1..self.epochs).contains(stored))
        {
            return Some(format!(
                "{stored} stored epochs of {}: must be at least 1, and fewer than all",
                self.epochs
            ));
        }
        if let Some(Augment::RandAugment { operations, magnitude }) = self.augment
            && !(1..=16).contains(&operations)
        {
            return Some(format!(
                "{operations} operations of magnitude {magnitude} for each view: must be 1 to 16"
            ));
        }
        self.rows().problem()
    }

    /// The number of operations per view.
    fn operations(&self) -> usize {
        self.augment.map_or(0, Augment::per_view)
    }

    /// Bytes of the record of `size` images.
    fn record(&self, size: u64) -> Option<u64> {
        let Self { classes, dtype, top_k, augment, .. } = *self;
        let view = bytes_per_view(classes as usize, dtype, top_k, augment);
        let unpadded = RECORD_PREFIX.checked_add(size.checked_mul(view)?)?;
        unpadded.checked_next_multiple_of(8)
    }

    /// The layout after metadata of `length` bytes, or `None` if the file would exceed the address
    /// range.
    fn layout(&self, length: usize) -> Option<StoreLayout> {
        let batches = self.batches() as u64;
        let last_batch = u64::from(self.images) - (batches - 1) * u64::from(self.batch_size);
        let (record, last_record) =
            (self.record(self.batch_size.into())?, self.record(last_batch)?);
        let index = ((PREFIX + length) as u64).next_multiple_of(8);
        let entries = batches.checked_mul(self.stored_epochs().into())?.checked_add(1)?;
        let records = index.checked_add(entries.checked_mul(8)?)?.checked_add(HASH as u64)?;
        let epoch =
            record.checked_mul(batches - 1)?.checked_add(last_record)?.checked_add(HASH as u64)?;
        let end = records.checked_add(epoch.checked_mul(self.stored_epochs().into())?)?;
        Some(StoreLayout { batches, last_batch, record, last_record, index, records, end })
    }
}

impl StoreLayout {
    /// The start of the record at `place` in the index.
    fn start(&self, place: u64) -> u64 {
        let (epoch, batch) = (place / self.batches, place % self.batches);
        self.records + epoch * (self.epoch() + HASH as u64) + batch * self.record
    }

    /// Bytes of the records of one epoch.
    fn epoch(&self) -> u64 {
        self.record * (self.batches - 1) + self.last_record
    }

    /// The number of images in the batch at `place` in the index.
    fn batch_size(&self, place: u64, full: u32) -> usize {
        if place % self.batches + 1 == self.batches {
            self.last_batch as usize
        } else {
            full as usize
        }
    }
}

/// The hasher of an epoch's records. It starts with the hash of the store's head and the epoch's
/// number, so records of another store or epoch do not match.
fn epoch_hasher(head: &[u8], epoch: u64) -> Sha256 {
    Sha256::new_with_prefix(head).chain_update(epoch.to_le_bytes())
}

fn io_error(path: &Path, action: &'static str, source: io::Error) -> StoreError {
    StoreError::Io { path: path.into(), action, source }
}
