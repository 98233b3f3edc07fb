//! Measures of the information in a list of statistics (one number per channel): spread, entropy,
//! effective rank. `docs/inspect.md` defines them and gives reasons.

use std::collections::BTreeMap;
use std::f64::consts::{E, PI};

/// The quantile levels of a list: smallest, 5 %, quartiles, 95 %, largest.
pub const QUANTILES: [f64; 7] = [0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0];

/// Bin width of the histogram, in units of the list's RMS.
const BIN: f64 = 0.25;

/// The quantiles of `values` at [`QUANTILES`], interpolated linearly (numpy's default); all 0
/// without values.
pub fn quantiles(values: &[f64]) -> [f64; 7] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    QUANTILES.map(|share| {
        let place = share * last as f64;
        let (below, part) = (place.floor() as usize, place.fract());
        let at = |i: usize| sorted.get(i).copied().unwrap_or(0.0);
        at(below) + part * (at((below + 1).min(last)) - at(below))
    })
}

/// Root of the mean square; 0 without values.
pub fn rms(values: &[f64]) -> f64 {
    (values.iter().map(|v| v * v).sum::<f64>() / values.len().max(1) as f64).sqrt()
}

/// Differential entropy in nats, from a histogram with bins of ¼ RMS: −Σ p ln p + ln(bin width).
///
/// Multiplying all values by c adds exactly ln c. `None` if all values are 0.
pub fn entropy(values: &[f64]) -> Option<f64> {
    let width = BIN * rms(values);
    if width.is_nan() || width <= 0.0 {
        return None;
    }
    let mut bins: BTreeMap<i64, usize> = BTreeMap::new();
    for value in values {
        // Bins are centred on multiples of their width, so that equal values with rounding errors
        // fall into one bin.
        *bins.entry((value / width).round() as i64).or_default() += 1;
    }
    let shares = bins.values().map(|&count| count as f64 / values.len() as f64);
    Some(shares.map(|p| -p * p.ln()).sum::<f64>() + width.ln())
}

/// Differential entropy in nats of the normal distribution with the values' (biased) variance, the
/// largest entropy at this variance: ½ ln(2πe · variance). `None` if all values are equal.
pub fn gaussian_entropy(values: &[f64]) -> Option<f64> {
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    let variance =
        values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len().max(1) as f64;
    (variance > 0.0).then(|| 0.5 * (2.0 * PI * E * variance).ln())
}

/// Effective rank (Roy and Vetterli, 2007) of the diagonal matrix of `values`: exp of the entropy
/// of |value| / Σ|value|, the normalised singular values. It ranges from 1 (one channel dominates)
/// to the number of values (all have the same size). `None` if all values are 0.
pub fn effective_rank(values: &[f64]) -> Option<f64> {
    let total: f64 = values.iter().map(|v| v.abs()).sum();
    if total.is_nan() || total <= 0.0 {
        return None;
    }
    let shares = values.iter().map(|v| v.abs() / total).filter(|&p| p > 0.0);
    Some(shares.map(|p| -p * p.ln()).sum::<f64>().exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-12 * b.abs().max(1.0), "{a} against {b}");
    }

    /// Expected values: `numpy.quantile` and the same formulas in numpy 2, on these eight numbers.
    const VALUES: [f64; 8] = [-1.5, 0.25, 0.5, 2.0, 3.5, 0.75, -0.25, 1.0];

    #[test]
    fn quantiles_and_rms_are_numpys() {
        let expected = [-1.5, -1.0625, 0.125, 0.625, 1.25, 2.975, 3.5];
        quantiles(&VALUES).iter().zip(expected).for_each(|(a, b)| close(*a, b));
        close(rms(&VALUES), 1.598_338_981_568_052_7);
        assert_eq!((quantiles(&[]), rms(&[])), ([0.0; 7], 0.0));
        assert_eq!(quantiles(&[2.0]), [2.0; 7]);
    }

    #[test]
    fn entropies_are_those_of_their_formulas() {
        close(entropy(&VALUES).unwrap(), 0.988_825_338_908_777_1);
        close(gaussian_entropy(&VALUES).unwrap(), 1.751_398_782_437_044_3);
        // Two equally frequent values: ln 2, plus ln of the bin width ¼ · RMS.
        close(entropy(&[1.0, -1.0, 1.0, -1.0]).unwrap(), 2f64.ln() + 0.25f64.ln());
        let scaled = VALUES.map(|v| 1e3 * v);
        for of in [entropy, gaussian_entropy] {
            close(of(&scaled).unwrap(), of(&VALUES).unwrap() + 1e3f64.ln());
        }
        assert_eq!((entropy(&[0.0; 3]), gaussian_entropy(&[2.0; 3])), (None, None));
        assert_eq!((entropy(&[]), gaussian_entropy(&[])), (None, None));
    }

    #[test]
    fn the_effective_rank_counts_channels() {
        close(effective_rank(&[3.0, 3.0, -3.0, 3.0]).unwrap(), 4.0);
        close(effective_rank(&[0.0, 5.0, 0.0]).unwrap(), 1.0);
        close(effective_rank(&VALUES).unwrap(), 5.764_749_119_889_22);
        assert_eq!(effective_rank(&[0.0, 0.0]), None);
    }
}
