//! The contents of a complete stage. `contents.json` lists every file with its size and BLAKE3, so
//! that damage is found before a file is used.
//!
//! A file that the file system has not touched since the record was written is not read again, so
//! checking a stage costs one `stat` per file. `stage.json`, `timing.json` and hidden files are not
//! part of the contents.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{RECORD, StageError, TIMING, entries, io_error, write_atomic};

const CONTENTS: &str = "contents.json";

/// A file's size and hash when it was written.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Written {
    bytes: u64,
    /// 64 hex digits.
    blake3: String,
}

/// A difference between a stage and its record.
#[derive(Debug, PartialEq, Eq)]
pub enum Problem {
    /// A file is missing or was changed.
    Damage(String),
    /// A file is there that the stage did not write.
    Foreign(PathBuf),
}

/// Writes the record of all files in `directory`.
pub fn record(directory: &Path) -> Result<(), StageError> {
    let written = |(name, path): (String, PathBuf)| {
        let bytes = fs::metadata(&path).map_err(io_error("look at", &path))?.len();
        Ok((name, Written { bytes, blake3: hash(&path)? }))
    };
    let contents = files(directory)?
        .into_iter()
        .map(written)
        .collect::<Result<BTreeMap<_, _>, StageError>>()?;
    write_atomic(&directory.join(CONTENTS), format!("{:#}\n", json!(contents)).as_bytes()).map(drop)
}

/// The first difference between `directory` and its record.
pub fn problem(directory: &Path) -> Result<Option<Problem>, StageError> {
    let damage = |what: String| Ok(Some(Problem::Damage(what)));
    let path = directory.join(CONTENTS);
    let read =
        || Some((fs::metadata(&path).ok()?, serde_json::from_slice(&fs::read(&path).ok()?).ok()?));
    let Some((at, written)): Option<(Metadata, BTreeMap<String, Written>)> = read() else {
        return damage(format!("{CONTENTS} is missing or can't be read"));
    };
    if let Some((_, path)) =
        files(directory)?.into_iter().find(|(name, _)| !written.contains_key(name))
    {
        return Ok(Some(Problem::Foreign(path)));
    }
    for (name, file) in &written {
        let path = directory.join(name);
        let found = match fs::metadata(&path) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return damage(format!("{name} is missing"));
            }
            Err(error) => return Err(io_error("look at", &path)(error)),
        };
        if found.len() != file.bytes {
            return damage(format!(
                "{name} has {} bytes, {} were written",
                found.len(),
                file.bytes
            ));
        }
        if !is_older(&found, &at) && hash(&path)? != file.blake3 {
            return damage(format!("{name} has other bytes than were written"));
        }
    }
    Ok(None)
}

/// Whether the file system has not touched `file` since `record` was written: neither its bytes,
/// nor its name, nor its permissions. Copies count as touched and are read again.
#[cfg(unix)]
fn is_older(file: &Metadata, record: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (file.ctime(), file.ctime_nsec()) < (record.mtime(), record.mtime_nsec())
}

#[cfg(not(unix))]
fn is_older(_: &Metadata, _: &Metadata) -> bool {
    false
}

fn hash(path: &Path) -> Result<String, StageError> {
    let mut hasher = blake3::Hasher::new();
    File::open(path)
        .and_then(|file| hasher.update_reader(file).map(drop))
        .map_err(io_error("read", path))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// All content files below `directory`, with their names in the record (`images/00_cat/00000.png`).
fn files(directory: &Path) -> Result<Vec<(String, PathBuf)>, StageError> {
    let mut found = Vec::new();
    let mut open = vec![(String::new(), directory.to_path_buf())];
    while let Some((prefix, folder)) = open.pop() {
        for (path, is_directory) in entries(&folder)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let is_own = prefix.is_empty() && [RECORD, TIMING, CONTENTS].contains(&name.as_str());
            if is_own || name.starts_with('.') {
                continue;
            }
            let inner = format!("{prefix}{name}");
            if is_directory { open.push((inner + "/", path)) } else { found.push((inner, path)) }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;
    use std::time::Duration;

    use super::*;

    /// A directory whose record is a moment old, as for a real stage.
    fn recorded() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, bytes) in
            [("images/0/a.png", "one"), ("images/1/b.png", "two"), ("labels.scdd", "three")]
        {
            write_atomic(&root.path().join(name), bytes.as_bytes()).unwrap();
        }
        record(root.path()).unwrap();
        sleep(Duration::from_millis(20));
        root
    }

    fn damage(spoil: impl FnOnce(&Path)) -> String {
        let root = recorded();
        assert_eq!(problem(root.path()).unwrap(), None);
        spoil(root.path());
        match problem(root.path()).unwrap() {
            Some(Problem::Damage(what)) => what,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_kind_of_damage_is_seen() {
        assert_eq!(
            damage(|root| fs::remove_file(root.join("images/1/b.png")).unwrap()),
            "images/1/b.png is missing"
        );
        assert_eq!(
            damage(|root| fs::remove_dir_all(root.join("images/1")).unwrap()),
            "images/1/b.png is missing"
        );
        let longer = damage(|root| fs::write(root.join("labels.scdd"), "longer").unwrap());
        assert_eq!(longer, "labels.scdd has 6 bytes, 5 were written");
        let flipped = damage(|root| fs::write(root.join("labels.scdd"), "thref").unwrap());
        assert_eq!(flipped, "labels.scdd has other bytes than were written");
        // Files that swap places keep their sizes and times.
        let swapped = damage(|root| {
            let [a, b, aside] =
                ["images/0/a.png", "images/1/b.png", "aside"].map(|name| root.join(name));
            fs::rename(&a, &aside)
                .and_then(|()| fs::rename(&b, &a))
                .and_then(|()| fs::rename(&aside, &b))
                .unwrap();
        });
        assert_eq!(swapped, "images/0/a.png has other bytes than were written");
        let torn = damage(|root| fs::write(root.join(CONTENTS), "{").unwrap());
        assert_eq!(torn, "contents.json is missing or can't be read");
        damage(|root| fs::remove_file(root.join(CONTENTS)).unwrap());
    }

    #[test]
    fn a_file_that_nobody_wrote_is_named_and_hidden_ones_are_left_alone() {
        let root = recorded();
        for name in ["timing.json", "stage.json", ".DS_Store", "images/.nfs0001"] {
            fs::write(root.path().join(name), "x").unwrap();
        }
        assert_eq!(problem(root.path()).unwrap(), None);
        let extra = root.path().join("images/0/c.png");
        fs::write(&extra, "one").unwrap();
        assert_eq!(problem(root.path()).unwrap(), Some(Problem::Foreign(extra)));
    }

    #[test]
    fn a_copy_and_changed_rights_are_no_damage() {
        let (root, copy) = (recorded(), tempfile::tempdir().unwrap());
        for (name, path) in files(root.path())
            .unwrap()
            .into_iter()
            .chain([(CONTENTS.into(), root.path().join(CONTENTS))])
        {
            let to = copy.path().join(name);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(path, to).unwrap();
        }
        assert_eq!(problem(copy.path()).unwrap(), None);
        let file = root.path().join("labels.scdd");
        let mut rights = fs::metadata(&file).unwrap().permissions();
        rights.set_readonly(true);
        fs::set_permissions(&file, rights).unwrap();
        assert_eq!(problem(root.path()).unwrap(), None);
    }

    #[test]
    fn the_record_follows_from_the_contents() {
        let record = |root: &tempfile::TempDir| fs::read(root.path().join(CONTENTS)).unwrap();
        assert_eq!(record(&recorded()), record(&recorded()));
    }
}
