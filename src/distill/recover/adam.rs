//! Adam (Kingma & Ba 2015) on a batch of images, in PyTorch's arithmetic: bias-corrected moments, ε
//! = 1e-8 outside the root.

use ndarray::{Array4, Zip};

/// Added to the root of the second moment.
pub const EPSILON: f32 = 1e-8;

/// The optimiser's state.
pub struct Adam {
    betas: [f64; 2],
    steps: i32,
    first: Array4<f32>,
    second: Array4<f32>,
}

impl Adam {
    /// As it was after `steps` steps, which left these first and second `moments`.
    pub fn after(steps: u32, moments: [Array4<f32>; 2], betas: [f64; 2]) -> Self {
        let [first, second] = moments;
        Self { betas, steps: steps as i32, first, second }
    }

    /// The number of steps so far.
    pub fn steps(&self) -> u32 {
        self.steps as u32
    }

    /// First and second moments.
    pub fn moments(&self) -> [&Array4<f32>; 2] {
        [&self.first, &self.second]
    }

    /// One step of size `learning_rate` against `gradient`, all of one shape.
    pub fn step(&mut self, images: &mut Array4<f32>, gradient: &Array4<f32>, learning_rate: f64) {
        self.steps += 1;
        let correction = self.betas.map(|beta| 1.0 - beta.powi(self.steps));
        let size = (learning_rate / correction[0]) as f32;
        let root = correction[1].sqrt() as f32;
        let [b1, b2] = self.betas.map(|beta| beta as f32);
        let [a1, a2] = self.betas.map(|beta| (1.0 - beta) as f32);
        Zip::from(images).and(&mut self.first).and(&mut self.second).and(gradient).for_each(
            |x, m, v, &g| {
                *m = b1 * *m + a1 * g;
                *v = b2 * *v + a2 * g * g;
                *x -= size * *m / (v.sqrt() / root + EPSILON);
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values from `torch.optim.Adam([x], lr, betas=(0.5, 0.9))` with x = [1, -2] and
    /// gradients 2x, learning rates 0.1, 0.05, 0.025.
    #[test]
    fn three_steps_equal_pytorch() {
        let zeros = || Array4::zeros((1, 1, 1, 2));
        let mut adam = Adam::after(0, [zeros(), zeros()], [0.5, 0.9]);
        let mut x = Array4::from_shape_vec((1, 1, 1, 2), vec![1.0f32, -2.0]).unwrap();
        for rate in [0.1, 0.05, 0.025] {
            let gradient = x.mapv(|v| 2.0 * v);
            adam.step(&mut x, &gradient, rate);
        }
        for (found, expected) in x.iter().zip(EXPECTED) {
            assert!((found - expected).abs() < 1e-6, "{found} against {expected}");
        }
    }

    const EXPECTED: [f32; 2] = [0.8265644, -1.8257247];
}
