//! Images as tensors, optimised by libtorch's operations where the teachers compute.

use ndarray::Array4;
use tch::{Device, TchError, Tensor};

use super::view_matrices::ViewMatrices;
use super::{BatchImages, ImagesState, StepRule};
use crate::recover::RecoverError;
use crate::recover::adam::EPSILON;
use scdd_compute::replica::{to_array, to_tensor};
use scdd_compute::transfer;
use scdd_data::Resample;

pub struct DeviceImages {
    images: Tensor,
    moments: [Tensor; 2],
    steps: u32,
    average: Option<Tensor>,
    rule: StepRule,
    /// The lowest and highest value of each channel, `[1, C, 1, 1]`.
    range: [Tensor; 2],
    /// The last views, and how they came from the images.
    seen: Option<(Tensor, ViewMatrices)>,
}

impl DeviceImages {
    pub fn new(state: ImagesState, rule: StepRule, device: Device) -> Result<Self, TchError> {
        let ImagesState { images, moments: [first, second], steps, average } = state;
        let copy = |array: &Array4<f32>| transfer::send(&to_tensor(array.view())?, device);
        let (low, high): (Vec<f32>, Vec<f32>) = rule.range.iter().copied().unzip();
        let limits = |values: &[f32]| transfer::upload(values, &[1, -1, 1, 1], device);
        let images = copy(&images)?;
        // Before the first step nothing else need be sent.
        let is_start = steps == 0;
        let moment = |array| if is_start { images.f_zeros_like() } else { copy(array) };
        let average = average.map(|array| if is_start { Ok(images.copy()) } else { copy(&array) });
        Ok(Self {
            moments: [moment(&first)?, moment(&second)?],
            average: average.transpose()?,
            images,
            steps,
            range: [limits(&low)?, limits(&high)?],
            rule,
            seen: None,
        })
    }

    /// Adam, in the arithmetic of [`Adam`](crate::recover::adam::Adam).
    fn adam(&mut self, gradient: &Tensor, learning_rate: f64) -> Result<(), TchError> {
        self.steps += 1;
        let [b1, b2] = self.rule.betas;
        let [c1, c2] = [b1, b2].map(|beta| 1.0 - beta.powi(self.steps as i32));
        let [first, second] = &mut self.moments;
        let _ = first.f_mul_scalar_(b1)?.f_add_(&gradient.f_mul_scalar(1.0 - b1)?)?;
        let _ = second.f_mul_scalar_(b2)?.f_add_(&gradient.f_square()?.f_mul_scalar_(1.0 - b2)?)?;
        let root = second.f_sqrt()?.f_div_scalar_(c2.sqrt())?.f_add_scalar_(f64::from(EPSILON))?;
        let move_by = first.f_div(&root)?.f_mul_scalar_(learning_rate / c1)?;
        let _ = self.images.f_sub_(&move_by)?;
        Ok(())
    }
}

impl BatchImages for DeviceImages {
    fn look(&mut self, maps: Vec<Resample>) -> Result<Tensor, RecoverError> {
        let _guard = tch::no_grad_guard();
        let views = ViewMatrices::new(&maps, self.images.device())?;
        let seen = views.apply(&self.images)?;
        self.seen = Some((seen.shallow_clone(), views));
        Ok(seen)
    }

    fn norm_of(&mut self, gradient: &Tensor) -> Result<f64, RecoverError> {
        let _guard = tch::no_grad_guard();
        let (_, views) = self.seen.as_ref().ok_or_else(unseen)?;
        let norm = transfer::read(&views.adjoint(gradient)?.f_norm()?)?;
        Ok(norm.first().copied().unwrap_or_default())
    }

    fn step(&mut self, gradient: Tensor, learning_rate: f64) -> Result<Tensor, RecoverError> {
        let _guard = tch::no_grad_guard();
        let (seen, views) = self.seen.take().ok_or_else(unseen)?;
        let mut gradient = gradient;
        let prior = self.rule.priors.add_on_device(&seen, &mut gradient)?;
        self.adam(&views.adjoint(&gradient)?, learning_rate)?;
        let [low, high] = &self.range;
        let _ = self.images.f_clamp_tensor_(Some(low), Some(high))?;
        if let Some(average) = &mut self.average {
            let _ = average.f_lerp_(&self.images, 1.0 - self.rule.ema)?;
        }
        Ok(prior)
    }

    fn state(&self) -> Result<ImagesState, RecoverError> {
        let [first, second] = &self.moments;
        Ok(ImagesState {
            images: fetched(&self.images)?,
            moments: [fetched(first)?, fetched(second)?],
            steps: self.steps,
            average: self.average.as_ref().map(fetched).transpose()?,
        })
    }

    fn result(&self) -> Result<Array4<f32>, RecoverError> {
        Ok(fetched(self.average.as_ref().unwrap_or(&self.images))?)
    }
}

fn fetched(tensor: &Tensor) -> Result<Array4<f32>, TchError> {
    let array = to_array(tensor)?.into_dimensionality();
    array.map_err(|e| TchError::Shape(e.to_string()))
}

fn unseen() -> TchError {
    TchError::Shape("no view was taken before the step".into())
}
