//! The directory of a stage under way, its parts and its cost.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::clock::Begun;
use super::lock;
use super::parts::{self, TakenPart};
use super::{
    ComputedOn, RECORD, Stage, StageError, TIMING, contents, create_directories, entries, io_error,
    is_scratch, partial_name, write_atomic,
};
use crate::atomic;

/// The directory in which a stage is being made.
#[derive(Debug)]
pub struct WorkDir {
    pub(super) path: PathBuf,
    /// The folder of the locks of its parts.
    pub(super) parts: PathBuf,
    /// Whether this process makes parts only.
    pub(super) helps: bool,
    resumed: bool,
    passes: u64,
    begun: Begun,
    computed_on: Mutex<Option<ComputedOn>>,
    /// The cost of interrupted runs, up to the last part that they completed.
    before: Option<Timing>,
}

impl WorkDir {
    /// Opens the partial directory of `stage`, or creates it.
    pub(super) fn open(
        complete: &Path,
        stage: &Stage,
        parts: PathBuf,
        (begun, computed_on): (Begun, Option<ComputedOn>),
    ) -> Result<Self, StageError> {
        let path = partial_name(complete);
        let mut resumed = path.exists();
        if resumed && stage.difference(&path).is_some() {
            fs::remove_dir_all(&path).map_err(io_error("remove", &path))?;
            resumed = false;
        }
        create_directories(&path)?;
        if !resumed {
            parts::forget_help(&parts);
        }
        let before = Timing::read(&path);
        write_atomic(&path.join(RECORD), &stage.record_file())?;
        let (passes, computed_on) = (stage.passes, Mutex::new(computed_on));
        Ok(Self { path, parts, helps: false, resumed, passes, begun, computed_on, before })
    }

    /// The partial directory of `stage`, of which other processes may make parts too. `None` if
    /// there is none.
    pub(super) fn join(
        complete: &Path,
        stage: &Stage,
        parts: PathBuf,
        (begun, computed_on): (Begun, Option<ComputedOn>),
    ) -> Option<Self> {
        let path = partial_name(complete);
        if stage.difference(&path).is_some() {
            return None;
        }
        let (resumed, passes, before) = (false, stage.passes, None);
        let computed_on = Mutex::new(computed_on);
        Some(Self { path, parts, helps: true, resumed, passes, begun, computed_on, before })
    }

    /// The directory itself. Files written here directly must get their name by a rename: after a
    /// kill, every existing file counts as complete, but for those that end in `.under-way`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Checks that what the stage holds already was computed on the same device, in the same
    /// precision. The rest would give other bytes otherwise.
    pub fn goes_on_here(&self) -> Result<(), StageError> {
        if self.helps {
            self.note_begun()?;
        }
        let before = Timing::read(&self.path).and_then(|timing| timing.computed_on);
        match (before, self.on().as_ref()) {
            (Some(begun), Some(now)) if !begun.goes_on(now) => Err(StageError::Begun {
                directory: self.path.clone(),
                begun: begun.to_string(),
                now: now.to_string(),
            }),
            _ => Ok(()),
        }
    }

    /// Notes what computes the stage, unless that is noted already: of several processes that begin
    /// it the first one decides.
    fn note_begun(&self) -> Result<(), StageError> {
        let timing = Timing {
            seconds: 0.0,
            resumed: false,
            passes: Some(self.passes),
            peak_bytes: None,
            computed_on: self.on().clone(),
        };
        let path = self.path.join(TIMING);
        match atomic::write_new(&path, &timing.bytes()) {
            Err(source) if self.is_under_way() => Err(io_error("write", &path)(source)),
            // Meanwhile the stage may have become complete, under its final name.
            _ => Ok(()),
        }
    }

    /// Notes that this computes the stage, in place of what computes the run's others.
    pub fn computes_on(&self, computed_on: ComputedOn) {
        *self.on() = Some(computed_on);
    }

    fn on(&self) -> MutexGuard<'_, Option<ComputedOn>> {
        self.computed_on.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an interrupted run began this directory.
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// Takes the part `name` of the work, unless another process is at it.
    ///
    /// Whoever makes the stage must have taken each part before the stage is complete. A helper
    /// whose part is not there must look whether the stage [`is_under_way`](Self::is_under_way)
    /// before it makes it: the stage may have become complete, under its final name.
    pub fn take(&self, name: &str) -> Result<Option<TakenPart>, StageError> {
        if self.helps && !self.is_under_way() {
            return Ok(None);
        }
        parts::take(&self.parts, name)
    }

    /// Who is at the part `name`, for the user.
    pub fn who_is_at(&self, name: &str) -> String {
        lock::holder(&self.parts.join(name))
    }

    /// Whether the stage is not complete yet.
    pub fn is_under_way(&self) -> bool {
        self.has(RECORD)
    }

    /// Looks at the folder `relative` anew: a network file system renews what it knows of a folder
    /// when that is opened.
    pub fn look_again(&self, relative: impl AsRef<Path>) {
        // A folder that is not there has nothing to renew.
        let _ = fs::read_dir(self.path.join(relative));
    }

    /// Whether this or an interrupted run committed `relative`.
    pub fn has(&self, relative: impl AsRef<Path>) -> bool {
        self.path.join(relative).exists()
    }

    /// Writes `relative` atomically, and creates missing directories.
    pub fn write(&self, relative: impl AsRef<Path>, bytes: &[u8]) -> Result<PathBuf, StageError> {
        let path = self.path.join(relative);
        write_atomic(&path, bytes)?;
        Ok(path)
    }

    /// Like [`write`](Self::write), for a file that completes a part of the work. No later run
    /// repeats that part, so its cost is noted.
    pub fn write_last_of_part(
        &self,
        relative: impl AsRef<Path>,
        bytes: &[u8],
    ) -> Result<PathBuf, StageError> {
        let path = self.write(relative, bytes)?;
        self.note_cost()?;
        Ok(path)
    }

    /// Notes the cost of the work until now, which no later run repeats.
    pub fn note_cost(&self) -> Result<(), StageError> {
        let (seconds, peak) =
            self.before.as_ref().map_or((0.0, None), |before| (before.seconds, before.peak_bytes));
        let timing = Timing {
            seconds: seconds + self.begun.seconds(),
            resumed: self.resumed,
            passes: Some(self.passes),
            peak_bytes: peak.max(self.begun.peak()),
            computed_on: self.on().clone().or_else(|| self.before.as_ref()?.computed_on.clone()),
        };
        if self.helps { parts::note_help(&self.parts, &timing) } else { self.write_timing(&timing) }
    }

    fn write_timing(&self, timing: &Timing) -> Result<(), StageError> {
        self.write(TIMING, &timing.bytes()).map(|_| ())
    }

    /// Removes the file `relative`, if it is there.
    pub fn remove(&self, relative: impl AsRef<Path>) -> Result<(), StageError> {
        let path = self.path.join(relative);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(io_error("remove", &path)),
        }
    }

    /// Removes the directory if `work` failed before it wrote anything, and nobody helps.
    pub(super) fn remove_if_untouched(&self) {
        if parts::are_held(&self.parts).unwrap_or(true) {
            return;
        }
        let only_record = fs::read_dir(&self.path).is_ok_and(|mut entries| {
            entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == RECORD))
        });
        if only_record {
            // If this fails, the next run continues the directory.
            let _ = fs::remove_dir_all(&self.path);
        }
    }

    pub(super) fn commit(self, complete: &Path) -> Result<PathBuf, StageError> {
        sweep(&self.path)?;
        self.note_cost()?;
        let helped = parts::helped_seconds(&self.parts);
        if let Some(own) = Timing::read(&self.path).filter(|_| helped > 0.0) {
            self.write_timing(&Timing { seconds: own.seconds + helped, ..own })?;
            parts::forget_help(&self.parts);
        }
        contents::record(&self.path)?;
        sync_tree(&self.path)?;
        fs::rename(&self.path, complete).map_err(io_error("rename to", complete))?;
        complete.parent().map_or(Ok(()), sync)?;
        // What can't be removed is of no use, and in nobody's way.
        let _ = fs::remove_dir_all(&self.parts);
        Ok(complete.to_path_buf())
    }
}

/// The cost of a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Wall-clock seconds of the stage, summed over the processes that made it. While `n` stages
    /// run, each gets the `n`th part. Interrupted runs count up to the last part that they
    /// completed, because later work was repeated.
    pub seconds: f64,
    /// Whether the run that completed it continued an interrupted one.
    pub resumed: bool,
    /// The cost of the whole work, in images through its network.
    #[serde(default)]
    pub passes: Option<u64>,
    /// Peak of the process's resident memory during the stage, in bytes, if the system reports it.
    /// It includes the memory of stages that ran at the same time.
    #[serde(default)]
    pub peak_bytes: Option<u64>,
    /// The device and libraries that computed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub computed_on: Option<ComputedOn>,
}

impl Timing {
    fn bytes(&self) -> Vec<u8> {
        format!("{:#}\n", json!(self)).into_bytes()
    }

    /// The timing of a complete stage directory, if it has one.
    pub fn read(directory: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(directory.join(TIMING)).ok()?).ok()
    }
}

/// Removes scratch files of a killed run.
fn sweep(directory: &Path) -> Result<(), StageError> {
    for (path, is_directory) in entries(directory)? {
        match (is_scratch(&path), is_directory) {
            (true, true) => fs::remove_dir_all(&path).map_err(io_error("remove", &path))?,
            (true, false) => fs::remove_file(&path).map_err(io_error("remove", &path))?,
            (false, true) => sweep(&path)?,
            (false, false) => {}
        }
    }
    Ok(())
}

/// Syncs all files and directories below `directory` to disk, so that even after a power cut a
/// final name stands for complete contents.
fn sync_tree(directory: &Path) -> Result<(), StageError> {
    for (path, is_directory) in entries(directory)? {
        if is_directory { sync_tree(&path)? } else { sync(&path)? }
    }
    sync(directory)
}

fn sync(path: &Path) -> Result<(), StageError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(io_error("sync", path))
}
