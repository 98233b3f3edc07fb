//! Recovers images from teachers.

use std::ops::Range;
use std::path::PathBuf;

use serde_json::Value;

use super::images::Described;
use super::{Draft, NodeId, StageIdentity, inputs};
use crate::config::{Committee, Packing, Precision, RecoverConfig, Start};
use crate::run::RunError;
use crate::run::real::{RealSplit, require_images};
use scdd_artifacts::bundle::Bundle;
use scdd_artifacts::stage::Stage;

/// Incremented whenever the code gives other bytes for the same input.
const VERSION: u32 = 3;

pub struct RecoverTask<'a> {
    pub teacher: &'a Bundle,
    /// The further teachers of the committee.
    pub others: Vec<&'a Bundle>,
    /// The settings of one set; `subset_of` and `verifier` are empty.
    pub config: RecoverConfig,
    /// With `r_bn: auto` its record for each teacher, the own one first.
    pub balances: Vec<PathBuf>,
    /// The real training set, if the start needs it.
    pub train: Option<&'a RealSplit>,
    /// Names of all classes.
    pub classes: &'a [String],
    /// The classes to recover, ascending.
    pub chosen: Vec<u32>,
    /// Images per class.
    pub ipc: u32,
    pub seed: u64,
}

impl RecoverTask<'_> {
    /// The number of batches.
    pub fn batches(&self) -> u64 {
        batches(&self.config, self.chosen.len() as u64, self.ipc)
    }
}

/// The numbers of the images of each class that join in `round`, of `ipc` per class in all.
pub fn joining(config: &RecoverConfig, ipc: u32, round: u32) -> Range<u32> {
    // If there are fewer images than rounds, they join in the earlier rounds.
    let edge =
        |round: u32| (u64::from(ipc) * u64::from(round)).div_ceil(u64::from(config.rounds)) as u32;
    edge(round)..edge(round + 1)
}

/// The number of batches into which `ipc` images of each of `classes` classes are divided.
pub fn batches(config: &RecoverConfig, classes: u64, ipc: u32) -> u64 {
    let size = u64::from(config.batch_size.max(1));
    let of_round = |round: u32| {
        let images = joining(config, ipc, round).len() as u64;
        match config.packing {
            Packing::Class => classes * images.div_ceil(size),
            _ => (classes * images).div_ceil(size),
        }
    };
    (0..config.rounds).map(of_round).sum()
}

/// The stage that measures `r_bn: auto`.
pub(in crate::run) struct Balanced {
    pub node: NodeId,
    pub key: String,
    /// The record that it writes.
    pub file: PathBuf,
}

/// The sources of a recovery.
pub(in crate::run) struct RecoverSource<'a> {
    pub teacher: &'a Bundle,
    pub others: Vec<&'a Bundle>,
    pub train: Option<&'a RealSplit>,
    /// Names of all classes: the teacher's, or the data's if it has none.
    pub classes: &'a [String],
    /// With `r_bn: auto` its stage for each teacher, the own one first.
    pub balances: Vec<Balanced>,
    /// The checks of all teachers.
    pub checks: Vec<NodeId>,
    pub precision: Precision,
}

/// The stage of `ipc` images per class, recovered from `source` by the method called `method`.
pub(in crate::run) fn draft<'a>(
    source: RecoverSource<'a>,
    (method, config): (&str, &RecoverConfig),
    ipc: u32,
    seed: u64,
) -> Result<(Draft<'a>, Described), RunError> {
    let RecoverSource { teacher, others, train, classes, balances, checks, precision } = source;
    let config = RecoverConfig { subset_of: None, verifier: Vec::new(), ..config.clone() };
    if let Some(train) = train {
        require_images(&train.summary, "`recover.start`", images_needed(&config, ipc))?;
    }
    let chosen = config.classes(classes.len() as u32);
    let mut inputs = inputs([("teacher", &teacher.hash)]);
    inputs.extend(
        others.iter().zip(2..).map(|(other, i)| (format!("teacher {i}"), other.hash.clone())),
    );
    inputs.extend(train.map(|train| ("data".to_owned(), train.summary.hash.clone())));
    for (balance, number) in balances.iter().zip(1..) {
        let name = if number == 1 { "balance".to_owned() } else { format!("balance {number}") };
        inputs.insert(name, balance.key.clone());
    }
    // Without a classifier the classes come from the data, so the teacher's hash does not cover
    // them.
    let foreign = teacher.manifest.is_features_only().then_some(classes);
    let (name, count) =
        (format!("{}-ipc{ipc}-seed{seed}", teacher.name()), chosen.len() as u64 * u64::from(ipc));
    let stage = Stage::new(
        "recover",
        VERSION,
        &name,
        &identity(&config, ipc, foreign, precision),
        inputs,
        seed,
    )?
    .of_passes(scored(&config, chosen.len()) + 2 * count * u64::from(config.iterations));
    let title =
        format!("method `{method}` from teacher `{}`, ipc {ipc}, seed {seed}", teacher.name());
    let described = Described { name, title, count, formation: config.formation };
    let mut needs = checks;
    needs.extend(balances.iter().map(|balance| balance.node));
    let balances = balances.into_iter().map(|balance| balance.file).collect();
    let task = RecoverTask { teacher, others, config, balances, train, classes, chosen, ipc, seed };
    let title = format!("recover {}", described.title);
    Ok((Draft { stage, title, needs, task: super::Task::Recover(Box::new(task)) }, described))
}

/// Float32 and TF32 are alike, since they differ on GPUs alone, as kinds of processors do.
fn identity(
    config: &RecoverConfig,
    ipc: u32,
    classes: Option<&[String]>,
    precision: Precision,
) -> Value {
    let RecoverConfig {
        iterations,
        batch_size,
        packing,
        learning_rate,
        betas,
        r_bn,
        r_var,
        first_bn_multiplier,
        distance,
        class_share,
        r_patch,
        statistics_momentum,
        weight_adjustment,
        tv,
        l2,
        jitter,
        crop,
        crop_curriculum,
        flip,
        start,
        formation,
        residual,
        ema,
        rounds,
        committee,
        compat,
        classes: chosen,
        // A subset is a separate stage.
        subset_of: _,
        snapshots,
        // Later verification does not change the images.
        verifier: _,
    } = config;
    // The hashes of its teachers are inputs.
    let committee =
        committee.as_ref().map(|Committee { teachers: _, turn, weights }| (turn, weights));
    StageIdentity::default()
        .with("ipc", &ipc)
        .with("iterations", iterations)
        .with("batch_size", batch_size)
        .with("packing", packing)
        .with("learning_rate", learning_rate)
        .with("betas", betas)
        .with("r_bn", r_bn)
        .with("first_bn_multiplier", first_bn_multiplier)
        .with("distance", distance)
        .with("start", start)
        .unless(1.0, "r_var", r_var)
        .unless(0.0, "class_share", class_share)
        .unless(0.0, "r_patch", r_patch)
        .unless(0.0, "statistics_momentum", statistics_momentum)
        .unless(None, "weight_adjustment", weight_adjustment)
        .unless(0.0, "tv", tv)
        .unless(0.0, "l2", l2)
        .unless(0, "jitter", jitter)
        .unless(None, "crop", crop)
        .unless(0.0, "crop_curriculum", crop_curriculum)
        .unless(false, "flip", flip)
        .unless(1, "formation", formation)
        .unless(None, "residual", residual)
        .unless(0.0, "ema", ema)
        .unless(1, "rounds", rounds)
        .unless(None, "committee", &committee)
        .unless(false, "bf16", &(precision == Precision::Bf16))
        .unless(Vec::new(), "compat", compat)
        .unless(None, "chosen", chosen)
        .unless(0, "snapshots", snapshots)
        .unless(None, "classes", &classes)
        .json()
}

/// The settings that the balance of the loss terms depends on: they are compared once, at the noise
/// of one batch, so settings of further steps do not matter.
pub(super) fn terms(config: &RecoverConfig) -> Value {
    let RecoverConfig {
        batch_size,
        first_bn_multiplier,
        distance,
        r_var,
        class_share,
        r_patch,
        // Enters by its deviation.
        start: _,
        // The rest concerns later steps, other terms or other images.
        iterations: _,
        packing: _,
        learning_rate: _,
        betas: _,
        r_bn: _,
        statistics_momentum: _,
        weight_adjustment: _,
        tv: _,
        l2: _,
        jitter: _,
        crop: _,
        crop_curriculum: _,
        flip: _,
        formation: _,
        residual: _,
        ema: _,
        rounds: _,
        subset_of: _,
        committee: _,
        compat: _,
        classes: _,
        verifier: _,
        snapshots: _,
    } = config;
    StageIdentity::default()
        .with("batch_size", batch_size)
        .with("noise_std", &config.noise_std())
        .with("first_bn_multiplier", first_bn_multiplier)
        .with("distance", distance)
        .unless(1.0, "r_var", r_var)
        .unless(0.0, "class_share", class_share)
        .unless(0.0, "r_patch", r_patch)
        .json()
}

/// The number of images that the teacher scores before the first step.
fn scored(config: &RecoverConfig, classes: usize) -> u64 {
    match config.start {
        Start::Crops { images, crops, .. } => classes as u64 * u64::from(images) * u64::from(crops),
        Start::Clusters { images } => classes as u64 * u64::from(images),
        Start::Noise { .. } | Start::Real { .. } => 0,
    }
}

/// The number of training images per class that the start of `ipc` images needs.
pub(in crate::run) fn images_needed(config: &RecoverConfig, ipc: u32) -> u64 {
    let of_each = |side: u64, count: u32| u64::from(ipc) * side.pow(2) * u64::from(count);
    match config.start {
        Start::Noise { .. } => 0,
        Start::Real { mean_of } => of_each(config.formation.into(), mean_of),
        Start::Clusters { .. } => of_each(config.formation.into(), 1),
        Start::Crops { factor, .. } => of_each(factor.into(), 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BnWeight;
    use crate::in_repository;

    /// The identity of images of these `classes`; `balance` is the key of the stage that measured
    /// `r_bn: auto`.
    fn key(
        teacher: &Bundle,
        classes: &[&str],
        config: &RecoverConfig,
        balance: Option<&str>,
    ) -> String {
        key_with(teacher, classes, config, (balance, Precision::Tf32))
    }

    fn key_with(
        teacher: &Bundle,
        classes: &[&str],
        config: &RecoverConfig,
        (balance, precision): (Option<&str>, Precision),
    ) -> String {
        let classes: Vec<String> = classes.iter().map(|&class| class.to_owned()).collect();
        let balanced =
            |key: &str| Balanced { node: NodeId(0), key: key.into(), file: "r_bn.json".into() };
        let balances = balance.map(balanced).into_iter().collect();
        let source = RecoverSource {
            teacher,
            others: Vec::new(),
            train: None,
            classes: &classes,
            balances,
            checks: Vec::new(),
            precision,
        };
        draft(source, ("m", config), 1, 0).unwrap().0.stage.key()
    }

    fn config() -> RecoverConfig {
        RecoverConfig::of_preset("sre2l-cifar100").unwrap()
    }

    #[test]
    fn images_of_a_teacher_without_classes_are_of_the_datas() {
        let features = Bundle::load(&in_repository("tests/goldens/features-only")).unwrap();
        let of = |classes: &[&str]| key(&features, classes, &config(), None);
        assert_eq!(of(&["a", "b"]), of(&["a", "b"]));
        assert_ne!(
            of(&["a", "b"]),
            of(&["a", "b", "c"]),
            "a set of two classes is no set of three"
        );
        assert_ne!(of(&["a", "b"]), of(&["b", "a"]));
        let own = Bundle::load(&in_repository("onnx/fashion-mnist/resnet18-w16-moco-v2")).unwrap();
        assert_eq!(
            key(&own, &["a"], &config(), None),
            key(&own, &["b"], &config(), None),
            "the teacher's hash has them"
        );
    }

    #[test]
    fn the_key_holds_what_changes_the_images_and_nothing_else() {
        let teacher =
            Bundle::load(&in_repository("onnx/fashion-mnist/resnet18-w16-moco-v2")).unwrap();
        let of = |config: &RecoverConfig, balance| key(&teacher, &["a"], config, balance);
        let plain = of(&config(), None);
        let same = RecoverConfig { verifier: vec!["a".into()], subset_of: Some(1), ..config() };
        assert_eq!(of(&same, None), plain);
        let auto = RecoverConfig { r_bn: BnWeight::Auto, ..config() };
        assert_ne!(of(&auto, Some("1")), plain);
        assert_ne!(of(&auto, Some("1")), of(&auto, Some("2")));
        for other in [
            RecoverConfig { tv: 1e-3, ..config() },
            RecoverConfig { flip: !config().flip, ..config() },
            RecoverConfig { iterations: 1, ..config() },
            RecoverConfig { rounds: 2, ..config() },
            RecoverConfig { snapshots: 1, ..config() },
        ] {
            assert_ne!(of(&other, None), plain);
        }
    }
}
