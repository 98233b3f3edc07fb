//! Content-addressed stage directories: a directory with its final name is complete, and equal work
//! is done once.
//!
//! ```text
//! <root>/<stage>/<name>-<16 hex digits>/           complete
//! <root>/<stage>/<name>-<16 hex digits>.partial/   unfinished: the next run continues it
//! <root>/.locks/                                   a file per stage and report, never removed
//! <root>/.locks/<kind>-<name>-<key>.parts/         a file per part of a stage under way
//! <root>/.failures/                                why the last attempt at a stage failed
//! ```
//!
//! The digits are the first of the stage's key. Each directory holds `stage.json`, the record whose
//! hash is the key. A complete directory also holds `contents.json`, which reveals damage, and
//! `timing.json`, the only file that may differ between two runs of the same work.

mod clock;
mod contents;
mod lock;
mod memory;
mod parts;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::atomic::{self, SCRATCH};
use clock::{Begun, Clock};
use contents::Problem;
use lock::Lock;
pub use lock::Wait;
pub use parts::TakenPart;

pub(super) const RECORD: &str = "stage.json";
pub(super) const TIMING: &str = "timing.json";
const LOCKS: &str = ".locks";
const FAILURES: &str = ".failures";
/// The lock of a directory while it is filled.
const FILLING: &str = ".scdd-lock";
const PARTIAL: &str = ".partial";
/// Receives messages for the user that must not wait.
pub type Tell<'a> = &'a dyn Fn(&str);

/// Why a stage could not be run or stored.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The file system refused.
    #[error("cannot {action} {}: {source}{}", path.display(), advice(source))]
    Io {
        /// The attempted action: "write", "create", …
        action: &'static str,
        /// The file or directory concerned.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A complete directory has the right name, but another record: it was made for other work or
    /// edited.
    #[error("{} holds other work than its name says ({difference}): move it away, then run again", directory.display())]
    Mismatch {
        /// The directory.
        directory: PathBuf,
        /// The first difference between its record and the expected one.
        difference: String,
    },
    /// A complete stage's files have changed.
    #[error("{}: {damage}; `scdd run` with the experiment that it belongs to makes it again", directory.display())]
    Damaged {
        /// The stage's directory.
        directory: PathBuf,
        /// The first missing or changed file.
        damage: String,
    },
    /// A stage's directory contains a file that the stage did not write.
    #[error("{} is no file of its stage, whose directory may hold nothing else: move it away, then run again", file.display())]
    Foreign {
        /// The file.
        file: PathBuf,
    },
    /// JSON can't represent a configuration.
    #[error("the configuration of the stage `{stage}` cannot be recorded: {source}")]
    Record {
        /// The stage's name.
        stage: String,
        /// The serialiser's error.
        source: serde_json::Error,
    },
}

/// Advice on an error of the file system, if there is any.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "; free some space and run again: finished work is kept"
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "; choose a directory that can be written"
        }
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            "; a file is where a directory should be"
        }
        _ => "",
    }
}

pub(super) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StageError {
    let path = path.to_path_buf();
    move |source| StageError::Io { action, path, source }
}

/// One unit of work, with everything that its result depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    stage: String,
    name: String,
    record: Value,
    passes: u64,
}

/// The state of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The result exists.
    Complete,
    /// The result exists but was changed; the next run makes it again.
    Damaged,
    /// A process is making it.
    Running,
    /// The stage was begun; the next run continues it.
    Interrupted,
    /// Nothing of the stage exists.
    Missing,
}

impl Stage {
    /// `stage` is the kind of work (`recover`). `version` changes whenever the stage's code gives
    /// other results. `name` is for people and must follow from the rest, because equal work under
    /// another name is done again. `inputs` are the hashes of everything that is read.
    pub fn new(
        stage: &str,
        version: u32,
        name: &str,
        config: &impl Serialize,
        inputs: BTreeMap<String, String>,
        seed: u64,
    ) -> Result<Self, StageError> {
        let config = serde_json::to_value(config)
            .map_err(|source| StageError::Record { stage: stage.to_string(), source })?;
        let record = json!({"stage": stage, "version": version, "config": config, "inputs": inputs, "seed": seed});
        Ok(Self { stage: plain(stage), name: plain(name), record: canonical(record), passes: 0 })
    }

    /// The same stage with its cost: `passes` images through its network. The cost is not part of
    /// its identity.
    pub fn of_passes(self, passes: u64) -> Self {
        Self { passes, ..self }
    }

    /// The kind of work.
    pub fn kind(&self) -> &str {
        &self.stage
    }

    /// The cost of its work, in images through its network.
    pub fn passes(&self) -> u64 {
        self.passes
    }

    /// The hash of the network that runs in this stage.
    pub fn network(&self) -> Option<String> {
        network_of(&self.record)
    }

    /// [`Stage::network`] of the stage in `directory`.
    pub fn network_in(directory: &Path) -> Option<String> {
        network_of(&serde_json::from_slice(&fs::read(directory.join(RECORD)).ok()?).ok()?)
    }

    /// The stage's identity: BLAKE3 of its canonical JSON record, 64 hex digits. Later stages use
    /// it as the hash of this input.
    pub fn key(&self) -> String {
        blake3::hash(self.record.to_string().as_bytes()).to_hex().to_string()
    }

    /// The directory's name below `<root>/<stage>/`.
    pub fn directory_name(&self) -> String {
        format!("{}-{}", self.name, &self.key()[..16])
    }

    /// The bytes of `stage.json`: the record, and the program that wrote it.
    fn record_file(&self) -> Vec<u8> {
        let mut record = self.record.clone();
        record["scdd"] = env!("CARGO_PKG_VERSION").into();
        format!("{record:#}\n").into_bytes()
    }

    /// The difference between the record in `directory` and this stage's, or `None` if it is the
    /// same work.
    fn difference(&self, directory: &Path) -> Option<String> {
        let parse = |text: &str| serde_json::from_str::<Value>(text).ok();
        let Some(mut found) =
            fs::read_to_string(directory.join(RECORD)).ok().as_deref().and_then(parse)
        else {
            return Some(format!("no readable {RECORD}"));
        };
        if let Value::Object(found) = &mut found {
            found.remove("scdd");
        }
        // Both sides are parsed, so that floats round alike.
        let expected = parse(&self.record.to_string()).unwrap_or_default();
        first_difference("", &found, &expected)
    }
}

/// The student if there is one, else the teacher or bundle.
fn network_of(record: &Value) -> Option<String> {
    let inputs = &record["inputs"];
    ["student", "teacher", "bundle"]
        .iter()
        .find_map(|input| Some(inputs.get(input)?.as_str()?.to_string()))
}

/// `name` as a file name: all but letters, digits, `.`, `_` and `-` becomes `-`.
fn plain(name: &str) -> String {
    let keep =
        |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
    name.trim_start_matches('.').chars().take(100).map(keep).collect()
}

/// The same JSON with sorted keys.
fn canonical(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<String, Value> =
                map.into_iter().map(|(key, value)| (key, canonical(value))).collect();
            Value::Object(Map::from_iter(sorted))
        }
        Value::Array(items) => items.into_iter().map(canonical).collect(),
        scalar => scalar,
    }
}

fn first_difference(path: &str, found: &Value, expected: &Value) -> Option<String> {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            let keys = found.keys().chain(expected.keys().filter(|key| !found.contains_key(*key)));
            let value =
                |map: &Map<String, Value>, key: &String| map.get(key).cloned().unwrap_or_default();
            keys.into_iter().find_map(|key| {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                first_difference(&path, &value(found, key), &value(expected, key))
            })
        }
        _ if found == expected => None,
        _ => Some(format!("{RECORD} has {path} = {found}, expected {expected}")),
    }
}

/// The outcome of an attempt at a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// The directory of the complete result.
    Complete(PathBuf),
    /// Another process is at the stage: who, and at what.
    Elsewhere(String),
}

/// The directory that holds all stage directories.
#[derive(Debug, Clone)]
pub struct StageStore {
    root: PathBuf,
    clock: Clock,
}

impl StageStore {
    /// A store below `root`, which is created by the first stage.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), clock: Clock::default() }
    }

    /// The final path of `stage`, whether or not it exists.
    pub fn path(&self, stage: &Stage) -> PathBuf {
        self.root.join(&stage.stage).join(stage.directory_name())
    }

    /// Checks the directory with the final name of `stage`. An error if it holds other work.
    pub fn look(&self, stage: &Stage) -> Result<Found, StageError> {
        let directory = self.path(stage);
        match directory.try_exists() {
            Ok(true) => {}
            Ok(false) => return Ok(Found::Nothing),
            Err(error) if error.kind() == ErrorKind::NotADirectory => return Ok(Found::Nothing),
            Err(source) => {
                return Err(StageError::Io { action: "look for", path: directory, source });
            }
        }
        if let Some(difference) = stage.difference(&directory) {
            return Err(StageError::Mismatch { directory, difference });
        }
        match contents::problem(&directory)? {
            None => Ok(Found::Complete(directory)),
            Some(Problem::Damage(damage)) => Ok(Found::Damaged(damage)),
            Some(Problem::Foreign(file)) => Err(StageError::Foreign { file }),
        }
    }

    /// The complete result of `stage`, if there is one; an error if it is damaged.
    pub fn find(&self, stage: &Stage) -> Result<Option<PathBuf>, StageError> {
        match self.look(stage)? {
            Found::Nothing => Ok(None),
            Found::Complete(directory) => Ok(Some(directory)),
            Found::Damaged(damage) => {
                Err(StageError::Damaged { directory: self.path(stage), damage })
            }
        }
    }

    /// Makes `stage` by `work`, unless it is complete or another process is at it.
    ///
    /// `work` gets a directory that may hold files that an interrupted run committed, and should
    /// keep them. A damaged result is removed and made again, which is told. After an error the
    /// directory stays for the next attempt, unless it is empty.
    pub fn attempt<E: From<StageError>>(
        &self,
        stage: &Stage,
        tell: Tell,
        work: impl FnOnce(&WorkDir) -> Result<(), E>,
    ) -> Result<Attempt, E> {
        if let Found::Complete(directory) = self.look(stage)? {
            tracing::debug!("complete {}", directory.display());
            return Ok(Attempt::Complete(directory));
        }
        let directory = self.path(stage);
        let lock = self.lock_path(&directory);
        let Some(_lock) = Lock::attempt(&lock)? else {
            return Ok(Attempt::Elsewhere(format!(
                "{}, which is at {}",
                lock::holder(&lock),
                label(&directory)
            )));
        };
        match self.look(stage)? {
            Found::Complete(directory) => return Ok(Attempt::Complete(directory)),
            Found::Damaged(damage) => {
                tell(&format!("{}: {damage}; the stage is made again", directory.display()));
                self.discard(&directory)?;
            }
            Found::Nothing => {}
        }
        tracing::debug!("making {}", directory.display());
        let begun = self.clock.begin();
        let partial = WorkDir::open(&self.path(stage), stage, self.parts_path(stage), begun)?;
        if let Err(error) = work(&partial) {
            partial.remove_if_untouched();
            return Err(error);
        }
        let directory = partial.commit(&self.path(stage))?;
        // If the note can't be removed it is ignored, because the stage is complete.
        let _ = fs::remove_file(self.failure_path(stage));
        Ok(Attempt::Complete(directory))
    }

    /// The directory in which another process is making `stage`, to help it with its parts. `None`
    /// if there is none.
    pub fn join(&self, stage: &Stage) -> Result<Option<WorkDir>, StageError> {
        let path = partial_name(&self.path(stage));
        if stage.difference(&path).is_some() {
            return Ok(None);
        }
        Ok(Some(WorkDir {
            path,
            parts: self.parts_path(stage),
            helps: true,
            resumed: false,
            passes: stage.passes,
            begun: self.clock.begin(),
            before: None,
        }))
    }

    /// Stores why an attempt at `stage` failed, until the stage is complete.
    pub fn note_failure(&self, stage: &Stage, reason: &str) -> Result<(), StageError> {
        write_atomic(&self.failure_path(stage), format!("{reason}\n").as_bytes())
    }

    /// Why the last attempt at `stage` failed, if it was noted.
    pub fn failure(&self, stage: &Stage) -> Option<String> {
        fs::read_to_string(self.failure_path(stage)).ok().map(|reason| reason.trim_end().to_owned())
    }

    fn failure_path(&self, stage: &Stage) -> PathBuf {
        self.root.join(FAILURES).join(label(&self.path(stage)).replace('/', "-"))
    }

    /// The state of `stage`; an error if its directory holds other work.
    pub fn state(&self, stage: &Stage) -> Result<State, StageError> {
        let path = self.path(stage);
        Ok(match self.look(stage)? {
            Found::Complete(_) => State::Complete,
            _ if self.is_being_made(&path)? => State::Running,
            Found::Damaged(_) => State::Damaged,
            Found::Nothing if partial_name(&path).exists() => State::Interrupted,
            Found::Nothing => State::Missing,
        })
    }

    /// The state of a `directory` listed by [`StageStore::all`].
    pub fn state_of(&self, directory: &Path) -> Result<State, StageError> {
        let path = Self::final_name(directory);
        Ok(match contents::problem(directory)? {
            _ if self.is_being_made(&path)? => State::Running,
            _ if path != directory => State::Interrupted,
            None => State::Complete,
            Some(_) => State::Damaged,
        })
    }

    /// Whether some process holds the lock of the stage with the final name `path`.
    pub fn is_being_made(&self, path: &Path) -> Result<bool, StageError> {
        let lock = self.lock_path(path);
        Ok(Lock::is_held(&lock)? || parts::are_held(&parts_of(&lock))?)
    }

    /// Every stage directory, complete or partial, with its kind; sorted.
    pub fn all(&self) -> Result<Vec<(String, PathBuf)>, StageError> {
        let mut found = Vec::new();
        if !self.root.is_dir() {
            return Ok(found);
        }
        for (kind, _) in
            entries(&self.root)?.into_iter().filter(|(path, is_dir)| *is_dir && !is_hidden(path))
        {
            let name = kind.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let stages = entries(&kind)?
                .into_iter()
                .filter(|(path, is_dir)| *is_dir && path.join(RECORD).is_file());
            found.extend(stages.map(|(path, _)| (name.clone(), path)));
        }
        found.sort();
        Ok(found)
    }

    /// The final name of a `directory` listed by [`StageStore::all`].
    pub fn final_name(directory: &Path) -> PathBuf {
        match directory.to_str().and_then(|name| name.strip_suffix(PARTIAL)) {
            Some(name) => PathBuf::from(name),
            None => directory.to_path_buf(),
        }
    }

    /// Removes a `directory` listed by [`StageStore::all`]. A kill meanwhile leaves no part of it
    /// under its name. Returns false if it must not be removed: a process is making it, or it no
    /// longer exists.
    pub fn remove(&self, directory: &Path) -> Result<bool, StageError> {
        let lock = self.lock_path(&Self::final_name(directory));
        let parts = parts_of(&lock);
        match Lock::attempt(&lock)? {
            Some(_lock) if directory.exists() && !parts::are_held(&parts)? => {
                self.discard(directory)?;
                // What can't be removed is of no use, and in nobody's way.
                let _ = fs::remove_dir_all(parts);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Removes `directory`, whose lock is held.
    fn discard(&self, directory: &Path) -> Result<(), StageError> {
        let mut scratch = tempfile::Builder::new();
        let scratch = scratch
            .prefix(SCRATCH)
            .tempdir_in(&self.root)
            .map_err(io_error("write in", &self.root))?;
        fs::rename(directory, scratch.path().join("removed"))
            .map_err(io_error("move away", directory))?;
        scratch.close().map_err(io_error("remove", directory))
    }

    /// The folder of the locks of the parts of `stage`.
    fn parts_path(&self, stage: &Stage) -> PathBuf {
        parts_of(&self.lock_path(&self.path(stage)))
    }

    /// The lock file of the stage with the final name `path`: `<kind>-<directory name>`.
    fn lock_path(&self, path: &Path) -> PathBuf {
        self.root.join(LOCKS).join(label(path).replace('/', "-"))
    }
}

/// The contents found under a stage's final name.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    Nothing,
    /// All files are intact, in this directory.
    Complete(PathBuf),
    /// A file is damaged or missing, as described.
    Damaged(String),
}

/// The folder of the locks of a stage's parts, beside its own `lock`.
fn parts_of(lock: &Path) -> PathBuf {
    PathBuf::from(format!("{}.parts", lock.display()))
}

/// The display name of the stage in `directory`: `<kind>/<directory name>`.
fn label(directory: &Path) -> String {
    let name = |path: Option<&Path>| {
        path.and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned()
    };
    format!("{}/{}", name(directory.parent()), name(Some(directory)))
}

/// Lets `write` fill `directory` with [`write_atomic`], file by file and one process at a time.
/// Scratch files of a killed process are removed.
///
/// # Errors
/// Errors of `write`, or when the directory can't be made or locked.
pub fn fill<E: From<StageError>>(
    directory: &Path,
    tell: Tell,
    write: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let _lock = Lock::wait(&directory.join(FILLING), &directory.display().to_string(), tell)?;
    for (path, is_directory) in entries(directory)? {
        if !is_directory && is_scratch(&path) {
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
    }
    write(directory)
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

fn is_scratch(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(SCRATCH))
}

/// The directory in which a stage is being made.
#[derive(Debug)]
pub struct WorkDir {
    path: PathBuf,
    /// The folder of the locks of its parts.
    parts: PathBuf,
    /// Whether another process is making the stage.
    helps: bool,
    resumed: bool,
    passes: u64,
    begun: Begun,
    /// The cost of interrupted runs, up to the last part that they completed.
    before: Option<Timing>,
}

impl WorkDir {
    /// Opens the partial directory of `stage`, or creates it.
    fn open(
        complete: &Path,
        stage: &Stage,
        parts: PathBuf,
        begun: Begun,
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
        write_atomic(&path.join(RECORD), &stage.record_file())?;
        let before = Timing::read(&path);
        Ok(Self { path, parts, helps: false, resumed, passes: stage.passes, begun, before })
    }

    /// The directory itself. Files written here directly must get their name by a rename: after a
    /// kill, every existing file counts as complete, but for those that end in `.under-way`.
    pub fn path(&self) -> &Path {
        &self.path
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

    /// Whether the stage is not complete yet.
    pub fn is_under_way(&self) -> bool {
        self.has(RECORD)
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
            self.before.map_or((0.0, None), |before| (before.seconds, before.peak_bytes));
        let timing = Timing {
            seconds: seconds + self.begun.seconds(),
            resumed: self.resumed,
            passes: Some(self.passes),
            peak_bytes: peak.max(self.begun.peak()),
        };
        if self.helps { parts::note_help(&self.parts, &timing) } else { self.write_timing(&timing) }
    }

    fn write_timing(&self, timing: &Timing) -> Result<(), StageError> {
        self.write(TIMING, format!("{:#}\n", json!(timing)).as_bytes()).map(|_| ())
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
    fn remove_if_untouched(&self) {
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

    fn commit(self, complete: &Path) -> Result<PathBuf, StageError> {
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
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
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
}

impl Timing {
    /// The timing of a complete stage directory, if it has one.
    pub fn read(directory: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(directory.join(TIMING)).ok()?).ok()
    }
}

/// Writes `path` atomically, and creates missing directories.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), StageError> {
    create_directories(atomic::parent(path))?;
    atomic::write(path, bytes).map_err(io_error("write", path))
}

pub(super) fn create_directories(path: &Path) -> Result<(), StageError> {
    fs::create_dir_all(path).map_err(io_error("create the directory", path))
}

/// The partial directory of the stage with the final name `complete`.
fn partial_name(complete: &Path) -> PathBuf {
    let mut path = complete.as_os_str().to_owned();
    path.push(PARTIAL);
    path.into()
}

/// The size of all files below `directory`, in bytes.
pub fn bytes_in(directory: &Path) -> Result<u64, StageError> {
    let mut sum = 0;
    for (path, is_directory) in entries(directory)? {
        sum += if is_directory {
            bytes_in(&path)?
        } else {
            fs::symlink_metadata(&path).map_err(io_error("look at", &path))?.len()
        };
    }
    Ok(sum)
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

/// The entries of a directory, and whether each is a directory (links are not followed).
pub(super) fn entries(directory: &Path) -> Result<Vec<(PathBuf, bool)>, StageError> {
    let entry = |entry: fs::DirEntry| Ok((entry.path(), entry.file_type()?.is_dir()));
    let list = || {
        fs::read_dir(directory)?.map(|found| found.and_then(entry)).collect::<io::Result<Vec<_>>>()
    };
    list().map_err(io_error("read the directory", directory))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    const QUIET: Tell = &|_| {};

    fn stage(iterations: u32) -> Stage {
        let inputs = BTreeMap::from([("teacher".to_string(), "ab12".to_string())]);
        Stage::new(
            "recover",
            1,
            "net a/ipc10",
            &json!({"r_bn": 0.1, "iterations": iterations}),
            inputs,
            3,
        )
        .unwrap()
    }

    impl StageStore {
        /// Makes the stage, as soon as no other does.
        fn make<E: From<StageError>>(
            &self,
            work: impl FnOnce(&WorkDir) -> Result<(), E>,
        ) -> Result<PathBuf, E> {
            let mut work = Some(work);
            loop {
                let once = |directory: &WorkDir| work.take().unwrap()(directory);
                match self.attempt(&stage(5), QUIET, once)? {
                    Attempt::Complete(directory) => return Ok(directory),
                    Attempt::Elsewhere(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        }
    }

    fn failure() -> StageError {
        StageError::Mismatch { directory: "x".into(), difference: "stopped on purpose".into() }
    }

    fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
        let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        let list = entries(directory).unwrap().into_iter().filter(|(path, _)| name(path) != TIMING);
        list.map(|(path, _)| (name(&path), fs::read(&path).unwrap())).collect()
    }

    #[test]
    fn the_key_depends_on_content_and_not_on_the_order_of_keys() {
        let other = |config: Value, seed| {
            Stage::new("recover", 1, "n", &config, BTreeMap::new(), seed).unwrap().key()
        };
        assert_eq!(
            other(json!({"a": 1, "b": {"c": 1, "d": 2}}), 0),
            other(json!({"b": {"d": 2, "c": 1}, "a": 1}), 0)
        );
        assert_ne!(other(json!({"a": 1}), 0), other(json!({"a": 2}), 0));
        assert_ne!(other(json!({"a": 1}), 0), other(json!({"a": 1}), 1));
        assert_ne!(stage(5).key(), stage(6).key());
        assert!(stage(5).directory_name().starts_with("net-a-ipc10-"));
    }

    #[test]
    fn complete_work_is_not_done_again() {
        let root = tempfile::tempdir().unwrap();
        let store = StageStore::new(root.path().join("deep/store"));
        assert_eq!(store.find(&stage(5)).unwrap(), None);
        let make = |work: &WorkDir| work.write("images/0.png", b"x").map(|_| ());
        let first = store.make(make).unwrap();
        let second = store.make(|_| Err(failure())).unwrap();
        assert_eq!((&first, Some(&first)), (&second, store.find(&stage(5)).unwrap().as_ref()));
        assert_eq!(fs::read(first.join("images/0.png")).unwrap(), b"x");
        let timing = Timing::read(&first).unwrap();
        assert!(timing.seconds >= 0.0 && !timing.resumed);
    }

    #[test]
    fn an_interrupted_stage_is_continued_and_ends_in_the_same_bytes() {
        let (root, quiet) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = StageStore::new(root.path());
        let shards = |work: &WorkDir, upto: usize| {
            let missing: Vec<usize> =
                (0..upto).filter(|i| !work.has(format!("shard-{i}"))).collect();
            std::thread::sleep(std::time::Duration::from_millis(20));
            let write =
                |i: &usize| work.write_last_of_part(format!("shard-{i}"), &[*i as u8]).map(|_| ());
            missing.iter().try_for_each(write)?;
            Ok::<_, StageError>(missing)
        };
        store.make(|work| shards(work, 2).and(Err(failure()))).unwrap_err();
        let partial = PathBuf::from(format!("{}.partial", store.path(&stage(5)).display()));
        fs::write(partial.join(".scdd-tmp-torn"), b"half a shard").unwrap();
        let before = Timing::read(&partial).unwrap().seconds;
        assert!(before >= 0.02, "{before}");

        let mut made = Vec::new();
        let work = |work: &WorkDir| {
            assert!(work.resumed());
            made = shards(work, 4)?;
            Ok::<_, StageError>(())
        };
        let started = Instant::now();
        let resumed = store.make(work).unwrap();
        let elapsed = started.elapsed().as_secs_f64();
        assert_eq!(made, [2, 3]);
        let timing = Timing::read(&resumed).unwrap();
        assert!(timing.resumed && !partial.exists());
        assert!(
            (before + 0.02..=before + elapsed).contains(&timing.seconds),
            "{before} {elapsed} {timing:?}"
        );
        let undisturbed =
            StageStore::new(quiet.path()).make(|work| shards(work, 4).map(|_| ())).unwrap();
        assert_eq!(files(&resumed), files(&undisturbed));
    }

    #[test]
    fn a_killed_process_keeps_what_it_committed_and_frees_its_lock() {
        const ROOT: &str = "SCDD_TEST_STAGE_ROOT";
        // The child process: this same test, which the variable tells to commit one shard and hang.
        if let Some(root) = std::env::var_os(ROOT) {
            let hang = |work: &WorkDir| -> Result<(), StageError> {
                work.write("shard-0", b"0")?;
                loop {
                    std::thread::park();
                }
            };
            StageStore::new(root).make(hang).unwrap();
        }
        let root = tempfile::tempdir().unwrap();
        let store = StageStore::new(root.path());
        let this = "stage::tests::a_killed_process_keeps_what_it_committed_and_frees_its_lock";
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        let command = command
            .args(["--exact", this])
            .env(ROOT, root.path())
            .stdout(std::process::Stdio::null());
        let mut child = command.spawn().unwrap();
        let shard = PathBuf::from(format!("{}.partial/shard-0", store.path(&stage(5)).display()));
        while !shard.exists() {
            assert_eq!(child.try_wait().unwrap(), None, "the child ended before it was killed");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let work = |work: &WorkDir| {
            assert!(work.resumed() && work.has("shard-0"));
            work.write("shard-1", b"1").map(|_| ())
        };
        let names: Vec<String> = files(&store.make(work).unwrap()).into_keys().collect();
        assert_eq!(names, ["contents.json", "shard-0", "shard-1", RECORD]);
    }

    #[test]
    fn a_partial_of_other_work_is_discarded() {
        let root = tempfile::tempdir().unwrap();
        let store = StageStore::new(root.path());
        let partial = PathBuf::from(format!("{}.partial", store.path(&stage(5)).display()));
        write_atomic(&partial.join(RECORD), &stage(6).record_file()).unwrap();
        write_atomic(&partial.join("shard-0"), b"old").unwrap();
        let work = |work: &WorkDir| {
            assert!(!work.has("shard-0") && !work.resumed());
            Ok::<_, StageError>(())
        };
        store.make(work).unwrap();
    }

    #[test]
    fn a_directory_that_is_filled_again_keeps_nothing_half_written() {
        let root = tempfile::tempdir().unwrap();
        let home = root.path().join("report");
        let fill = |bytes: &'static [u8]| {
            super::fill(&home, QUIET, |home| write_atomic(&home.join("page"), bytes))
        };
        fill(b"old").unwrap();
        fs::write(home.join(".scdd-tmp-torn"), b"half a page").unwrap();
        fill(b"new").unwrap();
        let lock = (FILLING.to_string(), Vec::new());
        assert_eq!(files(&home), BTreeMap::from([("page".to_string(), b"new".to_vec()), lock]));
    }

    #[test]
    fn a_failure_before_anything_was_written_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        StageStore::new(root.path()).make(|_| Err(failure())).unwrap_err();
        assert_eq!(fs::read_dir(root.path().join("recover")).unwrap().count(), 0);
    }

    #[test]
    fn states_are_told_apart_and_removal_spares_what_is_being_made() {
        let root = tempfile::tempdir().unwrap();
        let store = StageStore::new(root.path());
        assert!(store.all().unwrap().is_empty());
        assert_eq!(store.state(&stage(5)).unwrap(), State::Missing);
        let inside = |work: &WorkDir| {
            work.write("shard-0", b"12345")?;
            assert_eq!(store.state(&stage(5)).unwrap(), State::Running);
            assert!(!store.remove(work.path()).unwrap());
            Err(failure())
        };
        store.make(inside).unwrap_err();
        assert_eq!(store.state(&stage(5)).unwrap(), State::Interrupted);
        let [(kind, partial)] = store.all().unwrap().try_into().unwrap();
        assert_eq!(
            (kind.as_str(), StageStore::final_name(&partial)),
            ("recover", store.path(&stage(5)))
        );
        let complete = store.make(|_| Ok::<_, StageError>(())).unwrap();
        assert_eq!(store.state(&stage(5)).unwrap(), State::Complete);
        assert_eq!(Stage::network_in(&complete).unwrap(), "ab12");
        assert!(bytes_in(&complete).unwrap() > 5);
        assert!(store.remove(&complete).unwrap());
        assert!(!store.remove(&complete).unwrap(), "is gone");
        assert_eq!(store.state(&stage(5)).unwrap(), State::Missing);
        assert_eq!(
            entries(root.path()).unwrap().len(),
            2,
            "only the locks and the kind's directory are left"
        );
    }

    #[test]
    fn a_directory_that_holds_something_else_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let store = StageStore::new(root.path());
        let directory = store.path(&stage(5));
        write_atomic(&directory.join(RECORD), &stage(6).record_file()).unwrap();
        let error = store.make(|_| Err(failure())).unwrap_err().to_string();
        assert!(error.contains("stage.json has config.iterations = 6, expected 5"), "{error}");
        fs::remove_file(directory.join(RECORD)).unwrap();
        let error = store.find(&stage(5)).unwrap_err().to_string();
        assert!(error.contains("no readable stage.json"), "{error}");
    }

    #[test]
    fn two_at_once_do_the_work_once() {
        let root = tempfile::tempdir().unwrap();
        let (count, barrier) = (AtomicUsize::new(0), Barrier::new(4));
        let run = || {
            barrier.wait();
            StageStore::new(root.path()).make(|work| {
                count.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(std::time::Duration::from_millis(50));
                work.write("done", b"").map(|_| ())
            })
        };
        let paths: Vec<PathBuf> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect()
        });
        assert_eq!(count.load(Ordering::SeqCst), 1);
        assert!(paths.iter().all(|path| *path == paths[0]));
    }

    #[test]
    fn helpers_share_the_parts_and_their_time_counts() {
        let root = tempfile::tempdir().unwrap();
        let (store, other) = (StageStore::new(root.path()), StageStore::new(root.path()));
        assert!(other.join(&stage(5)).unwrap().is_none(), "there is nothing to help");
        let mut parts = PathBuf::new();
        let made = store.make(|work| {
            let helper = other.join(&stage(5)).unwrap().unwrap();
            assert!(matches!(
                other.attempt(&stage(5), QUIET, |_| Err(failure()))?,
                Attempt::Elsewhere(_)
            ));
            let taken = helper.take("0")?.unwrap();
            assert!(work.take("0")?.is_none() && work.take("1")?.is_some());
            std::thread::sleep(Duration::from_millis(20));
            helper.write_last_of_part("part-0", b"0")?;
            let under_way = partial_name(&store.path(&stage(5)));
            assert!(other.is_being_made(&store.path(&stage(5)))?);
            assert!(!other.remove(&under_way)?, "somebody is at it");
            drop(taken);
            assert!(work.take("0")?.is_some() && work.has("part-0"));
            parts.clone_from(&work.parts);
            Ok::<_, StageError>(())
        });
        let made = made.unwrap();
        let timing = Timing::read(&made).unwrap();
        assert!(timing.seconds >= 0.03, "20 ms of each of the two at least, halved: {timing:?}");
        assert!(!parts.exists());
        assert_eq!(
            files(&made).keys().collect::<Vec<_>>(),
            ["contents.json", "part-0", "stage.json"]
        );
        let late = WorkDir {
            path: partial_name(&made),
            helps: true,
            ..WorkDir::open(&made.join("x"), &stage(5), parts, store.clock.begin()).unwrap()
        };
        assert!(!late.is_under_way() && late.take("0").unwrap().is_none());
    }

    #[test]
    fn an_unusable_root_is_a_clear_error() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, b"").unwrap();
        let error =
            StageStore::new(file.join("store")).make(|_| Err(failure())).unwrap_err().to_string();
        assert!(
            error.starts_with("cannot create the directory ") && error.ends_with("should be"),
            "{error}"
        );
        let error = write_atomic(&file.join("x"), b"").unwrap_err().to_string();
        assert!(error.contains("a file is where a directory should be"), "{error}");
        let full = io_error("write", Path::new("x"))(ErrorKind::StorageFull.into()).to_string();
        assert!(full.ends_with("free some space and run again: finished work is kept"), "{full}");
    }
}
