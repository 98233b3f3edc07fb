//! The losses of a batch's steps, read several at once, so that a GPU need not wait at each.

use tch::{TchError, Tensor};

use super::{GradientNorms, Observer, Point, RecoverError};
use scdd_compute::transfer;

/// A step, and the norms of its terms' gradients if they were measured.
type StepOf = (u32, Option<GradientNorms>);

/// Collects the losses of successive steps.
pub struct LossLog<'a> {
    /// Losses that were read.
    points: &'a mut Vec<Point>,
    /// Gets each loss when it is read.
    observer: &'a mut dyn Observer,
    /// Steps whose losses are unread, with their loss, cross entropy, BN term and priors: `[4]`.
    unread: Vec<(StepOf, Tensor)>,
}

impl<'a> LossLog<'a> {
    pub fn new(points: &'a mut Vec<Point>, observer: &'a mut dyn Observer) -> Self {
        Self { points, observer, unread: Vec::new() }
    }

    /// Who gets the losses.
    pub fn observer(&mut self) -> &mut dyn Observer {
        self.observer
    }

    /// Losses that were read.
    pub fn points(&self) -> &[Point] {
        self.points
    }

    /// Takes over the losses of an interrupted attempt.
    pub fn resume(&mut self, points: Vec<Point>) {
        points.iter().for_each(|point| self.observer.step(*point));
        *self.points = points;
    }

    /// Adds the `terms` `[3]` of a step and the loss of its priors `[]`, unread.
    ///
    /// # Errors
    /// When libtorch can't copy them.
    pub fn add(&mut self, step: StepOf, terms: &Tensor, prior: &Tensor) -> Result<(), TchError> {
        let all = Tensor::f_cat(&[terms.shallow_clone(), prior.f_reshape([1])?], 0)?;
        self.unread.push((step, all));
        Ok(())
    }

    /// The number of unread losses.
    pub fn unread(&self) -> usize {
        self.unread.len()
    }

    /// Reads all.
    ///
    /// # Errors
    /// When one is not finite, or libtorch fails.
    pub fn read(&mut self) -> Result<(), RecoverError> {
        let (steps, losses): (Vec<StepOf>, Vec<Tensor>) = self.unread.drain(..).unzip();
        if losses.is_empty() {
            return Ok(());
        }
        let read = transfer::read(&Tensor::f_stack(&losses, 0)?)?;
        for ((iteration, gradients), terms) in steps.into_iter().zip(read.as_chunks::<4>().0) {
            let [loss, ce, bn, prior] = *terms;
            let point = Point { iteration, loss: loss + prior, ce, bn, gradients };
            if !point.loss.is_finite() {
                return Err(RecoverError::Diverged { iteration, loss: point.loss });
            }
            self.observer.step(point);
            self.points.push(point);
        }
        Ok(())
    }
}
