//! An experiment as a graph of stages, with the stages of each row of its results.
//!
//! The graph is plain data: building it makes no stage, and reads nothing but the experiment's
//! [`Inputs`]. Listing, making and collecting stages are loops over it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::inputs::Inputs;
use super::matrix::{self, ImageSetSpec, Origin, RowSpec};
use super::real::require_images;
use super::stages::images::{Described, Images};
use super::stages::recover::{Balanced, RecoverSource};
use super::stages::validate::Labelling;
use super::stages::{Draft, Task};
use super::stages::{
    balance, measure, real, recover, relabel, subset, validate, verifier, verify, whole,
};
use super::{Failed, Goal, RunError};
use crate::config::real_rows::RDED_CROPS;
use crate::config::{BnWeight, Labels, Protocol, RecoverConfig, Start};
use scdd_artifacts::files::{AUTO, FOLDER, LABELS};
use scdd_artifacts::stage::{Found, Stage, StageError, StageStore};

/// The preset of the crops baseline.
const CROPS: &str = "rded-cifar100";

/// A node of a [`StageGraph`]: its index in the order of nodes.
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

/// All stages of an experiment, each once and after the stages that it needs.
pub struct StageGraph<'a> {
    nodes: Vec<StageNode<'a>>,
    goal: Goal,
    pub(super) recoveries: Vec<RecoveryNodes<'a>>,
    pub(super) rows: Vec<RowNodes<'a>>,
    pub(super) whole: Vec<WholeNodes<'a>>,
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

impl<'a> StageGraph<'a> {
    /// Builds the stages of the experiment of `inputs` up to `goal`, with results in `store`.
    ///
    /// # Errors
    /// When the experiment needs something that its inputs lack, or its training set can't be read.
    pub fn build(inputs: &'a Inputs, store: &'a StageStore, goal: Goal) -> Result<Self, RunError> {
        let graph = Self {
            nodes: Vec::new(),
            goal,
            recoveries: Vec::new(),
            rows: Vec::new(),
            whole: Vec::new(),
            remarks: Vec::new(),
        };
        let mut builder = StageGraphBuilder {
            inputs,
            store,
            graph,
            places: BTreeMap::new(),
            checks: BTreeMap::new(),
        };
        builder.check_bundles()?;
        builder.recover_all()?;
        builder.add_rows()?;
        builder.add_whole()?;
        Ok(builder.graph)
    }

    /// All stages, each after the stages that it needs.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &StageNode<'a>)> {
        self.nodes.iter().enumerate().map(|(place, node)| (NodeId(place), node))
    }

    /// The stage `id`.
    pub fn node(&self, id: NodeId) -> &StageNode<'a> {
        &self.nodes[id.0]
    }

    /// The stages that are not complete in `store`.
    ///
    /// # Errors
    /// When a stage's directory holds other work.
    pub fn open(&self, store: &StageStore) -> Result<Vec<NodeId>, StageError> {
        let mut open = Vec::new();
        for (id, node) in self.nodes() {
            if !matches!(store.look(&node.stage)?, Found::Complete(_)) {
                open.push(id);
            }
        }
        Ok(open)
    }

    /// The missing stages whose last attempt failed according to `store`, and the stages that need
    /// them.
    ///
    /// # Errors
    /// When a stage's directory holds other work.
    pub fn known_failures(&self, store: &StageStore) -> Result<Failed, StageError> {
        let mut failed = Failed::new();
        for id in self.open(store)? {
            let node = self.node(id);
            let of_needs = node.needs.iter().find_map(|need| failed.get(need).cloned());
            if let Some(reason) = of_needs.or_else(|| store.failure(&node.stage)) {
                failed.insert(id, reason);
            }
        }
        Ok(failed)
    }

    /// Checks that every stage is complete in `store`, except those in `failed`.
    ///
    /// # Errors
    /// The first incomplete stage.
    pub(super) fn require_complete(
        &self,
        store: &StageStore,
        failed: &Failed,
    ) -> Result<(), RunError> {
        self.nodes()
            .filter(|(id, _)| !failed.contains_key(id))
            .try_for_each(|(id, _)| self.require(store, id))
    }

    /// Checks that the stage `id` is complete in `store`.
    ///
    /// # Errors
    /// When it is missing or damaged.
    pub(super) fn require(&self, store: &StageStore, id: NodeId) -> Result<(), RunError> {
        let node = self.node(id);
        match store.find(&node.stage)? {
            Some(_) => Ok(()),
            None => Err(RunError::Incomplete { missing: node.directory.clone() }),
        }
    }

    /// The stages of the goal itself, in the order of nodes.
    pub(super) fn targets(&self) -> Vec<NodeId> {
        let of_row = |row: &RowNodes| match self.goal {
            Goal::Recover => Some(row.images.node),
            Goal::Relabel => row.labels.as_ref().map(|labels| labels.node),
            Goal::Validate | Goal::Report => row.student,
        };
        let mut targets: Vec<NodeId> = self.rows.iter().filter_map(of_row).collect();
        // Without students the images are the result.
        if self.goal == Goal::Recover || self.rows.is_empty() {
            targets.extend(self.recoveries.iter().map(|one| one.images.node));
        }
        targets.extend(self.whole.iter().map(|row| row.node));
        targets.sort();
        targets.dedup();
        targets
    }
}

struct StageGraphBuilder<'a> {
    inputs: &'a Inputs,
    store: &'a StageStore,
    graph: StageGraph<'a>,
    /// All nodes by their directories.
    places: BTreeMap<PathBuf, NodeId>,
    /// The checks that each use of a bundle needs, by the bundle's path.
    checks: BTreeMap<&'a Path, Vec<NodeId>>,
}

impl<'a> StageGraphBuilder<'a> {
    /// Adds a stage, unless it exists already.
    fn add(&mut self, draft: Draft<'a>) -> NodeId {
        let Draft { stage, title, needs, task } = draft;
        let (directory, next) = (self.store.path(&stage), NodeId(self.graph.nodes.len()));
        let place = *self.places.entry(directory.clone()).or_insert(next);
        if place == next {
            self.graph.nodes.push(StageNode { stage, directory, title, needs, task });
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
        let folder = self.graph.node(node).directory.join(FOLDER);
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
        let Some(real) = inputs.real().ok().filter(|_| self.graph.goal >= Goal::Relabel) else {
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
                let draft = verifier::draft(
                    &images,
                    &inputs.bundles[path],
                    self.verified(path),
                    spec.seed,
                )?;
                verified.push((path.as_path(), self.add(draft)));
            }
            self.graph.recoveries.push(RecoveryNodes { spec, images, verified });
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
            self.graph.remarks.push(format!(
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
        Ok(Some(Balanced { node, key, file: self.graph.node(node).directory.join(AUTO) }))
    }

    /// RDED as published for small images, without optimisation: `ipc` crops of training images per
    /// class, the ones that the teacher at `path` scores best.
    fn crops(&mut self, path: &'a Path, ipc: u32, seed: u64) -> Result<Images, RunError> {
        let mut config = RecoverConfig::of_preset(CROPS)?;
        if let Start::Crops { images, .. } = &mut config.start {
            *images = (*images).max(ipc);
        }
        let train = &self.inputs.real()?.train()?.set;
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
            };
            let labels = match spec.labels {
                Labels::Soft if self.graph.goal >= Goal::Relabel => {
                    Some(self.relabel(&images, spec.labeller, protocol, seed)?)
                }
                _ => None,
            };
            let mut student = None;
            if self.graph.goal >= Goal::Validate {
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
            self.graph.rows.push(RowNodes { spec, images, labels, student });
        }
        Ok(())
    }

    fn relabel(
        &mut self,
        images: &Images,
        labeller: &Path,
        protocol: &'a Protocol,
        seed: u64,
    ) -> Result<Labelling, RunError> {
        let answering = self.inputs.answering(labeller, &protocol.relabel);
        let members = protocol.relabel.ensemble.iter().map(|member| member.bundle.as_path());
        let mut checks = self.checks_of(labeller);
        checks.extend(
            members.filter(|member| *member != labeller).flat_map(|member| self.checks_of(member)),
        );
        let (draft, teacher) = relabel::draft(images, answering, checks, &protocol.relabel, seed)?;
        let (key, node) = (draft.stage.key(), self.add(draft));
        Ok(Labelling { node, key, file: self.graph.node(node).directory.join(LABELS), teacher })
    }

    /// Adds the rows of the whole training set, if the experiment has them and the goal includes
    /// them.
    fn add_whole(&mut self) -> Result<(), RunError> {
        let (inputs, experiment) = (self.inputs, &self.inputs.experiment);
        let Some(whole) = experiment.whole_real.filter(|_| self.graph.goal >= Goal::Validate)
        else {
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
                    let images = train.set.len() as u64;
                    self.graph.whole.push(WholeNodes {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Experiment;
    use crate::in_repository;
    use crate::run::real::DatasetCache;

    /// An experiment without real data: two methods by two teachers, one of the methods with `r_bn:
    /// auto`.
    fn inputs() -> Inputs {
        let (a, b) = (bundle("resnet18-w16-moco-v2"), bundle("resnet18-w16-supervised"));
        opened(&format!(
            "name: x\ndata: none\nteachers: ['{a}', '{b}']\nipc: [1, 2]\nmethods:\n  plain: {{iterations: 1}}\n  \
             auto: {{iterations: 1, r_bn: auto, subset_of: 2, verifier: ['{b}']}}\n"
        ))
    }

    fn bundle(name: &str) -> String {
        in_repository("onnx/fashion-mnist").join(name).display().to_string()
    }

    /// The inputs of the experiment `text`.
    fn opened(text: &str) -> Inputs {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("e.yaml"), text).unwrap();
        let experiment = Experiment::load(&dir.path().join("e.yaml"), &[]).unwrap();
        Inputs::open(&experiment, &DatasetCache::default()).unwrap()
    }

    #[test]
    fn every_stage_is_there_once_and_after_those_that_it_needs() {
        let (inputs, store) = (inputs(), StageStore::new("nowhere"));
        let graph = StageGraph::build(&inputs, &store, Goal::Report).unwrap();
        let kinds =
            |kind: &str| graph.nodes().filter(|(_, node)| node.stage.kind() == kind).count();
        // Method `plain` gives four sets; method `auto` two, whose smaller sizes are subsets.
        let found = ["verify", "balance", "recover", "subset", "verifier", "validate"].map(kinds);
        assert_eq!(found, [2, 2, 6, 2, 4, 0]);
        let verified = |id: &NodeId| graph.node(*id).stage.kind() == "verify";
        for (id, node) in graph.nodes() {
            assert!(node.needs.iter().all(|need| *need < id), "{}", node.title);
            let is_first = matches!(node.stage.kind(), "verify" | "subset");
            assert!(
                is_first || node.needs.iter().any(verified),
                "{} waits for no verification",
                node.title
            );
        }
        let mut directories: Vec<&Path> =
            graph.nodes().map(|(_, node)| node.directory.as_path()).collect();
        directories.sort();
        directories.dedup();
        assert_eq!(directories.len(), graph.nodes().count());
    }

    #[test]
    fn each_teacher_of_a_committee_is_balanced_by_a_stage_of_its_own() {
        let (a, b) = (bundle("resnet18-w16-moco-v2"), bundle("resnet18-w16-supervised"));
        let inputs = opened(&format!(
            "name: x\ndata: none\nteachers: ['{a}']\nipc: 1\nrecover: {{iterations: 1, r_bn: auto, \
             committee: {{teachers: ['{b}'], turn: round_robin, weights: []}}}}\n"
        ));
        let store = StageStore::new("nowhere");
        let graph = StageGraph::build(&inputs, &store, Goal::Recover).unwrap();
        let stages = |kind: &'static str| {
            graph.nodes().filter(move |(_, node)| node.stage.kind() == kind).collect::<Vec<_>>()
        };
        let (balances, recoveries) = (stages("balance"), stages("recover"));
        let [(_, recovery)] = recoveries.as_slice() else { panic!("one set") };
        let Task::Recover(task) = &recovery.task else { panic!("a recovery") };
        let files: Vec<PathBuf> =
            balances.iter().map(|(_, node)| node.directory.join(AUTO)).collect();
        assert_eq!((task.balances.len(), &task.balances), (2, &files));
        assert!(balances.iter().all(|(id, _)| recovery.needs.contains(id)));
        assert!(balances[0].1.title.contains("moco") && balances[1].1.title.contains("supervised"));
    }

    #[test]
    fn what_needs_a_failed_stage_has_failed_for_its_reason() {
        let (inputs, dir) = (inputs(), tempfile::tempdir().unwrap());
        let store = StageStore::new(dir.path());
        let graph = StageGraph::build(&inputs, &store, Goal::Report).unwrap();
        assert!(graph.known_failures(&store).unwrap().is_empty());
        let (balance, node) =
            graph.nodes().find(|(_, node)| node.stage.kind() == "balance").unwrap();
        store.note_failure(&node.stage, "balance it: no gradient").unwrap();
        let failed = graph.known_failures(&store).unwrap();
        // The set that needs it, its subset, and the verifier of each.
        assert_eq!(failed.len(), 5);
        assert!(
            failed.contains_key(&balance)
                && failed.values().all(|reason| reason == "balance it: no gradient")
        );
        let missing = graph.require_complete(&store, &failed).unwrap_err();
        assert!(matches!(missing, RunError::Incomplete { .. }), "{missing}");
        store.run(&node.stage, &|_| {}, |_| Ok::<_, StageError>(())).unwrap();
        assert!(
            graph.known_failures(&store).unwrap().is_empty(),
            "a complete stage has not failed"
        );
        assert_eq!(store.failure(&node.stage), None);
    }
}
