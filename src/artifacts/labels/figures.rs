//! Figures of a store as a whole.

use super::{LabelStore, StoreError};
use crate::records::LabelFigures;

/// More views are not looked at: their mean is known well enough, and a store may be large.
const MAX_VIEWS: u64 = 100_000;

impl LabelStore {
    /// The mean of each view's largest class probability, by the first views of the store.
    ///
    /// # Errors
    /// When the store is damaged.
    pub fn figures(&self) -> Result<LabelFigures, StoreError> {
        let (mut sum, mut views) = (0.0, 0);
        let epochs = 0..self.meta().stored_epochs() as usize;
        let batches = epochs.flat_map(|epoch| (0..self.meta().batches()).map(move |b| (epoch, b)));
        for (epoch, batch) in batches {
            if views >= MAX_VIEWS {
                break;
            }
            for logits in self.get(epoch, batch)?.logits.rows() {
                sum += max_probability(logits.iter().copied());
                views += 1;
            }
        }
        Ok(LabelFigures { max_probability: sum / views.max(1) as f64, views })
    }
}

/// The largest softmax probability of `logits`.
fn max_probability(logits: impl Iterator<Item = f32> + Clone) -> f64 {
    let largest = logits.clone().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.map(|logit| f64::from(logit - largest).exp()).sum();
    sum.recip()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `torch.softmax(torch.tensor([1., 2., 3.]), 0).max()`.
    #[test]
    fn the_largest_probability_is_that_of_softmax() {
        let of = |logits: &[f32]| max_probability(logits.iter().copied());
        assert!((of(&[1.0, 2.0, 3.0]) - 0.665_240_955_774_821_8).abs() < 1e-12);
        assert!((of(&[1000.0, 1000.0, -1000.0]) - 0.5).abs() < 1e-12);
    }
}
