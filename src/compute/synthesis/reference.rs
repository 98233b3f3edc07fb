//! The objective on the reference executor, under autograd. The compiled plan is tested against it.

use tch::{Kind, Tensor};

use super::{Evaluation, Objective, UnreadEvaluation, channel_statistics, patch_statistics};
use crate::replica::{Mode, Replica, ReplicaError};
use scdd_graph::ValueId;

impl Replica {
    /// The loss of `input` `[N, C, H, W]` for `targets` (int64 `[N]`) and its gradient. Without
    /// targets the loss has no cross entropy term.
    ///
    /// # Errors
    /// Those of [`Replica::run`], or when the graph has no `[N, K]` output.
    pub fn evaluate<'t>(
        &self,
        input: &Tensor,
        targets: impl Into<Option<&'t Tensor>>,
        objective: &Objective,
    ) -> Result<Evaluation, ReplicaError> {
        let found = self.evaluate_unread(input, targets.into(), objective)?;
        found.read().map_err(|source| ReplicaError::Loss { source })
    }

    /// As [`evaluate`](Self::evaluate), without waiting for a GPU.
    ///
    /// # Errors
    /// As of [`evaluate`](Self::evaluate).
    pub fn evaluate_unread(
        &self,
        input: &Tensor,
        targets: Option<&Tensor>,
        objective: &Objective,
    ) -> Result<UnreadEvaluation, ReplicaError> {
        let input = input.detach().set_requires_grad(true);
        let taps: Vec<ValueId> = objective.layers.iter().map(|l| l.tap).collect();
        let run = self.run(std::slice::from_ref(&input), &taps, Mode::Eval)?;
        self.differentiate(&input, targets, objective, &run.outputs[0], &run.taps)
            .map_err(|source| ReplicaError::Loss { source })
    }

    fn differentiate(
        &self,
        input: &Tensor,
        targets: Option<&Tensor>,
        objective: &Objective,
        logits: &Tensor,
        taps: &[Tensor],
    ) -> Result<UnreadEvaluation, tch::TchError> {
        let ce = match targets {
            Some(targets) => logits.f_cross_entropy_loss::<Tensor>(
                targets,
                None,
                tch::Reduction::Mean,
                -100,
                0.0,
            )?,
            None => Tensor::f_zeros([], (input.kind(), input.device()))?,
        };
        let mut bn = Tensor::f_zeros([], (input.kind(), input.device()))?;
        for (index, (layer, tap)) in objective.layers.iter().zip(taps).enumerate() {
            let (mut mean, mut var) = match layer.patches {
                1 => channel_statistics(tap, layer.axis)?,
                patches => patch_statistics(tap, patches)?,
            };
            if let Some((of_mean, of_var)) = objective.momentum.blend(index, &mean, &var)? {
                // The average's value, with the gradient of the step's own statistics.
                let through =
                    |average: Tensor, step: &Tensor| average.f_add(&step.f_sub(&step.f_detach()?)?);
                (mean, var) = (through(of_mean, &mean)?, through(of_var, &var)?);
            }
            let distance = layer.distance(&mean, &var, objective.distance)?;
            bn = bn.f_add(&distance.f_mul_scalar(layer.multiplier)?)?;
        }
        let loss = ce.f_add(&bn.f_mul_scalar(objective.r_bn)?)?;
        let gradient = Tensor::f_run_backward(&[&loss], &[input], false, false)?.remove(0);
        let terms = Tensor::f_stack(&[loss.detach(), ce.detach(), bn.detach()], 0)?;
        Ok(UnreadEvaluation {
            terms: terms.f_to_kind(Kind::Double)?,
            logits: logits.detach(),
            gradient,
        })
    }
}
