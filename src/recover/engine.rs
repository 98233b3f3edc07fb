//! What evaluates the loss: the teacher's graph, compiled once for each shape of batch in turn.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::graph::Graph;
use crate::replica::{Choice, Objective, Plan, PlanOptions, ReplicaError};

/// How a teacher's convolutions are computed, by the shape of the batch (as `50x1x28x28`): what was measured where the configuration says `autotune`.
pub type Choices = BTreeMap<String, Vec<Choice>>;

/// A frozen teacher.
pub struct Engine {
    graph: Arc<Graph>,
    options: PlanOptions,
    /// Of the last batch: batches follow each other in one shape, but for a smaller one at the end, and differ in the targets of their statistics.
    last: Cell<Option<Plan>>,
    choices: RefCell<Choices>,
}

impl Engine {
    pub fn new(graph: Arc<Graph>, options: PlanOptions) -> Self {
        Self { graph, options, last: Cell::new(None), choices: RefCell::default() }
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
        self.compile(&self.graph, objective, shape)
    }

    /// As [`plan`](Self::plan), of `graph`: the teacher's with other weights.
    ///
    /// # Errors
    /// Those of [`Plan::compile`].
    pub fn compile(&self, graph: &Arc<Graph>, objective: &Objective, shape: [i64; 4]) -> Result<Plan, ReplicaError> {
        let mut choices = self.choices.borrow_mut();
        let known = choices.entry(shape.map(|side| side.to_string()).join("x")).or_default();
        let plan = Plan::replay(graph, objective, shape, self.options, known)?;
        if known.is_empty() {
            *known = plan.choices().to_vec();
        }
        Ok(plan)
    }

    /// What was chosen so far.
    pub fn choices(&self) -> Choices {
        self.choices.borrow().clone()
    }

    /// Computes as `choices` say instead of measuring anew.
    pub fn follow(&self, choices: Choices) {
        self.choices.replace(choices);
    }

    /// Keeps a plan for the next batch.
    pub fn keep(&self, plan: Plan) {
        self.last.set(Some(plan));
    }
}
