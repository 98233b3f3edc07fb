//! A student's parameters in two buffers, for a GPU: an optimiser's step is a few operations on
//! each, where parameter by parameter it would be as many for each of dozens.

use tch::{TchError, Tensor};

/// The buffers of weights, and of biases and normalisations. Optimisers tell these apart by their
/// dimensions, which are two and one.
pub struct FlatParameters {
    groups: [ParameterGroup; 2],
}

struct ParameterGroup {
    buffer: Tensor,
    /// The indices of its parameters.
    members: Vec<usize>,
}

impl FlatParameters {
    /// Moves the values of `parameters` into buffers, of which the parameters become views that ask
    /// for gradients.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn join(parameters: &mut [Tensor]) -> Result<Self, TchError> {
        let _no_grad = tch::no_grad_guard();
        let is_weight = |index: &usize| parameters[*index].dim() > 1;
        let (weights, others) = (0..parameters.len()).partition(is_weight);
        let weights = ParameterGroup::join(parameters, weights, &[1, -1])?;
        let others = ParameterGroup::join(parameters, others, &[-1])?;
        Ok(Self { groups: [weights, others] })
    }

    /// The buffers: weights `[1, W]`, the others `[B]`. They share their storage with the
    /// parameters.
    pub fn buffers(&self) -> Vec<Tensor> {
        self.groups.iter().map(|group| group.buffer.shallow_clone()).collect()
    }

    /// The gradients of the buffers, from those of the parameters.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn gradients(&self, of_parameters: &[Tensor]) -> Result<Vec<Tensor>, TchError> {
        let _no_grad = tch::no_grad_guard();
        let joined = |group: &ParameterGroup| {
            joined(of_parameters, &group.members)?.f_reshape_as(&group.buffer)
        };
        self.groups.iter().map(joined).collect()
    }
}

impl ParameterGroup {
    fn join(
        parameters: &mut [Tensor],
        members: Vec<usize>,
        shape: &[i64],
    ) -> Result<Self, TchError> {
        let flat = joined(parameters, &members)?;
        let mut start = 0;
        for &index in &members {
            let parameter = &mut parameters[index];
            let length = parameter.numel() as i64;
            let part = flat.f_narrow(0, start, length)?;
            let view = match parameter.size()[..] {
                // Channels last.
                [o, i, h, w] => part.f_view([o, h, w, i])?.f_permute([0, 3, 1, 2])?,
                ref size => part.f_view(size)?,
            };
            *parameter = view.f_set_requires_grad(true)?;
            start += length;
        }
        Ok(Self { buffer: flat.f_reshape(shape)?, members })
    }
}

/// The values of these tensors one after another, of images channels last.
fn joined(tensors: &[Tensor], members: &[usize]) -> Result<Tensor, TchError> {
    let flat = |&index: &usize| match tensors[index].detach() {
        image if image.dim() == 4 => image.f_permute([0, 2, 3, 1])?.f_reshape([-1]),
        other => other.f_reshape([-1]),
    };
    let flat = members.iter().map(flat).collect::<Result<Vec<_>, _>>()?;
    match flat.first() {
        Some(_) => Tensor::f_cat(&flat, 0),
        None => Ok(Tensor::from_slice(&[0f32; 0])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::optimizer::StudentOptimizer;
    use scdd_experiment::config::{Decay, Optimizer};
    use tch::{Device, Kind};

    const SIZES: [&[i64]; 5] = [&[4, 3, 3, 3], &[4], &[6, 4], &[6], &[2, 4, 1, 1]];

    fn values(seed: f64, size: &[i64]) -> Tensor {
        let count = size.iter().product::<i64>();
        ((Tensor::arange(count, (Kind::Float, Device::Cpu)) + seed) * 0.7).sin().reshape(size)
    }

    fn parameters() -> Vec<Tensor> {
        let parameter = |(seed, size): (u8, &&[i64])| values(f64::from(seed), size);
        (0..).zip(&SIZES).map(parameter).map(|t| t.set_requires_grad(true)).collect()
    }

    /// What the loss Σ sin(p) asks of each parameter.
    fn gradients(parameters: &[Tensor]) -> Vec<Tensor> {
        let losses: Vec<Tensor> = parameters.iter().map(|p| p.sin().sum(Kind::Float)).collect();
        let loss = Tensor::stack(&losses, 0).sum(Kind::Float);
        let found = Tensor::run_backward(&[loss], parameters, false, false);
        // A layout that is not that of the buffers.
        found.into_iter().map(|g| g.contiguous()).collect()
    }

    #[test]
    fn joined_parameters_move_as_each_does() {
        for config in [
            Optimizer::Adamw { learning_rate: 0.1, weight_decay: 0.3 },
            Optimizer::Sgd { learning_rate: 0.1, momentum: 0.9, weight_decay: 0.3 },
        ] {
            let (each, mut views) = (parameters(), parameters());
            let flat = FlatParameters::join(&mut views).unwrap();
            assert_eq!(flat.buffers().len(), 2);
            let own = each.iter().map(Tensor::shallow_clone).collect();
            let mut alone = StudentOptimizer::new(own, config, Decay::Weights).unwrap();
            let mut joined = StudentOptimizer::new(flat.buffers(), config, Decay::Weights).unwrap();
            for _ in 0..3 {
                alone.step(&gradients(&each)).unwrap();
                joined.step(&flat.gradients(&gradients(&views)).unwrap()).unwrap();
            }
            for (each, view) in each.iter().zip(&views) {
                assert_eq!(each.size(), view.size());
                let apart = f64::try_from((each - view).detach().abs().max()).unwrap();
                assert!(apart < 1e-6, "{config:?} {:?}: {apart}", each.size());
            }
            let moved = f64::try_from((&each[0] - &parameters()[0]).detach().abs().max()).unwrap();
            assert!(moved > 0.05, "{moved}");
        }
    }

    #[test]
    fn a_student_without_biases_is_joined_too() {
        let mut only = vec![values(0.0, &[3, 2]).set_requires_grad(true)];
        let flat = FlatParameters::join(&mut only).unwrap();
        let sizes: Vec<_> = flat.buffers().iter().map(Tensor::size).collect();
        assert_eq!(sizes, [vec![1, 6], vec![0]]);
        assert!(flat.gradients(&gradients(&only)).is_ok() && only[0].requires_grad());
    }
}
