//! The rows of an experiment, one per trained student. Nothing is read or made.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::real_rows::{NEAREST_MEAN, RANDOM_REAL};
use crate::config::{Baseline, Experiment, Labels, Protocol};

/// The origin of a row's images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin<'a> {
    /// Recovered from a teacher by one of the experiment's methods.
    Distilled { teacher: &'a Path, method: &'a str },
    /// Chosen from the real training set.
    Real(RealChoice),
    /// Made by other code: one of the experiment's finished sets.
    Finished(&'a str),
    /// RDED's crops of training images, scored by the row's labeller.
    Crops,
}

/// The choice of real images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RealChoice {
    /// Random, with a new choice for each seed.
    Random,
    /// Nearest to the mean image of their class, the same for every seed.
    NearestMean,
}

impl RealChoice {
    /// The name of its rows.
    pub fn method(self) -> &'static str {
        match self {
            RealChoice::Random => RANDOM_REAL,
            RealChoice::NearestMean => NEAREST_MEAN,
        }
    }
}

/// One set of synthetic images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageSetSpec<'a> {
    pub teacher: &'a Path,
    pub method: &'a str,
    pub ipc: u32,
    pub seed: u64,
}

/// All sets of synthetic images, including sets without students.
pub fn image_sets(experiment: &Experiment) -> Vec<ImageSetSpec<'_>> {
    let mut image_sets = Vec::new();
    for teacher in &experiment.teachers {
        for method in experiment.methods.keys() {
            for &ipc in &experiment.ipc {
                image_sets.extend(experiment.seeds.iter().map(|&seed| ImageSetSpec {
                    teacher,
                    method,
                    ipc,
                    seed,
                }));
            }
        }
    }
    image_sets
}

/// One row of the results, for one seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowSpec<'a> {
    pub origin: Origin<'a>,
    pub ipc: u32,
    pub seed: u64,
    pub labels: Labels,
    /// The bundle that labels the images. With hard labels only the views of its relabelling are
    /// used, which do not depend on it. It also scores RDED's crops.
    pub labeller: &'a Path,
    pub protocol: &'a str,
    pub student: &'a Path,
}

/// All rows of distilled or chosen images: first the cells of the matrix, then the baselines under
/// each protocol.
pub fn rows(experiment: &Experiment) -> Vec<RowSpec<'_>> {
    let mut rows = distilled(experiment);
    for (&ipc, &seed) in
        experiment.ipc.iter().flat_map(|ipc| experiment.seeds.iter().map(move |seed| (ipc, seed)))
    {
        for (name, protocol) in &experiment.protocols {
            for student in &experiment.students {
                for &(origin, labels) in &asked(experiment, protocol) {
                    let row = |labeller| RowSpec {
                        origin,
                        ipc,
                        seed,
                        labels,
                        labeller,
                        protocol: name,
                        student,
                    };
                    rows.extend(labellers(experiment, labels).into_iter().map(row));
                }
            }
        }
    }
    rows
}

/// The rows of the finished set `name`, which has `ipc` images per class. If its soft labels are
/// read, `read_under` has the protocols under which they are, with the bundle that made them or
/// stands for it.
pub fn finished_rows<'a>(
    experiment: &'a Experiment,
    (name, ipc): (&'a str, u32),
    read_under: Option<&BTreeMap<&str, &'a Path>>,
) -> Vec<RowSpec<'a>> {
    let mut rows = Vec::new();
    for (&seed, (protocol, settings)) in
        experiment.seeds.iter().flat_map(|s| experiment.protocols.iter().map(move |p| (s, p)))
    {
        let kinds = if settings.is_hard() { &[Labels::Hard][..] } else { &experiment.labels };
        for (student, &labels) in
            experiment.students.iter().flat_map(|s| kinds.iter().map(move |labels| (s, labels)))
        {
            let labellers = match read_under.filter(|_| labels == Labels::Soft) {
                Some(known) => known.get(protocol.as_str()).copied().into_iter().collect(),
                None => labellers(experiment, labels),
            };
            let origin = Origin::Finished(name);
            rows.extend(labellers.into_iter().map(|labeller| RowSpec {
                origin,
                ipc,
                seed,
                labels,
                labeller,
                protocol,
                student,
            }));
        }
    }
    rows
}

fn distilled(experiment: &Experiment) -> Vec<RowSpec<'_>> {
    let cells = experiment.cells().into_iter();
    let rows = cells.map(|cell| RowSpec {
        origin: Origin::Distilled { teacher: cell.teacher, method: cell.method },
        ipc: cell.ipc,
        seed: cell.seed,
        labels: cell.labels,
        labeller: cell.relabel_teacher,
        protocol: cell.protocol,
        student: cell.student,
    });
    rows.collect()
}

/// The baselines of the experiment that the protocol allows.
fn asked<'a>(experiment: &'a Experiment, protocol: &Protocol) -> Vec<(Origin<'a>, Labels)> {
    let origin = |baseline: &Baseline| match baseline {
        Baseline::RandomRealSoft | Baseline::RandomRealHard => Origin::Real(RealChoice::Random),
        Baseline::NearestMeanSoft | Baseline::NearestMeanHard => {
            Origin::Real(RealChoice::NearestMean)
        }
        Baseline::RdedCropsSoft | Baseline::RdedCropsHard => Origin::Crops,
    };
    let all = experiment.baselines.iter().map(|baseline| (origin(baseline), baseline.labels()));
    all.filter(|(_, labels)| *labels == Labels::Hard || !protocol.is_hard()).collect()
}

fn labellers(experiment: &Experiment, labels: Labels) -> Vec<&Path> {
    let all = experiment.labellers();
    match labels {
        Labels::Soft => all,
        Labels::Hard => all.into_iter().take(1).collect(),
    }
}
