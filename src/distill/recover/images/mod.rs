//! The images of a batch under optimisation. On the CPU they are arrays, on a GPU tensors, so that
//! nothing but the small tables of their views crosses to the GPU at a step.

mod device;
mod host;
mod view_matrices;

use ndarray::Array4;
use tch::{Device, Tensor};

use super::RecoverError;
use super::prior::Priors;
use scdd_compute::threads::Threads;
use scdd_data::Resample;

use device::DeviceImages;
use host::HostImages;

/// The images between two steps, as arrays `[N, C, H, W]`.
#[derive(Debug, Clone)]
pub struct ImagesState {
    /// Normalised.
    pub images: Array4<f32>,
    /// Adam's first and second moments.
    pub moments: [Array4<f32>; 2],
    /// The number of steps that led to them.
    pub steps: u32,
    /// The moving average of the images, where there is one.
    pub average: Option<Array4<f32>>,
}

/// How a step moves the images.
#[derive(Debug, Clone)]
pub struct StepRule {
    pub betas: [f64; 2],
    /// The share of the average that each step keeps; 0: there is no average.
    pub ema: f64,
    pub priors: Priors,
    /// The lowest and highest value of each channel.
    pub range: Vec<(f32, f32)>,
}

/// Images under optimisation.
pub trait BatchImages {
    /// The images through `maps`, `[N, C, h, w]`, on the device of the teachers.
    ///
    /// # Errors
    /// When the maps do not fit the images.
    fn look(&mut self, maps: Vec<Resample>) -> Result<Tensor, RecoverError>;

    /// The norm of a gradient with respect to the images that is `gradient` with respect to the
    /// last views. Waits for a GPU.
    ///
    /// # Errors
    /// When libtorch fails.
    fn norm_of(&mut self, gradient: &Tensor) -> Result<f64, RecoverError>;

    /// A step against `gradient`, that of the loss with respect to the last views. Returns the loss
    /// of the priors there, float64 `[]`.
    ///
    /// # Errors
    /// When libtorch fails.
    fn step(&mut self, gradient: Tensor, learning_rate: f64) -> Result<Tensor, RecoverError>;

    /// All that the next step builds on.
    ///
    /// # Errors
    /// When libtorch can't copy it.
    fn state(&self) -> Result<ImagesState, RecoverError>;

    /// What optimisation gives if it ends here: the average where there is one, else the images.
    ///
    /// # Errors
    /// When libtorch can't copy it.
    fn result(&self) -> Result<Array4<f32>, RecoverError>;
}

impl ImagesState {
    /// The state before the first step.
    pub fn start(images: Array4<f32>, rule: &StepRule) -> Self {
        let zeros = || Array4::zeros(images.raw_dim());
        let average = (rule.ema > 0.0).then(|| images.clone());
        Self { moments: [zeros(), zeros()], steps: 0, average, images }
    }

    /// Arrays that are optimised on `threads`.
    pub fn on_host(self, rule: StepRule, threads: Threads) -> Box<dyn BatchImages> {
        Box::new(HostImages::new(self, rule, threads))
    }

    /// Tensors that are optimised on `device`.
    ///
    /// # Errors
    /// When libtorch can't copy the images.
    pub fn on_device(
        self,
        rule: StepRule,
        device: Device,
    ) -> Result<Box<dyn BatchImages>, RecoverError> {
        Ok(Box::new(DeviceImages::new(self, rule, device)?))
    }
}

#[cfg(test)]
mod tests;
