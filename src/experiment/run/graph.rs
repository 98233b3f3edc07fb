//! An experiment as a graph of stages. Listing, making and collecting stages are loops over it.

use super::inputs::Inputs;
use super::stages::{NodeId, RowNodes, StageNode, Stages};
use super::{Failed, Goal, RunError};
use scdd_artifacts::stage::{Found, StageError, StageStore};

/// The stages that an experiment needs for a goal, as plain data.
pub struct StageGraph<'a> {
    pub(super) stages: Stages<'a>,
    goal: Goal,
}

impl<'a> StageGraph<'a> {
    /// The stages of the experiment of `inputs` up to `goal`, with results in `store`. Reads
    /// nothing else, and makes none.
    ///
    /// # Errors
    /// When the experiment needs something that its inputs lack, or its training set can't be read.
    pub fn build(inputs: &'a Inputs, store: &'a StageStore, goal: Goal) -> Result<Self, RunError> {
        Ok(Self { stages: Stages::of(inputs, store, goal)?, goal })
    }

    /// The last kind of stages that it has.
    pub fn goal(&self) -> Goal {
        self.goal
    }

    /// All stages, each after the stages that it needs.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &StageNode<'a>)> {
        self.stages.nodes.iter().enumerate().map(|(place, node)| (NodeId(place), node))
    }

    /// The stage `id`.
    pub fn node(&self, id: NodeId) -> &StageNode<'a> {
        &self.stages.nodes[id.0]
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
        let mut targets: Vec<NodeId> = self.stages.rows.iter().filter_map(of_row).collect();
        // Without students the images are the result.
        if self.goal == Goal::Recover || self.stages.rows.is_empty() {
            targets.extend(self.stages.recoveries.iter().map(|one| one.images.node));
        }
        targets.extend(self.stages.whole.iter().map(|row| row.node));
        targets.sort();
        targets.dedup();
        targets
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::config::Experiment;
    use crate::in_repository;
    use crate::run::real::DatasetCache;
    use crate::run::stages::Task;
    use scdd_artifacts::files::AUTO;

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
        store.attempt(&node.stage, &|_| {}, |_| Ok::<_, StageError>(())).unwrap();
        assert!(
            graph.known_failures(&store).unwrap().is_empty(),
            "a complete stage has not failed"
        );
        assert_eq!(store.failure(&node.stage), None);
    }
}
