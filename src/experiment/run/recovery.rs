//! The course of a recovery: its loss step by step, and the balance of its terms.

use std::collections::BTreeMap;
use std::path::Path;

use super::RunError;
use crate::report::{RecoverPoint, TermBalance};
use scdd_artifacts::files::{self, FileError};
use scdd_artifacts::records::{GradientNorms, Point};

/// The course of a recovery, averaged over its batches with equal weights.
pub struct RecoveryCourse {
    pub curve: Vec<RecoverPoint>,
    /// `None` without one of the terms, and for recoveries of programs that did not note it.
    pub balance: Option<TermBalance>,
}

impl RecoveryCourse {
    /// The course of the complete recovery in `directory`.
    ///
    /// # Errors
    /// When a curve is damaged.
    pub fn read(directory: &Path) -> Result<Self, RunError> {
        let batches = (0..).map_while(|number| batch(directory, number));
        let batches = batches.collect::<Result<Vec<_>, _>>()?;
        Ok(Self { curve: curve(&batches), balance: balance(&batches) })
    }
}

/// The steps of the batch with this `number`; `None` if there is no such batch.
fn batch(directory: &Path, number: usize) -> Option<Result<Vec<Point>, RunError>> {
    let path = directory.join(files::curve(number));
    let text = std::fs::read_to_string(&path).ok()?;
    let damaged = |error: serde_json::Error| FileError::Damaged {
        path: path.clone(),
        what: error.to_string(),
    };
    let points = text.lines().map(|line| serde_json::from_str(line).map_err(damaged));
    Some(points.collect::<Result<_, FileError>>().map_err(RunError::from))
}

fn curve(batches: &[Vec<Point>]) -> Vec<RecoverPoint> {
    let mut steps: BTreeMap<u32, Vec<&Point>> = BTreeMap::new();
    for point in batches.iter().flatten() {
        steps.entry(point.iteration + 1).or_default().push(point);
    }
    let mean = |(iteration, points): (u32, Vec<&Point>)| RecoverPoint {
        iteration,
        loss: mean(points.iter().map(|point| point.loss)),
        ce: mean(points.iter().map(|point| point.ce)),
        bn: mean(points.iter().map(|point| point.bn)),
    };
    steps.into_iter().map(mean).collect()
}

/// The gradients of the first and the last steps of all batches.
fn balance(batches: &[Vec<Point>]) -> Option<TermBalance> {
    let norms = |batch: &Vec<Point>| {
        let mut noted = batch.iter().filter_map(|point| point.gradients);
        let first = noted.next()?;
        Some((first, noted.next_back().unwrap_or(first)))
    };
    let (start, end): (Vec<_>, Vec<_>) = batches.iter().filter_map(norms).unzip();
    let mean = |norms: &[GradientNorms]| GradientNorms {
        ce: mean(norms.iter().map(|norms| norms.ce)),
        bn: mean(norms.iter().map(|norms| norms.bn)),
    };
    (!start.is_empty()).then(|| TermBalance { start: mean(&start), end: mean(&end) })
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_count_alike_and_those_without_gradients_do_not_count() {
        let point = |iteration, loss, gradients: Option<[f64; 2]>| Point {
            iteration,
            loss,
            ce: 1.0,
            bn: 2.0,
            gradients: gradients.map(|[ce, bn]| GradientNorms { ce, bn }),
        };
        let batches = [
            vec![point(0, 8.0, Some([1.0, 2.0])), point(1, 4.0, Some([3.0, 9.0]))],
            // A later round, of one step.
            vec![point(1, 2.0, Some([5.0, 6.0]))],
            vec![point(0, 6.0, None), point(1, 3.0, None)],
        ];
        let losses: Vec<_> =
            curve(&batches).iter().map(|point| (point.iteration, point.loss)).collect();
        assert_eq!(losses, [(1, 7.0), (2, 3.0)]);
        let found = balance(&batches).unwrap();
        assert_eq!((found.start.ce, found.start.bn), (3.0, 4.0));
        assert_eq!((found.end.ce, found.end.bn), (4.0, 7.5));
        assert_eq!(balance(&batches[2..]), None);
    }
}
