//! What the finished stages of an experiment say, as the report's [`Results`].

use std::path::Path;

use super::matrix::{Line, Origin};
use super::pieces::Pieces;
use super::stage::Timing;
use super::{Bundles, Made, RunError, Whole};
use crate::config::{Experiment, Labels};
use crate::report::{self, Cost, Grid, Recovery, Results, Row};

/// Everything that the report shows of `made`; rows only where students were trained.
pub(super) fn collect(
    experiment: &Experiment,
    resolved: String,
    bundles: &Bundles,
    pieces: &Pieces,
    made: &[Made],
    whole: &[Whole],
) -> Result<Results, RunError> {
    let named = bundles.values().find(|b| !b.manifest.is_features_only());
    let mut results = Results {
        name: experiment.name.clone(),
        data: pieces.test().name.clone(),
        classes: named.map(|b| b.manifest.classes.clone()).unwrap_or_default(),
        test_images: pieces.test().len(),
        experiment: resolved,
        ..Results::default()
    };
    for one in made {
        if let Some(student) = &one.student {
            results.rows.push(row(experiment, bundles, pieces, one, student)?);
        }
        note_images(&mut results, experiment, bundles, pieces, one)?;
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
    let distilled = matches!(line.origin, Origin::Distilled { .. });
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
            recover: if distilled { Timing::read(&made.images.directory) } else { None },
            relabel: soft.and_then(|labels| Timing::read(&labels.directory)),
            validate: Timing::read(student),
        },
        curve: training.curve.iter().map(train_point).collect(),
    })
}

/// The images' grid and, of distilled ones, how they were recovered; once.
fn note_images(
    results: &mut Results,
    experiment: &Experiment,
    bundles: &Bundles,
    pieces: &Pieces,
    made: &Made,
) -> Result<(), RunError> {
    let folder = made.images.folder();
    if results.grids.iter().any(|grid| grid.folder == folder) {
        return Ok(());
    }
    let (method, teacher, ipc, seed) =
        (method(&made.line), teacher(&made.line, bundles), made.line.ipc, made.line.seed);
    if let Some(teacher) = teacher.clone() {
        let curve = pieces.recovery_curve(&made.images)?;
        results.recoveries.push(Recovery { method: method.clone(), teacher, ipc, seed, curve });
    }
    let data_free = is_data_free(&made.line, experiment);
    results.grids.push(Grid { method, data_free, teacher, ipc, seed, folder });
    Ok(())
}

/// Whether making the images read no real image.
fn is_data_free(line: &Line, experiment: &Experiment) -> bool {
    match line.origin {
        Origin::Distilled { method, .. } => experiment.methods[method].is_data_free(),
        Origin::Real(_) => false,
    }
}

fn method(line: &Line) -> String {
    match line.origin {
        Origin::Distilled { method, .. } => method.to_owned(),
        Origin::Real(choice) => choice.method().to_owned(),
    }
}

/// The name of the teacher that the images were recovered from.
fn teacher(line: &Line, bundles: &Bundles) -> Option<String> {
    match line.origin {
        Origin::Distilled { teacher, .. } => Some(bundles[teacher].name().to_owned()),
        Origin::Real(_) => None,
    }
}

fn train_point(epoch: &crate::validate::Epoch) -> report::TrainPoint {
    report::TrainPoint { epoch: epoch.epoch, train_loss: epoch.loss, test_accuracy: epoch.accuracy }
}
