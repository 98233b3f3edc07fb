//! The kinds of stages, one file each. A file defines everything about its kind: the version of its
//! code, its identity (everything that its result depends on), its cost, and its task as plain data
//! for the worker.
//!
//! This file says which stages an experiment has, and which stages each of them needs.
//!
//! Identities destructure their configuration field by field, so a new key does not compile until
//! its kind handles it. Neutral values are omitted, so that existing stages stay valid.

pub mod balance;
pub mod images;
pub mod import;
pub mod measure;
pub mod real;
pub mod recognise;
pub mod recover;
pub mod relabel;
pub mod size;
pub mod subset;
pub mod validate;
pub mod verifier;
pub mod verify;
pub mod whole;

mod finished;
mod stage_identity;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::inputs::Inputs;
use super::matrix::{self, ImageSetSpec, Origin, RowSpec};
use super::real::require_images;
use super::{Goal, RunError};
use crate::config::real_rows::RDED_CROPS;
use crate::config::{BnWeight, Labels, Protocol, RecoverConfig, Start};
use images::{Described, Images};
use recover::{Balanced, RecoverSource};
use scdd_artifacts::files::{AUTO, FOLDER, LABELS};
use scdd_artifacts::stage::{Stage, StageStore};
use stage_identity::{StageIdentity, inputs};
use validate::{LabelKind, Labelling};

/// The preset of the crops baseline.
const CROPS: &str = "rded-cifar100";

/// A stage of an experiment: its place in the order of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(pub usize);

/// A stage of an experiment.
pub struct StageNode<'a> {
    pub stage: Stage,
    /// The directory of its result, whether or not it exists.
    pub directory: PathBuf,
    /// Description of the work for failure messages: `recover method a from teacher b, ipc 10, seed
    /// 0`.
    pub title: String,
    /// The nodes whose results are required; they precede this node.
    pub needs: Vec<NodeId>,
    pub task: Task<'a>,
}

/// Everything that a worker needs to make a stage, as plain data.
pub enum Task<'a> {
    Verify(verify::VerifyTask<'a>),
    Measure(measure::MeasureTask<'a>),
    Balance(Box<balance::BalanceTask<'a>>),
    Recover(Box<recover::RecoverTask<'a>>),
    Subset(subset::SubsetTask),
    Real(real::RealTask<'a>),
    Import(import::ImportTask<'a>),
    Recognise(recognise::RecogniseTask<'a>),
    Verifier(verifier::VerifierTask<'a>),
    Relabel(relabel::RelabelTask<'a>),
    Validate(Box<validate::ValidateTask<'a>>),
    Whole(Box<whole::WholeTask<'a>>),
}

impl Task<'_> {
    /// Whether several processes can make parts of the stage at the same time.
    pub fn has_parts(&self) -> bool {
        matches!(self, Self::Recover(_) | Self::Relabel(_))
    }
}

/// A stage that will become a node of the graph.
pub struct Draft<'a> {
    pub stage: Stage,
    /// Description of the work for failure messages: `recover method a from teacher b, ipc 10, seed
    /// 0`.
    pub title: String,
    /// The nodes whose results are required.
    pub needs: Vec<NodeId>,
    pub task: Task<'a>,
}

/// All stages of an experiment up to a goal.
#[derive(Default)]
pub struct Stages<'a> {
    /// Each stage once, and after the stages that it needs.
    pub(super) nodes: Vec<StageNode<'a>>,
    pub(super) recoveries: Vec<RecoveryNodes<'a>>,
    pub(super) rows: Vec<RowNodes<'a>>,
    pub(super) whole: Vec<WholeNodes<'a>>,
    /// Remarks for the user.
    pub(super) remarks: Vec<String>,
}

/// One set of synthetic images, and per verifier the node that measures its accuracy.
pub(super) struct RecoveryNodes<'a> {
    pub spec: ImageSetSpec<'a>,
    pub images: Images,
    pub verified: Vec<(&'a Path, NodeId)>,
}

/// The stages of one row, up to the goal.
pub(super) struct RowNodes<'a> {
    pub spec: RowSpec<'a>,
    pub images: Images,
    /// `None` with hard labels.
    pub labels: Option<Labelling>,
    /// The proof of a finished set's classes.
    pub recognised: Option<NodeId>,
    pub student: Option<NodeId>,
}

/// The row of a student trained on the whole real training set.
pub(super) struct WholeNodes<'a> {
    pub protocol: &'a str,
    pub student: &'a Path,
    pub seed: u64,
    pub node: NodeId,
    /// The number of images.
    pub images: u64,
}

impl<'a> Stages<'a> {
    /// The stages of the experiment of `inputs` up to `goal`, with results in `store`.
    ///
    /// # Errors
    /// When the experiment needs something that its inputs lack, or its training set can't be read.
    pub(super) fn of(
        inputs: &'a Inputs,
        store: &'a StageStore,
        goal: Goal,
    ) -> Result<Self, RunError> {
        let (stages, places, checks) = (Self::default(), BTreeMap::new(), BTreeMap::new());
        let mut builder = StagesBuilder { inputs, store, goal, stages, places, checks };
        builder.check_bundles()?;
        builder.recover_all()?;
        builder.add_rows()?;
        builder.add_finished()?;
        builder.add_whole()?;
        Ok(builder.stages)
    }
}

struct StagesBuilder<'a> {
    inputs: &'a Inputs,
    store: &'a StageStore,
    goal: Goal,
    stages: Stages<'a>,
    /// All nodes by their directories.
    places: BTreeMap<PathBuf, NodeId>,
    /// The checks that each use of a bundle needs, by the bundle's path.
    checks: BTreeMap<&'a Path, Vec<NodeId>>,
}

impl<'a> StagesBuilder<'a> {
    /// Adds a stage, unless it exists already.
    fn add(&mut self, draft: Draft<'a>) -> NodeId {
        let Draft { stage, title, needs, task } = draft;
        let (directory, next) = (self.store.path(&stage), NodeId(self.stages.nodes.len()));
        let place = *self.places.entry(directory.clone()).or_insert(next);
        if place == next {
            self.stages.nodes.push(StageNode { stage, directory, title, needs, task });
        }
        place
    }

    /// Adds a stage that makes images, from the images of the stage `whole` if there is one.
    fn add_images(
        &mut self,
        (draft, described): (Draft<'a>, Described),
        whole: Option<&Images>,
    ) -> Images {
        let (key, node) = (draft.stage.key(), self.add(draft));
        let Described { name, title, count, formation } = described;
        let folder = self.stages.nodes[node.0].directory.join(FOLDER);
        let (recovery, recovered) =
            whole.map_or((node, count), |whole| (whole.recovery, whole.recovered));
        Images { node, key, folder, name, title, count, formation, recovery, recovered }
    }

    /// Adds the verification of every bundle, and the measurement of bundles whose classes students
    /// learn.
    fn check_bundles(&mut self) -> Result<(), RunError> {
        let inputs = self.inputs;
        for (path, bundle) in &inputs.bundles {
            let verified = self.add(verify::draft(bundle)?);
            self.checks.insert(path, vec![verified]);
        }
        let Some(real) = inputs.real().ok().filter(|_| self.goal >= Goal::Relabel) else {
            return Ok(());
        };
        let experiment = &inputs.experiment;
        let teachers = experiment.teachers.iter().map(PathBuf::as_path);
        for path in teachers.chain(experiment.labellers()).chain(experiment.ensembles()) {
            let Some(checks) = self.checks.get(path) else { continue };
            let (teacher, verified) = (&inputs.bundles[path], checks[0]);
            if !teacher.manifest.is_features_only() {
                let measured = self.add(measure::draft(teacher, &real.test, verified)?);
                if let Some(checks) = self.checks.get_mut(path) {
                    *checks = vec![verified, measured];
                }
            }
        }
        Ok(())
    }

    /// The nodes that each use of the bundle at `path` as a teacher needs.
    fn checks_of(&self, path: &Path) -> Vec<NodeId> {
        self.checks.get(path).cloned().unwrap_or_default()
    }

    /// The node that verifies the bundle at `path`, a path of the experiment.
    fn verified(&self, path: &Path) -> NodeId {
        self.checks[path][0]
    }

    /// Adds all sets of synthetic images, and their verifiers.
    fn recover_all(&mut self) -> Result<(), RunError> {
        let inputs = self.inputs;
        for spec in matrix::image_sets(&inputs.experiment) {
            let method = &inputs.experiment.methods[spec.method];
            let images = self.recover(spec.teacher, (spec.method, method), spec.ipc, spec.seed)?;
            let mut verified = Vec::new();
            for path in &method.verifier {
                let verifier = (&inputs.bundles[path], self.verified(path));
                let draft = verifier::draft(&images, method, verifier, spec.seed)?;
                verified.push((path.as_path(), self.add(draft)));
            }
            self.stages.recoveries.push(RecoveryNodes { spec, images, verified });
        }
        Ok(())
    }

    /// Adds `ipc` images per class, recovered from the teacher at `path` and its committee.
    fn recover(
        &mut self,
        path: &'a Path,
        (method, config): (&str, &RecoverConfig),
        ipc: u32,
        seed: u64,
    ) -> Result<Images, RunError> {
        if let Some(of) = config.subset_of.filter(|&of| of != ipc) {
            let whole = self.recover(path, (method, config), of, seed)?;
            return Ok(self.add_images(subset::draft(&whole, of, ipc)?, Some(&whole)));
        }
        let (inputs, teacher) = (self.inputs, &self.inputs.bundles[path]);
        if teacher.manifest.is_features_only() {
            self.stages.remarks.push(format!(
                "`{}` has no classifier: cross entropy is off, its images are recovered from its statistics alone",
                teacher.name()
            ));
        }
        let members = config.committee.iter().flat_map(|committee| &committee.teachers);
        let mut checks = self.checks_of(path);
        checks.extend(members.clone().flat_map(|member| self.checks_of(member)));
        let teachers = [path].into_iter().chain(members.clone().map(PathBuf::as_path));
        let balances = teachers.map(|path| self.balance(path, (method, config)));
        let balances: Option<Vec<_>> = balances.collect::<Result<_, _>>()?;
        let balances = balances.unwrap_or_default();
        let source = RecoverSource {
            teacher,
            others: members.map(|member| &inputs.bundles[member]).collect(),
            train: if config.is_data_free() { None } else { Some(inputs.real()?.train()?) },
            classes: inputs.classes_of(teacher),
            balances,
            checks,
            precision: inputs.experiment.precision,
        };
        Ok(self.add_images(recover::draft(source, (method, config), ipc, seed)?, None))
    }

    /// Adds the measurement of `r_bn: auto` with the teacher at `path`, if the method needs it.
    fn balance(
        &mut self,
        path: &Path,
        (method, config): (&str, &RecoverConfig),
    ) -> Result<Option<Balanced>, RunError> {
        if config.r_bn != BnWeight::Auto {
            return Ok(None);
        }
        let draft =
            balance::draft(&self.inputs.bundles[path], (method, config), self.verified(path))?;
        let (key, node) = (draft.stage.key(), self.add(draft));
        Ok(Some(Balanced { node, key, file: self.stages.nodes[node.0].directory.join(AUTO) }))
    }

    /// RDED as published for small images, without optimisation: `ipc` crops of training images per
    /// class, the ones that the teacher at `path` scores best.
    fn crops(&mut self, path: &'a Path, ipc: u32, seed: u64) -> Result<Images, RunError> {
        let mut config = RecoverConfig::of_preset(CROPS)?;
        if let Start::Crops { images, .. } = &mut config.start {
            *images = (*images).max(ipc);
        }
        let train = &self.inputs.real()?.train()?.summary;
        require_images(train, "the baseline `rded_crops`", recover::images_needed(&config, ipc))?;
        self.recover(path, (RDED_CROPS, &config), ipc, seed)
    }

    /// Adds all rows of distilled or chosen images.
    fn add_rows(&mut self) -> Result<(), RunError> {
        let experiment = &self.inputs.experiment;
        for spec in matrix::rows(experiment) {
            let (ipc, seed, protocol) = (spec.ipc, spec.seed, &experiment.protocols[spec.protocol]);
            let images = match spec.origin {
                Origin::Distilled { teacher, method } => {
                    self.recover(teacher, (method, &experiment.methods[method]), ipc, seed)?
                }
                Origin::Real(choice) => {
                    let draft = real::draft(self.inputs.real()?.train()?, choice, ipc, seed)?;
                    self.add_images(draft, None)
                }
                Origin::Crops => self.crops(spec.labeller, ipc, seed)?,
                // They have rows of their own.
                Origin::Finished(_) => continue,
            };
            let labels = match spec.labels {
                Labels::Soft if self.goal >= Goal::Relabel => {
                    Some(self.relabel(&images, spec.labeller, protocol, seed, Vec::new())?)
                }
                _ => None,
            };
            let mut student = None;
            if self.goal >= Goal::Validate {
                let trained = (&self.inputs.bundles[spec.student], self.verified(spec.student));
                let test = &self.inputs.real()?.test;
                student = Some(self.add(validate::draft(
                    (&images, labels.as_ref()),
                    trained,
                    test,
                    protocol,
                    seed,
                )?));
            }
            self.stages.rows.push(RowNodes { spec, images, labels, recognised: None, student });
        }
        Ok(())
    }

    /// Adds the labels of `images` by the teacher at `labeller`, which also need the nodes
    /// `proofs`.
    fn relabel(
        &mut self,
        images: &Images,
        labeller: &Path,
        protocol: &'a Protocol,
        seed: u64,
        proofs: Vec<NodeId>,
    ) -> Result<Labelling, RunError> {
        let answering = self.inputs.answering(labeller, &protocol.relabel);
        let members = protocol.relabel.ensemble.iter().map(|member| member.bundle.as_path());
        let mut checks = [self.checks_of(labeller), proofs].concat();
        checks.extend(
            members.filter(|member| *member != labeller).flat_map(|member| self.checks_of(member)),
        );
        let (draft, teacher) = relabel::draft(images, answering, checks, &protocol.relabel, seed)?;
        let (key, node) = (draft.stage.key(), self.add(draft));
        let file = self.stages.nodes[node.0].directory.join(LABELS);
        Ok(Labelling { node, key, file, kind: LabelKind::OfViews, teacher, stranger: None })
    }

    /// Adds the rows of the whole training set, if the experiment has them and the goal includes
    /// them.
    fn add_whole(&mut self) -> Result<(), RunError> {
        let (inputs, experiment) = (self.inputs, &self.inputs.experiment);
        let Some(whole) = experiment.whole_real.filter(|_| self.goal >= Goal::Validate) else {
            return Ok(());
        };
        for (name, protocol) in &experiment.protocols {
            for student in &experiment.students {
                for &seed in &experiment.seeds {
                    let (real, trained) =
                        (inputs.real()?, (&inputs.bundles[student], self.verified(student)));
                    let train = real.train()?;
                    let node = self.add(whole::draft(
                        trained,
                        [train, &real.test],
                        protocol,
                        whole,
                        seed,
                    )?);
                    let images = train.summary.images();
                    self.stages.whole.push(WholeNodes {
                        protocol: name,
                        student,
                        seed,
                        node,
                        images,
                    });
                }
            }
        }
        Ok(())
    }
}
