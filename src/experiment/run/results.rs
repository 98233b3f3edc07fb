//! Collects the report's [`Results`] from the finished stages of an experiment.

use std::path::Path;

use super::graph::StageGraph;
use super::identity::Names;
use super::inputs::Inputs;
use super::matrix::{ImageSetSpec, Origin, RowSpec};
use super::recovery::RecoveryCourse;
use super::stages::validate::Labelling;
use super::stages::{NodeId, RecoveryNodes, RowNodes, Task, WholeNodes};
use super::{Failed, RunError};
use crate::config::real_rows::{RDED_CROPS, WHOLE_REAL};
use crate::config::{Labels, RecoverConfig};
use crate::report::{
    self, Cost, Grid, NamedRecognition, Recognition, Recovery, Results, Row, TrainPoint, Trained,
    Verified,
};
use scdd_artifacts::bundle::Recognised;
use scdd_artifacts::files::{ACCURACY, LABEL_FIGURES, RECOGNISED, TRAINING, read_json};
use scdd_artifacts::records::{Epoch, LabelFigures, Training};
use scdd_artifacts::stage::Timing;

/// Collects the report's contents from `graph`, whose stages are complete except those in `failed`.
/// There are rows only if students were trained.
pub(super) fn collect(
    inputs: &Inputs,
    resolved: String,
    graph: &StageGraph,
    failed: &Failed,
) -> Result<Results, RunError> {
    let collector = Collector { inputs, graph, failed, names: Names::of(&inputs.bundles) };
    let [test_hash, train_hash] = inputs.data_hashes();
    let mut results = Results {
        name: inputs.experiment.name.clone(),
        data: inputs.test().map_or("no real data".into(), |test| test.name.clone()),
        test_hash,
        train_hash,
        networks: collector.names.networks(),
        classes: collector.classes(),
        test_images: inputs.test().map_or(0, |test| test.images() as usize),
        experiment: resolved,
        ..Results::default()
    };
    for one in &graph.stages.recoveries {
        collector.note_recovery(&mut results, one)?;
    }
    for one in &graph.stages.rows {
        collector.note_row(&mut results, one)?;
        collector.note_recognised(&mut results, one)?;
        collector.note_baseline(&mut results, one);
    }
    for one in &graph.stages.whole {
        collector.note_whole(&mut results, one)?;
    }
    Ok(results)
}

struct Collector<'a> {
    inputs: &'a Inputs,
    graph: &'a StageGraph<'a>,
    failed: &'a Failed,
    names: Names,
}

impl Collector<'_> {
    fn directory(&self, node: NodeId) -> &Path {
        &self.graph.node(node).directory
    }

    fn timing(&self, node: NodeId) -> Option<Timing> {
        Timing::read(self.directory(node))
    }

    fn training(&self, node: NodeId) -> Result<Training, RunError> {
        Ok(read_json(&self.directory(node).join(TRAINING))?)
    }

    /// The figures of the labels of the stage `node`; `None` if an older program made it.
    fn label_figures(&self, node: NodeId) -> Result<Option<LabelFigures>, RunError> {
        let path = self.directory(node).join(LABEL_FIGURES);
        if path.exists() { Ok(Some(read_json(&path)?)) } else { Ok(None) }
    }

    /// Names of the images' classes: a network's, restricted to the classes that the methods
    /// recover.
    fn classes(&self) -> Vec<String> {
        let named = self.inputs.bundles.values().find(|b| !b.manifest.is_features_only());
        let all = named.map(|b| b.manifest.classes.clone()).unwrap_or_default();
        let recovered = |class: usize| {
            let has = |method: &RecoverConfig| {
                method.classes.as_ref().is_none_or(|some| some.contains(&(class as u32)))
            };
            let methods = &self.inputs.experiment.methods;
            methods.is_empty() || methods.values().any(has)
        };
        all.into_iter()
            .enumerate()
            .filter(|(class, _)| recovered(*class))
            .map(|(_, name)| name)
            .collect()
    }

    fn note_row(&self, results: &mut Results, row: &RowNodes) -> Result<(), RunError> {
        let Some(student) = row.student else { return Ok(()) };
        match self.failed.get(&student) {
            Some(reason) => results.failed.push(self.failed_row(&row.spec, reason)),
            None => results.rows.push(self.row(row, student)?),
        }
        Ok(())
    }

    fn row(&self, row: &RowNodes, student: NodeId) -> Result<Row, RunError> {
        let (spec, images) = (&row.spec, &row.images);
        let training = self.training(student)?;
        // Labels that were imported with the images cost nothing.
        let made = row.labels.as_ref().filter(|labels| labels.node != images.node);
        let figures = match &row.labels {
            Some(labels) => self.label_figures(labels.node)?,
            None => None,
        };
        let made_by_network = !matches!(spec.origin, Origin::Real(_) | Origin::Finished(_));
        let bytes = |file: &Path| Some(std::fs::metadata(file).ok()?.len());
        Ok(Row {
            method: method(spec),
            data_free: self.is_data_free(spec),
            teacher: self.teacher(spec),
            relabel_teacher: row.labels.as_ref().map(|labels| self.labelled_by(labels, spec)),
            student: self.names.get(spec.student).to_owned(),
            ipc: spec.ipc,
            labels: spec.labels,
            protocol: spec.protocol.to_owned(),
            augmented: self.inputs.experiment.protocols[spec.protocol].is_augmented(),
            seed: spec.seed,
            last_accuracy: training.last,
            best_accuracy: training.best,
            last_top5: training.last_top5(),
            label_probability: figures.map(|figures| figures.max_probability),
            images: images.count,
            recovered: Some(images.recovered).filter(|&count| count != images.count),
            label_bytes: row.labels.as_ref().and_then(|labels| bytes(&labels.file)),
            cost: Cost {
                recover: if made_by_network { self.timing(images.recovery) } else { None },
                relabel: made.and_then(|labels| self.timing(labels.node)),
                validate: self.timing(student),
            },
            curve: training.curve.iter().map(train_point).collect(),
        })
    }

    /// The name of the teacher that made `labels`.
    fn labelled_by(&self, labels: &Labelling, spec: &RowSpec) -> String {
        labels.stranger.clone().unwrap_or_else(|| self.names.get(spec.labeller).to_owned())
    }

    fn failed_row(&self, spec: &RowSpec, reason: &str) -> report::FailedRow {
        report::FailedRow {
            method: method(spec),
            data_free: self.is_data_free(spec),
            teacher: self.teacher(spec),
            ipc: spec.ipc,
            seed: spec.seed,
            trained: Some(Trained {
                student: self.names.get(spec.student).to_owned(),
                protocol: spec.protocol.to_owned(),
                labels: spec.labels,
                relabel_teacher: (spec.labels == Labels::Soft)
                    .then(|| self.names.get(spec.labeller).to_owned()),
            }),
            reason: reason.to_owned(),
        }
    }

    fn note_whole(&self, results: &mut Results, whole: &WholeNodes) -> Result<(), RunError> {
        let ipc = (whole.images / results.classes.len().max(1) as u64) as u32;
        let (method, student) = (WHOLE_REAL.to_owned(), self.names.get(whole.student).to_owned());
        let (protocol, labels, seed) = (whole.protocol.to_owned(), Labels::Hard, whole.seed);
        if let Some(reason) = self.failed.get(&whole.node) {
            let trained = Some(Trained { student, protocol, labels, relabel_teacher: None });
            let reason = reason.clone();
            results.failed.push(report::FailedRow {
                method,
                data_free: false,
                teacher: None,
                ipc,
                seed,
                trained,
                reason,
            });
            return Ok(());
        }
        let training = self.training(whole.node)?;
        results.rows.push(Row {
            method,
            data_free: false,
            teacher: None,
            relabel_teacher: None,
            student,
            ipc,
            labels,
            augmented: self.inputs.experiment.protocols[whole.protocol].is_augmented(),
            protocol,
            seed,
            last_accuracy: training.last,
            best_accuracy: training.best,
            last_top5: training.last_top5(),
            label_probability: None,
            images: whole.images,
            recovered: None,
            label_bytes: None,
            cost: Cost { validate: self.timing(whole.node), ..Cost::default() },
            curve: training.curve.iter().map(train_point).collect(),
        });
        Ok(())
    }

    /// Adds a set's recovery, its verifiers' accuracies and its grid.
    fn note_recovery(
        &self,
        results: &mut Results,
        recovery: &RecoveryNodes,
    ) -> Result<(), RunError> {
        let RecoveryNodes { spec: ImageSetSpec { teacher, method, ipc, seed }, images, verified } =
            recovery;
        let (teacher, method, ipc, seed) =
            (self.names.get(teacher).to_owned(), (*method).to_owned(), *ipc, *seed);
        let experiment = &self.inputs.experiment;
        let data_free = experiment.methods[&method].is_data_free();
        let failed = |reason: &String| report::FailedRow {
            method: method.clone(),
            data_free,
            teacher: Some(teacher.clone()),
            ipc,
            seed,
            trained: None,
            reason: reason.clone(),
        };
        if let Some(reason) = self.failed.get(&images.node) {
            // If there are rows, they report the failure.
            results.failed.extend(experiment.students.is_empty().then(|| failed(reason)));
            return Ok(());
        }
        let mut seen = Vec::new();
        for (verifier, node) in verified {
            match self.failed.get(node) {
                Some(reason) => results.failed.push(failed(reason)),
                None => seen.push(Verified {
                    verifier: self.names.get(verifier).into(),
                    accuracy: read_json(&self.directory(*node).join(ACCURACY))?,
                }),
            }
        }
        let RecoveryCourse { curve, balance } =
            RecoveryCourse::read(self.directory(images.recovery))?;
        let (folder, verified) = (images.folder.clone(), seen);
        let (method_of_grid, teacher_of_grid) = (method.clone(), Some(teacher.clone()));
        let recovery = Recovery { method, teacher, ipc, seed, curve, balance, verified };
        results.recoveries.push(recovery);
        results.grids.push(Grid {
            method: method_of_grid,
            data_free,
            teacher: teacher_of_grid,
            ipc,
            seed,
            folder,
        });
        Ok(())
    }

    /// Adds what the labelling teacher of a finished set's row sees in it, once.
    fn note_recognised(&self, results: &mut Results, row: &RowNodes) -> Result<(), RunError> {
        let Some(node) = row.recognised.filter(|node| !self.failed.contains_key(node)) else {
            return Ok(());
        };
        let Task::Recognise(task) = &self.graph.node(node).task else { return Ok(()) };
        let seen: Recognised = read_json(&self.directory(node).join(RECOGNISED))?;
        let classes = task.classes.iter().zip(seen.classes);
        let found = Recognition {
            method: method(&row.spec),
            ipc: row.spec.ipc,
            teacher: self.names.get(row.spec.labeller).to_owned(),
            images: seen.measured.images,
            top1: seen.measured.top1,
            classes: classes
                .map(|(class, seen)| NamedRecognition { class: class.clone(), seen })
                .collect(),
        };
        if !results.recognised.contains(&found) {
            results.recognised.push(found);
        }
        Ok(())
    }

    /// Adds the grid of a baseline's or finished set's images, once.
    fn note_baseline(&self, results: &mut Results, row: &RowNodes) {
        let (spec, folder) = (&row.spec, &row.images.folder);
        let is_baseline = !matches!(spec.origin, Origin::Distilled { .. });
        let is_there = !self.failed.contains_key(&row.images.node);
        if is_baseline && is_there && results.grids.iter().all(|grid| grid.folder != *folder) {
            let (method, teacher, ipc, seed) =
                (method(spec), self.teacher(spec), spec.ipc, spec.seed);
            results.grids.push(Grid {
                method,
                data_free: false,
                teacher,
                ipc,
                seed,
                folder: folder.clone(),
            });
        }
    }

    /// Whether making the images reads no real image.
    fn is_data_free(&self, spec: &RowSpec) -> bool {
        match spec.origin {
            Origin::Distilled { method, .. } => {
                self.inputs.experiment.methods[method].is_data_free()
            }
            Origin::Real(_) | Origin::Finished(_) | Origin::Crops => false,
        }
    }

    /// The name of the teacher from which the images were recovered, or that chose them.
    fn teacher(&self, spec: &RowSpec) -> Option<String> {
        match spec.origin {
            Origin::Distilled { teacher, .. } => Some(self.names.get(teacher).to_owned()),
            Origin::Crops => Some(self.names.get(spec.labeller).to_owned()),
            Origin::Real(_) | Origin::Finished(_) => None,
        }
    }
}

fn method(spec: &RowSpec) -> String {
    match spec.origin {
        Origin::Distilled { method, .. } => method.to_owned(),
        Origin::Finished(name) => name.to_owned(),
        Origin::Real(choice) => choice.method().to_owned(),
        Origin::Crops => RDED_CROPS.to_owned(),
    }
}

fn train_point(epoch: &Epoch) -> TrainPoint {
    TrainPoint { epoch: epoch.epoch, train_loss: epoch.loss, test_accuracy: epoch.accuracy }
}
