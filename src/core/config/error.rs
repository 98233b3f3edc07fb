//! What can be wrong with an experiment, and how it is said.

use std::io;
use std::path::PathBuf;

/// Why an experiment cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is missing, unreadable, or not UTF-8.
    #[error("cannot read the experiment file {}: {source}", path.display())]
    Read {
        /// The file as given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not YAML, or repeats a key.
    #[error("{}: not a valid experiment file: {message}", file.display())]
    Syntax {
        /// The file as given.
        file: PathBuf,
        /// What is wrong, with line and column.
        message: String,
    },
    /// A `--set` argument that cannot be applied.
    #[error("--set {argument}: {problem}")]
    Override {
        /// The argument as given.
        argument: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A key that is unknown, missing, out of range, or contradicts another.
    #[error("{place}: `{path}`: {problem}")]
    Invalid {
        /// The file with its line, or the `--set` argument that is to blame.
        place: String,
        /// The YAML path, such as `recover.iterations`.
        path: String,
        /// What is wrong and what is allowed.
        problem: String,
    },
}

/// Something wrong at a YAML path, before anyone knows which file and line that was.
#[derive(Debug)]
pub(super) struct Fault {
    pub path: String,
    pub problem: String,
}

impl Fault {
    pub fn new(path: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { path: path.into(), problem: problem.into() }
    }

    /// The same fault where `from` lies at `to`.
    pub fn moved(self, from: &str, to: &str) -> Self {
        match self.path.strip_prefix(from) {
            Some(rest) if rest.is_empty() || rest.starts_with(['.', '[']) => {
                Self { path: format!("{to}{rest}"), problem: self.problem }
            }
            _ => self,
        }
    }

    /// What serde said about `path`, in the words of an experiment file, whose top knows the keys `short` too.
    pub fn from_serde(path: &str, message: &str, short: &[&'static str]) -> Self {
        let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
        match names.split_first() {
            Some((name, known)) if message.starts_with("unknown field") => {
                let path = join(path, name);
                let short = if path == *name { short } else { &[] };
                Self::new(path, unknown("key", "", name, &[known, short].concat()))
            }
            Some((name, known)) if message.starts_with("unknown variant") => {
                Self::new(path, unknown("value", &format!(" `{name}`"), name, known))
            }
            Some((name, _)) if message.starts_with("missing field") => {
                Self::new(join(path, name), "this key is missing and has no default")
            }
            _ => Self::new(path, plain_types(message)),
        }
    }
}

/// `path` with `key` appended, unless it is there already (serde's path sometimes ends at the key, sometimes before it).
fn join(path: &str, key: &str) -> String {
    let last = path.rsplit('.').next();
    match path {
        "." | "" => key.to_string(),
        _ if last == Some(key) => path.to_string(),
        _ => format!("{path}.{key}"),
    }
}

/// "unknown key; did you mean `x`? Known keys: …"
fn unknown(what: &str, quoted: &str, name: &str, known: &[&str]) -> String {
    let hint = nearest(name, known).map_or(String::new(), |near| format!("; did you mean `{near}`?"));
    match known {
        [] => format!("unknown {what}{quoted}; there is nothing to set here"),
        _ if hint.is_empty() => format!("unknown {what}{quoted}; known {what}s: {}", known.join(", ")),
        _ => format!("unknown {what}{quoted}{hint} Known {what}s: {}", known.join(", ")),
    }
}

/// The candidate most like `name`, if any is like it at all.
pub(super) fn nearest<'a>(name: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let likeness = |candidate: &str| strsim::normalized_damerau_levenshtein(name, candidate);
    let best = candidates.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(best) >= 0.5).then_some(best)
}

/// Rust's names of types in the user's words.
fn plain_types(message: &str) -> String {
    match message.rsplit_once(", expected ") {
        Some((found, "u32" | "u64")) => format!("{found}, expected a whole number that is not negative"),
        Some((found, "f64")) => format!("{found}, expected a number"),
        Some((found, "path string" | "a string")) => format!("{found}, expected text"),
        _ => message.to_string(),
    }
}
