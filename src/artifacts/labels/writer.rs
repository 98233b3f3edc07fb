//! Writes a store, or goes on with one that was begun.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::record::{check_batch, encode};
use super::{
    HASH, LabelBatch, MAGIC, MAX_METADATA, Meta, StoreError, StoreLayout, VERSION, epoch_hasher,
    io_error,
};
use crate::files::{STORE_UNDER_WAY, epoch_apart};

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
        let (layout, head) = prepare(path, &meta)?;
        let aside = under_way(path);
        let whole = whole_epochs(&aside, &head, &layout, meta.stored_epochs())
            .map_err(|source| io_error(&aside, "read", source))?;
        let length = if whole == 0 { 0 } else { layout.start(whole * layout.batches) };
        let file = open_aside(&aside, length)?;
        let next = whole * layout.batches;
        let mut writer = Self::of(path, aside, meta, layout, next, file, &head);
        if whole == 0 {
            writer.write(&head)?;
        }
        Ok(writer)
    }

    /// Starts the file of `epoch` alone, of the store that will be at `path`, to be
    /// [finished](Self::finish_epoch) and later [absorbed](Self::absorb). One process at a time.
    ///
    /// # Errors
    /// When `meta` is inconsistent, or the disk refuses.
    pub fn open_epoch(path: &Path, meta: Meta, epoch: u32) -> Result<Self, StoreError> {
        let (layout, head) = prepare(path, &meta)?;
        let aside = under_way(&epoch_path(path, epoch));
        let file = open_aside(&aside, 0)?;
        let next = layout.batches * u64::from(epoch);
        Ok(Self::of(path, aside, meta, layout, next, file, &head))
    }

    fn of(
        path: &Path,
        aside: PathBuf,
        meta: Meta,
        layout: StoreLayout,
        next: u64,
        file: BufWriter<File>,
        head: &[u8],
    ) -> Self {
        let mut hash = [0; HASH];
        hash.copy_from_slice(&head[head.len() - HASH..]);
        let hasher = Sha256::new();
        Self { path: path.into(), aside, meta, layout, next, file, head: hash, hasher }
    }

    /// The epochs after the complete ones that are intact in files of their own.
    ///
    /// # Errors
    /// When such a file can't be read.
    pub fn epochs_apart(&self) -> Result<BTreeSet<u32>, StoreError> {
        let mut found = BTreeSet::new();
        for epoch in self.epochs()..self.meta.stored_epochs() {
            let path = epoch_path(&self.path, epoch);
            let is_whole = || {
                let file = match File::open(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                    file => file?,
                };
                let has_length = file.metadata()?.len() == self.layout.epoch() + HASH as u64;
                let mut file = BufReader::new(file);
                Ok(has_length && is_whole_epoch(&mut file, &self.head, epoch.into(), &self.layout)?)
            };
            if is_whole().map_err(|source| io_error(&path, "read", source))? {
                found.insert(epoch);
            }
        }
        Ok(found)
    }

    /// Appends the next epoch from its own file.
    ///
    /// # Errors
    /// When that file can't be read, or the disk refuses.
    pub fn absorb(&mut self) -> Result<(), StoreError> {
        let path = epoch_path(&self.path, self.epochs());
        let mut part = File::open(&path).map_err(|source| io_error(&path, "read", source))?;
        io::copy(&mut part, &mut self.file)
            .and_then(|_| self.file.flush())
            .map_err(|source| io_error(&self.aside, "write", source))?;
        self.next += self.layout.batches;
        Ok(())
    }

    /// Completes the file of one epoch, and gives it its name.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn finish_epoch(self) -> Result<(), StoreError> {
        let path = epoch_path(&self.path, self.epochs() - 1);
        keep(self.file, &self.aside, &path)
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
        keep(self.file, &self.aside, &self.path)?;
        Ok(self.layout.end)
    }

    fn places(&self) -> u64 {
        self.layout.batches * u64::from(self.meta.stored_epochs())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(bytes).map_err(|source| io_error(&self.aside, "write", source))
    }
}

/// The positions in the store that will be at `path`, and its bytes before the first epoch.
fn prepare(path: &Path, meta: &Meta) -> Result<(StoreLayout, Vec<u8>), StoreError> {
    let unfit = |problem| StoreError::Unfit { path: path.into(), problem };
    if let Some(problem) = meta.problem() {
        return Err(unfit(problem));
    }
    let json =
        serde_json::to_vec(meta).map_err(|error| unfit(format!("the metadata ({error})")))?;
    if json.len() > MAX_METADATA {
        return Err(unfit(format!("metadata of {} bytes", json.len())));
    }
    let layout = meta.layout(json.len()).ok_or_else(|| unfit("so many labels".into()))?;
    let places = layout.batches * u64::from(meta.stored_epochs());
    let head = head(&json, &layout, places);
    Ok((layout, head))
}

/// Opens the unfinished file `aside` behind its first `length` bytes.
fn open_aside(aside: &Path, length: u64) -> Result<BufWriter<File>, StoreError> {
    let open = || {
        let mut file = File::options().create(true).truncate(false).write(true).open(aside)?;
        file.set_len(length)?;
        file.seek(SeekFrom::End(0))?;
        Ok(BufWriter::new(file))
    };
    open().map_err(|source| io_error(aside, "write", source))
}

/// Syncs the finished `file` to disk and renames it from `aside` to `path`.
fn keep(file: BufWriter<File>, aside: &Path, path: &Path) -> Result<(), StoreError> {
    let file = file.into_inner().map_err(|error| io_error(aside, "write", error.into_error()))?;
    file.sync_all().map_err(|source| io_error(aside, "flush to disk", source))?;
    fs::rename(aside, path)
        .map_err(|source| io_error(path, "rename the finished file to this name", source))
}

/// The file of one epoch of the store at `path`, before the store has it.
fn epoch_path(path: &Path, epoch: u32) -> PathBuf {
    let mut apart = path.as_os_str().to_owned();
    apart.push(epoch_apart(epoch));
    apart.into()
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
    for epoch in 0..u64::from(epochs) {
        if !is_whole_epoch(&mut file, &head[head.len() - HASH..], epoch, layout)? {
            return Ok(epoch);
        }
    }
    Ok(u64::from(epochs))
}

/// Reads the records of `epoch` and their hash. `head` is the head's hash. Returns whether they are
/// intact.
fn is_whole_epoch(
    file: &mut impl Read,
    head: &[u8],
    epoch: u64,
    layout: &StoreLayout,
) -> io::Result<bool> {
    let mut part = vec![0; (1 << 20).min(layout.epoch() as usize)];
    let mut hasher = epoch_hasher(head, epoch);
    let mut left = layout.epoch() as usize;
    while left > 0 {
        let part = &mut part[..left.min(1 << 20)];
        if !read_whole(file, part)? {
            return Ok(false);
        }
        hasher.update(&part);
        left -= part.len();
    }
    let mut hash = [0; HASH];
    Ok(read_whole(file, &mut hash)? && hasher.finalize()[..] == hash)
}

/// Fills `bytes`. Returns `false` if the file ends before.
fn read_whole(file: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(bytes) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| true),
    }
}
