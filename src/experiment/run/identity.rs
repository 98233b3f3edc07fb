//! Identifies bundles by content: one bundle with two paths is one, and two bundles with one name
//! are distinguished.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Bundles, RunError};
use crate::config::{Experiment, RelabelTeachers};
use crate::report::ReportedNetwork;

/// The experiment with a single path per bundle, the first one that it uses, and remarks on merged
/// paths.
///
/// # Errors
/// When a committee, an ensemble or a list of verifiers contains one bundle twice, where it would
/// count twice.
pub fn unified(
    experiment: &Experiment,
    bundles: &Bundles,
) -> Result<(Experiment, Vec<String>), RunError> {
    let mut unified = experiment.clone();
    let mut first: BTreeMap<&str, PathBuf> = BTreeMap::new();
    let mut one_path = |path: &mut PathBuf| {
        let known = first.entry(&bundles[path.as_path()].hash).or_insert_with(|| path.clone());
        *path = known.clone();
    };
    unified.teachers.iter_mut().for_each(&mut one_path);
    if let RelabelTeachers::List(teachers) = &mut unified.relabel_teachers {
        teachers.iter_mut().for_each(&mut one_path);
    }
    unified.students.iter_mut().for_each(&mut one_path);
    for method in unified.methods.values_mut() {
        method
            .committee
            .iter_mut()
            .flat_map(|committee| &mut committee.teachers)
            .for_each(&mut one_path);
        method.verifier.iter_mut().for_each(&mut one_path);
    }
    for protocol in unified.protocols.values_mut() {
        protocol.relabel.ensemble.iter_mut().for_each(|member| one_path(&mut member.bundle));
    }
    let mut remarks = Vec::new();
    merge("teachers", &experiment.teachers, &mut unified.teachers, &mut remarks);
    merge("students", &experiment.students, &mut unified.students, &mut remarks);
    if let (RelabelTeachers::List(named), RelabelTeachers::List(teachers)) =
        (&experiment.relabel_teachers, &mut unified.relabel_teachers)
    {
        merge("relabel_teachers", named, teachers, &mut remarks);
    }
    for (name, method) in &unified.methods {
        let members = method.committee.iter().flat_map(|committee| &committee.teachers);
        distinct(&format!("methods.{name}.committee.teachers"), members)?;
        distinct(&format!("methods.{name}.verifier"), method.verifier.iter())?;
    }
    for (name, protocol) in &unified.protocols {
        let members = protocol.relabel.ensemble.iter().map(|member| &member.bundle);
        distinct(&format!("protocols.{name}.relabel.ensemble"), members)?;
    }
    Ok((unified, remarks))
}

/// Keeps each of `paths` once.
fn merge(key: &str, named: &[PathBuf], paths: &mut Vec<PathBuf>, remarks: &mut Vec<String>) {
    let mut kept: Vec<PathBuf> = Vec::new();
    for (path, named) in std::mem::take(paths).into_iter().zip(named) {
        if kept.contains(&path) {
            let (other, first) = (named.display(), path.display());
            remarks.push(format!(
                "`{key}`: {other} is the same bundle as {first}, so its rows are made once"
            ));
        } else {
            kept.push(path);
        }
    }
    *paths = kept;
}

fn distinct<'a>(key: &str, paths: impl Iterator<Item = &'a PathBuf>) -> Result<(), RunError> {
    let paths: Vec<&PathBuf> = paths.collect();
    match (1..paths.len()).find(|&index| paths[..index].contains(&paths[index])) {
        None => Ok(()),
        Some(index) => {
            let what = format!(
                "`{key}[{index}]` is the same bundle as one before it in that list: name it once"
            );
            Err(RunError::Misfit { path: paths[index].clone(), what })
        }
    }
}

/// The display names of bundles: the bundle's name, with the beginning of its hash if another
/// bundle has the same name.
pub struct Names(BTreeMap<PathBuf, ReportedNetwork>);

impl Names {
    /// The names of all `bundles`.
    pub fn of(bundles: &Bundles) -> Self {
        let name = |(path, bundle): (&PathBuf, &scdd_artifacts::bundle::Bundle)| {
            let is_other = |other: &&scdd_artifacts::bundle::Bundle| {
                other.name() == bundle.name() && other.hash != bundle.hash
            };
            let manifest = &bundle.manifest;
            let mut network = ReportedNetwork {
                path: path.clone(),
                name: bundle.name().into(),
                hash: bundle.hash.clone(),
                scheme: manifest.pretraining.as_ref().map(|done| done.scheme.clone()),
                model_bytes: manifest.files.get("model.onnx").map(|file| file.bytes),
            };
            if bundles.values().any(|other| is_other(&other)) {
                network.name = network.told_apart();
            }
            (path.clone(), network)
        };
        Self(bundles.iter().map(name).collect())
    }

    /// The name of the bundle at `path`, a path of the experiment.
    pub fn get(&self, path: &Path) -> &str {
        self.0.get(path).map_or("", |network| &network.name)
    }

    /// All networks, by path.
    pub fn networks(&self) -> Vec<ReportedNetwork> {
        self.0.values().cloned().collect()
    }
}
