//! Collects the report's [`Results`] from the finished stages of an experiment.

use std::collections::BTreeMap;
use std::path::Path;

use super::graph::StageGraph;
use super::identity::Names;
use super::inputs::Inputs;
use super::matrix::{ImageSetSpec, Origin, RowSpec};
use super::stages::validate::Labelling;
use super::stages::{NodeId, RecoveryNodes, RowNodes, Task, WholeNodes};
use super::{Failed, RunError};
use crate::config::real_rows::{RDED_CROPS, WHOLE_REAL};
use crate::config::{Labels, RecoverConfig};
use crate::report::{
    self, Cost, Grid, NamedRecognition, Recognition, RecoverPoint, Recovery, Results, Row,
    TrainPoint, Trained, Verified,
};
use scdd_artifacts::bundle::{Measured, Recognised};
use scdd_artifacts::files::{
    self, ACCURACY, AUTO, FileError, MEASURED, RECOGNISED, TRAINING, read_json,
};
use scdd_artifacts::records::{Auto, Epoch, Point, Training};
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

/// Remarks for the user on the findings of finished stages.
///
/// # Errors
/// When a record can't be read.
pub(super) fn remarks(graph: &StageGraph, failed: &Failed) -> Result<Vec<String>, RunError> {
    let mut remarks = Vec::new();
    for (_, node) in graph.nodes().filter(|(id, _)| !failed.contains_key(id)) {
        match &node.task {
            Task::Balance(task) => {
                let auto: Auto = read_json(&node.directory.join(AUTO))?;
                remarks
                    .push(format!("`recover.r_bn: auto` is, with {}, {auto}", task.teacher.name()));
            }
            Task::Measure(task) => {
                let (teacher, test) = (task.teacher, &task.test.summary);
                let measured: Measured = read_json(&node.directory.join(MEASURED))?;
                let judged = measured.judge(&teacher.manifest, &test.name, &test.classes);
                let judged =
                    judged.map_err(|what| RunError::Misfit { path: teacher.dir.clone(), what })?;
                remarks.extend(judged.map(|remark| format!("`{}` {remark}", teacher.name())));
            }
            Task::Recognise(task) => {
                let (teacher, seen) =
                    (task.teacher.name(), read_json(&node.directory.join(RECOGNISED))?);
                let judged =
                    Recognised::judge(&seen, (&task.name, task.is_mapped), teacher, task.classes);
                remarks.push(
                    judged
                        .map_err(|what| RunError::Misfit { path: node.directory.clone(), what })?,
                );
            }
            _ => {}
        }
    }
    Ok(remarks)
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
        let made_by_network = !matches!(spec.origin, Origin::Real(_) | Origin::Finished(_));
        // Labels that were imported with the images cost nothing.
        let made = row.labels.as_ref().filter(|labels| labels.node != images.node);
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
        let (curve, folder) =
            (recovery_curve(self.directory(images.recovery))?, images.folder.clone());
        let (method_of_grid, teacher_of_grid) = (method.clone(), Some(teacher.clone()));
        results.recoveries.push(Recovery { method, teacher, ipc, seed, curve, verified: seen });
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

/// The objective of the recovery in `directory`, step by step, averaged over its batches with equal
/// weights.
fn recovery_curve(directory: &Path) -> Result<Vec<RecoverPoint>, RunError> {
    let mut sums: BTreeMap<u32, (f64, f64, f64, f64)> = BTreeMap::new();
    for number in 0.. {
        let path = directory.join(files::curve(number));
        let Ok(text) = std::fs::read_to_string(&path) else { break };
        for line in text.lines() {
            let point: Point = serde_json::from_str(line)
                .map_err(|e| FileError::Damaged { path: path.clone(), what: e.to_string() })?;
            let sum = sums.entry(point.iteration + 1).or_default();
            *sum = (sum.0 + 1.0, sum.1 + point.loss, sum.2 + point.ce, sum.3 + point.bn);
        }
    }
    let mean = |(iteration, (n, loss, ce, bn)): (u32, (f64, f64, f64, f64))| RecoverPoint {
        iteration,
        loss: loss / n,
        ce: ce / n,
        bn: bn / n,
    };
    Ok(sums.into_iter().map(mean).collect())
}

fn train_point(epoch: &Epoch) -> TrainPoint {
    TrainPoint { epoch: epoch.epoch, train_loss: epoch.loss, test_accuracy: epoch.accuracy }
}
