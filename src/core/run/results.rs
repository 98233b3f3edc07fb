//! What the finished stages of an experiment say, as the report's [`Results`].

use std::path::Path;

use super::identity::Names;
use super::matrix::{Line, Origin, Set};
use super::pieces::Pieces;
use super::stage::Timing;
use super::{All, Bundles, Made, Recovered, RunError, Whole};
use crate::config::{Experiment, Labels, RecoverConfig};
use crate::data::Dataset;
use crate::report::{self, Cost, Failed, Grid, Recovery, Results, Row, Trained, Verified};

/// Everything that the report shows of `all`; rows only where students were trained.
pub(super) fn collect(
    experiment: &Experiment,
    resolved: String,
    bundles: &Bundles,
    pieces: &Pieces,
    all: &All,
) -> Result<Results, RunError> {
    let names = &Names::of(bundles);
    let [test_hash, train_hash] = pieces.data_hashes();
    let mut results = Results {
        name: experiment.name.clone(),
        data: pieces.test().map_or("no real data".into(), |test| test.name.clone()),
        test_hash,
        train_hash,
        networks: names.networks(),
        classes: classes(experiment, bundles),
        test_images: pieces.test().map_or(0, Dataset::len),
        experiment: resolved,
        ..Results::default()
    };
    for one in &all.recovered {
        note_recovery(&mut results, experiment, names, pieces, one)?;
    }
    for one in &all.rows {
        match &one.student {
            None => {}
            Some(student) => match pieces.has_failed(student) {
                Some(reason) => results.failed.push(failed_row(experiment, names, &one.line, reason)),
                None => results.rows.push(row(experiment, names, pieces, one, student)?),
            },
        }
        note_baseline(&mut results, names, pieces, one);
    }
    for one in &all.whole {
        match pieces.has_failed(&one.directory) {
            Some(reason) => results.failed.push(failed_whole(names, one, results.classes.len(), reason)),
            None => results.rows.push(whole_row(experiment, names, pieces, one, results.classes.len())?),
        }
    }
    Ok(results)
}

fn failed_row(experiment: &Experiment, names: &Names, line: &Line, reason: &str) -> Failed {
    Failed {
        method: method(line),
        data_free: is_data_free(line, experiment),
        teacher: teacher(line, names),
        ipc: line.ipc,
        seed: line.seed,
        trained: Some(Trained {
            student: names.get(line.student).to_owned(),
            protocol: line.protocol.to_owned(),
            labels: line.labels,
            relabel_teacher: (line.labels == Labels::Soft).then(|| names.get(line.labeller).to_owned()),
        }),
        reason: reason.to_owned(),
    }
}

fn failed_whole(names: &Names, whole: &Whole, classes: usize, reason: &str) -> Failed {
    Failed {
        method: report::WHOLE_REAL.to_owned(),
        data_free: false,
        teacher: None,
        ipc: images_per_class(whole, classes),
        seed: whole.seed,
        trained: Some(Trained {
            student: names.get(whole.student).to_owned(),
            protocol: whole.protocol.to_owned(),
            labels: Labels::Hard,
            relabel_teacher: None,
        }),
        reason: reason.to_owned(),
    }
}

fn images_per_class(whole: &Whole, classes: usize) -> u32 {
    (whole.images / classes.max(1) as u64) as u32
}

fn whole_row(
    experiment: &Experiment,
    names: &Names,
    pieces: &Pieces,
    whole: &Whole,
    classes: usize,
) -> Result<Row, RunError> {
    let training = pieces.training(&whole.directory)?;
    Ok(Row {
        method: report::WHOLE_REAL.to_owned(),
        data_free: false,
        teacher: None,
        relabel_teacher: None,
        student: names.get(whole.student).to_owned(),
        ipc: images_per_class(whole, classes),
        labels: Labels::Hard,
        protocol: whole.protocol.to_owned(),
        augmented: experiment.protocols[whole.protocol].is_augmented(),
        seed: whole.seed,
        last_accuracy: training.last,
        best_accuracy: training.best,
        images: whole.images,
        recovered: None,
        label_bytes: None,
        cost: Cost { validate: Timing::read(&whole.directory), ..Cost::default() },
        curve: training.curve.iter().map(train_point).collect(),
    })
}

fn row(experiment: &Experiment, names: &Names, pieces: &Pieces, made: &Made, student: &Path) -> Result<Row, RunError> {
    let line = &made.line;
    let protocol = &experiment.protocols[line.protocol];
    let training = pieces.training(student)?;
    let soft = made.labels.as_ref().filter(|_| line.labels == Labels::Soft);
    let made_by_network = !matches!(line.origin, Origin::Real(_));
    Ok(Row {
        method: method(line),
        data_free: is_data_free(line, experiment),
        teacher: teacher(line, names),
        relabel_teacher: soft.map(|_| names.get(line.labeller).to_owned()),
        student: names.get(line.student).to_owned(),
        ipc: line.ipc,
        labels: line.labels,
        protocol: line.protocol.to_owned(),
        augmented: protocol.is_augmented(),
        seed: line.seed,
        last_accuracy: training.last,
        best_accuracy: training.best,
        images: made.images.count,
        recovered: Some(made.images.recovered).filter(|&count| count != made.images.count),
        label_bytes: soft.and_then(|labels| labels.bytes()),
        cost: Cost {
            recover: if made_by_network { Timing::read(&made.images.recovery) } else { None },
            relabel: soft.and_then(|labels| Timing::read(&labels.directory)),
            validate: Timing::read(student),
        },
        curve: training.curve.iter().map(train_point).collect(),
    })
}

/// Names of the classes that images are of: some network's, as far as the methods recover them.
fn classes(experiment: &Experiment, bundles: &Bundles) -> Vec<String> {
    let named = bundles.values().find(|b| !b.manifest.is_features_only());
    let all = named.map(|b| b.manifest.classes.clone()).unwrap_or_default();
    let recovered = |class: usize| {
        let has = |method: &RecoverConfig| method.classes.as_ref().is_none_or(|some| some.contains(&(class as u32)));
        experiment.methods.values().any(has)
    };
    all.into_iter().enumerate().filter(|(class, _)| recovered(*class)).map(|(_, name)| name).collect()
}

/// How a set of images was recovered, what its verifiers see in it, and its grid.
fn note_recovery(
    results: &mut Results,
    experiment: &Experiment,
    names: &Names,
    pieces: &Pieces,
    recovered: &Recovered,
) -> Result<(), RunError> {
    let Set { teacher, method, ipc, seed } = recovered.set;
    let (teacher, method) = (names.get(teacher).to_owned(), method.to_owned());
    let data_free = experiment.methods[&method].is_data_free();
    let failed = |reason: &str| Failed {
        method: method.clone(),
        data_free,
        teacher: Some(teacher.clone()),
        ipc,
        seed,
        trained: None,
        reason: reason.to_owned(),
    };
    if let Some(reason) = pieces.has_failed(&recovered.images.directory) {
        // A row says it, where there is one.
        results.failed.extend(experiment.students.is_empty().then(|| failed(reason)));
        return Ok(());
    }
    let curve = pieces.recovery_curve(&recovered.images)?;
    let mut verified = Vec::new();
    for (verifier, directory) in &recovered.verified {
        let verifier = names.get(verifier);
        match pieces.has_failed(directory) {
            Some(reason) => results.failed.push(failed(reason)),
            None => verified.push(Verified { verifier: verifier.into(), accuracy: pieces.accuracy(directory)? }),
        }
    }
    results.recoveries.push(Recovery { method: method.clone(), teacher: teacher.clone(), ipc, seed, curve, verified });
    let folder = recovered.images.folder();
    results.grids.push(Grid { method, data_free, teacher: Some(teacher), ipc, seed, folder });
    Ok(())
}

/// The grid of a baseline's images, once.
fn note_baseline(results: &mut Results, names: &Names, pieces: &Pieces, made: &Made) {
    let (line, folder) = (&made.line, made.images.folder());
    let is_baseline = !matches!(line.origin, Origin::Distilled { .. });
    let is_there = pieces.has_failed(&made.images.directory).is_none();
    if is_baseline && is_there && results.grids.iter().all(|grid| grid.folder != folder) {
        let (method, teacher, ipc, seed) = (method(line), teacher(line, names), line.ipc, line.seed);
        results.grids.push(Grid { method, data_free: false, teacher, ipc, seed, folder });
    }
}

/// Whether making the images read no real image.
fn is_data_free(line: &Line, experiment: &Experiment) -> bool {
    match line.origin {
        Origin::Distilled { method, .. } => experiment.methods[method].is_data_free(),
        Origin::Real(_) | Origin::Crops => false,
    }
}

fn method(line: &Line) -> String {
    match line.origin {
        Origin::Distilled { method, .. } => method.to_owned(),
        Origin::Real(choice) => choice.method().to_owned(),
        Origin::Crops => report::RDED_CROPS.to_owned(),
    }
}

/// The name of the teacher that the images were recovered from, or that chose them.
fn teacher(line: &Line, names: &Names) -> Option<String> {
    match line.origin {
        Origin::Distilled { teacher, .. } => Some(names.get(teacher).to_owned()),
        Origin::Crops => Some(names.get(line.labeller).to_owned()),
        Origin::Real(_) => None,
    }
}

fn train_point(epoch: &super::figures::Epoch) -> report::TrainPoint {
    report::TrainPoint { epoch: epoch.epoch, train_loss: epoch.loss, test_accuracy: epoch.accuracy }
}
