//! What evaluates the loss: the teacher's graph, compiled once for each shape of batch in turn.

use std::cell::Cell;
use std::sync::Arc;

use crate::graph::Graph;
use crate::replica::{Objective, Plan, PlanOptions, ReplicaError};

/// A frozen teacher.
pub struct Engine {
    graph: Arc<Graph>,
    options: PlanOptions,
    /// Of the last batch: batches follow each other in one shape, but for a smaller one at the end, and differ in the targets of their statistics.
    last: Cell<Option<Plan>>,
}

impl Engine {
    pub fn new(graph: Arc<Graph>, options: PlanOptions) -> Self {
        Self { graph, options, last: Cell::new(None) }
    }

    /// The teacher compiled for `objective` and batches of `shape` `[N, C, H, W]`.
    ///
    /// # Errors
    /// Those of [`Plan::compile`].
    pub fn plan(&self, objective: &Objective, shape: [i64; 4]) -> Result<Plan, ReplicaError> {
        if let Some(mut plan) = self.last.take()
            && plan.shape() == shape
            && plan.retarget(objective)?
        {
            return Ok(plan);
        }
        Plan::compile(&self.graph, objective, shape, self.options)
    }

    /// Keeps a plan for the next batch.
    pub fn keep(&self, plan: Plan) {
        self.last.set(Some(plan));
    }
}
