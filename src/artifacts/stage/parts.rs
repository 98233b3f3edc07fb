//! Parts of a stage that several processes make at the same time. Each part has a lock. The process
//! that holds the stage's own lock makes the stage; the others help it, and note their cost beside
//! the locks.

use std::fs;
use std::path::Path;

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

/// Notes the cost of this process's help so far.
pub fn note_help(parts: &Path, timing: &Timing) -> Result<(), StageError> {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = format!("{HELPED}{}-{}", host.trim(), std::process::id());
    write_atomic(&parts.join(name), serde_json::json!(timing).to_string().as_bytes())
}

/// The seconds of all help so far. Notes that can't be read do not count.
pub fn helped_seconds(parts: &Path) -> f64 {
    let notes = fs::read_dir(parts).into_iter().flatten().flatten();
    let notes = notes.filter(|note| note.file_name().to_string_lossy().starts_with(HELPED));
    let timings = notes
        .filter_map(|note| serde_json::from_slice::<Timing>(&fs::read(note.path()).ok()?).ok());
    timings.map(|timing| timing.seconds).sum()
}
