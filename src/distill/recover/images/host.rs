//! Images as arrays, optimised by our own loops.

use ndarray::{Array4, Axis, Zip};
use tch::Tensor;

use super::{BatchImages, ImagesState, StepRule};
use crate::recover::RecoverError;
use crate::recover::adam::Adam;
use scdd_compute::replica::{to_array, to_tensor};
use scdd_compute::threads::Threads;
use scdd_data::Resample;
use scdd_data::view::{adjoint_batch, apply_batch};

pub struct HostImages {
    images: Array4<f32>,
    adam: Adam,
    average: Option<Array4<f32>>,
    rule: StepRule,
    threads: Threads,
    maps: Vec<Resample>,
    /// The last views.
    seen: Array4<f32>,
    /// The gradient with respect to the images.
    gradient: Array4<f32>,
}

impl HostImages {
    pub fn new(state: ImagesState, rule: StepRule, threads: Threads) -> Self {
        let ImagesState { images, moments, steps, average } = state;
        Self {
            adam: Adam::after(steps, moments, rule.betas),
            average,
            maps: Vec::new(),
            seen: images.clone(),
            gradient: images.clone(),
            images,
            rule,
            threads,
        }
    }
}

impl BatchImages for HostImages {
    fn look(&mut self, maps: Vec<Resample>) -> Result<Tensor, RecoverError> {
        self.maps = maps;
        self.threads.run(|| apply_batch(&self.maps, &self.images, &mut self.seen))?;
        Ok(to_tensor(self.seen.view())?)
    }

    fn norm_of(&mut self, gradient: &Tensor) -> Result<f64, RecoverError> {
        let of_seen: Array4<f32> = to_array(gradient)?.into_dimensionality().map_err(shape)?;
        self.threads.run(|| adjoint_batch(&self.maps, &of_seen, &mut self.gradient))?;
        Ok(self.gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt())
    }

    fn step(&mut self, gradient: Tensor, learning_rate: f64) -> Result<Tensor, RecoverError> {
        let mut of_seen: Array4<f32> = to_array(&gradient)?.into_dimensionality().map_err(shape)?;
        let prior = self.rule.priors.add(&self.seen, &mut of_seen);
        self.threads.run(|| adjoint_batch(&self.maps, &of_seen, &mut self.gradient))?;
        self.adam.step(&mut self.images, &self.gradient, learning_rate);
        clip(&mut self.images, &self.rule.range);
        if let Some(average) = &mut self.average {
            let keep = self.rule.ema as f32;
            Zip::from(average).and(&self.images).for_each(|a, x| *a = keep * *a + (1.0 - keep) * x);
        }
        Ok(Tensor::from(prior))
    }

    fn state(&self) -> Result<ImagesState, RecoverError> {
        Ok(ImagesState {
            images: self.images.clone(),
            moments: self.adam.moments().map(Array4::clone),
            steps: self.adam.steps(),
            average: self.average.clone(),
        })
    }

    fn result(&self) -> Result<Array4<f32>, RecoverError> {
        Ok(self.average.as_ref().unwrap_or(&self.images).clone())
    }
}

fn shape(error: ndarray::ShapeError) -> tch::TchError {
    tch::TchError::Shape(error.to_string())
}

/// Clips every pixel to the valid range of its channel.
pub fn clip(images: &mut Array4<f32>, range: &[(f32, f32)]) {
    for (mut plane, &(low, high)) in images.axis_iter_mut(Axis(1)).zip(range) {
        Zip::from(&mut plane).for_each(|v| *v = v.clamp(low, high));
    }
}
