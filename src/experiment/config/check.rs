//! Checks names and contradictions, which types and ranges alone can't express. All faults are
//! found, not only the first.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::error::Fault;
use scdd_data::layout::IMAGE_FOLDER;

use super::model::{
    BnWeight, Crop, DataConfig, DataKind, Device, Experiment, FinishedSet, Labels, Loss, Mix,
    Normalised, Protocol, RecoverConfig, RelabelConfig, RelabelTeachers, Schedule, TeacherBn, Turn,
    ViewCrop,
};
use super::{range, real_rows};

/// Faults of single values, independent of other values: invalid names and numbers out of range.
pub(super) fn values(experiment: &Experiment) -> Vec<Fault> {
    let mut faults = Vec::new();
    faults.extend(name(&experiment.name));
    faults.extend(experiment.methods.keys().filter_map(|name| entry_name("methods", name)));
    faults.extend(experiment.finished.keys().filter_map(|name| entry_name("finished", name)));
    faults.extend(experiment.protocols.keys().filter_map(|name| entry_name("protocols", name)));
    faults.extend(range::faults(experiment));
    faults
}

/// Contradictions between values that are valid alone.
pub(super) fn contradictions(experiment: &Experiment) -> Vec<Fault> {
    let mut faults = Vec::new();
    faults.extend(data(&experiment.data));
    faults.extend(lists(experiment));
    faults.extend(size(experiment));
    for (name, method) in &experiment.methods {
        let found = check_method(method).into_iter().chain(subset(method, &experiment.ipc));
        faults.extend(found.map(|fault| fault.moved("recover", &format!("methods.{name}"))));
    }
    for (name, protocol) in &experiment.protocols {
        let at = |stage| format!("protocols.{name}.{stage}");
        let found = check_protocol(protocol).into_iter();
        faults.extend(found.map(|fault| {
            fault.moved("relabel", &at("relabel")).moved("validate", &at("validate"))
        }));
    }
    faults.extend(finished(experiment));
    faults.extend(without_students(experiment));
    faults.extend(formations(experiment));
    faults.extend(hard_labels(experiment));
    faults
}

/// Students need real data for their test, and images of every class.
fn without_students(experiment: &Experiment) -> Vec<Fault> {
    let axes = [
        ("students", experiment.students.is_empty()),
        ("baselines", experiment.baselines.is_empty()),
    ];
    let given = axes.iter().filter(|(_, is_empty)| !is_empty).map(|(key, _)| *key);
    if experiment.data.kind == DataKind::None {
        let problem = "needs real data, but `data` is `none`: leave it out, or name a data set";
        return given.map(|key| Fault::new(key, problem)).collect();
    }
    let some = experiment
        .methods
        .iter()
        .filter(|(_, method)| method.classes.is_some() && !experiment.students.is_empty());
    let problem =
        "students need images of every class: leave it out, or set `data: none` and no students";
    some.map(|(name, _)| Fault::new(format!("methods.{name}.classes"), problem)).collect()
}

/// Finished sets are measured by students, and their rows have names of their own.
fn finished(experiment: &Experiment) -> Vec<Fault> {
    let is_hard = !experiment.labels.contains(&Labels::Soft)
        || experiment.protocols.values().all(Protocol::is_hard);
    let fault = |(name, set): (&String, &FinishedSet)| {
        let at = |key: &str| format!("finished.{name}{key}");
        let unnamed = set.normalised == Some(Normalised::Dataset)
            && experiment.data.kind.known_name().is_none();
        let problem = match () {
            () if experiment.methods.contains_key(name) => {
                "is what rows of `methods` are called: choose another name"
            }
            () if experiment.data.kind == DataKind::None => {
                "needs real data, but `data` is `none`: leave it out, or name a data set"
            }
            () if unnamed => {
                let problem = "the data are not known by name, so their constants are not: give {mean: […], std: […]}";
                return Some(Fault::new(at(".normalised"), problem));
            }
            () if set.labels.is_some() && is_hard => {
                let problem = "has no effect, because no row has soft labels: leave it out";
                return Some(Fault::new(at(".labels"), problem));
            }
            () => return None,
        };
        Some(Fault::new(at(""), problem))
    };
    experiment.finished.iter().filter_map(fault).collect()
}

/// The small images of a mosaic have no black border.
fn formations(experiment: &Experiment) -> Vec<Fault> {
    let padded =
        |protocol: &Protocol| matches!(protocol.relabel.crop, Some(ViewCrop::Padded { .. }));
    let mut mosaics = experiment.methods.iter().filter(|(_, method)| method.formation > 1);
    let Some((method, _)) = mosaics.next() else { return Vec::new() };
    let protocols = experiment.protocols.iter().filter(|(_, protocol)| padded(protocol));
    let fault = |(protocol, _): (&String, &Protocol)| {
        let problem = format!(
            "pads whole images, but those of methods.{method} are mosaics (formation above 1): set {{type: resized, scale: [0.5, 1]}}"
        );
        Fault::new(format!("protocols.{protocol}.relabel.crop"), problem)
    };
    protocols.map(fault).collect()
}

/// Faults of one method. Its keys are named `recover.…`.
fn check_method(recover: &RecoverConfig) -> Vec<Fault> {
    let mut faults = Vec::new();
    faults.extend(recover.crop.and_then(|Crop { scale }| ascending("recover.crop.scale", scale)));
    faults.extend(recover.classes.iter().flat_map(|classes| axis("recover.classes", classes)));
    faults.extend(distinct("recover.verifier", &recover.verifier));
    if recover.snapshots > 0 {
        let problem = match () {
            () if recover.verifier.is_empty() => {
                "has no effect, because recover.verifier is empty: leave it out, or name a verifier"
            }
            () if recover.snapshots >= recover.iterations => {
                "is no less than recover.iterations: set fewer"
            }
            () if recover.rounds > 1 => {
                "shows images of different ages, because recover.rounds is above 1: leave it out"
            }
            () => "",
        };
        let is_wrong = !problem.is_empty();
        faults.extend(is_wrong.then(|| Fault::new("recover.snapshots", problem)));
    }
    let within = [
        ("first_bn_multiplier", recover.first_bn_multiplier, 1.0),
        ("r_var", recover.r_var, 1.0),
        ("class_share", recover.class_share, 0.0),
        ("r_patch", recover.r_patch, 0.0),
        ("statistics_momentum", recover.statistics_momentum, 0.0),
    ];
    for (key, value, neutral) in within {
        if recover.r_bn == BnWeight::Fixed(0.0) && value != neutral {
            let problem = format!(
                "has no effect, because recover.r_bn is 0 (the BN term is off): leave it out, or set {neutral}"
            );
            faults.push(Fault::new(format!("recover.{key}"), problem));
        }
    }
    faults.extend(recover_terms(recover));
    faults
}

/// A subset can't have more images than the set from which it is taken.
fn subset(recover: &RecoverConfig, ipc: &[u32]) -> Option<Fault> {
    let (whole, largest) = (recover.subset_of?, ipc.iter().max()?);
    (*largest > whole).then(|| {
        let problem = format!(
            "a set of {largest} images per class (`ipc`) can't be the beginning of one of {whole}: set at least {largest}"
        );
        Fault::new("recover.subset_of", problem)
    })
}

/// Faults of one protocol. Its keys are named `relabel.…` and `validate.…`.
fn check_protocol(protocol: &Protocol) -> Vec<Fault> {
    let mut faults = Vec::new();
    if let Some(ViewCrop::Resized { scale }) = protocol.relabel.crop {
        faults.extend(ascending("relabel.crop.scale", scale));
    }
    faults.extend(stored_epochs(&protocol.relabel));
    let members: Vec<_> = protocol.relabel.ensemble.iter().map(|member| &member.bundle).collect();
    faults.extend(distinct("relabel.ensemble", &members));
    if protocol.relabel.fallback.is_some() && protocol.relabel.provider != Device::Cuda {
        let problem = "has no effect, because relabel.provider is not `cuda`: leave it out";
        faults.push(Fault::new("relabel.fallback", problem));
    }
    if protocol.is_hard() && !matches!(protocol.relabel.mix, Mix::None {}) {
        let problem = "mixed views have no single class (set {type: none}), but validate.loss is `ce`, which trains on hard labels";
        faults.push(Fault::new("relabel.mix", problem));
    }
    faults.extend(micro_batches(protocol));
    faults.extend(training(protocol));
    faults.extend(milestones(&protocol.validate.schedule));
    faults
}

/// Micro-batches must be smaller than the batch, and the teacher's needs `teacher_bn: batch`.
fn micro_batches(protocol: &Protocol) -> Vec<Fault> {
    let mut faults = Vec::new();
    let batch = protocol.relabel.batch_size;
    let parts = [
        ("relabel.micro_batch", protocol.relabel.micro_batch),
        ("validate.micro_batch", protocol.validate.micro_batch),
    ];
    for (path, part) in parts {
        if let Some(part) = part.filter(|&part| part >= batch) {
            let problem = format!(
                "{part} views are no part of a batch of {batch} (relabel.batch_size): leave it out"
            );
            faults.push(Fault::new(path, problem));
        }
    }
    if protocol.relabel.micro_batch.is_some() && protocol.relabel.teacher_bn == TeacherBn::Running {
        let problem =
            "has no effect, because relabel.teacher_bn is `running`: leave it out, or set `batch`";
        faults.push(Fault::new("relabel.micro_batch", problem));
    }
    faults
}

/// Training settings that depend on each other.
fn training(protocol: &Protocol) -> Vec<Fault> {
    let mut faults = Vec::new();
    let (validate, epochs) = (&protocol.validate, protocol.relabel.epochs);
    if let Some(warmup) = validate.warmup.filter(|warmup| warmup.epochs >= epochs) {
        let problem = format!(
            "{} epochs leave none of relabel.epochs, {epochs}, for the schedule",
            warmup.epochs
        );
        faults.push(Fault::new("validate.warmup.epochs", problem));
    }
    if let Loss::Kl { temperature, cooling: Some(cooling), .. } = validate.loss
        && cooling.floor > temperature
    {
        let problem =
            format!("{} is above the temperature that falls, {temperature}", cooling.floor);
        faults.push(Fault::new("validate.loss.cooling.floor", problem));
    }
    let is_cut = protocol.relabel.top_k.is_some_and(|top| top.temperature.is_none());
    if is_cut && validate.loss.needs_all_logits() {
        let problem = "leaves the other classes without a logit, which only a KL loss can learn: give a temperature, or set validate.loss";
        faults.push(Fault::new("relabel.top_k.temperature", problem));
    }
    let Some(hard) = validate.hard_epochs else { return faults };
    if protocol.is_hard() {
        let problem = "has no effect, because validate.loss is `ce`, which trains on hard labels: leave it out";
        faults.push(Fault::new("validate.hard_epochs", problem));
    }
    if hard.from >= hard.to {
        let problem =
            format!("{} does not come after validate.hard_epochs.from, {}", hard.to, hard.from);
        faults.push(Fault::new("validate.hard_epochs.to", problem));
    }
    faults
}

/// Names of methods and protocols are used in YAML paths, file names and tables.
fn entry_name(axis: &str, name: &str) -> Option<Fault> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if name.is_empty() || name.len() > 60 || !name.chars().all(plain) {
        let allowed = "letters, digits, `_` and `-`, at most 60 of them";
        return Some(Fault::new(
            axis,
            format!("`{name}` is no name for one of them: allowed are {allowed}"),
        ));
    }
    (axis != "protocols" && real_rows::ALL.contains(&name)).then(|| {
        let problem = "is what the rows of a baseline are called: choose another name";
        Fault::new(format!("{axis}.{name}"), problem)
    })
}

fn name(name: &str) -> Option<Fault> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > 100 || name.starts_with('.') || !name.chars().all(plain) {
        let allowed =
            "letters, digits, `.`, `_` and `-`, at most 100 of them, not starting with `.`";
        return Some(Fault::new(
            "name",
            format!("`{name}` cannot name a directory: allowed are {allowed}"),
        ));
    }
    // File systems that ignore case treat `Stages` as the same name.
    name.eq_ignore_ascii_case("stages").then(|| {
        Fault::new(
            "name",
            format!("`{name}` is where all experiments keep their stages: choose another"),
        )
    })
}

fn data(data: &DataConfig) -> Vec<Fault> {
    let mut faults = Vec::new();
    let needs_path = data.kind.known_name().is_none() && data.kind != DataKind::None;
    if needs_path && data.path.is_none() {
        faults.push(Fault::new(
            "data.path",
            "is missing: such files are found nowhere but where this key says",
        ));
    }
    if data.class_map.is_some() && data.kind != DataKind::Form(IMAGE_FOLDER.name) {
        let problem = "has no effect, because data.type is not `image-folder`: leave it out";
        faults.push(Fault::new("data.class_map", problem));
    }
    if data.held_out > 0 && data.kind == DataKind::None {
        let problem = "has no effect, because data.type is `none`: leave it out";
        faults.push(Fault::new("data.held_out", problem));
    }
    faults
}

/// Axes of the matrix must have at least one value, and each value once.
fn lists(experiment: &Experiment) -> Vec<Fault> {
    let mut faults = axis("teachers", &experiment.teachers);
    faults.extend(match experiment.data.kind {
        DataKind::None => distinct("students", &experiment.students),
        _ => axis("students", &experiment.students),
    });
    faults.extend(axis("ipc", &experiment.ipc));
    faults.extend(axis("seeds", &experiment.seeds));
    if experiment.finished.is_empty() {
        faults.extend(axis("methods", &experiment.methods.keys().collect::<Vec<_>>()));
    }
    faults.extend(axis("protocols", &experiment.protocols.keys().collect::<Vec<_>>()));
    faults.extend(axis("labels", &experiment.labels));
    if let RelabelTeachers::List(teachers) = &experiment.relabel_teachers {
        faults.extend(axis("relabel_teachers", teachers));
    }
    faults.extend(distinct("baselines", &experiment.baselines));
    faults
}

fn axis<T: Ord>(path: &str, values: &[T]) -> Vec<Fault> {
    match values {
        [] => vec![Fault::new(path, "the list is empty; at least one value is needed")],
        _ => distinct(path, values),
    }
}

fn distinct<T: Ord>(path: &str, values: &[T]) -> Vec<Fault> {
    let mut places = BTreeMap::new();
    let repeats =
        values.iter().enumerate().filter_map(|(index, value)| match places.entry(value) {
            Entry::Occupied(first) => Some(Fault::new(
                format!("{path}[{index}]"),
                format!("repeats {path}[{}]", first.get()),
            )),
            Entry::Vacant(place) => {
                place.insert(index);
                None
            }
        });
    repeats.collect()
}

/// The most rows of a matrix, because every row is kept in memory, planned and reported.
const MOST_ROWS: usize = 100_000;

/// The matrix must fit into memory. The fault is reported at its longest axis.
fn size(experiment: &Experiment) -> Option<Fault> {
    let labellers = match &experiment.relabel_teachers {
        RelabelTeachers::Same => 1,
        RelabelTeachers::List(teachers) => teachers.len(),
    };
    let axes = [
        ("teachers", experiment.teachers.len()),
        ("relabel_teachers", labellers),
        ("methods", experiment.methods.len() + experiment.finished.len()),
        ("ipc", experiment.ipc.len()),
        ("protocols", experiment.protocols.len()),
        ("labels", experiment.labels.len()),
        ("students", experiment.students.len().max(1)),
        ("seeds", experiment.seeds.len()),
    ];
    let rows = axes.iter().fold(1usize, |rows, (_, length)| rows.saturating_mul(*length));
    let (longest, length) = axes.into_iter().max_by_key(|(_, length)| *length)?;
    (rows > MOST_ROWS).then(|| {
        let problem = format!(
            "its {length} values make a matrix of {rows} rows, of which {MOST_ROWS} are allowed"
        );
        Fault::new(longest, problem)
    })
}

fn ascending(path: &str, [low, high]: [f64; 2]) -> Option<Fault> {
    (low > high).then(|| {
        Fault::new(path, format!("the smallest share, {low}, is above the largest, {high}"))
    })
}

fn stored_epochs(relabel: &RelabelConfig) -> Option<Fault> {
    let stored = relabel.stored_epochs.filter(|stored| *stored > relabel.epochs)?;
    let problem =
        format!("{stored} epochs are to be stored, but relabel.epochs is {}", relabel.epochs);
    Some(Fault::new("relabel.stored_epochs", problem))
}

fn milestones(schedule: &Schedule) -> Vec<Fault> {
    let Schedule::Multistep { milestones, .. } = schedule else { return Vec::new() };
    let path = "validate.schedule.milestones";
    if milestones.is_empty() {
        let problem = "the list is empty: give at least one, or the schedule `constant`";
        return vec![Fault::new(path, problem)];
    }
    let pairs = milestones.windows(2).enumerate().filter(|(_, pair)| pair[0] >= pair[1]);
    let fault = |(index, pair): (usize, &[f64])| {
        let problem = format!("{} does not come after {}: milestones ascend", pair[1], pair[0]);
        Fault::new(format!("{path}[{}]", index + 1), problem)
    };
    pairs.map(fault).collect()
}

/// Terms of the recovery that depend on each other.
fn recover_terms(recover: &RecoverConfig) -> Vec<Fault> {
    let mut faults = distinct("recover.compat", &recover.compat);
    if recover.crop_curriculum > 0.0 && recover.crop.is_none() {
        let problem = "needs recover.crop, whose smallest share it leads to (or set 0)";
        faults.push(Fault::new("recover.crop_curriculum", problem));
    }
    if let Some(residual) = &recover.residual {
        let last = (residual.budgets as usize - 1)
            .checked_rem(residual.scales.len())
            .map(|at| residual.scales[at]);
        if recover.is_data_free() {
            let problem = "blends images with what they start from, which is noise: set recover.start to `real`, `clusters` or `crops`, or leave it out";
            faults.push(Fault::new("recover.residual", problem));
        } else if last != Some(1.0) {
            let problem = format!("the last of {} budgets must have the scale 1", residual.budgets);
            faults.push(Fault::new("recover.residual.scales", problem));
        }
    }
    if let Some(committee) = &recover.committee {
        faults.extend(axis("recover.committee.teachers", &committee.teachers));
        let (weights, teachers) = (committee.weights.len(), committee.teachers.len() + 1);
        if weights != 0 && (weights != teachers || committee.turn == Turn::RoundRobin) {
            let problem = format!(
                "{weights} weights; give one for each of the {teachers} teachers, the cell's own first, with `turn: all`, or none"
            );
            faults.push(Fault::new("recover.committee.weights", problem));
        }
    }
    faults
}

/// Without soft labels in any protocol, no other key may require them.
fn hard_labels(experiment: &Experiment) -> Vec<Fault> {
    if experiment.protocols.is_empty() || !experiment.protocols.values().all(Protocol::is_hard) {
        return Vec::new();
    }
    let contradiction = |path: &str, problem: &str| {
        Fault::new(
            path,
            format!("{problem}, but validate.loss is `ce`, which trains on hard labels"),
        )
    };
    let soft = experiment
        .baselines
        .iter()
        .enumerate()
        .filter(|(_, baseline)| baseline.labels() == Labels::Soft);
    let mut faults: Vec<Fault> = soft
        .map(|(at, _)| contradiction(&format!("baselines[{at}]"), "this baseline has soft labels"))
        .collect();
    if experiment.relabel_teachers != RelabelTeachers::Same {
        faults.push(contradiction("relabel_teachers", "these teachers would give soft labels"));
    }
    faults
}
