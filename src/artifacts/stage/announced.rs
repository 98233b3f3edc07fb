//! Which experiments are being run in a store, so that other processes can look on.
//!
//! ```text
//! <root>/.locks/<experiment>.run/experiment.json    what is run: any JSON
//! <root>/.locks/<experiment>.run/<host>-<process>   the lock of a process that runs it
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;

use super::lock::Lock;
use super::store::LOCKS;
use super::{StageError, StageStore, io_error, write_atomic};

const RUN: &str = ".run";
const RECORD: &str = "experiment.json";

/// This process runs an experiment, until this is dropped.
#[derive(Debug)]
pub struct Announcement {
    lock: PathBuf,
    _held: Option<Lock>,
}

/// An experiment that is or was run.
#[derive(Debug, Clone)]
pub struct AnnouncedRun {
    directory: PathBuf,
    /// The experiment's name.
    pub name: String,
    /// What was announced.
    pub record: Value,
    /// When the first of the processes that run it began.
    pub since: SystemTime,
}

impl StageStore {
    /// Announces that this process runs the experiment `name`, which `record` describes. The record
    /// of a process that runs it already stays.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn announce(&self, name: &str, record: &Value) -> Result<Announcement, StageError> {
        let directory = self.root.join(LOCKS).join(format!("{name}{RUN}"));
        if processes(&directory)? == 0 {
            write_atomic(&directory.join(RECORD), format!("{record:#}\n").as_bytes())?;
        }
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let lock = directory.join(format!("{}-{}", host.trim(), std::process::id()));
        let held = Lock::attempt(&lock)?;
        Ok(Announcement { lock, _held: held })
    }

    /// Every announced experiment, sorted by name.
    ///
    /// # Errors
    /// When a record can't be read.
    pub fn announced(&self) -> Result<Vec<AnnouncedRun>, StageError> {
        let entries = fs::read_dir(self.root.join(LOCKS)).into_iter().flatten().flatten();
        let mut runs = Vec::new();
        for directory in entries.map(|entry| entry.path()) {
            let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let path = directory.join(RECORD);
            if let Some(name) = name.strip_suffix(RUN).filter(|_| path.is_file()) {
                let text = fs::read(&path).map_err(io_error("read", &path))?;
                let since = fs::metadata(&path).and_then(|found| found.modified());
                let since = since.map_err(io_error("look at", &path))?;
                let (name, record) = (name.to_owned(), parse(&text, &path)?);
                runs.push(AnnouncedRun { name, record, since, directory });
            }
        }
        runs.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(runs)
    }
}

fn parse(text: &[u8], path: &Path) -> Result<Value, StageError> {
    serde_json::from_slice(text).map_err(|error| io_error("read", path)(error.into()))
}

impl AnnouncedRun {
    /// The number of processes that run it now.
    ///
    /// # Errors
    /// When a lock can't be looked at.
    pub fn processes(&self) -> Result<usize, StageError> {
        processes(&self.directory)
    }
}

/// Counts the processes at an experiment.
fn processes(directory: &Path) -> Result<usize, StageError> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut count = 0;
    for lock in entries.map(|entry| entry.path()).filter(|path| !path.ends_with(RECORD)) {
        count += usize::from(Lock::is_held(&lock)?);
    }
    Ok(count)
}

impl Drop for Announcement {
    fn drop(&mut self) {
        // A lock that stays is held by nobody.
        let _ = fs::remove_file(&self.lock);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_run_is_announced_until_it_ends() {
        let root = tempfile::tempdir().unwrap();
        let store = StageStore::new(root.path());
        assert!(store.announced().unwrap().is_empty());
        let running = store.announce("a", &json!({"x": 1})).unwrap();
        let [run] = &store.announced().unwrap()[..] else { panic!("not announced") };
        assert_eq!((run.name.as_str(), &run.record["x"]), ("a", &json!(1)));
        assert_eq!(run.processes().unwrap(), 1);
        drop(running);
        assert_eq!(run.processes().unwrap(), 0);
        // What was run stays known, until the next run says otherwise.
        assert_eq!(store.announced().unwrap().len(), 1);
        let _running = store.announce("a", &json!({"x": 2})).unwrap();
        assert_eq!(store.announced().unwrap()[0].record["x"], json!(2));
    }
}
