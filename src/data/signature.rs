//! Tells without reading them whether the files of a data set have changed.

use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rayon::prelude::*;

use super::entries::is_of_system;
use super::{Fit, Source, Split};

/// The levels of directories that layouts have at most: split, class, `images`.
const DEPTH: usize = 3;
/// Files that changed more recently may change again without another time.
const SETTLED: Duration = Duration::from_secs(2);

/// What names one split of a data set as it is read, and the state of its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// A hash of the place, the data set, the layout, the class map, the split and the fit.
    pub name: String,
    /// A hash of the files' names, sizes and times of change.
    pub state: String,
}

impl Source {
    /// The signature of one split, as images are fitted by `fit`. `None` if a file changed within
    /// the last two seconds or has no time of change, or a directory can't be listed.
    pub fn signature(&self, split: Split, fit: Fit) -> Option<Signature> {
        let (place, map) = (fs::canonicalize(self.place()).ok()?, self.class_map());
        let known = self.known().map(|known| &known.name);
        let mut name = format!("{place:?} {known:?} {:?} {map:?} {split:?} {fit:?}", self.layout());
        let mut files_of = split;
        if self.held_out() > 0 {
            name.push_str(&format!(" held out: {}", self.held_out()));
            files_of = Split::Train;
        }
        // In class folders the split of a file shows by its directory.
        let others: &[&str] = match files_of {
            _ if !self.is_folder() => &[],
            Split::Train => &["test", "val"],
            Split::Test => &["train"],
        };
        signed(&name, files(&place, others)?, map)
    }
}

/// The signature of all files at `places` and of the class map, for the reader that `what`
/// describes.
pub(super) fn of_places(places: &[&Path], map: Option<&Path>, what: &str) -> Option<Signature> {
    let (mut name, mut states) = (what.to_owned(), Vec::new());
    for place in places {
        let place = fs::canonicalize(place).ok()?;
        name.push_str(&format!(" {place:?}"));
        states.extend(files(&place, &[])?);
    }
    signed(&name, states, map)
}

fn signed(name: &str, mut states: Vec<String>, map: Option<&Path>) -> Option<Signature> {
    if let Some(map) = map {
        states.push(blake3::hash(&fs::read(map).ok()?).to_string());
    }
    let hash = |text: &str| blake3::hash(text.as_bytes()).to_hex()[..32].to_owned();
    Some(Signature { name: hash(name), state: hash(&states.join("\n")) })
}

/// A line for each file at `place`. Of the folders `others` only the names of their entries count,
/// which are their classes. `None` if a file is not settled, or a directory can't be listed.
fn files(place: &Path, others: &[&str]) -> Option<Vec<String>> {
    let metadata = fs::metadata(place).ok()?;
    if metadata.is_file() {
        return Some(vec![line(place, &metadata)?]);
    }
    let mut lines = Vec::new();
    for path in entries(place)? {
        let is_other = others.iter().any(|other| path.ends_with(other));
        lines.extend(walk(&path, if is_other { 0 } else { DEPTH })?);
    }
    lines.sort_unstable();
    Some(lines)
}

/// The lines of all files at or below `path`, at most `depth` levels of directories down. Of what
/// lies deeper, names count.
fn walk(path: &Path, depth: usize) -> Option<Vec<String>> {
    // A link to nothing counts by its name.
    let Ok(metadata) = fs::metadata(path) else { return Some(vec![path.display().to_string()]) };
    if !metadata.is_dir() {
        return Some(vec![line(path, &metadata)?]);
    }
    let entries = entries(path)?;
    if depth == 0 {
        return Some(entries.iter().map(|entry| entry.display().to_string()).collect());
    }
    let below = entries.par_iter().map(|entry| walk(entry, depth - 1));
    Some(below.collect::<Option<Vec<_>>>()?.concat())
}

/// The entries of `directory`, without those of the system, which nobody reads.
fn entries(directory: &Path) -> Option<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).ok()?;
    let paths = entries.map(|entry| Some(entry.ok()?.path())).collect::<Option<Vec<_>>>()?;
    let is_read = |path: &PathBuf| {
        path.file_name().is_some_and(|name| !is_of_system(&name.to_string_lossy()))
    };
    Some(paths.into_iter().filter(is_read).collect())
}

fn line(path: &Path, metadata: &Metadata) -> Option<String> {
    let changed = metadata.modified().ok()?;
    // A time in the future is as good as any other.
    if SystemTime::now().duration_since(changed).is_ok_and(|ago| ago < SETTLED) {
        return None;
    }
    let time = changed.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    Some(format!("{} {} {time}", path.display(), metadata.len()))
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
        let test = || source.signature(Split::Test, fit).unwrap();
        let before = test();
        assert_eq!(test(), before);
        let other = |split, fit| source.signature(split, fit).unwrap().name;
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
        let mapped = |map: &str| {
            put(root, map, "a: a", 2);
            let source = Source::open(root).unwrap().with_class_map(&root.join(map)).unwrap();
            source.signature(Split::Test, fit).unwrap().name
        };
        let names = [test().name, mapped("one.yaml"), mapped("two.yaml")];
        assert!(names[0] != names[1] && names[1] != names[2]);
        put(root, "val/a/0.png", "x", 0);
        assert_eq!(source.signature(Split::Test, fit), None, "it may change yet");
    }
}
