//! Reads a store: random access to its batches, each epoch checked when it is first read.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use memmap2::Mmap;
use sha2::{Digest, Sha256};

use super::record::{check_batch, decode, read_u32, read_u64};
use super::{
    HASH, LabelBatch, MAGIC, MAX_METADATA, Meta, PREFIX, RELABEL_AGAIN, RELABEL_IN_THIS_FORM,
    StoreError, StoreLayout, VERSION, epoch_hasher, io_error,
};

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

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The identity of the contents: SHA-256 of the hashes of the head and of all epochs, 64 hex
    /// digits. It covers the records if [`check`](Self::check) finds no damage.
    pub fn identity(&self) -> String {
        let hash = |end: usize| &self.map[end - HASH..end];
        let mut hasher = Sha256::new_with_prefix(hash(self.layout.records as usize));
        for epoch in 1..=self.checked.len() as u64 {
            hasher.update(hash(self.layout.start(epoch * self.layout.batches) as usize));
        }
        hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
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
