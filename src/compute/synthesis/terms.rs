//! The gradients of the objective's two terms, each by itself.

use tch::Tensor;

use super::{Objective, SynthesisPlan};
use crate::replica::{Replica, ReplicaError};

/// The gradients of cross entropy and of the statistics term with its weight `r_bn`, with respect
/// to the input `[N, C, H, W]`. Their sum is the gradient of the loss.
pub struct TermGradients {
    pub ce: Tensor,
    pub bn: Tensor,
}

impl SynthesisPlan {
    /// The gradients of both terms at `input` `[N, C, H, W]` for `targets` (int64 `[N]`), by two
    /// evaluations. Averaged statistics stay as they are.
    ///
    /// # Errors
    /// Those of [`evaluate`](Self::evaluate).
    pub fn term_gradients(
        &mut self,
        input: &Tensor,
        targets: &Tensor,
    ) -> Result<TermGradients, ReplicaError> {
        let averages = self.momentum.averages();
        let bn = self.evaluate_unread(input, None);
        let r_bn = std::mem::replace(&mut self.r_bn, 0.0);
        let ce = self.evaluate_unread(input, Some(targets));
        self.r_bn = r_bn;
        self.momentum.restore(averages);
        Ok(TermGradients { ce: ce?.gradient, bn: bn?.gradient })
    }
}

impl Replica {
    /// As [`SynthesisPlan::term_gradients`], on the reference executor.
    ///
    /// # Errors
    /// Those of [`evaluate`](Self::evaluate).
    pub fn term_gradients(
        &self,
        input: &Tensor,
        targets: &Tensor,
        objective: &Objective,
    ) -> Result<TermGradients, ReplicaError> {
        let averages = objective.momentum.averages();
        let bn = self.evaluate_unread(input, None, objective);
        objective.momentum.restore(averages);
        let ce = self.evaluate_unread(input, Some(targets), &Objective::cross_entropy());
        Ok(TermGradients { ce: ce?.gradient, bn: bn?.gradient })
    }
}
