//! Content-addressed stage directories: a directory with its final name is complete, and equal work
//! is done once.
//!
//! ```text
//! <root>/<stage>/<name>-<16 hex digits>/           complete
//! <root>/<stage>/<name>-<16 hex digits>.partial/   unfinished: the next run continues it
//! <root>/.locks/                                   a file per stage and report, never removed
//! <root>/.locks/<kind>-<name>-<key>.parts/         a file per part of a stage under way
//! <root>/.locks/<kind>-<name>-<key>.progress       how far a stage under way is
//! <root>/.locks/<experiment>.run/                  an experiment, and who runs it
//! <root>/.failures/                                why the last attempt at a stage failed
//! ```
//!
//! The digits are the first of the stage's key. Each directory holds `stage.json`, the record whose
//! hash is the key. A complete directory also holds `contents.json`, which reveals damage, and
//! `timing.json`, the only file that may differ between two runs of the same work.

mod announced;
mod clock;
mod computed_on;
mod contents;
mod lock;
mod memory;
mod parts;
mod progress;
mod store;
mod work_dir;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::atomic::{self, SCRATCH};
pub use announced::{AnnouncedRun, Announcement};
pub use computed_on::ComputedOn;
pub use lock::Wait;
pub use parts::TakenPart;
pub use progress::StageProgress;
pub use store::{Attempt, Found, Share, StageStore, fill};
pub use work_dir::{Timing, WorkDir};

pub(super) const RECORD: &str = "stage.json";
pub(super) const TIMING: &str = "timing.json";
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
    /// An interrupted run computed the stage's first part in another way.
    #[error("{} was begun on {begun}, but this run computes on {now}: run there again, or remove the directory to begin anew", directory.display())]
    Begun {
        /// The stage's unfinished directory.
        directory: PathBuf,
        /// The device and precision of the interrupted run.
        begun: String,
        /// Those of this run.
        now: String,
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

/// Writes `path` atomically, and creates missing directories.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), StageError> {
    create_directories(atomic::parent(path))?;
    atomic::write(path, bytes).map_err(io_error("write", path))
}

/// Creates the directory `path` and those above it.
///
/// # Errors
/// When the system refuses.
pub fn create_directories(path: &Path) -> Result<(), StageError> {
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

/// The entries of a directory, and whether each is a directory (links are not followed).
pub(super) fn entries(directory: &Path) -> Result<Vec<(PathBuf, bool)>, StageError> {
    let entry = |entry: fs::DirEntry| Ok((entry.path(), entry.file_type()?.is_dir()));
    let list = || {
        fs::read_dir(directory)?.map(|found| found.and_then(entry)).collect::<io::Result<Vec<_>>>()
    };
    list().map_err(io_error("read the directory", directory))
}

fn is_scratch(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(SCRATCH))
}

#[cfg(test)]
mod tests;
