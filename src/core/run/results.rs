//! What the finished stages of an experiment say, as the report's [`Results`].

use std::path::Path;

use super::matrix::{Line, Origin, Set};
use super::pieces::Pieces;
use super::stage::Timing;
use super::{Bundles, Made, Recovered, RunError, Whole};
use crate::config::{Experiment, Labels, RecoverConfig};
use crate::data::Dataset;
use crate::report::{self, Cost, Grid, Recovery, Results, Row, Verified};

/// Everything that the report shows of `made`; rows only where students were trained.
pub(super) fn collect(
    experiment: &Experiment,
    resolved: String,
    bundles: &Bundles,
    pieces: &Pieces,
    recovered: &[Recovered],
    made: &[Made],
    whole: &[Whole],
) -> Result<Results, RunError> {
    let mut results = Results {
        name: experiment.name.clone(),
        data: pieces.test().map_or("no real data".into(), |test| test.name.clone()),
        classes: classes(experiment, bundles),
        test_images: pieces.test().map_or(0, Dataset::len),
        experiment: resolved,
        ..Results::default()
    };
    for one in recovered {
        note_recovery(&mut results, experiment, bundles, pieces, one)?;
    }
    for one in made {
        if let Some(student) = &one.student {
            results.rows.push(row(experiment, bundles, pieces, one, student)?);
        }
        note_baseline(&mut results, bundles, one);
    }
    for one in whole {
        results.rows.push(whole_row(experiment, bundles, pieces, one, results.classes.len())?);
    }
    Ok(results)
}

fn whole_row(
    experiment: &Experiment,
    bundles: &Bundles,
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
        student: bundles[whole.student].name().to_owned(),
        ipc: (whole.images / classes.max(1) as u64) as u32,
        labels: Labels::Hard,
        protocol: whole.protocol.to_owned(),
        augmented: experiment.protocols[whole.protocol].is_augmented(),
        seed: whole.seed,
        last_accuracy: training.last,
        best_accuracy: training.best,
        images: whole.images,
        label_bytes: None,
        cost: Cost { validate: Timing::read(&whole.directory), ..Cost::default() },
        curve: training.curve.iter().map(train_point).collect(),
    })
}

fn row(
    experiment: &Experiment,
    bundles: &Bundles,
    pieces: &Pieces,
    made: &Made,
    student: &Path,
) -> Result<Row, RunError> {
    let line = &made.line;
    let protocol = &experiment.protocols[line.protocol];
    let training = pieces.training(student)?;
    let soft = made.labels.as_ref().filter(|_| line.labels == Labels::Soft);
    let made_by_network = !matches!(line.origin, Origin::Real(_));
    Ok(Row {
        method: method(line),
        data_free: is_data_free(line, experiment),
        teacher: teacher(line, bundles),
        relabel_teacher: soft.map(|_| bundles[line.labeller].name().to_owned()),
        student: bundles[line.student].name().to_owned(),
        ipc: line.ipc,
        labels: line.labels,
        protocol: line.protocol.to_owned(),
        augmented: protocol.is_augmented(),
        seed: line.seed,
        last_accuracy: training.last,
        best_accuracy: training.best,
        images: made.images.count,
        label_bytes: soft.and_then(|labels| labels.bytes()),
        cost: Cost {
            recover: if made_by_network { Timing::read(&made.images.directory) } else { None },
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
    bundles: &Bundles,
    pieces: &Pieces,
    recovered: &Recovered,
) -> Result<(), RunError> {
    let Set { teacher, method, ipc, seed } = recovered.set;
    let (teacher, method) = (bundles[teacher].name().to_owned(), method.to_owned());
    let curve = pieces.recovery_curve(&recovered.images)?;
    let verified = recovered.verified.iter().map(|(verifier, directory)| {
        Ok(Verified { verifier: bundles[*verifier].name().into(), accuracy: pieces.accuracy(directory)? })
    });
    let verified = verified.collect::<Result<_, RunError>>()?;
    results.recoveries.push(Recovery { method: method.clone(), teacher: teacher.clone(), ipc, seed, curve, verified });
    let (folder, data_free) = (recovered.images.folder(), experiment.methods[&method].is_data_free());
    results.grids.push(Grid { method, data_free, teacher: Some(teacher), ipc, seed, folder });
    Ok(())
}

/// The grid of a baseline's images, once.
fn note_baseline(results: &mut Results, bundles: &Bundles, made: &Made) {
    let (line, folder) = (&made.line, made.images.folder());
    let is_baseline = !matches!(line.origin, Origin::Distilled { .. });
    if is_baseline && results.grids.iter().all(|grid| grid.folder != folder) {
        let (method, teacher, ipc, seed) = (method(line), teacher(line, bundles), line.ipc, line.seed);
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
fn teacher(line: &Line, bundles: &Bundles) -> Option<String> {
    match line.origin {
        Origin::Distilled { teacher, .. } => Some(bundles[teacher].name().to_owned()),
        Origin::Crops => Some(bundles[line.labeller].name().to_owned()),
        Origin::Real(_) => None,
    }
}

fn train_point(epoch: &super::figures::Epoch) -> report::TrainPoint {
    report::TrainPoint { epoch: epoch.epoch, train_loss: epoch.loss, test_accuracy: epoch.accuracy }
}
