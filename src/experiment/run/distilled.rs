//! Collects the distilled sets of an experiment for export.

use std::path::{Path, PathBuf};

use super::identity::Names;
use super::inputs::{Bundles, Inputs};
use super::matrix::Origin;
use super::real::DatasetCache;
use super::{Goal, RunError, graph::StageGraph, stages_in};
use crate::config::{Experiment, RecoverConfig};
use scdd_artifacts::stage::StageStore;

/// A distilled set of images with its soft labels, complete on disk.
pub struct DistilledSet {
    /// Its unique name among the experiment's sets.
    pub name: String,
    /// The method's name in the experiment, and its settings.
    pub method: (String, RecoverConfig),
    /// The bundle from which the images were recovered, by its path in the experiment.
    pub teacher: PathBuf,
    /// Images per class.
    pub ipc: u32,
    pub seed: u64,
    /// The ImageFolder.
    pub folder: PathBuf,
    /// The stage's key: the hash of configuration, teacher and seed.
    pub key: String,
    /// The stores of soft labels: name, labelling bundle, file.
    pub labels: Vec<(String, PathBuf, PathBuf)>,
}

/// All distilled sets of `experiment`, each once, and their bundles.
///
/// # Errors
/// When a set or its labels are not complete below `output`.
pub fn distilled_sets(
    experiment: &Experiment,
    output: &Path,
) -> Result<(Vec<DistilledSet>, Bundles), RunError> {
    let (inputs, store) =
        (Inputs::open(experiment, &DatasetCache::default())?, StageStore::new(stages_in(output)));
    let (graph, names) =
        (StageGraph::build(&inputs, &store, Goal::Relabel)?, Names::of(&inputs.bundles));
    let complete = |id| graph.require(&store, id);
    let mut sets: Vec<DistilledSet> = Vec::new();
    for row in &graph.stages.rows {
        let Origin::Distilled { teacher, method } = row.spec.origin else { continue };
        let (ipc, seed) = (row.spec.ipc, row.spec.seed);
        complete(row.images.node)?;
        let known =
            sets.iter().position(|set| set.folder == row.images.folder).unwrap_or_else(|| {
                sets.push(DistilledSet {
                    name: format!("{method}-from-{}-ipc{ipc}-seed{seed}", names.get(teacher)),
                    method: (method.to_owned(), inputs.experiment.methods[method].clone()),
                    teacher: teacher.to_owned(),
                    ipc,
                    seed,
                    folder: row.images.folder.clone(),
                    key: row.images.key.clone(),
                    labels: Vec::new(),
                });
                sets.len() - 1
            });
        if let Some(labels) = &row.labels {
            complete(labels.node)?;
            let name = format!("{}-by-{}", row.spec.protocol, names.get(row.spec.labeller));
            let entry = (name, row.spec.labeller.to_owned(), labels.file.clone());
            if !sets[known].labels.contains(&entry) {
                sets[known].labels.push(entry);
            }
        }
    }
    drop(graph);
    Ok((sets, inputs.bundles))
}
