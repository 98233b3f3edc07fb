//! The balance of cross entropy and BN statistics alignment: the norms of their gradients with
//! respect to the images.
//!
//! Both scales depend on the teacher: the activations of self-supervised networks differ from those
//! of supervised ones, and the logits of a linear probe from those of a trained classifier. With
//! one `r_bn` for all teachers, a comparison would measure weightings rather than teachers.
//! `r_bn: auto` gives each teacher the weight at which the gradients of both terms have the same
//! norm at the start of optimisation.

use ndarray::Array4;
use rand_distr::{Distribution, StandardNormal};
use tch::{Device, TchError, Tensor};

use super::{RecoverError, alignment};
use crate::teacher::{Bundle, Network};
pub use scdd_artifacts::records::{Auto, Term, Terms};
use scdd_compute::replica::{Replica, to_tensor};
use scdd_compute::synthesis::{Evaluation, Momentum, Objective};
use scdd_compute::transfer;
use scdd_data::rng;
use scdd_experiment::config::RecoverConfig;

/// The value of `r_bn: auto` for this teacher.
///
/// # Errors
/// When the teacher lacks a term, or the gradient of one is 0 or not finite.
pub fn auto(bundle: &Bundle, config: &RecoverConfig, device: Device) -> Result<Auto, RecoverError> {
    let torch = |source| RecoverError::Torch { teacher: bundle.name().into(), source };
    let (images, targets) = noise(bundle, config.batch_size, config.noise_std());
    // The statistics of the step itself: a moving average would start as a fraction of them.
    let momentum = Momentum::default();
    let objective = Objective {
        momentum,
        ..alignment::objective(bundle, config, 1.0, &targets, device).map_err(torch)?
    };
    let terms = Balance::new(bundle, device)?.at(&images, &targets, &objective)?;
    let r_bn = terms.balance().ok_or_else(|| {
        let why = match terms {
            Terms { ce: None, .. } => "the teacher has no classifier",
            Terms { bn: None, .. } => "it has none",
            _ => "the gradient of one of them is 0 or not finite at the noise where optimisation starts",
        };
        RecoverError::NoBalance { teacher: bundle.name().into(), why: why.into() }
    })?;
    Ok(Auto { r_bn, terms })
}

/// Evaluates both terms of one teacher.
pub struct Balance<'a> {
    bundle: &'a Bundle,
    replica: Replica,
    device: Device,
}

impl<'a> Balance<'a> {
    /// # Errors
    /// When the bundle's constants can't be copied to `device`.
    pub fn new(bundle: &'a Bundle, device: Device) -> Result<Self, RecoverError> {
        Ok(Self { bundle, replica: bundle.replica(device)?, device })
    }

    /// Cross entropy at normalised `images` `[N, C, H, W]` of the classes `targets` `[N]`, and the
    /// statistics term of `objective`, whose `r_bn` is 1.
    ///
    /// # Errors
    /// When the teacher can't be run.
    pub fn at(
        &self,
        images: &Array4<f32>,
        targets: &[u32],
        objective: &Objective,
    ) -> Result<Terms, RecoverError> {
        let input = to_tensor(images.view())
            .and_then(|t| transfer::send(&t, self.device))
            .map_err(|e| self.torch(e))?;
        let targets: Vec<i64> = targets.iter().map(|&t| i64::from(t)).collect();
        let targets = transfer::send(&Tensor::from_slice(&targets), self.device)
            .map_err(|e| self.torch(e))?;
        let term =
            |targets: Option<&Tensor>, objective: &Objective, loss: fn(&Evaluation) -> f64| {
                let found = self.replica.evaluate(&input, targets, objective);
                let found = found.map_err(|source| RecoverError::Replica {
                    teacher: self.bundle.name().into(),
                    source,
                })?;
                let norm = found
                    .gradient
                    .f_norm()
                    .and_then(|n| transfer::read_one(&n))
                    .map_err(|e| self.torch(e))?;
                Ok::<_, RecoverError>(Term { loss: loss(&found), gradient_norm: norm })
            };
        let has_classifier = !self.bundle.manifest.is_features_only();
        let no_layers = Objective::cross_entropy();
        Ok(Terms {
            ce: has_classifier.then(|| term(Some(&targets), &no_layers, |e| e.ce)).transpose()?,
            bn: (!objective.layers.is_empty())
                .then(|| term(None, objective, |e| e.bn))
                .transpose()?,
        })
    }

    fn torch(&self, source: TchError) -> RecoverError {
        RecoverError::Torch { teacher: self.bundle.name().into(), source }
    }
}

/// The starting point of optimisation: `count` images `[N, C, H, W]` of normal noise with standard
/// deviation `start_std`, and their classes, assigned in turn. The noise is the same for every
/// teacher and seed.
pub fn noise(bundle: &Bundle, count: u32, start_std: f64) -> (Array4<f32>, Vec<u32>) {
    let [channels, height, width] = bundle.image_shape();
    let mut noise = Array4::zeros((count as usize, channels, height, width));
    for (number, mut image) in noise.outer_iter_mut().enumerate() {
        let mut stream = rng::stream(0, "recover/balance", number as u64);
        image.mapv_inplace(|_: f32| {
            start_std as f32 * Distribution::<f32>::sample(&StandardNormal, &mut stream)
        });
    }
    let classes = bundle.manifest.classes.len().max(1) as u32;
    (noise, (0..count).map(|number| number % classes).collect())
}
