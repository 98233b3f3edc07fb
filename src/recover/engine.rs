//! What evaluates the loss: the teacher's graph, compiled once for each shape of batch in turn.

use std::cell::{Cell, OnceCell};
use std::sync::Arc;

use crate::graph::Graph;
use crate::replica::{Choice, Objective, Plan, PlanOptions, ReplicaError};

/// A frozen teacher.
pub struct Engine {
    graph: Arc<Graph>,
    options: PlanOptions,
    /// How convolutions are computed: for every shape as for the first.
    choices: OnceCell<Vec<Choice>>,
    /// Of the last batch: batches follow each other in one shape, but for a smaller one at the end, and differ in the targets of their statistics.
    last: Cell<Option<Plan>>,
}

impl Engine {
    /// `recorded` are the choices of an earlier engine of the same teacher, if there was one.
    pub fn new(graph: Arc<Graph>, options: PlanOptions, recorded: Option<Vec<Choice>>) -> Self {
        let choices = recorded.map_or_else(OnceCell::new, OnceCell::from);
        Self { graph, options, choices, last: Cell::new(None) }
    }

    /// The teacher compiled for `objective` and batches of `shape` `[N, C, H, W]`.
    ///
    /// # Errors
    /// Those of [`Plan::replay`].
    pub fn plan(&self, objective: &Objective, shape: [i64; 4]) -> Result<Plan, ReplicaError> {
        if let Some(mut plan) = self.last.take()
            && plan.shape() == shape
            && plan.retarget(objective)?
        {
            return Ok(plan);
        }
        let recorded = self.choices.get().map_or(&[][..], Vec::as_slice);
        let plan = Plan::replay(&self.graph, objective, shape, self.options, recorded)?;
        self.choices.get_or_init(|| plan.choices().to_vec());
        Ok(plan)
    }

    /// Keeps a plan for the next batch.
    pub fn keep(&self, plan: Plan) {
        self.last.set(Some(plan));
    }
}
