//! Ranges and contradictions: what types alone cannot say about an experiment.

use std::fmt;

use serde_yaml::Value;

use super::error::Fault;
use super::model::{
    BnWeight, Crop, DataConfig, DataKind, Device, EnsembleMember, Experiment, Labels, Loss, Mix, Protocol,
    RecoverConfig, RelabelConfig, RelabelTeachers, Schedule, TeacherBn, Turn, ViewCrop,
};

/// Numbers from `low` to `high`, each of which may itself be excluded.
pub(super) struct Range {
    pub low: f64,
    pub low_excluded: bool,
    pub high: f64,
    pub high_excluded: bool,
}

const fn closed(low: f64, high: f64) -> Range {
    Range { low, low_excluded: false, high, high_excluded: false }
}

/// Above 0, at most `high`.
const fn positive(high: f64) -> Range {
    Range { low: 0.0, low_excluded: true, high, high_excluded: false }
}

const BELOW_ONE: Range = Range { low: 0.0, low_excluded: false, high: 1.0, high_excluded: true };
/// Above 0 and below 1.
const SHARE: Range = Range { low: 0.0, low_excluded: true, high: 1.0, high_excluded: true };
const WEIGHT: Range = closed(0.0, 1e6);

/// Every key that holds a number or a list of numbers, with what is allowed; a key that the file's choices leave out is skipped.
///
/// `recover`, `relabel` and `validate` stand for those of every method and protocol.
pub(super) const RANGES: &[(&str, Range)] = &[
    ("ipc", closed(1.0, 10_000.0)),
    ("whole_real.epochs", closed(1.0, 10_000.0)),
    ("whole_real.batch_size", closed(1.0, 65_536.0)),
    ("recover.iterations", closed(0.0, 1e6)),
    ("recover.batch_size", closed(1.0, 65_536.0)),
    ("recover.learning_rate", positive(100.0)),
    ("recover.betas", BELOW_ONE),
    ("recover.r_bn", WEIGHT),
    ("recover.r_var", WEIGHT),
    ("recover.class_share", closed(0.0, 1.0)),
    ("recover.r_patch", WEIGHT),
    ("recover.first_bn_multiplier", WEIGHT),
    ("recover.statistics_momentum", BELOW_ONE),
    ("recover.weight_adjustment.steps", closed(1.0, 1000.0)),
    ("recover.weight_adjustment.rho", positive(1000.0)),
    ("recover.tv", WEIGHT),
    ("recover.l2", WEIGHT),
    ("recover.jitter", closed(0.0, 4096.0)),
    ("recover.crop.scale", positive(1.0)),
    ("recover.classes", closed(0.0, 99_999.0)),
    ("recover.crop_curriculum", closed(0.0, 1.0)),
    ("recover.start.std", positive(100.0)),
    ("recover.start.mean_of", closed(1.0, 100_000.0)),
    ("recover.start.images", closed(1.0, 100_000.0)),
    ("recover.start.crops", closed(1.0, 100.0)),
    ("recover.start.factor", closed(1.0, 16.0)),
    ("recover.formation", closed(1.0, 16.0)),
    ("recover.residual.budgets", closed(2.0, 1000.0)),
    ("recover.residual.alpha", closed(0.0, 1.0)),
    ("recover.residual.scales", positive(4.0)),
    ("recover.ema", BELOW_ONE),
    ("recover.rounds", closed(1.0, 1000.0)),
    ("recover.subset_of", closed(1.0, 10_000.0)),
    ("recover.committee.weights", positive(1e6)),
    ("relabel.epochs", closed(1.0, 100_000.0)),
    ("relabel.batch_size", closed(1.0, 65_536.0)),
    ("relabel.crop.scale", positive(1.0)),
    ("relabel.crop.pad", closed(1.0, 4096.0)),
    ("relabel.augment.operations", closed(1.0, 16.0)),
    ("relabel.augment.magnitude", closed(0.0, 30.0)),
    ("relabel.mix.alpha", positive(100.0)),
    ("relabel.top_k.k", closed(1.0, 65_535.0)),
    ("relabel.top_k.temperature", positive(1000.0)),
    ("relabel.stored_epochs", closed(1.0, 100_000.0)),
    ("relabel.micro_batch", closed(1.0, 65_536.0)),
    ("validate.loss.temperature", positive(1000.0)),
    ("validate.loss.ce", WEIGHT),
    ("validate.loss.cooling.factor", positive(1.0)),
    ("validate.loss.cooling.every", closed(1.0, 100_000.0)),
    ("validate.loss.cooling.floor", positive(1000.0)),
    ("validate.loss.smoothing", BELOW_ONE),
    ("validate.loss.weight", WEIGHT),
    ("validate.optimizer.learning_rate", positive(100.0)),
    ("validate.optimizer.momentum", BELOW_ONE),
    ("validate.optimizer.weight_decay", closed(0.0, 1.0)),
    ("validate.schedule.floor", closed(0.0, 1.0)),
    ("validate.schedule.smoothing", closed(1.0, 10.0)),
    ("validate.schedule.until", positive(1.0)),
    ("validate.schedule.milestones", SHARE),
    ("validate.schedule.factor", positive(1.0)),
    ("validate.warmup.epochs", closed(1.0, 10_000.0)),
    ("validate.warmup.from", closed(0.0, 1.0)),
    ("validate.micro_batch", closed(1.0, 65_536.0)),
    ("validate.hard_epochs.from", closed(0.0, 1.0)),
    ("validate.hard_epochs.to", positive(1.0)),
    ("validate.hard_epochs.smoothing", BELOW_ONE),
    ("validate.ema", BELOW_ONE),
    ("validate.evaluate_every", closed(1.0, 100_000.0)),
];

impl Range {
    fn contains(&self, value: f64) -> bool {
        let above = if self.low_excluded { value > self.low } else { value >= self.low };
        let below = if self.high_excluded { value < self.high } else { value <= self.high };
        above && below
    }
}

impl fmt::Display for Range {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let low = if self.low_excluded { "above" } else { "at least" };
        let high = if self.high_excluded { "below" } else { "at most" };
        write!(formatter, "{low} {} and {high} {}", self.low, self.high)
    }
}

/// The first thing that is wrong with `experiment`.
pub(super) fn check(experiment: &Experiment) -> Result<(), Fault> {
    name(&experiment.name)?;
    data(&experiment.data)?;
    lists(experiment)?;
    ranges(experiment)?;
    for (name, method) in &experiment.methods {
        entry_name("methods", name)?;
        let in_method = |fault: Fault| fault.moved("recover", &format!("methods.{name}"));
        check_method(method).and_then(|()| subset(method, &experiment.ipc)).map_err(in_method)?;
    }
    for (name, protocol) in &experiment.protocols {
        entry_name("protocols", name)?;
        let at = |stage| format!("protocols.{name}.{stage}");
        check_protocol(protocol)
            .map_err(|fault| fault.moved("relabel", &at("relabel")).moved("validate", &at("validate")))?;
    }
    without_students(experiment)?;
    formations(experiment)?;
    hard_labels(experiment)
}

/// Students are tested on real data, and learn every class that they can tell.
fn without_students(experiment: &Experiment) -> Result<(), Fault> {
    let (students, baselines) = (experiment.students.is_empty(), experiment.baselines.is_empty());
    if experiment.data.kind == DataKind::None && !(students && baselines) {
        let key = if students { "baselines" } else { "students" };
        return Err(Fault::new(key, "needs real data, but `data` is `none`: leave it out, or name a data set"));
    }
    match experiment.methods.iter().find(|(_, method)| method.classes.is_some()) {
        Some((name, _)) if !students => {
            let problem = "students need images of every class: leave it out, or set `data: none` and no students";
            Err(Fault::new(format!("methods.{name}.classes"), problem))
        }
        _ => Ok(()),
    }
}

/// The small images of a mosaic have no border that could be black.
fn formations(experiment: &Experiment) -> Result<(), Fault> {
    let padded = |protocol: &Protocol| matches!(protocol.relabel.crop, Some(ViewCrop::Padded { .. }));
    let mosaic = experiment.methods.iter().find(|(_, method)| method.formation > 1);
    match (mosaic, experiment.protocols.iter().find(|(_, protocol)| padded(protocol))) {
        (Some((method, _)), Some((protocol, _))) => Err(Fault::new(
            format!("protocols.{protocol}.relabel.crop"),
            format!(
                "pads whole images, but those of methods.{method} are mosaics (formation above 1): set {{type: resized, scale: [0.5, 1]}}"
            ),
        )),
        _ => Ok(()),
    }
}

/// What is wrong with one method; its keys are called `recover.…`.
fn check_method(recover: &RecoverConfig) -> Result<(), Fault> {
    if let Some(Crop { scale }) = recover.crop {
        ascending("recover.crop.scale", scale)?;
    }
    if let Some(classes) = &recover.classes {
        axis("recover.classes", classes)?;
    }
    distinct("recover.verifier", &recover.verifier)?;
    if recover.formation > 1 && !recover.verifier.is_empty() {
        let problem = "judges whole images, but these are mosaics (recover.formation is above 1): leave it out";
        return Err(Fault::new("recover.verifier", problem));
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
            return Err(Fault::new(format!("recover.{key}"), problem));
        }
    }
    recover_terms(recover)
}

/// A set has no more images than the set that it is the beginning of.
fn subset(recover: &RecoverConfig, ipc: &[u32]) -> Result<(), Fault> {
    match recover.subset_of.and_then(|whole| Some((whole, ipc.iter().find(|&&ipc| ipc > whole)?))) {
        None => Ok(()),
        Some((whole, ipc)) => Err(Fault::new(
            "recover.subset_of",
            format!(
                "a set of {ipc} images per class (`ipc`) can't be the beginning of one of {whole}: set at least {ipc}"
            ),
        )),
    }
}

/// What is wrong with one protocol; its keys are called `relabel.…` and `validate.…`.
fn check_protocol(protocol: &Protocol) -> Result<(), Fault> {
    if let Some(ViewCrop::Resized { scale }) = protocol.relabel.crop {
        ascending("relabel.crop.scale", scale)?;
    }
    stored_epochs(&protocol.relabel)?;
    ensemble(&protocol.relabel.ensemble)?;
    if protocol.relabel.fallback.is_some() && protocol.relabel.provider != Device::Cuda {
        let problem = "has no effect, because relabel.provider is not `cuda`: leave it out";
        return Err(Fault::new("relabel.fallback", problem));
    }
    if protocol.is_hard() && !matches!(protocol.relabel.mix, Mix::None {}) {
        let problem = "mixed views have no single class (set {type: none}), but validate.loss is `ce`, which trains on hard labels";
        return Err(Fault::new("relabel.mix", problem));
    }
    micro_batches(protocol)?;
    training(protocol)?;
    milestones(&protocol.validate.schedule)
}

/// Parts of a batch must be smaller than it, and the teacher's must count.
fn micro_batches(protocol: &Protocol) -> Result<(), Fault> {
    let batch = protocol.relabel.batch_size;
    let parts = [
        ("relabel.micro_batch", protocol.relabel.micro_batch),
        ("validate.micro_batch", protocol.validate.micro_batch),
    ];
    for (path, part) in parts {
        if let Some(part) = part.filter(|&part| part >= batch) {
            let problem = format!("{part} views are no part of a batch of {batch} (relabel.batch_size): leave it out");
            return Err(Fault::new(path, problem));
        }
    }
    if protocol.relabel.micro_batch.is_some() && protocol.relabel.teacher_bn == TeacherBn::Running {
        let problem = "has no effect, because relabel.teacher_bn is `running`: leave it out, or set `batch`";
        return Err(Fault::new("relabel.micro_batch", problem));
    }
    Ok(())
}

/// Parts of the training that need each other.
fn training(protocol: &Protocol) -> Result<(), Fault> {
    let (validate, epochs) = (&protocol.validate, protocol.relabel.epochs);
    if let Some(warmup) = validate.warmup.filter(|warmup| warmup.epochs >= epochs) {
        let problem = format!("{} epochs leave none of relabel.epochs, {epochs}, for the schedule", warmup.epochs);
        return Err(Fault::new("validate.warmup.epochs", problem));
    }
    if let Loss::Kl { temperature, cooling: Some(cooling), .. } = validate.loss
        && cooling.floor > temperature
    {
        let problem = format!("{} is above the temperature that falls, {temperature}", cooling.floor);
        return Err(Fault::new("validate.loss.cooling.floor", problem));
    }
    let Some(hard) = validate.hard_epochs else { return Ok(()) };
    if protocol.is_hard() {
        let problem = "has no effect, because validate.loss is `ce`, which trains on hard labels: leave it out";
        return Err(Fault::new("validate.hard_epochs", problem));
    }
    if hard.from >= hard.to {
        let problem = format!("{} does not come after validate.hard_epochs.from, {}", hard.to, hard.from);
        return Err(Fault::new("validate.hard_epochs.to", problem));
    }
    Ok(())
}

/// What rows of real images are called.
const BASELINES: [&str; 4] = ["random_real", "nearest_mean", "rded_crops", "whole_real"];

/// Names of methods and protocols are parts of YAML paths, of file names and of tables.
fn entry_name(axis: &str, name: &str) -> Result<(), Fault> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if name.is_empty() || name.len() > 60 || !name.chars().all(plain) {
        let allowed = "letters, digits, `_` and `-`, at most 60 of them";
        return Err(Fault::new(axis, format!("`{name}` is no name for one of them: allowed are {allowed}")));
    }
    if axis == "methods" && BASELINES.contains(&name) {
        return Err(Fault::new(
            format!("{axis}.{name}"),
            "is what the rows of a baseline are called: choose another name",
        ));
    }
    Ok(())
}

fn name(name: &str) -> Result<(), Fault> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > 100 || name.starts_with('.') || !name.chars().all(plain) {
        let allowed = "letters, digits, `.`, `_` and `-`, at most 100 of them, not starting with `.`";
        return Err(Fault::new("name", format!("`{name}` cannot name a directory: allowed are {allowed}")));
    }
    // Some file systems take `Stages` for the same.
    if name.eq_ignore_ascii_case("stages") {
        return Err(Fault::new("name", format!("`{name}` is where all experiments keep their stages: choose another")));
    }
    Ok(())
}

fn data(data: &DataConfig) -> Result<(), Fault> {
    let needs_path = data.kind.known_name().is_none() && data.kind != DataKind::None;
    if needs_path && data.path.is_none() {
        return Err(Fault::new("data.path", "is missing: such files are found nowhere but where this key says"));
    }
    if data.class_map.is_some() && data.kind != DataKind::ImageFolder {
        return Err(Fault::new(
            "data.class_map",
            "has no effect, because data.type is not `image-folder`: leave it out",
        ));
    }
    Ok(())
}

/// Axes of the matrix must have values, and none twice.
fn lists(experiment: &Experiment) -> Result<(), Fault> {
    axis("teachers", &experiment.teachers)?;
    if experiment.data.kind == DataKind::None {
        distinct("students", &experiment.students)?;
    } else {
        axis("students", &experiment.students)?;
    }
    axis("ipc", &experiment.ipc)?;
    axis("seeds", &experiment.seeds)?;
    axis("methods", &experiment.methods.keys().collect::<Vec<_>>())?;
    axis("protocols", &experiment.protocols.keys().collect::<Vec<_>>())?;
    axis("labels", &experiment.labels)?;
    if let RelabelTeachers::List(teachers) = &experiment.relabel_teachers {
        axis("relabel_teachers", teachers)?;
    }
    distinct("baselines", &experiment.baselines)
}

fn axis<T: PartialEq>(path: &str, values: &[T]) -> Result<(), Fault> {
    if values.is_empty() {
        return Err(Fault::new(path, "the list is empty; at least one value is needed"));
    }
    distinct(path, values)
}

fn distinct<T: PartialEq>(path: &str, values: &[T]) -> Result<(), Fault> {
    for (index, value) in values.iter().enumerate() {
        if let Some(first) = values[..index].iter().position(|earlier| earlier == value) {
            return Err(Fault::new(format!("{path}[{index}]"), format!("repeats {path}[{first}]")));
        }
    }
    Ok(())
}

fn ranges(experiment: &Experiment) -> Result<(), Fault> {
    let tree = serde_yaml::to_value(experiment).map_err(|error| Fault::new(".", error.to_string()))?;
    for (path, range) in RANGES {
        for path in places(path, experiment) {
            let Some(value) = path.split('.').try_fold(&tree, |node, key| node.get(key)) else { continue };
            match value {
                Value::Sequence(values) => {
                    for (index, value) in values.iter().enumerate() {
                        in_range(&format!("{path}[{index}]"), value, range)?;
                    }
                }
                value => in_range(&path, value, range)?,
            }
        }
    }
    Ok(())
}

/// Where a key of [`RANGES`] stands in the experiment: once, or once per method or protocol.
fn places(path: &str, experiment: &Experiment) -> Vec<String> {
    match path.split_once('.') {
        Some(("recover", key)) => experiment.methods.keys().map(|name| format!("methods.{name}.{key}")).collect(),
        Some(("relabel" | "validate", _)) => {
            experiment.protocols.keys().map(|name| format!("protocols.{name}.{path}")).collect()
        }
        _ => vec![path.to_string()],
    }
}

fn in_range(path: &str, value: &Value, range: &Range) -> Result<(), Fault> {
    match value.as_f64() {
        Some(number) if !range.contains(number) => {
            Err(Fault::new(path, format!("{number} is out of range: must be {range}")))
        }
        _ => Ok(()),
    }
}

fn ascending(path: &str, [low, high]: [f64; 2]) -> Result<(), Fault> {
    if low > high {
        return Err(Fault::new(path, format!("the smallest share, {low}, is above the largest, {high}")));
    }
    Ok(())
}

fn ensemble(members: &[EnsembleMember]) -> Result<(), Fault> {
    distinct("relabel.ensemble", &members.iter().map(|member| &member.bundle).collect::<Vec<_>>())?;
    let allowed = positive(1e6);
    match members.iter().position(|member| !allowed.contains(member.weight)) {
        Some(index) => Err(Fault::new(
            format!("relabel.ensemble[{index}].weight"),
            format!("{} is out of range: must be {allowed}", members[index].weight),
        )),
        None => Ok(()),
    }
}

fn stored_epochs(relabel: &RelabelConfig) -> Result<(), Fault> {
    match relabel.stored_epochs {
        Some(stored) if stored > relabel.epochs => {
            let problem = format!("{stored} epochs are to be stored, but relabel.epochs is {}", relabel.epochs);
            Err(Fault::new("relabel.stored_epochs", problem))
        }
        _ => Ok(()),
    }
}

fn milestones(schedule: &Schedule) -> Result<(), Fault> {
    let Schedule::Multistep { milestones, .. } = schedule else { return Ok(()) };
    let path = "validate.schedule.milestones";
    if milestones.is_empty() {
        return Err(Fault::new(path, "the list is empty: give at least one, or the schedule `constant`"));
    }
    match milestones.windows(2).position(|pair| pair[0] >= pair[1]) {
        Some(index) => Err(Fault::new(
            format!("{path}[{}]", index + 1),
            format!("{} does not come after {}: milestones ascend", milestones[index + 1], milestones[index]),
        )),
        None => Ok(()),
    }
}

/// Terms of the recovery that need each other.
fn recover_terms(recover: &RecoverConfig) -> Result<(), Fault> {
    if recover.crop_curriculum > 0.0 && recover.crop.is_none() {
        let problem = "needs recover.crop, whose smallest share it leads to (or set 0)";
        return Err(Fault::new("recover.crop_curriculum", problem));
    }
    if let Some(residual) = &recover.residual {
        if recover.is_data_free() {
            let problem = "blends images with what they start from, which is noise: set recover.start to `real`, `clusters` or `crops`, or leave it out";
            return Err(Fault::new("recover.residual", problem));
        }
        let last = (residual.budgets as usize - 1).checked_rem(residual.scales.len()).map(|at| residual.scales[at]);
        if last != Some(1.0) {
            let problem = format!("the last of {} budgets must have the scale 1", residual.budgets);
            return Err(Fault::new("recover.residual.scales", problem));
        }
    }
    if let Some(committee) = &recover.committee {
        axis("recover.committee.teachers", &committee.teachers)?;
        let (weights, teachers) = (committee.weights.len(), committee.teachers.len() + 1);
        if weights != 0 && (weights != teachers || committee.turn == Turn::RoundRobin) {
            let problem = format!(
                "{weights} weights; give one for each of the {teachers} teachers, the cell's own first, with `turn: all`, or none"
            );
            return Err(Fault::new("recover.committee.weights", problem));
        }
    }
    distinct("recover.compat", &recover.compat)
}

/// Where no protocol has soft labels, nothing may ask for them.
fn hard_labels(experiment: &Experiment) -> Result<(), Fault> {
    if !experiment.protocols.values().all(Protocol::is_hard) {
        return Ok(());
    }
    let contradiction = |path: &str, problem: &str| {
        Err(Fault::new(path, format!("{problem}, but validate.loss is `ce`, which trains on hard labels")))
    };
    if experiment.relabel_teachers != RelabelTeachers::Same {
        return contradiction("relabel_teachers", "these teachers would give soft labels");
    }
    match experiment.baselines.iter().position(|baseline| baseline.labels() == Labels::Soft) {
        Some(index) => contradiction(&format!("baselines[{index}]"), "this baseline has soft labels"),
        None => Ok(()),
    }
}
