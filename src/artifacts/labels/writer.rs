//! Writes a store, or goes on with one that was begun.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::record::{check_batch, encode};
use super::{
    HASH, LabelBatch, MAGIC, MAX_METADATA, Meta, StoreError, StoreLayout, VERSION, epoch_hasher,
    io_error,
};
use crate::files::STORE_UNDER_WAY;

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
pub(super) fn under_way(path: &Path) -> PathBuf {
    let mut aside = path.as_os_str().to_owned();
    aside.push(STORE_UNDER_WAY);
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
