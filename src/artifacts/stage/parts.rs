//! Parts of a stage that several processes make at the same time. Each part has a lock. The process
//! that holds the stage's own lock makes the stage; the others help it, and note their cost beside
//! the locks.

use std::fs::{self, DirEntry};
use std::path::{Path, PathBuf};

use super::lock::Lock;
use super::{StageError, Timing, write_atomic};

/// The names of helpers' notes begin with this.
const HELPED: &str = "helped-";

/// A part of a stage that this process alone is at, until this is dropped.
#[derive(Debug)]
pub struct TakenPart(#[expect(dead_code, reason = "it is held, not read")] Lock);

/// Takes the part `name` in the folder `parts`, unless another process is at it.
pub fn take(parts: &Path, name: &str) -> Result<Option<TakenPart>, StageError> {
    Ok(Lock::attempt(&parts.join(name))?.map(TakenPart))
}

/// Whether a process is at a part.
pub fn are_held(parts: &Path) -> Result<bool, StageError> {
    let locks = fs::read_dir(parts).into_iter().flatten().flatten();
    let mut locks = locks.filter(|lock| !is_note(lock));
    locks.try_fold(false, |held, lock| Ok(held || Lock::is_held(&lock.path())?))
}

fn is_note(entry: &DirEntry) -> bool {
    entry.file_name().to_string_lossy().starts_with(HELPED)
}

/// The notes of all helpers.
fn notes(parts: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(parts).into_iter().flatten().flatten();
    entries.filter(is_note).map(|note| note.path())
}

/// Forgets the help so far. A note that can't be removed counts again.
pub fn forget_help(parts: &Path) {
    notes(parts).for_each(|note| drop(fs::remove_file(note)));
}

/// Notes the cost of this process's help so far.
pub fn note_help(parts: &Path, timing: &Timing) -> Result<(), StageError> {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = format!("{HELPED}{}-{}", host.trim(), std::process::id());
    write_atomic(&parts.join(name), serde_json::json!(timing).to_string().as_bytes())
}

/// The seconds of all help so far. Notes that can't be read do not count.
pub fn helped_seconds(parts: &Path) -> f64 {
    let timings = notes(parts)
        .filter_map(|note| serde_json::from_slice::<Timing>(&fs::read(note).ok()?).ok());
    timings.map(|timing| timing.seconds).sum()
}
