//! Faults of an experiment file, and their messages.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::{fmt, io};

use super::schema;
use scdd_data::place;

/// Why an experiment can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is missing, unreadable, or not UTF-8.
    #[error("cannot read the experiment file {}: {}", path.display(), place::said(path, source))]
    Read {
        /// The path as given.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file is not YAML, or repeats a key.
    #[error("{}: not a valid experiment file: {message}", file.display())]
    Syntax {
        /// The path as given.
        file: PathBuf,
        /// The fault, with line and column.
        message: String,
    },
    /// A `--set` argument that cannot be applied.
    #[error("--set {argument}: {problem}")]
    Override {
        /// The argument as given.
        argument: String,
        /// The fault.
        problem: String,
    },
    /// Keys that are unknown, missing, out of range, or contradict others.
    #[error("{}", told(file, faults))]
    Invalid {
        /// The path as given.
        file: PathBuf,
        /// All faults, at least one, in the order of the file.
        faults: Vec<Located>,
    },
}

/// The most faults of one file that are reported.
pub(super) const MOST: usize = 50;

/// A fault, and the place to change.
#[derive(Debug)]
pub struct Located {
    pub(super) place: YamlPlace,
    pub(super) fault: Fault,
}

/// The place to change.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum YamlPlace {
    /// The file; the line is unknown.
    File,
    /// A place in the file; both numbers start at 1.
    Line { line: usize, column: usize },
    /// A `--set` argument.
    Override(String),
}

/// The message: a single fault on one line, several faults as a list.
fn told(file: &Path, faults: &[Located]) -> String {
    if let [Located { place, fault }] = faults {
        return match place {
            YamlPlace::File => format!("{}: {fault}", file.display()),
            YamlPlace::Line { line, .. } => format!("{}, line {line}: {fault}", file.display()),
            YamlPlace::Override(argument) => format!("--set {argument}: {fault}"),
        };
    }
    let count =
        if faults.len() < MOST { faults.len().to_string() } else { format!("at least {MOST}") };
    let mut lists = HashSet::new();
    let line = |Located { place, fault }: &Located| {
        // The known keys of one place are listed once.
        let is_new = lists.insert(fault.known.split_once(": ").map(|(_, list)| list.to_string()));
        let fault =
            if is_new { fault.to_string() } else { format!("`{}`: {}", fault.path, fault.problem) };
        match place {
            YamlPlace::File => format!("\n  {fault}"),
            YamlPlace::Line { line, .. } => format!("\n  line {line}: {fault}"),
            YamlPlace::Override(argument) => format!("\n  --set {argument}: {fault}"),
        }
    };
    format!("{}: {count} faults:{}", file.display(), faults.iter().map(line).collect::<String>())
}

/// A fault at a YAML path, before its file and line are known.
#[derive(Debug)]
pub(super) struct Fault {
    /// For example `recover.iterations`.
    pub path: String,
    /// The fault and the allowed values.
    pub problem: String,
    /// After an unknown name, the known ones, as the rest of the sentence or as a sentence of its
    /// own.
    pub known: String,
}

/// The problem of a missing key.
const MISSING: &str = "this key is missing and has no default";

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "`{}`: {}{}", self.path, self.problem, self.known)
    }
}

impl Fault {
    pub fn new(path: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { path: path.into(), problem: problem.into(), known: String::new() }
    }

    pub fn is_missing(&self) -> bool {
        self.problem == MISSING
    }

    /// The same fault with the prefix `from` of its path replaced by `to`.
    pub fn moved(self, from: &str, to: &str) -> Self {
        match self.path.strip_prefix(from) {
            Some(rest) if rest.is_empty() || rest.starts_with(['.', '[']) => {
                Self { path: format!("{to}{rest}"), ..self }
            }
            _ => self,
        }
    }

    /// "unknown key; did you mean `x`? Known keys: …"
    fn unknown(
        path: impl Into<String>,
        what: &str,
        quoted: &str,
        name: &str,
        known: &[&str],
    ) -> Self {
        let (hint, list) = (nearest(name, known), known.join(", "));
        let (problem, known) = match hint {
            _ if known.is_empty() => {
                (format!("unknown {what}{quoted}; there is nothing to set here"), String::new())
            }
            Some(near) => (
                format!("unknown {what}{quoted}; did you mean `{near}`?"),
                format!(" Known {what}s: {list}"),
            ),
            None => (format!("unknown {what}{quoted}"), format!("; known {what}s: {list}")),
        };
        Self { path: path.into(), problem, known }
    }

    /// Translates serde's message about `path` into the terms of an experiment file. The file's top
    /// level also accepts the keys `short`.
    pub fn from_serde(path: &str, message: &str, short: &[&'static str]) -> Self {
        let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
        match names.split_first() {
            Some((name, known)) if message.starts_with("unknown field") => {
                let path = join(path, name);
                let short = if path == *name { short } else { &[] };
                Self::unknown(path, "key", "", name, &[known, short].concat())
            }
            Some((name, known)) if message.starts_with("unknown variant") => {
                Self::unknown(path, "value", &format!(" `{name}`"), name, known)
            }
            Some((name, _)) if message.starts_with("missing field") => {
                Self::new(join(path, name), MISSING)
            }
            _ => Self::new(path, in_plain_words(message)),
        }
    }
}

/// Appends `key` to `path`, unless `path` ends with it already. (Serde's path ends sometimes at the
/// key, sometimes before it.)
fn join(path: &str, key: &str) -> String {
    let is_there =
        path.strip_suffix(key).is_some_and(|before| before.is_empty() || before.ends_with('.'));
    match path {
        "." | "" => key.to_string(),
        _ if is_there => path.to_string(),
        _ => format!("{path}.{key}"),
    }
}

/// Translates the parser's message into the user's terms.
pub(super) fn of_yaml(error: &serde_yaml::Error) -> String {
    let text = error.to_string();
    let number =
        text.split('`').nth(1).filter(|_| text.contains("as u128") || text.contains("as i128"));
    let place = error
        .location()
        .map_or(String::new(), |at| format!(" at line {} column {}", at.line(), at.column()));
    match number {
        Some(number) => format!(
            "the number `{number}`{place} is too large: whole numbers are at most {}",
            u64::MAX
        ),
        None if text.contains("cannot start any token") => {
            format!("{text}; if it is a tab: YAML is indented by spaces")
        }
        None => text,
    }
}

/// The candidate most similar to `name`, or `None` if none is similar.
pub(super) fn nearest<'a>(name: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let name = name.to_lowercase();
    let likeness = |candidate: &str| strsim::normalized_damerau_levenshtein(&name, candidate);
    let best = candidates.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(best) >= 0.5).then_some(best)
}

/// Translates serde's message about a value's type into the user's terms.
fn in_plain_words(message: &str) -> String {
    let kinds = [
        ("invalid type: ", ", expected "),
        ("invalid value: ", ", expected "),
        ("invalid length ", ", expected "),
    ];
    let parts =
        kinds.iter().find_map(|(start, middle)| message.strip_prefix(start)?.rsplit_once(middle));
    let Some((found, expected)) = parts else { return message.to_string() };
    let text = found.strip_prefix("string ").map(|quoted| quoted.trim_matches('"'));
    if let Some(name) = expected.strip_prefix("internally tagged enum ") {
        return of_types(found, text, name);
    }
    format!("{}, expected {}", found_value(found), expected_value(expected))
}

/// The message for a value where the enum `name` needs keys, of which `type` selects the variant.
fn of_types(found: &str, text: Option<&str>, name: &str) -> String {
    let types = schema::types_of(name);
    let known: Vec<&str> = types.iter().map(|(name, _)| name.as_str()).collect();
    let example = match text.and_then(|text| types.iter().find(|(name, _)| name == text)) {
        Some((name, keys)) => {
            format!(
                "set `{{type: {name}{}}}`",
                keys.iter().map(|key| format!(", {key}: …")).collect::<String>()
            )
        }
        None if schema::may_be_null(name) => {
            format!(
                "expected `type` and its keys below this, or `null` (off); types: {}",
                known.join(", ")
            )
        }
        None => format!("expected `type` and its keys below this; types: {}", known.join(", ")),
    };
    format!("{}: {example}", found_value(found))
}

/// Translates serde's description of the value found.
fn found_value(found: &str) -> String {
    match found.split_once(' ') {
        Some(("string", quoted)) => format!("is the text {}", quoted.replace('"', "`")),
        Some(("integer" | "floating", _)) => {
            format!("is the number {}", found.rsplit(' ').next().unwrap_or(found))
        }
        Some(("boolean", value)) => format!("is {value}"),
        Some(("unit" | "Option", _)) => "is empty (`null`)".into(),
        _ if found == "map" => "has keys below it".into(),
        _ if found == "sequence" => "is a list".into(),
        _ if found.parse::<u64>().is_ok() => format!("is a list of {found}"),
        _ => format!("is {found}"),
    }
}

/// Translates serde's description of the expected value.
fn expected_value(expected: &str) -> String {
    match expected {
        "u16" | "u32" | "u64" | "usize" => "a whole number that is not negative".into(),
        "i64" => "a whole number".into(),
        "f64" | "f32" => "a number".into(),
        "a boolean" => "`true` or `false`".into(),
        "path string" | "a string" => "text".into(),
        "a sequence" => "a list".into(),
        "a map" => "keys below it".into(),
        "field identifier" => "text as a key".into(),
        "string or map"
        | "variant identifier"
        | "string or singleton map"
        | "a Value::Tagged enum" => "the name of one of its values, as text".into(),
        _ if expected.starts_with("struct ") || expected.starts_with("enum ") => {
            "keys below it".into()
        }
        _ => match expected.strip_prefix("an array of length ") {
            Some(length) => format!("a list of {length} numbers"),
            None => expected.to_string(),
        },
    }
}
