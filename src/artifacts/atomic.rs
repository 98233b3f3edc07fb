//! Atomic writes: files and directories are written under a scratch name, then renamed. A final
//! name always stands for complete contents, even after a kill or a power cut.

use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile, TempDir};

/// The prefix of scratch files and directories. They are never part of a result and are removed on
/// resume.
pub const SCRATCH: &str = ".scdd-tmp-";

/// The directory that contains `path`.
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Creates a scratch file in the directory of `path`, to be [kept](keep) under that name. It gets
/// the usual permissions of new files, not the private ones of temporary files.
///
/// # Errors
/// When the system refuses.
fn file_beside(path: &Path) -> io::Result<NamedTempFile> {
    let mut builder = Builder::new();
    builder.prefix(SCRATCH);
    #[cfg(unix)]
    builder.permissions(<Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o666));
    builder.tempfile_in(parent(path))
}

/// Syncs `file` to disk and renames it to `path`, replacing an existing file.
///
/// # Errors
/// When the system refuses.
fn keep(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// Writes `path` atomically.
///
/// # Errors
/// When the system refuses.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = file_beside(path)?;
    // Writes through the inner file, because the wrapper's errors would name the scratch file.
    file.as_file_mut().write_all(bytes)?;
    keep(file, path)
}

/// Writes `path` atomically, unless it exists. Returns whether it did not.
///
/// # Errors
/// When the system refuses.
pub fn write_new(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    let mut file = file_beside(path)?;
    file.as_file_mut().write_all(bytes)?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(true),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error.error),
    }
}

/// A directory that is filled under a scratch name. It is removed unless it is [kept](Self::keep).
pub struct DirectoryAside {
    scratch: TempDir,
    inside: PathBuf,
}

impl DirectoryAside {
    /// Creates an empty scratch directory beside `path`, and the parent directory if necessary.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn beside(path: &Path) -> io::Result<Self> {
        let parent = parent(path);
        fs::create_dir_all(parent)?;
        let scratch = Builder::new().prefix(SCRATCH).tempdir_in(parent)?;
        let inside = scratch.path().join("aside");
        fs::create_dir(&inside)?;
        Ok(Self { scratch, inside })
    }

    /// The scratch directory's path.
    pub fn path(&self) -> &Path {
        &self.inside
    }

    /// Renames the scratch directory to `path`.
    ///
    /// # Errors
    /// When the system refuses, for example because `path` exists.
    pub fn keep(self, path: &Path) -> io::Result<()> {
        fs::rename(&self.inside, path)?;
        self.scratch.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_replaced_whole_and_leave_no_scratch() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("b.json");
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(
            (names(root.path()), fs::read(&path).unwrap()),
            (vec!["b.json".to_owned()], b"two".to_vec())
        );
        write(&path.join("c"), b"").unwrap_err();
        assert_eq!(names(root.path()), ["b.json"]);
    }

    #[test]
    fn a_file_is_written_once() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a.json");
        assert!(write_new(&path, b"one").unwrap() && !write_new(&path, b"two").unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(names(root.path()), ["a.json"]);
    }

    #[test]
    fn a_directory_appears_whole_or_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("deep/set");
        let fill = |text: &str| {
            let aside = DirectoryAside::beside(&target).unwrap();
            fs::write(aside.path().join("file"), text).unwrap();
            aside
        };
        drop(fill("lost"));
        assert_eq!(names(&root.path().join("deep")), [""; 0]);
        fill("kept").keep(&target).unwrap();
        assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "kept");
        fill("other").keep(&target).unwrap_err();
        assert_eq!(names(&root.path().join("deep")), ["set"], "what could not be kept is removed");
    }
}
