//! The balance of a recovery's two terms: cross entropy and BN statistics alignment.
//!
//! A term whose gradient is a hundredth of the other's changes the images hardly at all. Published
//! recipes have failed with networks on whose scale one weight `r_bn` left one term out.

use serde::{Deserialize, Serialize};

use super::RecoverPoint;
use scdd_artifacts::records::GradientNorms;

/// The ratio of gradients from which the smaller one is negligible.
const NEGLIGIBLE: f64 = 100.0;

/// The gradients of both terms at the images, mean over batches.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TermBalance {
    /// At the first step.
    pub start: GradientNorms,
    /// At the last step.
    pub end: GradientNorms,
}

impl TermBalance {
    /// The negligible term of a recovery with this `curve`, for the user. A term that has a small
    /// gradient in the end because it has fallen to less than half is not neglected, but done.
    pub fn neglect(&self, curve: &[RecoverPoint]) -> Option<String> {
        let ce_is_left = is_left(curve, |point| point.ce);
        let bn_is_left = is_left(curve, |point| point.bn);
        said(&self.start, "starts", [true; 2])
            .or_else(|| said(&self.end, "ends", [ce_is_left, bn_is_left]))
    }
}

/// Whether the term is at the end still at half of its start or more.
fn is_left(curve: &[RecoverPoint], term: fn(&RecoverPoint) -> f64) -> bool {
    curve.first().zip(curve.last()).is_some_and(|(first, last)| 2.0 * term(last) >= term(first))
}

fn said(norms: &GradientNorms, place: &str, [ce_counts, bn_counts]: [bool; 2]) -> Option<String> {
    let (small, large) = ("cross entropy", "BN statistics alignment");
    let (small, large) = match norms {
        GradientNorms { ce, bn } if ce_counts && ce * NEGLIGIBLE < *bn => (small, large),
        GradientNorms { ce, bn } if bn_counts && bn * NEGLIGIBLE < *ce => (large, small),
        _ => return None,
    };
    Some(format!(
        "where the recovery {place}, {small} is negligible beside {large} (their gradients at the images are {norms}, cross entropy first)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A curve whose terms fall from 1 to these.
    fn curve(ce: f64, bn: f64) -> [RecoverPoint; 2] {
        let point = |iteration, ce, bn| RecoverPoint { iteration, loss: ce + bn, ce, bn };
        [point(1, 1.0, 1.0), point(2, ce, bn)]
    }

    #[test]
    fn a_term_below_a_hundredth_is_negligible() {
        let norms = |ce, bn| GradientNorms { ce, bn };
        let of = |start, end| TermBalance { start, end }.neglect(&curve(0.9, 0.9));
        let even = norms(1.0, 1.0);
        assert_eq!(of(even, norms(99.0, 1.0)), None);
        let told = of(norms(1.0, 312.0), even).unwrap();
        assert!(told.starts_with("where the recovery starts, cross entropy is"), "{told}");
        assert!(told.contains("1 : 312"), "{told}");
        let told = of(even, norms(101.0, 1.0)).unwrap();
        assert!(told.starts_with("where the recovery ends, BN statistics alignment is"), "{told}");
    }

    #[test]
    fn a_term_that_has_fallen_is_not_neglected() {
        let (even, small) =
            (GradientNorms { ce: 1.0, bn: 1.0 }, GradientNorms { ce: 1e-3, bn: 1.0 });
        let balance = TermBalance { start: even, end: small };
        assert_eq!(balance.neglect(&curve(0.01, 0.9)), None);
        assert!(balance.neglect(&curve(0.5, 0.9)).is_some());
        assert!(TermBalance { start: small, end: even }.neglect(&curve(0.01, 0.9)).is_some());
    }
}
