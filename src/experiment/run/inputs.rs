//! Opens an experiment's bundles and data, and checks that they match.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::finished::{self, OpenedSet};
use super::opened::SplitSummary;
use super::real::{DatasetCache, Real};
use super::{RunError, every, fit, identity};
use crate::config::{Experiment, RelabelConfig};
use scdd_artifacts::bundle::Bundle;

/// All bundles of the experiment, by their paths in it. Indexing with a path of the experiment
/// can't fail.
pub type Bundles = BTreeMap<PathBuf, Bundle>;

/// An experiment with everything that it reads.
pub struct Inputs {
    /// The experiment, with a single path per bundle.
    pub experiment: Experiment,
    pub bundles: Bundles,
    /// `None` if the experiment has no real data.
    real: Option<Rc<Real>>,
    /// The finished sets, by their names in the experiment.
    pub finished: BTreeMap<String, OpenedSet>,
    /// Remarks for the user.
    remarks: Vec<String>,
}

impl Inputs {
    /// Opens the inputs of `experiment`. Data in `cache` are not read again.
    ///
    /// # Errors
    /// When bundles or data can't be read or don't match. The error lists all faults.
    pub fn open(experiment: &Experiment, cache: &DatasetCache) -> Result<Self, RunError> {
        let bundles = load_bundles(experiment)?;
        let (experiment, mut remarks) = identity::unified(experiment, &bundles)?;
        let shape = bundles[&experiment.teachers[0]].image_shape();
        let real = cache.get(&experiment.data, shape)?;
        let test = real.as_ref().map(|real| &real.test.summary);
        remarks.extend(fit::check(&experiment, &bundles, test)?);
        let finished = match test {
            Some(test) => finished::open(&experiment, test, shape)?,
            None => BTreeMap::new(),
        };
        remarks.extend(finished.values().flat_map(|set| set.remarks.iter().cloned()));
        Ok(Self { experiment, bundles, real, finished, remarks })
    }

    /// The real data.
    ///
    /// # Errors
    /// When the experiment has none.
    pub fn real(&self) -> Result<&Real, RunError> {
        self.real.as_deref().ok_or(RunError::NoData)
    }

    /// What is known of the real test set, if there is real data.
    pub fn test(&self) -> Option<&SplitSummary> {
        self.real.as_ref().map(|real| &real.test.summary)
    }

    /// The content hash of the test set and, if a stage reads it, of the training set.
    pub fn data_hashes(&self) -> [Option<String>; 2] {
        let real = self.real.as_deref();
        let train = real.and_then(Real::opened_train);
        [real.map(|real| &real.test), train].map(|split| Some(split?.summary.hash.clone()))
    }

    /// Remarks for the user on everything that was read so far.
    pub fn remarks(&self) -> Vec<String> {
        let of_data = self.real.as_ref().map(|real| real.remarks()).unwrap_or_default();
        [self.remarks.clone(), of_data].concat()
    }

    /// Notes for the user about data that were not read, so that a plan is provisional.
    pub fn unread(&self) -> Vec<String> {
        self.real.as_ref().map(|real| real.unread()).unwrap_or_default()
    }

    /// The classes of images recovered from `teacher`: its own, or the data's if it has none.
    pub fn classes_of<'a>(&'a self, teacher: &'a Bundle) -> &'a [String] {
        match self.test().filter(|_| teacher.manifest.is_features_only()) {
            Some(test) => &test.classes,
            None => &teacher.manifest.classes,
        }
    }

    /// The teachers that label together with `labeller`, which comes first, and their weights.
    pub fn answering(&self, labeller: &Path, relabel: &RelabelConfig) -> Vec<(&Bundle, f64)> {
        let (own, others): (Vec<_>, Vec<_>) =
            relabel.ensemble.iter().partition(|member| member.bundle == labeller);
        let first = (&self.bundles[labeller], own.first().map_or(1.0, |member| member.weight));
        let others = others.iter().map(|member| (&self.bundles[&member.bundle], member.weight));
        [first].into_iter().chain(others).collect()
    }
}

/// Loads all bundles of `experiment`.
pub fn load_bundles(experiment: &Experiment) -> Result<Bundles, RunError> {
    let paths = experiment.teachers.iter().chain(&experiment.students).map(PathBuf::as_path);
    let committees = experiment.methods.values().filter_map(|method| method.committee.as_ref());
    let members = committees.flat_map(|committee| &committee.teachers).map(PathBuf::as_path);
    let verifiers =
        experiment.methods.values().flat_map(|method| &method.verifier).map(PathBuf::as_path);
    let labellers = experiment.labellers().into_iter().chain(experiment.ensembles());
    let paths: BTreeSet<&Path> = paths.chain(members).chain(labellers).chain(verifiers).collect();
    let load = |path: &Path| Ok((path.to_path_buf(), Bundle::load(path)?));
    Ok(every(paths.into_iter().map(load))?.into_iter().collect())
}
