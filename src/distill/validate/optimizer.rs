//! AdamW and SGD over a student's parameters, in PyTorch's arithmetic.

use tch::{TchError, Tensor};

use scdd_experiment::config::{Decay, Optimizer as Config};

const BETAS: (f64, f64) = (0.9, 0.999);
const EPSILON: f64 = 1e-8;

/// The parameters, with the optimiser's state of each.
pub struct StudentOptimizer {
    parameters: Vec<Tensor>,
    /// AdamW: the first and second moments. SGD: the velocities, empty without momentum.
    first: Vec<Tensor>,
    second: Vec<Tensor>,
    config: Config,
    decay: Decay,
    factor: f64,
    pub steps: i32,
}

impl StudentOptimizer {
    /// Weight decay acts on the `parameters` that `decay` selects.
    ///
    /// # Errors
    /// When libtorch can't make the moments.
    pub fn new(parameters: Vec<Tensor>, config: Config, decay: Decay) -> Result<Self, TchError> {
        let zeros = || {
            parameters.iter().map(|p| p.f_detach()?.f_zeros_like()).collect::<Result<Vec<_>, _>>()
        };
        let (first, second) =
            (zeros()?, if matches!(config, Config::Adamw { .. }) { zeros()? } else { Vec::new() });
        Ok(Self { parameters, first, second, config, decay, factor: 1.0, steps: 0 })
    }

    /// The first and the second moments, as far as the optimiser has them. They share their storage
    /// with the optimiser.
    pub fn moments(&self) -> [Vec<Tensor>; 2] {
        [&self.first, &self.second]
            .map(|moments| moments.iter().map(Tensor::shallow_clone).collect())
    }

    /// Sets the learning rate to `factor` times the configured one.
    pub fn scale_learning_rate(&mut self, factor: f64) {
        self.factor = factor;
    }

    /// One descent step along `gradients`, one per parameter.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn step(&mut self, gradients: &[Tensor]) -> Result<(), TchError> {
        let _no_grad = tch::no_grad_guard();
        self.steps += 1;
        for (i, gradient) in gradients.iter().enumerate() {
            let decays = self.decay == Decay::All || self.parameters[i].dim() > 1;
            let decay = |weight_decay: f64| if decays { weight_decay } else { 0.0 };
            match self.config {
                Config::Adamw { learning_rate, weight_decay } => {
                    self.adamw(i, gradient, learning_rate * self.factor, decay(weight_decay))?;
                }
                Config::Sgd { learning_rate, momentum, weight_decay } => {
                    self.sgd(
                        i,
                        gradient,
                        learning_rate * self.factor,
                        momentum,
                        decay(weight_decay),
                    )?;
                }
            }
        }
        Ok(())
    }

    /// Loshchilov & Hutter 2019: weight decay acts on the parameter directly, not through the
    /// moments.
    fn adamw(
        &mut self,
        i: usize,
        gradient: &Tensor,
        rate: f64,
        decay: f64,
    ) -> Result<(), TchError> {
        let (parameter, m, v) = (&mut self.parameters[i], &mut self.first[i], &mut self.second[i]);
        let correction = |beta: f64| 1.0 - beta.powi(self.steps);
        let _ = parameter.f_mul_scalar_(1.0 - rate * decay)?;
        let _ = m.f_lerp_(gradient, 1.0 - BETAS.0)?;
        let _ =
            v.f_mul_scalar_(BETAS.1)?.f_add_(&gradient.f_square()?.f_mul_scalar(1.0 - BETAS.1)?)?;
        let root = v.f_sqrt()?.f_div_scalar_(correction(BETAS.1).sqrt())?.f_add_scalar_(EPSILON)?;
        let _ = parameter.f_sub_(&m.f_div(&root)?.f_mul_scalar_(rate / correction(BETAS.0))?)?;
        Ok(())
    }

    fn sgd(
        &mut self,
        i: usize,
        gradient: &Tensor,
        rate: f64,
        momentum: f64,
        decay: f64,
    ) -> Result<(), TchError> {
        let (parameter, velocity) = (&mut self.parameters[i], &mut self.first[i]);
        let gradient = gradient.f_add(&parameter.f_mul_scalar(decay)?)?;
        let _ = velocity.f_mul_scalar_(momentum)?.f_add_(&gradient)?;
        let _ = parameter.f_sub_(&velocity.f_mul_scalar(rate)?)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three steps on Σ x² from [1, −2] at rates r, r/2, r/4, against `torch.optim`.
    fn check(config: Config, expected: [f32; 2]) {
        let x = Tensor::from_slice(&[1.0f32, -2.0]).set_requires_grad(true);
        let mut optimizer =
            StudentOptimizer::new(vec![x.shallow_clone()], config, Decay::All).unwrap();
        for factor in [1.0, 0.5, 0.25] {
            optimizer.scale_learning_rate(factor);
            let loss = x.square().sum(tch::Kind::Float);
            optimizer.step(&Tensor::run_backward(&[loss], &[&x], false, false)).unwrap();
        }
        let found = Vec::<f32>::try_from(&x.detach()).unwrap();
        assert!(
            found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6),
            "{found:?} against {expected:?}"
        );
    }

    const ADAMW: [f32; 2] = [0.8237482, -1.821757];
    const SGD: [f32; 2] = [0.5198437, -1.039687];

    #[test]
    fn adamw_equals_pytorch() {
        check(Config::Adamw { learning_rate: 0.1, weight_decay: 0.01 }, ADAMW);
    }

    #[test]
    fn sgd_equals_pytorch() {
        check(Config::Sgd { learning_rate: 0.1, momentum: 0.9, weight_decay: 0.01 }, SGD);
    }

    /// The published `get_parameters`: BN and biases, which have one dimension, do not decay.
    #[test]
    fn weights_alone_decay_where_asked() {
        let weights = Tensor::from_slice(&[1.0f32, -2.0]).reshape([1, 2]).set_requires_grad(true);
        let bias = Tensor::from_slice(&[1.0f32, -2.0]).set_requires_grad(true);
        let zeros: Vec<Tensor> =
            [&weights, &bias].iter().map(|t| t.detach().zeros_like()).collect();
        for config in [
            Config::Adamw { learning_rate: 0.5, weight_decay: 0.5 },
            Config::Sgd { learning_rate: 0.5, momentum: 0.0, weight_decay: 0.5 },
        ] {
            for (decay, expected) in [(Decay::Weights, [0.75, 1.0]), (Decay::All, [0.75, 0.75])] {
                let fresh = [&weights, &bias].map(|t| t.detach().copy().set_requires_grad(true));
                let tensors = fresh.iter().map(Tensor::shallow_clone).collect();
                StudentOptimizer::new(tensors, config, decay).unwrap().step(&zeros).unwrap();
                let first = fresh.map(|t| f64::try_from(t.detach().reshape([-1]).get(0)).unwrap());
                assert!(
                    first.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6),
                    "{config:?} {decay:?}: {first:?}"
                );
            }
        }
    }
}
