//! Tells without reading them whether the files of a data set have changed.

use std::fs::{self, Metadata};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rayon::prelude::*;

use super::{DataError, Fit, Source, Split};

/// The levels of directories that layouts have at most: split, class, `images`.
const DEPTH: usize = 3;
/// Files that changed more recently may change again without another time.
const SETTLED: Duration = Duration::from_secs(2);

/// What names one split of a data set as it is read, and the state of its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// A hash of the place, the layout, the split and the fit.
    pub name: String,
    /// A hash of the files' names, sizes and times of change.
    pub state: String,
}

impl Source {
    /// The signature of one split, as images are fitted by `fit`. `None` if a file changed within
    /// the last two seconds, or has no time of change.
    ///
    /// # Errors
    /// When a directory can't be listed.
    pub fn signature(&self, split: Split, fit: Fit) -> Result<Option<Signature>, DataError> {
        let place = self.place();
        let resolved = fs::canonicalize(place).map_err(DataError::io(place, "resolve"))?;
        let name = format!("{resolved:?} {:?} {split:?} {fit:?}", self.layout());
        let map = match self.class_map() {
            Some(map) => fs::read(map).map_err(DataError::io(map, "read"))?,
            None => Vec::new(),
        };
        let mut states = files(place, split)?;
        states.push(format!("{}", blake3::hash(&map)));
        let hash = |text: &str| blake3::hash(text.as_bytes()).to_hex()[..32].to_owned();
        let unsettled = states.iter().any(String::is_empty);
        Ok((!unsettled).then(|| Signature { name: hash(&name), state: hash(&states.join("\n")) }))
    }
}

/// A line for each file of `split` at `place`; empty for one that is not settled. Of the other
/// split's folder only the names of its entries count, which are its classes.
fn files(place: &Path, split: Split) -> Result<Vec<String>, DataError> {
    let others: &[&str] = match split {
        Split::Train => &["test", "val"],
        Split::Test => &["train"],
    };
    let metadata = fs::metadata(place).map_err(DataError::io(place, "open"))?;
    if metadata.is_file() {
        return Ok(vec![line(place, &metadata)]);
    }
    let mut lines = Vec::new();
    for entry in fs::read_dir(place).map_err(DataError::io(place, "list"))? {
        let path = entry.map_err(DataError::io(place, "list"))?.path();
        let is_other = others.iter().any(|other| path.ends_with(other));
        lines.extend(walk(&path, if is_other { 0 } else { DEPTH })?);
    }
    lines.sort_unstable();
    Ok(lines)
}

/// The lines of all files at or below `path`, at most `depth` levels of directories down. Of what
/// lies deeper, names count.
fn walk(path: &Path, depth: usize) -> Result<Vec<String>, DataError> {
    // A link to nothing counts by its name.
    let Ok(metadata) = fs::metadata(path) else { return Ok(vec![path.display().to_string()]) };
    if !metadata.is_dir() {
        return Ok(vec![line(path, &metadata)]);
    }
    let entries = fs::read_dir(path).map_err(DataError::io(path, "list"))?;
    let entries = entries.map(|entry| Ok(entry.map_err(DataError::io(path, "list"))?.path()));
    let entries = entries.collect::<Result<Vec<_>, DataError>>()?;
    if depth == 0 {
        return Ok(entries.iter().map(|entry| entry.display().to_string()).collect());
    }
    let below = entries.par_iter().map(|entry| walk(entry, depth - 1));
    Ok(below.collect::<Result<Vec<_>, _>>()?.concat())
}

fn line(path: &Path, metadata: &Metadata) -> String {
    let Ok(changed) = metadata.modified() else { return String::new() };
    // A time in the future is as good as any other.
    if SystemTime::now().duration_since(changed).is_ok_and(|ago| ago < SETTLED) {
        return String::new();
    }
    let time = changed.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("{} {} {time}", path.display(), metadata.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn put(root: &Path, file: &str, text: &str, hours_ago: u64) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        let time = SystemTime::now() - Duration::from_secs(3600 * hours_ago);
        File::options().append(true).open(&path).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn a_change_of_the_split_shows_and_others_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for file in ["train/a/0.png", "train/b/0.png", "val/a/0.png", "val/b/0.png"] {
            put(root, file, "x", 2);
        }
        let source = Source::open(root).unwrap();
        let fit = Fit::To([3, 4, 4]);
        let test = || source.signature(Split::Test, fit).unwrap().unwrap();
        let before = test();
        assert_eq!(test(), before);
        let other = |split, fit| source.signature(split, fit).unwrap().unwrap().name;
        assert_ne!(other(Split::Train, fit), before.name);
        assert_ne!(other(Split::Test, Fit::Exact), before.name);
        put(root, "train/a/1.png", "x", 2);
        assert_eq!(test(), before, "a training image is no matter of the test images");
        let mut seen = vec![before.state];
        let changes: [(&str, &str, u64); 4] = [
            ("val/a/0.png", "x", 3),
            ("val/a/0.png", "xy", 3),
            ("val/b/1.png", "x", 2),
            ("train/c/0.png", "x", 2),
        ];
        for (file, text, ago) in changes {
            put(root, file, text, ago);
            let state = test().state;
            assert!(!seen.contains(&state), "{file} {text} {ago}");
            seen.push(state);
        }
        put(root, "val/a/0.png", "x", 0);
        assert_eq!(source.signature(Split::Test, fit).unwrap(), None, "it may change yet");
    }
}
