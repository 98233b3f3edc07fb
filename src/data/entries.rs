//! Lists directories: entries in the order of their names, without system files.

use std::fs::FileType;
use std::path::{Path, PathBuf};

use super::DataError;

/// The most entries that a message names one by one.
const NAMED: usize = 20;

/// An entry of a directory.
pub(super) struct Entry {
    pub name: String,
    pub path: PathBuf,
    pub is_dir: bool,
}

/// Odd entries found while a data set is read.
#[derive(Default)]
pub(super) struct Findings {
    /// One text per faulty entry: its path below the data set, and why it is faulty.
    pub problems: Vec<String>,
    /// System files that were skipped.
    pub skipped: Vec<PathBuf>,
}

impl Findings {
    /// Records that `path`, which lies below `root`, can't be used; `is` gives the reason.
    pub fn problem(&mut self, root: &Path, path: &Path, is: impl AsRef<str>) {
        self.problems.push(format!(
            "{} {}",
            path.strip_prefix(root).unwrap_or(path).display(),
            is.as_ref()
        ));
    }

    /// Returns one error for all problems and adds one remark about skipped entries.
    pub fn conclude(self, root: &Path, remarks: &mut Vec<String>) -> Result<(), DataError> {
        if !self.skipped.is_empty() {
            let names = self
                .skipped
                .iter()
                .map(|path| path.strip_prefix(root).unwrap_or(path).display().to_string());
            remarks.push(format!(
                "{}: system and hidden entries are left out: {}",
                root.display(),
                listed(names)
            ));
        }
        if self.problems.is_empty() {
            return Ok(());
        }
        let count = self.problems.len();
        let problem = match self.problems.as_slice() {
            [one] => one.clone(),
            problems => {
                format!("{count} entries can't be used: {}", listed(problems.iter().cloned()))
            }
        };
        Err(DataError::invalid(root, problem, "repair, move or remove what is named"))
    }
}

/// Lists the first of `names` and counts the rest.
pub(super) fn listed(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(NAMED);
    let mut shown: Vec<_> = names.take(NAMED).collect();
    if more > 0 {
        shown.push(format!("and {more} more"));
    }
    shown.join(", ")
}

/// The entries of `dir` in the order of their names. System entries go to `skipped`.
pub(super) fn entries(dir: &Path, skipped: &mut Vec<PathBuf>) -> Result<Vec<Entry>, DataError> {
    let listing = std::fs::read_dir(dir).map_err(DataError::io(dir, "list"))?;
    let mut found = Vec::new();
    for entry in listing {
        let entry = entry.map_err(DataError::io(dir, "list"))?;
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        if is_of_system(&name) {
            skipped.push(path);
            continue;
        }
        let is_dir = entry.file_type().as_ref().is_ok_and(FileType::is_dir) || path.is_dir();
        found.push(Entry { name, path, is_dir });
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    skipped.sort();
    Ok(found)
}

/// Whether operating systems, file managers, archivers or notebooks create entries of this name.
pub(super) fn is_of_system(name: &str) -> bool {
    let exact = ["__MACOSX", "@eaDir", "lost+found"].contains(&name);
    exact
        || name.starts_with('.')
        || ["Thumbs.db", "desktop.ini"].iter().any(|known| name.eq_ignore_ascii_case(known))
}
