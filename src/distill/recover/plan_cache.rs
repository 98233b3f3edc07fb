//! The compiled plan of a frozen teacher, reused from batch to batch.

use std::cell::Cell;
use std::sync::Arc;

use scdd_compute::replica::ReplicaError;
use scdd_compute::synthesis::{Objective, PlanOptions, SynthesisPlan};
use scdd_graph::Graph;

pub struct PlanCache {
    graph: Arc<Graph>,
    options: PlanOptions,
    /// The plan of the last batch. Successive batches have the same shape, except for a smaller
    /// last one, and differ in the targets of their statistics.
    last: Cell<Option<SynthesisPlan>>,
}

impl PlanCache {
    pub fn new(graph: Arc<Graph>, options: PlanOptions) -> Self {
        Self { graph, options, last: Cell::new(None) }
    }

    /// The teacher compiled for `objective` and batches of `shape` `[N, C, H, W]`.
    ///
    /// # Errors
    /// Those of [`SynthesisPlan::compile`].
    pub fn plan(
        &self,
        objective: &Objective,
        shape: [i64; 4],
    ) -> Result<SynthesisPlan, ReplicaError> {
        if let Some(mut plan) = self.last.take()
            && plan.shape() == shape
            && plan.retarget(objective)?
        {
            return Ok(plan);
        }
        self.compile(&self.graph, objective, shape)
    }

    /// As [`plan`](Self::plan), but without reuse, for `graph`: the teacher's graph with other
    /// weights.
    ///
    /// # Errors
    /// Those of [`SynthesisPlan::compile`].
    pub fn compile(
        &self,
        graph: &Arc<Graph>,
        objective: &Objective,
        shape: [i64; 4],
    ) -> Result<SynthesisPlan, ReplicaError> {
        SynthesisPlan::compile(graph, objective, shape, self.options.clone())
    }

    /// Keeps a plan for the next batch.
    pub fn keep(&self, plan: SynthesisPlan) {
        self.last.set(Some(plan));
    }
}
