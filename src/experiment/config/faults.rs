//! All faults of an experiment at once.
//!
//! Reading stops at the first key or value that is wrong. So that one is left out, and the rest is
//! read again, until nothing more is found; then ranges are checked. Contradictions are looked for
//! only among values that are all right.

use serde_yaml::{Mapping, Value};

use super::check;
use super::error::{Fault, MOST, nearest};
use super::model::Experiment;
use super::path::{self, Segment};
use super::resolve::{as_written, typed};

/// What takes the place of a key that must be there, once its fault is known. Nobody sees it.
const STAND_INS: [(&str, &str); 5] =
    [("name", "x"), ("data", "mnist"), ("teachers", "x"), ("students", "x"), ("ipc", "1")];

/// The experiment that the file's keys describe.
///
/// # Errors
/// Whatever is wrong, up to [`MOST`] faults.
pub(super) fn resolve(mut raw: Mapping) -> Result<Experiment, Vec<Fault>> {
    let mut found = FaultsFound::default();
    let (experiment, forms) = loop {
        match typed(raw.clone()) {
            Ok(found) => break found,
            Err(fault) => {
                let at = path::parse(&fault.path).unwrap_or_default();
                // A key that has dots itself looks like a path.
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

/// The faults so far, and which elements of lists were left out for them.
#[derive(Default)]
struct FaultsFound {
    faults: Vec<Fault>,
    paths: Vec<Vec<Segment>>,
    elements: Vec<Vec<Segment>>,
}

impl FaultsFound {
    /// Notes a fault of what is left of the file, unless it comes of what was left out or there are
    /// enough.
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

    /// Notes that what stood at `path` of what was left is no more.
    fn left_out(&mut self, path: &[Segment]) {
        if let Some(Segment::Index(_)) = path.last() {
            let element = self.in_the_file(path.to_vec());
            self.elements.push(element);
        }
    }

    /// Where in the file what now stands at `path` is: behind the elements that were left out
    /// before it.
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

/// Leaves out what stands at `path`, or nearest above it where nothing does; with a wrong `type`
/// all keys beside it. Says how much of the path that is; `None` if there was nothing to leave out.
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

/// Removes what stands at `path` below `node`, or the deepest of it that is there; says how deep, 0
/// if there is nothing.
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
