//! Lock files between processes. Who waits reports for whom, soon and then every minute.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::{StageError, Tell, create_directories, io_error};

/// The time between two attempts.
const TRY_EVERY: Duration = Duration::from_millis(100);
/// Shorter waits are not reported.
const SHORT: Duration = Duration::from_millis(500);
/// The time between two reports of the same wait.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// A wait for another process, which is reported now and then.
#[derive(Debug, Clone)]
pub struct Wait {
    started: Instant,
    /// When to report next, since the start.
    next: Duration,
}

impl Wait {
    /// A wait that starts now.
    pub fn begin() -> Self {
        Self { started: Instant::now(), next: SHORT }
    }

    /// What to report of the wait for `whom`, if it is time for it.
    pub fn report(&mut self, whom: &str) -> Option<String> {
        let waited = self.started.elapsed();
        (waited >= self.next).then(|| {
            self.next = waited + TELL_EVERY;
            format!("waiting for {whom}{}", since(waited))
        })
    }
}

/// An exclusive lock, held until this is dropped or the process dies. Meanwhile its file contains
/// the process's name.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Waits for the lock whose file is `path`. Messages call the locked work `what`.
    pub fn wait(path: &Path, what: &str, tell: Tell) -> Result<Self, StageError> {
        let (file, mut wait) = (open(path)?, Wait::begin());
        while !has_locked(&file, path)? {
            if let Some(report) = wait.report(&format!("{}, which is at {what}", holder(path))) {
                tell(&report);
            }
            std::thread::sleep(TRY_EVERY);
        }
        tracing::debug!("locked {}", path.display());
        Ok(Self::held(file))
    }

    /// Takes the lock, or returns `None` if some process holds it.
    pub fn attempt(path: &Path) -> Result<Option<Self>, StageError> {
        let file = open(path)?;
        Ok(has_locked(&file, path)?.then(|| Self::held(file)))
    }

    /// Whether some process holds the lock.
    pub fn is_held(path: &Path) -> Result<bool, StageError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                return Ok(false);
            }
            Err(error) => return Err(io_error("open", path)(error)),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(source)) => Err(io_error("lock", path)(source)),
        }
    }

    /// Writes the holder's name. It only informs people, so a failure to write it is ignored.
    fn held(mut file: File) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let on = if host.is_empty() { String::new() } else { format!(" on {}", host.trim()) };
        let _ = file.set_len(0).and_then(|()| write!(file, "process {}{on}", std::process::id()));
        Self(file)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.0.set_len(0);
    }
}

/// Opens the lock's file without truncating it, so that the holder's name stays.
fn open(path: &Path) -> Result<File, StageError> {
    path.parent().map_or(Ok(()), create_directories)?;
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(io_error("create", path))
}

fn has_locked(file: &File, path: &Path) -> Result<bool, StageError> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(source)) => Err(io_error("lock", path)(source)),
    }
}

/// The lock's holder according to its file.
pub fn holder(path: &Path) -> String {
    let mut name = String::new();
    let read = File::open(path).and_then(|file| file.take(300).read_to_string(&mut name));
    if read.is_ok() && !name.is_empty() { name } else { "another process".to_owned() }
}

/// How long the wait has lasted; empty below a minute.
fn since(waited: Duration) -> String {
    match waited.as_secs() / 60 {
        0 => String::new(),
        minutes => format!(" (for {minutes} min now)"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn who_waits_is_told_for_whom() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("locks/a");
        let held = Lock::attempt(&path).unwrap().unwrap();
        assert!(Lock::attempt(&path).unwrap().is_none() && Lock::is_held(&path).unwrap());
        let told = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let tell = |what: &str| told.lock().unwrap().push(what.to_owned());
                Lock::wait(&path, "recover/x", &tell).map(drop)
            });
            while told.lock().unwrap().is_empty() {
                assert!(!waiting.is_finished(), "it did not wait");
                std::thread::sleep(Duration::from_millis(5));
            }
            drop(held);
            waiting.join().unwrap().unwrap();
        });
        let told = told.into_inner().unwrap();
        let own = format!("waiting for process {}", std::process::id());
        assert!(
            told.len() == 1 && told[0].starts_with(&own) && told[0].ends_with("at recover/x"),
            "{told:?}"
        );
        assert!(!Lock::is_held(&path).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"", "a free lock names nobody");
        assert!(!Lock::is_held(&root.path().join("none")).unwrap());
    }

    #[test]
    fn a_long_wait_is_said_to_be_one() {
        assert_eq!(since(Duration::from_secs(59)), "");
        assert_eq!(since(Duration::from_secs(150)), " (for 2 min now)");
    }
}
