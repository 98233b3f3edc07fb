//! The exponential moving average (EMA) of a student's weights, which is tested in their place.

use tch::{TchError, Tensor};

/// Tensors and their moving averages: parameters and, unlike in EDC's published code, BN statistics
/// too, because they belong to the weights they were measured with.
pub struct WeightAverage {
    live: Vec<Tensor>,
    mean: Vec<Tensor>,
    decay: f64,
}

impl WeightAverage {
    /// Starts with the present tensors as the averages. `decay`, 0..1, is the weight of the old
    /// average at each step.
    ///
    /// # Errors
    /// When libtorch can't copy them.
    pub fn new(live: Vec<Tensor>, decay: f64) -> Result<Self, TchError> {
        let mean = live.iter().map(|t| t.f_detach_copy()).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { live, mean, decay })
    }

    /// The averages. They share their storage with this object.
    pub fn mean(&self) -> Vec<Tensor> {
        self.mean.iter().map(Tensor::shallow_clone).collect()
    }

    /// mean ← decay · mean + (1 − decay) · live.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn update(&mut self) -> Result<(), TchError> {
        let _no_grad = tch::no_grad_guard();
        for (mean, live) in self.mean.iter_mut().zip(&self.live) {
            let _ = mean.f_lerp_(live, 1.0 - self.decay)?;
        }
        Ok(())
    }

    /// Swaps the contents of the tensors and their averages; a second call restores them.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn swap(&mut self) -> Result<(), TchError> {
        let _no_grad = tch::no_grad_guard();
        for (mean, live) in self.mean.iter_mut().zip(&mut self.live) {
            let kept = live.f_detach_copy()?;
            live.f_copy_(mean)?;
            mean.f_copy_(&kept)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_follows_its_recurrence_and_swaps_back() {
        let mut live = Tensor::from_slice(&[1.0f32, -4.0]).set_requires_grad(true);
        let mut average = WeightAverage::new(vec![live.shallow_clone()], 0.75).unwrap();
        let mut expected = [1.0f32, -4.0];
        for step in 1..=5 {
            let now = [step as f32 * 2.0, -1.0];
            tch::no_grad(|| live.copy_(&Tensor::from_slice(&now)));
            average.update().unwrap();
            expected = [0, 1].map(|i| 0.75 * expected[i] + 0.25 * now[i]);
        }
        let values = |t: &Tensor| Vec::<f32>::try_from(&t.detach()).unwrap();
        average.swap().unwrap();
        let found = values(&live);
        assert!(
            found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6),
            "{found:?} against {expected:?}"
        );
        assert!(live.requires_grad());
        average.swap().unwrap();
        assert_eq!(values(&live), [10.0, -1.0]);
    }
}
