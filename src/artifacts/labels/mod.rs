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
//! divides their total probability, at the softmax temperature of `top_k`, equally among them.
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

mod record;
mod rows;

use memmap2::Mmap;
use ndarray::Array2;
use rows::Rows;
pub use rows::{Dtype, StoredTopK};
use scdd_data::{Augment, DrawnMix, Operation, Size, View};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use record::{check_batch, decode, encode, read_u32, read_u64};

const MAGIC: &[u8; 8] = b"SCDDSOFT";
const VERSION: u32 = 4;
/// Bytes of magic, version and the metadata's length.
const PREFIX: usize = 16;
const MAX_METADATA: usize = 1 << 20;
/// Bytes of a SHA-256.
const HASH: usize = 32;
/// Bytes of a record's mix, λ and box.
const RECORD_PREFIX: u64 = 16;
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
        let view = (self.rows().bytes() + OPERATION * self.operations()) as u64 + 17;
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

/// Writes a store batch by batch. Its path does not exist before [`finish`](Self::finish). Until
/// then the data are in a file beside it with the ending `.under-way`, and the next writer of the
/// same store continues that file.
pub struct Writer {
    path: PathBuf,
    aside: PathBuf,
    meta: Meta,
    layout: StoreLayout,
    next: u64,
    file: BufWriter<File>,
    /// The head's hash.
    head: [u8; HASH],
    /// The hasher of the current epoch.
    hasher: Sha256,
}

impl Writer {
    /// Starts the store that will be at `path`. If a store with the same metadata was begun there,
    /// continues after its last complete epoch.
    ///
    /// # Errors
    /// When `meta` is inconsistent, or the disk refuses.
    pub fn open(path: &Path, meta: Meta) -> Result<Self, StoreError> {
        let unfit = |problem| StoreError::Unfit { path: path.into(), problem };
        if let Some(problem) = meta.problem() {
            return Err(unfit(problem));
        }
        let json =
            serde_json::to_vec(&meta).map_err(|error| unfit(format!("the metadata ({error})")))?;
        if json.len() > MAX_METADATA {
            return Err(unfit(format!("metadata of {} bytes", json.len())));
        }
        let layout = meta.layout(json.len()).ok_or_else(|| unfit("so many labels".into()))?;
        let places = layout.batches * u64::from(meta.stored_epochs());
        let head = head(&json, &layout, places);
        let aside = under_way(path);
        let whole = whole_epochs(&aside, &head, &layout, meta.stored_epochs())
            .map_err(|source| io_error(&aside, "read", source))?;
        let open = || {
            let mut file = File::options().create(true).truncate(false).write(true).open(&aside)?;
            file.set_len(if whole == 0 { 0 } else { layout.start(whole * layout.batches) })?;
            file.seek(SeekFrom::End(0))?;
            Ok(BufWriter::new(file))
        };
        let file = open().map_err(|source| io_error(&aside, "write", source))?;
        let (next, hasher) = (whole * layout.batches, Sha256::new());
        let mut hash = [0; HASH];
        hash.copy_from_slice(&head[head.len() - HASH..]);
        let mut writer =
            Self { path: path.into(), aside, meta, layout, next, file, head: hash, hasher };
        if whole == 0 {
            writer.write(&head)?;
        }
        Ok(writer)
    }

    /// The number of complete epochs.
    pub fn epochs(&self) -> u32 {
        (self.next / self.layout.batches) as u32
    }

    /// Appends the next batch. Batches come in order, epoch after epoch.
    pub fn append(&mut self, batch: &LabelBatch) -> Result<(), StoreError> {
        let place = self.next;
        let checked = if place == self.places() {
            Err("more batches than the metadata announces".into())
        } else {
            check_batch(batch, &self.meta, self.layout.batch_size(place, self.meta.batch_size))
        };
        let record = checked.and_then(|()| encode(batch, &self.meta)).map_err(|problem| {
            let (epoch, number) = (place / self.layout.batches, place % self.layout.batches);
            let problem = format!("batch {number} of epoch {epoch}: {problem}");
            StoreError::Unfit { path: self.path.clone(), problem }
        })?;
        let (epoch, batch) = (place / self.layout.batches, place % self.layout.batches);
        if batch == 0 {
            self.hasher = epoch_hasher(&self.head, epoch);
        }
        self.write(&record)?;
        self.hasher.update(&record);
        if batch + 1 == self.layout.batches {
            let hash = self.hasher.finalize_reset();
            self.write(&hash)?;
            // After this flush a kill costs at most the next epoch.
            self.file.flush().map_err(|source| io_error(&self.aside, "write", source))?;
        }
        self.next += 1;
        Ok(())
    }

    /// Completes the file, syncs it to disk and renames it to its path, replacing an existing file.
    /// Returns its number of bytes.
    pub fn finish(self) -> Result<u64, StoreError> {
        if self.next != self.places() {
            let problem =
                format!("{} batches where the metadata announces {}", self.next, self.places());
            return Err(StoreError::Unfit { path: self.path, problem });
        }
        let Self { path, aside, layout, file, .. } = self;
        let file =
            file.into_inner().map_err(|error| io_error(&aside, "write", error.into_error()))?;
        file.sync_all().map_err(|source| io_error(&aside, "flush to disk", source))?;
        fs::rename(&aside, &path)
            .map_err(|source| io_error(&path, "rename the finished file to this name", source))?;
        Ok(layout.end)
    }

    fn places(&self) -> u64 {
        self.layout.batches * u64::from(self.meta.stored_epochs())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(bytes).map_err(|source| io_error(&self.aside, "write", source))
    }
}

/// The path of an unfinished store of `path`.
fn under_way(path: &Path) -> PathBuf {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".under-way");
    aside.into()
}

/// The bytes before the first epoch of a store with `places` batches.
fn head(json: &[u8], layout: &StoreLayout, places: u64) -> Vec<u8> {
    let length = (json.len() as u32).to_le_bytes();
    let mut head = [MAGIC.as_slice(), &VERSION.to_le_bytes(), &length, json].concat();
    head.resize(layout.index as usize, 0);
    for place in 0..=places {
        head.extend(layout.start(place).to_le_bytes());
    }
    let hash = Sha256::digest(&head);
    head.extend(hash);
    head
}

/// The number of intact epochs at the start of the file `aside`, at most `epochs`; 0 if the file
/// does not begin with `head`.
fn whole_epochs(aside: &Path, head: &[u8], layout: &StoreLayout, epochs: u32) -> io::Result<u64> {
    let file = match File::open(aside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        file => file?,
    };
    let mut file = BufReader::new(file);
    let mut found = vec![0; head.len()];
    if !read_whole(&mut file, &mut found)? || found != head {
        return Ok(0);
    }
    let mut part = vec![0; (1 << 20).min(layout.epoch() as usize)];
    for epoch in 0..u64::from(epochs) {
        let mut hasher = epoch_hasher(&head[head.len() - HASH..], epoch);
        let mut left = layout.epoch() as usize;
        while left > 0 {
            let part = &mut part[..left.min(1 << 20)];
            if !read_whole(&mut file, part)? {
                return Ok(epoch);
            }
            hasher.update(&part);
            left -= part.len();
        }
        let mut hash = [0; HASH];
        if !read_whole(&mut file, &mut hash)? || hasher.finalize()[..] != hash {
            return Ok(epoch);
        }
    }
    Ok(u64::from(epochs))
}

/// Fills `bytes`. Returns `false` if the file ends before.
fn read_whole(file: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(bytes) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| true),
    }
}

/// The hasher of an epoch's records. It starts with the hash of the store's head and the epoch's
/// number, so records of another store or epoch do not match.
fn epoch_hasher(head: &[u8], epoch: u64) -> Sha256 {
    Sha256::new_with_prefix(head).chain_update(epoch.to_le_bytes())
}

/// An open store: random access to its batches.
#[derive(Debug)]
pub struct LabelStore {
    path: PathBuf,
    meta: Meta,
    layout: StoreLayout,
    /// Per stored epoch, whether its hash has been checked.
    checked: Vec<AtomicBool>,
    map: Mmap,
}

impl LabelStore {
    /// Opens the store at `path`. Head and length are checked now, an epoch when one of its batches
    /// is first read.
    ///
    /// The file must not be changed while it is open.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let file = File::open(path).map_err(|source| io_error(path, "open", source))?;
        // SAFETY: a store is written under another name, renamed and never changed after that.
        // Truncating a mapped file ends the process with a bus error, as for every mapped file.
        let map = unsafe { Mmap::map(&file) }
            .map_err(|source| io_error(path, "map into memory", source))?;
        let invalid =
            |(problem, remedy)| StoreError::Invalid { path: path.into(), problem, remedy };
        let (meta, layout) = parse_head(&map).map_err(invalid)?;
        check_index(&map, &meta, &layout).map_err(|problem| invalid((problem, RELABEL_AGAIN)))?;
        let checked = (0..meta.stored_epochs()).map(|_| AtomicBool::new(false)).collect();
        Ok(Self { path: path.into(), meta, layout, checked, map })
    }

    /// The store's metadata.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Reads batch `batch` of epoch `epoch`.
    ///
    /// # Errors
    /// When there is no such batch, or its epoch is damaged, which is checked when one of the
    /// epoch's batches is first read.
    pub fn get(&self, epoch: usize, batch: usize) -> Result<LabelBatch, StoreError> {
        let (epochs, batches) = (self.meta.epochs as usize, self.layout.batches as usize);
        if epoch >= epochs || batch >= batches {
            return Err(StoreError::OutOfRange { epoch, batch, epochs, batches });
        }
        let stored = epoch % self.checked.len();
        self.check_epoch(stored)?;
        let place = (stored * batches + batch) as u64;
        let size = self.layout.batch_size(place, self.meta.batch_size);
        let bytes = if batch + 1 == batches { self.layout.last_record } else { self.layout.record };
        let start = self.layout.start(place) as usize;
        let decoded = decode(&self.map[start..start + bytes as usize], size, &self.meta);
        decoded
            .and_then(|read| check_batch(&read, &self.meta, size).map(|()| read))
            .map_err(|problem| self.damage(format!("batch {batch} of epoch {epoch}: {problem}")))
    }

    /// Reads the whole file and checks the hash of each epoch, at the speed of the disk or of
    /// SHA-256.
    ///
    /// # Errors
    /// When a single bit differs from the written file.
    pub fn check(&self) -> Result<(), StoreError> {
        (0..self.checked.len()).try_for_each(|epoch| self.check_epoch(epoch))
    }

    /// Checks the hash of a stored epoch, once.
    fn check_epoch(&self, epoch: usize) -> Result<(), StoreError> {
        if self.checked[epoch].load(Ordering::Relaxed) {
            return Ok(());
        }
        let start = self.layout.start(epoch as u64 * self.layout.batches) as usize;
        let (records, rest) = self.map[start..].split_at(self.layout.epoch() as usize);
        let head = &self.map[self.layout.records as usize - HASH..self.layout.records as usize];
        let hash = epoch_hasher(head, epoch as u64).chain_update(records).finalize();
        if hash[..] != rest[..HASH] {
            return Err(
                self.damage(format!("epoch {epoch} is not as it was written (its hash differs)"))
            );
        }
        self.checked[epoch].store(true, Ordering::Relaxed);
        Ok(())
    }

    fn damage(&self, problem: String) -> StoreError {
        StoreError::Invalid { path: self.path.clone(), problem, remedy: RELABEL_AGAIN }
    }

    /// Like [`check`](Self::check), and also decodes every batch.
    ///
    /// # Errors
    /// When the file is damaged, or contains values that no writer writes.
    pub fn verify(&self) -> Result<(), StoreError> {
        for epoch in 0..self.meta.stored_epochs() as usize {
            for batch in 0..self.layout.batches as usize {
                self.get(epoch, batch)?;
            }
        }
        Ok(())
    }
}

/// Metadata and layout of a file whose length matches them; else the problem and the remedy.
fn parse_head(bytes: &[u8]) -> Result<(Meta, StoreLayout), (String, &'static str)> {
    if bytes.get(..MAGIC.len()) != Some(MAGIC) {
        return Err((
            "is not a soft-label store".into(),
            "give the file that `scdd relabel` wrote",
        ));
    }
    if bytes.len() < PREFIX {
        return Err((format!("ends after {} bytes", bytes.len()), RELABEL_AGAIN));
    }
    let version = read_u32(bytes, 8);
    if version != VERSION {
        let problem = format!("has the format version {version}, this program reads {VERSION}");
        return Err((problem, RELABEL_IN_THIS_FORM));
    }
    let length = read_u32(bytes, 12) as usize;
    let json = bytes
        .get(PREFIX..PREFIX + length.min(MAX_METADATA + 1))
        .filter(|json| json.len() <= MAX_METADATA);
    let json =
        json.ok_or_else(|| (format!("announces metadata of {length} bytes"), RELABEL_AGAIN))?;
    let meta: Meta = serde_json::from_slice(json)
        .map_err(|error| (format!("its metadata is wrong ({error})"), RELABEL_AGAIN))?;
    if let Some(problem) = meta.problem() {
        return Err((format!("its metadata announces {problem}"), RELABEL_AGAIN));
    }
    let layout = meta.layout(length).filter(|layout| layout.end == bytes.len() as u64);
    let layout = layout.ok_or_else(|| {
        (format!("has {} bytes, not what its metadata announces", bytes.len()), RELABEL_AGAIN)
    })?;
    Ok((meta, layout))
}

/// Checks the index and the head's hash in a file of the right length.
fn check_index(bytes: &[u8], meta: &Meta, layout: &StoreLayout) -> Result<(), String> {
    let (head, hash) = bytes[..layout.records as usize].split_at(layout.records as usize - HASH);
    if Sha256::digest(head)[..] != *hash {
        return Err("its head is not as it was written (its hash differs)".into());
    }
    let places = layout.batches * u64::from(meta.stored_epochs());
    let entry = |place: u64| read_u64(bytes, (layout.index + 8 * place) as usize);
    let wrong = (0..=places).find(|place| entry(*place) != layout.start(*place));
    wrong.map_or(Ok(()), |place| Err(format!("entry {place} of its index is wrong")))
}

fn io_error(path: &Path, action: &'static str, source: io::Error) -> StoreError {
    StoreError::Io { path: path.into(), action, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::RngExt;
    use rand::seq::SliceRandom;
    use scdd_data::rng::stream;
    use std::fs;

    fn meta() -> Meta {
        Meta {
            images: 7,
            classes: 3,
            epochs: 2,
            batch_size: 3,
            source: Size { height: 9, width: 8 },
            input: Size { height: 6, width: 5 },
            mix: MixKind::CutMix,
            dtype: Dtype::F16,
            teacher_sha256: "0123456789abcdef".repeat(4),
            config_hash: "c0ffee".into(),
            top_k: None,
            pad: 0,
            stored_epochs: None,
            augment: None,
        }
    }

    /// Metadata with all optional keys.
    fn newest() -> Meta {
        let top_k = Some(StoredTopK { k: 1, temperature: 20.0 });
        let augment = Some(Augment::RandAugment { operations: 2, magnitude: 9 });
        Meta {
            dtype: Dtype::I8,
            top_k,
            pad: 2,
            epochs: 5,
            stored_epochs: Some(2),
            augment,
            ..meta()
        }
    }

    /// The batches of a store with this metadata, in order, drawn from `seed`.
    fn batches(meta: &Meta, seed: u64) -> Vec<LabelBatch> {
        let epoch_batches = |epoch| {
            let mut rng = stream(seed, "order", epoch);
            let mut order: Vec<u32> = (0..meta.images).collect();
            order.shuffle(&mut rng);
            let chunks: Vec<_> =
                order.chunks(meta.batch_size as usize).map(<[u32]>::to_vec).collect();
            chunks.into_iter().map(move |indices| label_batch(&mut rng, meta, indices))
        };
        (0..u64::from(meta.stored_epochs())).flat_map(epoch_batches).collect()
    }

    fn label_batch(rng: &mut impl rand::Rng, meta: &Meta, indices: Vec<u32>) -> LabelBatch {
        let count = indices.len();
        let mut view = || {
            let view =
                View::random_resized_crop(rng, meta.canvas(), (0.1, 1.0), (0.75, 1.25)).unwrap();
            view.with_random_flip(rng, 0.5)
        };
        let views = (0..count).map(|_| view()).collect();
        let mix = match meta.mix {
            _ if rng.random_bool(0.2) => DrawnMix::None,
            MixKind::None => DrawnMix::None,
            MixKind::CutMix => DrawnMix::cut_mix(rng, count, meta.input, 1.0).unwrap(),
            MixKind::MixUp => DrawnMix::mix_up(rng, count, 0.8).unwrap(),
        };
        let logits = Array2::from_shape_simple_fn((count, meta.classes as usize), || {
            rng.random_range(-20.0f32..20.0)
        });
        let operations =
            meta.augment.map(|augment| augment.draw(rng, count, meta.source, meta.input));
        LabelBatch { indices, views, operations: operations.unwrap_or_default(), mix, logits }
    }

    /// The batch after rounding by a store with this metadata.
    fn rounded(meta: &Meta, batch: &LabelBatch) -> LabelBatch {
        let mut rows = vec![];
        meta.rows().encode(&batch.logits, &mut rows).unwrap();
        LabelBatch { logits: meta.rows().decode(&rows).unwrap(), ..batch.clone() }
    }

    fn write(path: &Path, meta: &Meta, batches: &[LabelBatch]) {
        let mut writer = Writer::open(path, meta.clone()).unwrap();
        for batch in batches {
            writer.append(batch).unwrap();
        }
        writer.finish().unwrap();
    }

    /// The bytes of the store of `meta` with batches of seed 1.
    fn file(meta: &Meta) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("labels");
        write(&path, meta, &batches(meta, 1));
        fs::read(path).unwrap()
    }

    fn small_file() -> Vec<u8> {
        file(&meta())
    }

    /// Opens and fully reads these bytes.
    fn read_bytes(bytes: &[u8]) -> Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("labels");
        fs::write(&path, bytes).unwrap();
        LabelStore::open(&path).and_then(|store| store.verify()).map_err(|error| error.to_string())
    }

    fn any_meta() -> impl Strategy<Value = Meta> {
        let mixes = prop_oneof![Just(MixKind::None), Just(MixKind::CutMix), Just(MixKind::MixUp)];
        let dtypes = prop_oneof![Just(Dtype::F16), Just(Dtype::F32), Just(Dtype::I8)];
        let sizes = (1usize..40, 1usize..40, 1usize..40, 1usize..40);
        let augment = prop_oneof![
            Just(None),
            Just(Some(Augment::RandAugment { operations: 3, magnitude: 9 })),
            Just(Some(Augment::Dsa {})),
        ];
        let newer = (0u32..4, 0u16..5, 0u32..3, augment);
        (1u32..12, 1u32..6, 1u32..4, 1u32..14, mixes, dtypes, sizes, newer).prop_map(
            |(
                images,
                classes,
                epochs,
                batch_size,
                mix,
                dtype,
                (height, width, input_height, input_width),
                (k, pad, stored, augment),
            )| Meta {
                images,
                classes,
                epochs,
                batch_size,
                mix,
                dtype,
                source: Size { height, width },
                input: Size { height: input_height, width: input_width },
                top_k: (1..classes).contains(&k).then_some(StoredTopK { k, temperature: 4.0 }),
                pad,
                stored_epochs: (1..epochs).contains(&stored).then_some(stored),
                augment,
                ..meta()
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn replay_is_exact(meta in any_meta(), seed in any::<u64>()) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("labels");
            let batches = batches(&meta, seed);
            write(&path, &meta, &batches);
            let store = LabelStore::open(&path).unwrap();
            store.verify().unwrap();
            prop_assert_eq!(store.meta(), &meta);
            prop_assert_eq!(batches.len(), meta.stored_epochs() as usize * meta.batches());
            for place in (0..meta.epochs as usize * meta.batches()).rev() {
                let expected = rounded(&meta, &batches[place % batches.len()]);
                prop_assert_eq!(store.get(place / meta.batches(), place % meta.batches()).unwrap(), expected);
            }
        }
    }

    #[test]
    fn bytes_are_deterministic() {
        assert_eq!(small_file(), small_file());
    }

    /// Checks the format byte by byte against its description.
    #[test]
    fn records_look_as_described() {
        let meta = Meta { images: 2, classes: 3, epochs: 1, batch_size: 2, ..meta() };
        let view = |top, flip| View { top, left: 2, height: 3, width: 4, flip };
        let batch = LabelBatch {
            indices: vec![1, 0],
            views: vec![view(1, false), view(5, true)],
            operations: vec![],
            mix: DrawnMix::CutMix { partner: vec![1, 0], top: 1, left: 2, height: 3, width: 2 },
            logits: Array2::from_shape_vec((2, 3), vec![1.0, -2.0, 0.5, 0.0, 1.0, -1.0]).unwrap(),
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("labels");
        write(&path, &meta, &[batch]);
        let bytes = fs::read(path).unwrap();

        let metadata = "{\"images\":2,\"classes\":3,\"epochs\":1,\"batch_size\":2,\
            \"source\":{\"height\":9,\"width\":8},\"input\":{\"height\":6,\"width\":5},\
            \"mix\":\"cut_mix\",\"dtype\":\"f16\",\
            \"teacher_sha256\":\"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\",\
            \"config_hash\":\"c0ffee\"}";
        let mut expected = b"SCDDSOFT\x04\0\0\0".to_vec();
        expected.extend((metadata.len() as u32).to_le_bytes());
        expected.extend(metadata.as_bytes());
        expected.resize(expected.len().next_multiple_of(8), 0);
        let records = expected.len() as u64 + 16 + 32;
        expected.extend(records.to_le_bytes());
        expected.extend((records + 64 + 32).to_le_bytes());
        let head = Sha256::digest(&expected);
        expected.extend(head);
        expected.extend(1u32.to_le_bytes());
        expected.extend(0.8f32.to_le_bytes());
        expected.extend([1, 0, 2, 0, 3, 0, 2, 0]);
        expected.extend([1, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend([1, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend([1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 2, 0, 3, 0, 4, 0]);
        expected.extend([0x00, 0x3c, 0x00, 0xc0, 0x00, 0x38, 0x00, 0x00, 0x00, 0x3c, 0x00, 0xbc]);
        expected.extend([0, 1, 0, 0]);
        let hashed = [&head[..], &[0; 8], &expected[records as usize..]].concat();
        expected.extend(Sha256::digest(hashed));
        assert_eq!(bytes, expected);
    }

    #[test]
    fn every_truncation_is_refused() {
        for bytes in [file(&meta()), file(&newest())] {
            read_bytes(&bytes).unwrap();
            for length in 0..bytes.len() {
                read_bytes(&bytes[..length]).unwrap_err();
            }
            read_bytes(&[bytes, vec![0]].concat()).unwrap_err();
        }
    }

    /// Damage is reported when its epoch is read, and only then.
    #[test]
    fn a_flipped_bit_is_found_when_its_epoch_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("labels");
        for meta in [Meta { epochs: 4, ..meta() }, newest()] {
            let good = file(&meta);
            let layout = meta.layout(serde_json::to_vec(&meta).unwrap().len()).unwrap();
            let places = layout.batches * u64::from(meta.stored_epochs());
            for (place, mask) in (0..places).zip([1, 2, 4, 8, 16, 32, 64, 128].into_iter().cycle())
            {
                let damaged = (place / layout.batches) as usize;
                let mut bytes = good.clone();
                bytes[layout.start(place) as usize + 20] ^= mask;
                fs::write(&path, &bytes).unwrap();
                let store = LabelStore::open(&path).unwrap();
                for epoch in 0..meta.epochs as usize {
                    for batch in 0..meta.batches() {
                        let found =
                            store.get(epoch, batch).map(drop).map_err(|error| error.to_string());
                        let stored = epoch % meta.stored_epochs() as usize;
                        let expected = format!(
                            "{}: epoch {damaged} is not as it was written (its hash differs); the file is damaged: remove it and relabel again",
                            path.display()
                        );
                        assert_eq!(found, if stored == damaged { Err(expected) } else { Ok(()) });
                    }
                }
                store.check().unwrap_err();
            }
        }
    }

    /// Epochs that were moved, or come from another store, are refused by their hashes.
    #[test]
    fn epochs_are_known_by_their_place_and_store() {
        let (one, other) = (small_file(), file(&Meta { config_hash: "decade".into(), ..meta() }));
        let layout = meta().layout(serde_json::to_vec(&meta()).unwrap().len()).unwrap();
        let (first, second) = (layout.records as usize, layout.start(layout.batches) as usize);
        let swapped = [&one[..first], &one[second..], &one[first..second]].concat();
        assert!(read_bytes(&swapped).unwrap_err().contains("epoch 0 is not as it was written"));
        let foreign = [&one[..second], &other[second..]].concat();
        assert!(read_bytes(&foreign).unwrap_err().contains("epoch 1 is not as it was written"));
    }

    /// Changes every byte in two ways: verification fails, and reading without it never panics.
    #[test]
    fn every_changed_byte_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("labels");
        let bytes = [file(&meta()), file(&newest())];
        for (bytes, at) in
            bytes.iter().flat_map(|bytes| (0..bytes.len()).map(move |at| (bytes, at)))
        {
            for change in [1, 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= change;
                fs::write(&path, &changed).unwrap();
                let Ok(store) = LabelStore::open(&path) else { continue };
                for place in 0..6 {
                    let _ = store.get(place / 3, place % 3);
                }
                store.verify().unwrap_err();
            }
        }
    }

    /// Forges a file with matching hashes.
    fn forge(change: impl Fn(&mut Vec<u8>)) -> String {
        let mut bytes = small_file();
        change(&mut bytes);
        let layout = meta().layout(serde_json::to_vec(&meta()).unwrap().len()).unwrap();
        let records = layout.records as usize;
        let head = Sha256::digest(&bytes[..records - HASH]);
        bytes[records - HASH..records].copy_from_slice(&head);
        for epoch in 0..2u64 {
            let start = layout.start(epoch * layout.batches) as usize;
            let end = start + layout.epoch() as usize;
            let hash =
                Sha256::digest([&head[..], &epoch.to_le_bytes(), &bytes[start..end]].concat());
            bytes[end..end + HASH].copy_from_slice(&hash);
        }
        read_bytes(&bytes).unwrap_err()
    }

    fn put(at: usize, value: &'static [u8]) -> impl Fn(&mut Vec<u8>) {
        move |bytes| bytes[at..at + value.len()].copy_from_slice(value)
    }

    fn with_metadata(from: &'static str, to: &'static str) -> impl Fn(&mut Vec<u8>) {
        assert_eq!(from.len(), to.len());
        move |bytes| {
            let at =
                bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
            put(at, to.as_bytes())(bytes);
        }
    }

    #[test]
    fn forged_files_are_explained() {
        let layout = meta().layout(serde_json::to_vec(&meta()).unwrap().len()).unwrap();
        let (index, first) = (layout.index as usize, layout.records as usize);
        let cases = [
            (
                forge(put(0, b"X")),
                "is not a soft-label store; give the file that `scdd relabel` wrote",
            ),
            (
                forge(put(8, &[3])),
                "has the format version 3, this program reads 4; remove it and relabel again, or use the program that wrote it",
            ),
            (forge(put(8, &[5])), "has the format version 5, this program reads 4"),
            (forge(put(12, &[255; 4])), "announces metadata of 4294967295 bytes"),
            (forge(put(16, b"!")), "its metadata is wrong"),
            (forge(with_metadata("\"images\":7", "\"images\":0")), "each must be at least 1"),
            (forge(with_metadata("\"height\":9", "\"height\":0")), "sides must be 1 to 65535"),
            (
                forge(with_metadata("\"config_hash\"", "\"config_hush\"")),
                "unknown field `config_hush`",
            ),
            (
                forge(with_metadata("\"classes\":3", "\"classes\":4")),
                "not what its metadata announces",
            ),
            (forge(put(index + 15, &[255])), "entry 1 of its index is wrong"),
            (forge(put(first, &[9])), "batch 0 of epoch 0: the unknown mix 9"),
            (
                forge(put(first, &[2])),
                "batch 0 of epoch 0: a mix MixUp where the metadata announces CutMix",
            ),
            (forge(put(first + 4, &[0; 4])), "its lambda does not belong to its mix"),
            (forge(put(first + 16, &[7])), "batch 0 of epoch 0: image 7 of 7"),
            (forge(put(first + 28, &[3])), "does not fit 3 images"),
            (forge(put(first + 45, &[1])), "is not a box inside an image of 9x8 pixels"),
            (forge(put(first + 64, &[0, 0x7c])), "the logit inf"),
            (forge(put(first + 82, &[2])), "the flip 2"),
        ];
        for (message, expected) in cases {
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
        let huge =
            Meta { images: u32::MAX, classes: u32::MAX, epochs: u32::MAX, batch_size: 1, ..meta() };
        assert!(huge.layout(0).is_none());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("labels");
        let good = batches(&meta(), 1)[0].clone();
        let cut =
            |height| DrawnMix::CutMix { partner: vec![0, 1, 2], top: 0, left: 0, height, width: 1 };
        let view = View { top: 0, left: 0, height: 10, width: 1, flip: false };
        let operation =
            Operation { kind: scdd_data::augment::Kind::DsaFlip, values: [1.0, 0.0, 0.0] };
        let cases = [
            (
                LabelBatch { indices: vec![0, 1], ..good.clone() },
                "batch 0 of epoch 0: 2 images and 3 views instead of 3",
            ),
            (LabelBatch { indices: vec![0, 1, 7], ..good.clone() }, "image 7 of 7"),
            (LabelBatch { views: vec![view; 3], ..good.clone() }, "is not a box inside"),
            (
                LabelBatch { operations: vec![operation; 3], ..good.clone() },
                "3 operations instead of 0 for each of 3 views",
            ),
            (LabelBatch { mix: cut(7), ..good.clone() }, "does not fit 3 images of 6x5"),
            (
                LabelBatch {
                    mix: DrawnMix::MixUp { partner: vec![0, 1, 2], lambda: 0.5 },
                    ..good.clone()
                },
                "a mix MixUp",
            ),
            (
                LabelBatch { logits: Array2::zeros((3, 4)), ..good.clone() },
                "logits (3, 4) of 3 images and 3 classes",
            ),
            (
                LabelBatch { logits: Array2::from_elem((3, 3), f32::NAN), ..good.clone() },
                "the logit NaN",
            ),
            (
                LabelBatch { logits: Array2::from_elem((3, 3), 7e4), ..good.clone() },
                "f16 cannot hold; use f32",
            ),
        ];
        for (batch, expected) in cases {
            let message =
                Writer::open(&path, meta()).unwrap().append(&batch).unwrap_err().to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
        let top_k = |k, temperature| Meta { top_k: Some(StoredTopK { k, temperature }), ..meta() };
        let cases = [
            (Meta { classes: 0, ..meta() }, "each must be at least 1"),
            (Meta { pad: 65_000, ..meta() }, "with a border of 65000 seen as"),
            (
                Meta {
                    augment: Some(Augment::RandAugment { operations: 0, magnitude: 9 }),
                    ..meta()
                },
                "0 operations of magnitude 9 for each view: must be 1 to 16",
            ),
            (
                Meta { stored_epochs: Some(2), ..meta() },
                "2 stored epochs of 2: must be at least 1, and fewer than all",
            ),
            (top_k(3, 1.0), "the 3 largest of 3 logits: must be at least 1, and fewer than all"),
            (top_k(1, 0.0), "a temperature of 0: must be above 0"),
        ];
        for (meta, expected) in cases {
            let message = Writer::open(&path, meta).err().unwrap().to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
    }

    #[test]
    fn only_finished_stores_appear() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("labels");
        let batches = batches(&meta(), 1);
        let mut writer = Writer::open(&path, meta()).unwrap();
        writer.append(&batches[0]).unwrap();
        let message = writer.finish().unwrap_err().to_string();
        assert!(message.contains("1 batches where the metadata announces 6"), "{message}");
        assert!(!path.exists());

        let mut writer = Writer::open(&path, meta()).unwrap();
        for batch in &batches {
            writer.append(batch).unwrap();
        }
        let message = writer.append(&batches[0]).unwrap_err().to_string();
        assert!(message.contains("more batches than the metadata announces"), "{message}");
        writer.finish().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    /// Dropping a writer leaves the same file as a kill, except for unflushed data.
    #[test]
    fn a_writer_goes_on_after_the_last_whole_epoch() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("labels");
        let meta = Meta { epochs: 4, ..meta() };
        let batches = batches(&meta, 1);
        let per_epoch = batches.len() / 4;
        let whole = file_of(&meta, &batches);
        let begun = |count: usize| {
            let mut writer = Writer::open(&path, meta.clone()).unwrap();
            let first = writer.epochs() as usize * per_epoch;
            batches[first..count].iter().for_each(|batch| writer.append(batch).unwrap());
            writer.epochs()
        };
        let goes_on_from = |epoch: u32| {
            let mut writer = Writer::open(&path, meta.clone()).unwrap();
            assert_eq!(writer.epochs(), epoch);
            for batch in &batches[epoch as usize * per_epoch..] {
                writer.append(batch).unwrap();
            }
            writer.finish().unwrap();
            assert!(fs::read(&path).unwrap() == whole, "from epoch {epoch}");
            fs::remove_file(&path).unwrap();
        };
        assert_eq!(begun(per_epoch - 1), 0);
        goes_on_from(0);
        assert_eq!(begun(2 * per_epoch), 2);
        assert_eq!(begun(3 * per_epoch + 1), 3);
        goes_on_from(3);
        // Damage costs its epoch and all later ones; another head costs all epochs.
        let spoilt = |at: &dyn Fn(usize) -> usize| {
            begun(batches.len());
            let mut bytes = fs::read(under_way(&path)).unwrap();
            let place = at(bytes.len());
            bytes[place] ^= 1;
            fs::write(under_way(&path), bytes).unwrap();
        };
        spoilt(&|length| length - 40);
        goes_on_from(3);
        spoilt(&|length| length - 1);
        goes_on_from(3);
        spoilt(&|_| 30);
        goes_on_from(0);
        begun(batches.len());
        goes_on_from(4);
        begun(2 * per_epoch);
        let other = Meta { config_hash: "other".into(), ..meta.clone() };
        assert_eq!(Writer::open(&path, other).unwrap().epochs(), 0);
    }

    fn file_of(meta: &Meta, batches: &[LabelBatch]) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("labels"), meta, batches);
        fs::read(dir.path().join("labels")).unwrap()
    }

    #[test]
    fn batches_that_are_not_there_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("labels");
        write(&path, &meta(), &batches(&meta(), 1));
        let store = LabelStore::open(&path).unwrap();
        for (epoch, batch) in [(2, 0), (0, 3), (usize::MAX, usize::MAX)] {
            let message = store.get(epoch, batch).unwrap_err().to_string();
            assert!(message.contains("but there are 2 epochs of 3 batches"), "{message}");
        }
        let message = LabelStore::open(&dir.path().join("none")).unwrap_err().to_string();
        assert!(message.contains("cannot open"), "{message}");
    }
}
