//! Generated files for people, which scdd replaces when it writes them again: reports, tables,
//! charts, resolved experiments.
//!
//! Each has a line that says so, with the BLAKE3 of all its other bytes. A file without that line,
//! or with other bytes, belongs to somebody else or was edited: it is never replaced. CSV files
//! have no place for such a line; a CSV file counts as scdd's if it has the same heading.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::stage::{StageError, write_atomic};

const MARK: &str =
    "written by scdd, which replaces this file unless it was changed; BLAKE3 of the rest: ";

/// Why a file was not written.
#[derive(Debug, thiserror::Error)]
pub enum OwnError {
    /// The existing file is not scdd's, or was edited.
    #[error(
        "{} is not as scdd wrote it, or not scdd's at all, so it is not replaced: move it away, or let scdd write elsewhere",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The existing file can't be read.
    #[error("cannot read {}, which would be replaced: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    #[error(transparent)]
    Write(#[from] StageError),
}

/// Checks that `path` is free or holds a file that scdd may replace. CSV files are checked only by
/// [`write()`].
///
/// # Errors
/// When scdd must not replace the existing file.
pub fn check(path: &Path) -> Result<(), OwnError> {
    let foreign = || OwnError::Foreign { path: path.to_path_buf() };
    match found(path)? {
        Some(text) if FileForm::of(path) != FileForm::Csv && !is_own(&text) => Err(foreign()),
        _ => Ok(()),
    }
}

/// Writes `text` with its mark to `path`, atomically. The path's extension selects the form: HTML,
/// SVG, Markdown, YAML, CSV, or JSON (an object over several lines).
///
/// # Errors
/// When scdd must not replace the existing file, or the file can't be written.
pub fn write(path: &Path, text: &str) -> Result<(), OwnError> {
    let form = FileForm::of(path);
    let is_own = |known: &str| match form {
        FileForm::Csv => known.lines().next() == text.lines().next(),
        _ => is_own(known),
    };
    if found(path)?.is_some_and(|known| !is_own(&known)) {
        return Err(OwnError::Foreign { path: path.to_path_buf() });
    }
    Ok(write_atomic(path, form.marked(text).as_bytes())?)
}

/// The file at `path` as text, or `None` if nothing is there. Invalid UTF-8 is replaced, and then
/// matches no mark.
fn found(path: &Path) -> Result<Option<String>, OwnError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == ErrorKind::NotADirectory => Ok(None),
        // A dangling link exists too.
        Err(error)
            if error.kind() == ErrorKind::NotFound && fs::symlink_metadata(path).is_err() =>
        {
            Ok(None)
        }
        Err(source) => Err(OwnError::Read { path: path.to_path_buf(), source }),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileForm {
    Html,
    /// SVG and Markdown.
    Comment,
    Yaml,
    Json,
    Csv,
}

impl FileForm {
    fn of(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("html") => Self::Html,
            Some("yaml") => Self::Yaml,
            Some("json") => Self::Json,
            Some("csv") => Self::Csv,
            _ => Self::Comment,
        }
    }

    /// `text` with the mark as its first line, or as its second if the first must stay first.
    fn marked(self, text: &str) -> String {
        let mark = format!("{MARK}{}", blake3::hash(text.as_bytes()));
        let (first, rest) = text.split_at(text.find('\n').map_or(0, |end| end + 1));
        match self {
            Self::Html => format!("{first}<!-- {mark} -->\n{rest}"),
            Self::Json => format!("{first}  \"written_by\": \"{mark}\",\n{rest}"),
            Self::Comment => format!("<!-- {mark} -->\n{text}"),
            Self::Yaml => format!("# {mark}\n{text}"),
            Self::Csv => text.to_owned(),
        }
    }
}

/// Whether `text` has a mark whose hash matches its other bytes.
fn is_own(text: &str) -> bool {
    let mut rest = String::with_capacity(text.len());
    let mut told = None;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        match line.split_once(MARK).filter(|_| number < 2 && told.is_none()) {
            Some((_, after)) => told = after.get(..64),
            None => rest.push_str(line),
        }
    }
    told.is_some_and(|told| blake3::hash(rest.as_bytes()).to_hex().as_str() == told)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXTS: [(&str, &str); 6] = [
        ("a.html", "<!doctype html>\n<p>1</p>\n"),
        ("a.json", "{\n  \"a\": 1\n}\n"),
        ("a.yaml", "name: a\n"),
        ("a.md", "# A\n"),
        ("a.svg", "<svg/>"),
        ("a.csv", "one,two\n1,2\n"),
    ];

    #[test]
    fn what_was_written_is_replaced_and_stays_what_it_is() {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in TEXTS {
            let path = root.path().join(name);
            for text in [text, &text.replace('1', "3"), text] {
                check(&path).unwrap();
                write(&path, text).unwrap();
            }
            let written = fs::read_to_string(&path).unwrap();
            assert!(
                written.contains(text.lines().next_back().unwrap())
                    && (written.contains(MARK) || name == "a.csv")
            );
        }
        let json: serde_json::Value =
            serde_json::from_slice(&fs::read(root.path().join("a.json")).unwrap()).unwrap();
        assert_eq!(json["a"], 1);
        let yaml: serde_yaml::Value =
            serde_yaml::from_slice(&fs::read(root.path().join("a.yaml")).unwrap()).unwrap();
        assert_eq!(yaml["name"], "a");
        assert!(
            fs::read_to_string(root.path().join("a.html"))
                .unwrap()
                .starts_with("<!doctype html>\n")
        );
    }

    #[test]
    fn what_others_wrote_or_changed_is_kept() {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in TEXTS {
            let path = root.path().join(name);
            let refused = |kept: &[u8]| {
                fs::write(&path, kept).unwrap();
                let error = write(&path, text).unwrap_err().to_string();
                assert!(
                    error.starts_with(&path.display().to_string())
                        && error.contains("move it away"),
                    "{error}"
                );
                assert_eq!(check(&path).is_err(), name != "a.csv", "{name}");
                assert_eq!(fs::read(&path).unwrap(), kept);
            };
            refused(b"");
            refused(b"mine\n");
            refused(b"\xff\xfe\x00mine");
            if name != "a.csv" {
                refused(text.as_bytes());
                refused((FileForm::of(&path).marked(text) + "# a note\n").as_bytes());
                // A mark copied from another file.
                refused((FileForm::of(&path).marked("x\n").replace('x', "y")).as_bytes());
            }
        }
        #[cfg(unix)]
        {
            let link = root.path().join("link.md");
            std::os::unix::fs::symlink("nothing", &link).unwrap();
            write(&link, "x").unwrap_err();
            write(&root.path().join("a.md/x"), "x").unwrap_err();
        }
    }

    /// Each generated file in the repository can be replaced by the command that wrote it.
    #[test]
    fn the_repositorys_reports_are_replaced() {
        let docs = crate::in_repository("docs");
        let names = fs::read_dir(&docs).unwrap().map(|entry| entry.unwrap().path());
        let of_a_report =
            |path: &PathBuf| match path.extension().and_then(|extension| extension.to_str()) {
                Some("svg") => true,
                Some("md") => fs::read_to_string(path).unwrap().contains("Written by `scdd report"),
                Some("json") => {
                    let json: serde_json::Value =
                        serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
                    json.get("results").is_some()
                }
                _ => false,
            };
        let reports: Vec<PathBuf> = names.filter(of_a_report).collect();
        assert!(reports.len() >= 13, "{reports:?}");
        for path in reports {
            check(&path).unwrap();
        }
    }
}
