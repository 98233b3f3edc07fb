//! What a student minimises on one batch of views.

use tch::{Kind, Reduction, TchError, Tensor};

use crate::config::Loss;

/// What a batch of `N` views ought to be taken for.
pub struct Targets {
    /// The teacher's logits, `[N, K]`.
    pub teacher: Tensor,
    /// The images' own classes, int64 `[N]`.
    pub own: Tensor,
    /// The classes of what was mixed in, int64 `[N]`; absent where nothing was.
    pub partner: Option<Tensor>,
    /// The own image's share of a mixed view, 0..=1.
    pub share: f64,
}

impl Targets {
    /// The loss of the student's `logits` `[N, K]`, a scalar.
    ///
    /// # Errors
    /// When logits and targets have different shapes.
    pub fn loss(&self, logits: &Tensor, loss: Loss) -> Result<Tensor, TchError> {
        match loss {
            Loss::Kl { temperature, ce } => self.with_classes(kl(logits, &self.teacher, temperature)?, logits, ce),
            Loss::MseGt { ce } => self.with_classes(logits.f_mse_loss(&self.teacher, Reduction::Mean)?, logits, ce),
            Loss::Ce {} => self.cross_entropy(logits),
        }
    }

    /// `soft` plus `weight` times the cross entropy to the images' classes.
    fn with_classes(&self, soft: Tensor, logits: &Tensor, weight: f64) -> Result<Tensor, TchError> {
        if weight == 0.0 {
            return Ok(soft);
        }
        soft.f_add(&self.cross_entropy(logits)?.f_mul_scalar(weight)?)
    }

    /// Cross entropy to own and partner's classes, by their shares (CutMix, arXiv 1905.04899), mean over the batch.
    fn cross_entropy(&self, logits: &Tensor) -> Result<Tensor, TchError> {
        let to = |classes: &Tensor| logits.f_cross_entropy_loss::<Tensor>(classes, None, Reduction::Mean, -100, 0.0);
        match &self.partner {
            None => to(&self.own),
            Some(partner) => {
                to(&self.own)?.f_mul_scalar(self.share)?.f_add(&to(partner)?.f_mul_scalar(1.0 - self.share)?)
            }
        }
    }
}

/// KL(teacher ‖ student) of the softmax at `temperature`, mean over the batch, without the factor T².
fn kl(student: &Tensor, teacher: &Tensor, temperature: f64) -> Result<Tensor, TchError> {
    let soften = |t: &Tensor| t.f_div_scalar(temperature)?.f_log_softmax(-1, None::<Kind>);
    let (student, teacher) = (soften(student)?, soften(teacher)?);
    let batch = student.size()[0] as f64;
    teacher.f_exp()?.f_mul(&teacher.f_sub(&student)?)?.f_sum(None::<Kind>)?.f_div_scalar(batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KL: f64 = 0.1966624778;
    const MSE: f64 = 7.4270833333;
    const MIXED_CE: f64 = 1.0668165519;
    const OWN_CE: f64 = 0.5418165519;

    fn logits() -> Tensor {
        Tensor::from_slice(&[1.0f32, -2.0, 0.5, 3.0, 0.25, -1.0]).reshape([2, 3])
    }

    fn targets() -> Targets {
        Targets {
            teacher: Tensor::from_slice(&[0.0f32, 1.0, 2.0, -1.0, 4.0, 0.5]).reshape([2, 3]),
            own: Tensor::from_slice(&[2i64, 0]),
            partner: Some(Tensor::from_slice(&[0i64, 2])),
            share: 0.7,
        }
    }

    /// Expected values from `torch.nn.functional`: `kl_div(log_softmax(s/4), softmax(t/4), "batchmean")`, `mse_loss(s, t)`, and
    /// `0.7 * cross_entropy(s, own) + 0.3 * cross_entropy(s, partner)`.
    #[test]
    fn losses_equal_pytorch() {
        let value = |targets: &Targets, loss| f64::try_from(targets.loss(&logits(), loss).unwrap()).unwrap();
        let mixed = targets();
        let plain = Targets { partner: None, share: 1.0, ..targets() };
        let cases = [
            (&mixed, Loss::Kl { temperature: 4.0, ce: 0.0 }, KL),
            (&mixed, Loss::Kl { temperature: 4.0, ce: 0.5 }, KL + 0.5 * MIXED_CE),
            (&mixed, Loss::MseGt { ce: 0.0 }, MSE),
            (&mixed, Loss::MseGt { ce: 0.025 }, MSE + 0.025 * MIXED_CE),
            (&mixed, Loss::Ce {}, MIXED_CE),
            (&plain, Loss::Ce {}, OWN_CE),
        ];
        for (targets, loss, expected) in cases {
            let found = value(targets, loss);
            assert!((found - expected).abs() < 1e-6, "{loss:?}: {found} instead of {expected}");
        }
    }

    #[test]
    fn kl_of_equals_is_zero() {
        let found = f64::try_from(kl(&logits(), &logits(), 4.0).unwrap()).unwrap();
        assert!(found.abs() < 1e-7, "{found}");
    }
}
