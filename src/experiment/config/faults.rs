//! Finds all faults of an experiment.
//!
//! Deserialisation stops at the first wrong key or value. That one is removed and the rest is read
//! again, until no more is found; then ranges are checked. Contradictions are only searched if
//! every value is valid.

use serde_yaml::{Mapping, Value};

use super::check;
use super::error::{Fault, MOST, nearest};
use super::model::Experiment;
use super::path::{self, Segment};
use super::resolve::{as_written, typed};

/// Replacements for required keys whose faults are known. They never reach the user.
const STAND_INS: [(&str, &str); 5] =
    [("name", "x"), ("data", "mnist"), ("teachers", "x"), ("students", "x"), ("ipc", "1")];

/// The experiment that the file's keys describe.
///
/// # Errors
/// All faults, up to [`MOST`].
pub(super) fn resolve(mut raw: Mapping) -> Result<Experiment, Vec<Fault>> {
    let mut found = FaultsFound::default();
    let (experiment, forms) = loop {
        match typed(raw.clone()) {
            Ok(found) => break found,
            Err(fault) => {
                let at = path::parse(&fault.path).unwrap_or_default();
                // A key that contains dots looks like a path.
                let has_dots = at.len() > 1 && raw.remove(fault.path.as_str()).is_some();
                let left_out = if has_dots { Some(at.len()) } else { leave_out(&mut raw, &at) };
                found.add(fault);
                match left_out {
                    Some(depth) if found.faults.len() < MOST => found.left_out(&at[..depth]),
                    _ => return Err(found.faults),
                }
            }
        }
    };
    check::values(&experiment).into_iter().for_each(|fault| found.add(as_written(fault, &forms)));
    if found.faults.is_empty() {
        check::contradictions(&experiment)
            .into_iter()
            .for_each(|fault| found.add(as_written(fault, &forms)));
    }
    if found.faults.is_empty() { Ok(experiment) } else { Err(found.faults) }
}

/// The faults so far, and the list elements that were removed because of them.
#[derive(Default)]
struct FaultsFound {
    faults: Vec<Fault>,
    paths: Vec<Vec<Segment>>,
    elements: Vec<Vec<Segment>>,
}

impl FaultsFound {
    /// Adds a fault of the remaining file, unless a removal caused it or there are enough faults.
    fn add(&mut self, fault: Fault) {
        if self.faults.len() >= MOST {
            return;
        }
        let Some(path) = path::parse(&fault.path).map(|path| self.in_the_file(path)) else {
            return self.faults.push(fault);
        };
        let is_known = |known: &Vec<Segment>| known.starts_with(&path) || path.starts_with(known);
        let is_meant = |known: &Vec<Segment>| match (known.split_last(), path.split_last()) {
            (Some((Segment::Key(known), beside)), Some((Segment::Key(key), parent))) => {
                fault.is_missing() && beside == parent && nearest(known, &[key]).is_some()
            }
            _ => false,
        };
        if !self.paths.iter().any(|known| is_known(known) || is_meant(known)) {
            self.faults.push(Fault { path: path::written(&path), ..fault });
            self.paths.push(path);
        }
    }

    /// Records that the element at `path` of the remaining file was removed.
    fn left_out(&mut self, path: &[Segment]) {
        if let Some(Segment::Index(_)) = path.last() {
            let element = self.in_the_file(path.to_vec());
            self.elements.push(element);
        }
    }

    /// Converts a `path` of the remaining file to one of the original file, by counting the removed
    /// elements before it.
    fn in_the_file(&self, mut path: Vec<Segment>) -> Vec<Segment> {
        for place in 0..path.len() {
            let (list, [at, ..]) = path.split_at_mut(place) else { continue };
            let Segment::Index(at) = at else { continue };
            for element in &self.elements {
                match element.split_last() {
                    Some((Segment::Index(gone), rest)) if rest == list && gone <= at => *at += 1,
                    _ => {}
                }
            }
        }
        path
    }
}

/// Removes the value at `path`, or its nearest existing ancestor; for a wrong `type` also all keys
/// beside it. Returns the length of the removed path, or `None` if nothing could be removed.
fn leave_out(raw: &mut Mapping, path: &[Segment]) -> Option<usize> {
    let path = match path {
        [parent @ .., Segment::Key(key)] if key == "type" => parent,
        _ => path,
    };
    let [Segment::Key(top), inner @ ..] = path else { return None };
    let depth = raw.get_mut(top).map_or(0, |value| remove(value, inner));
    if depth > 0 {
        return Some(1 + depth);
    }
    let stand_in = STAND_INS
        .iter()
        .find(|(key, _)| key == top)
        .and_then(|(_, value)| serde_yaml::from_str(value).ok());
    match stand_in {
        None => raw.remove(top).map(|_| 1),
        Some(stand_in) if raw.get(top) == Some(&stand_in) => None,
        Some(stand_in) => {
            raw.insert(Value::from(top.as_str()), stand_in);
            Some(1)
        }
    }
}

/// Removes the value at `path` below `node`, or its deepest existing ancestor. Returns that depth,
/// or 0 if nothing exists.
fn remove(node: &mut Value, path: &[Segment]) -> usize {
    let Some((first, rest)) = path.split_first() else { return 0 };
    let depth = path::at(node, &path[..1]).map(|child| remove(child, rest));
    match (depth, node, first) {
        (None, ..) => 0,
        (Some(0), Value::Mapping(keys), Segment::Key(key)) => {
            keys.remove(key.as_str()).map_or(0, |_| 1)
        }
        (Some(0), Value::Sequence(values), Segment::Index(index)) => {
            values.remove(*index);
            1
        }
        (Some(depth), ..) => 1 + depth,
    }
}
