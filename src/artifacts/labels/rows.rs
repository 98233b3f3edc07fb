//! Encodes rows of logits: number formats, and the `k` largest instead of all.

use half::f16;
use ndarray::{Array2, ArrayViewMut1};
use serde::{Deserialize, Serialize};

/// Bytes of a quantised row's lowest value and step.
const QUANTISED_PREFIX: usize = 4;
/// The number of classes that a 16-bit index can address.
const MAX_INDEXED: usize = 1 << 16;

/// The number format of logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// Half precision, up to ±65504.
    F16,
    /// Single precision.
    F32,
    /// One byte each: 256 equal steps from the row's smallest to its largest value.
    I8,
}

/// What the classes without a stored logit have, where they have no probability. Softmax makes 0 of
/// it at every temperature that an experiment can have, and unlike an infinite number it can be
/// multiplied by 0.
pub const NO_PROBABILITY: f32 = -65504.0;

/// Stores the `k` largest logits of a row.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredTopK {
    /// At least 1 and below the number of classes.
    pub k: u32,
    /// The softmax temperature, above 0, at which the other classes' common logit preserves their
    /// total probability. `None`: they have no probability and no common logit
    /// ([`NO_PROBABILITY`]).
    #[serde(default)]
    pub temperature: Option<f32>,
}

/// The format of all rows of a store.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rows {
    /// The number of classes, K.
    pub classes: usize,
    pub dtype: Dtype,
    pub top_k: Option<StoredTopK>,
}

impl Rows {
    /// The format's fault, or `None`.
    pub fn problem(&self) -> Option<String> {
        let StoredTopK { k, temperature } = self.top_k?;
        if k == 0 || k as usize >= self.classes || self.classes > MAX_INDEXED {
            return Some(format!(
                "the {k} largest of {} logits: must be at least 1, and fewer than all",
                self.classes
            ));
        }
        let temperature = temperature?;
        let is_good = temperature.is_finite() && temperature > 0.0;
        (!is_good).then(|| format!("a temperature of {temperature}: must be above 0"))
    }

    fn kept(&self) -> Option<usize> {
        self.top_k.map(|top| top.k as usize)
    }

    /// The number of values per row: K logits, or the k largest and, if they have one, the others'
    /// common one.
    fn numbers(&self) -> usize {
        let of = |top: StoredTopK| top.k as usize + usize::from(top.temperature.is_some());
        self.top_k.map_or(self.classes, of)
    }

    /// Bytes of a row.
    pub fn bytes(&self) -> usize {
        let numbers = self.numbers();
        let numbers = match self.dtype {
            Dtype::F16 => 2 * numbers,
            Dtype::F32 => 4 * numbers,
            Dtype::I8 => QUANTISED_PREFIX + numbers,
        };
        2 * self.kept().unwrap_or(0) + numbers
    }

    /// Appends `logits` `[n, K]`, finite numbers, to `record`, row after row.
    ///
    /// # Errors
    /// When the format can't hold a number; the message names it.
    pub fn encode(&self, logits: &Array2<f32>, record: &mut Vec<u8>) -> Result<(), String> {
        for row in logits.rows() {
            match self.top_k {
                None => self.encode_numbers(&row.to_vec(), record)?,
                Some(top) => {
                    let (classes, numbers) = largest(&row.to_vec(), top);
                    record.extend(classes.iter().flat_map(|&class| (class as u16).to_le_bytes()));
                    self.encode_numbers(&numbers, record)?;
                }
            }
        }
        Ok(())
    }

    fn encode_numbers(&self, numbers: &[f32], record: &mut Vec<u8>) -> Result<(), String> {
        match self.dtype {
            Dtype::F32 => record.extend(numbers.iter().flat_map(|number| number.to_le_bytes())),
            Dtype::F16 => {
                for &number in numbers {
                    record.extend(finite(f16::from_f32(number), number)?.to_le_bytes());
                }
            }
            Dtype::I8 => quantise(numbers, record)?,
        }
        Ok(())
    }

    /// Decodes the logits `[n, K]` of `n` rows of [`bytes`](Self::bytes) each.
    ///
    /// # Errors
    /// When a value is one that no writer writes; the message names it.
    pub fn decode(&self, rows: &[u8]) -> Result<Array2<f32>, String> {
        let mut logits = Array2::zeros((rows.len() / self.bytes(), self.classes));
        for (bytes, row) in rows.chunks_exact(self.bytes()).zip(logits.rows_mut()) {
            self.decode_row(bytes, row)?;
        }
        Ok(logits)
    }

    fn decode_row(&self, bytes: &[u8], mut row: ArrayViewMut1<f32>) -> Result<(), String> {
        let Some(k) = self.kept() else {
            row.iter_mut()
                .zip(self.decode_numbers(bytes))
                .for_each(|(logit, number)| *logit = number);
            return Ok(());
        };
        let (classes, numbers) = bytes.split_at(2 * k);
        let numbers: Vec<f32> = self.decode_numbers(numbers).collect();
        row.fill(f32::NAN);
        for (class, &number) in classes
            .chunks_exact(2)
            .map(|c| usize::from(u16::from_le_bytes([c[0], c[1]])))
            .zip(&numbers)
        {
            match row.get_mut(class) {
                Some(logit) if logit.is_nan() => *logit = number,
                Some(_) => return Err(format!("class {class} twice in a row")),
                None => return Err(format!("class {class} of {}", self.classes)),
            }
        }
        let common = numbers.get(k).copied().unwrap_or(NO_PROBABILITY);
        row.iter_mut().filter(|logit| logit.is_nan()).for_each(|logit| *logit = common);
        Ok(())
    }

    fn decode_numbers<'a>(&self, bytes: &'a [u8]) -> Box<dyn Iterator<Item = f32> + 'a> {
        let half = |b: &[u8]| f16::from_le_bytes([b[0], b[1]]).to_f32();
        match self.dtype {
            Dtype::F32 => Box::new(
                bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            ),
            Dtype::F16 => Box::new(bytes.chunks_exact(2).map(half)),
            Dtype::I8 => {
                let (low, step) = (half(bytes), half(&bytes[2..]));
                Box::new(
                    bytes[QUANTISED_PREFIX..].iter().map(move |&code| low + step * f32::from(code)),
                )
            }
        }
    }
}

/// The classes of the `k` largest logits and their logits, in descending order, of equal ones the
/// lower class first. With a temperature, a last logit `r` gives each of the other classes an equal
/// share of their total probability at it: `exp(r / T) = mean(exp(others / T))`.
fn largest(row: &[f32], top: StoredTopK) -> (Vec<usize>, Vec<f32>) {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
    let (kept, others) = order.split_at(top.k as usize);
    let largest = kept.iter().map(|&i| row[i]);
    let Some(temperature) = top.temperature.map(f64::from) else {
        return (kept.to_vec(), largest.collect());
    };
    let highest = f64::from(row[others[0]]);
    let mean =
        others.iter().map(|&i| ((f64::from(row[i]) - highest) / temperature).exp()).sum::<f64>()
            / others.len() as f64;
    let common = (highest + temperature * mean.ln()) as f32;
    (kept.to_vec(), largest.chain([common]).collect())
}

/// Appends the lowest number and the step between two codes, f16 each, and one code per number. The
/// range is rounded outwards, so that no number is further than half a step from its code.
fn quantise(numbers: &[f32], record: &mut Vec<u8>) -> Result<(), String> {
    let lowest = numbers.iter().copied().fold(f32::INFINITY, f32::min);
    let highest = numbers.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let low = finite(at_most(lowest), lowest)?;
    let range = highest - low.to_f32();
    let step = finite(-at_most(-range / 255.0), highest)?;
    record.extend(low.to_le_bytes());
    record.extend(step.to_le_bytes());
    let code = |number: f32| match step.to_f32() {
        0.0 => 0,
        step => ((number - low.to_f32()) / step).round() as u8,
    };
    record.extend(numbers.iter().map(|&number| code(number)));
    Ok(())
}

/// The largest half-precision number ≤ `number`.
fn at_most(number: f32) -> f16 {
    let nearest = f16::from_f32(number);
    if nearest.to_f32() <= number {
        return nearest;
    }
    let bits = nearest.to_bits();
    match nearest.to_f32() {
        above if above > 0.0 => f16::from_bits(bits - 1),
        0.0 => -f16::MIN_POSITIVE_SUBNORMAL,
        _ => f16::from_bits(bits + 1),
    }
}

fn finite(half: f16, number: f32) -> Result<f16, String> {
    if half.is_finite() {
        return Ok(half);
    }
    Err(format!("the logit {number}, which f16 cannot hold; use f32"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rows(classes: usize, dtype: Dtype, k: u32) -> Rows {
        Rows { classes, dtype, top_k: (k > 0).then_some(StoredTopK { k, temperature: Some(4.0) }) }
    }

    fn coded(rows: Rows, logits: &[f32]) -> Vec<f32> {
        let mut record = vec![];
        rows.encode(
            &Array2::from_shape_vec((1, logits.len()), logits.to_vec()).unwrap(),
            &mut record,
        )
        .unwrap();
        assert_eq!(record.len(), rows.bytes());
        rows.decode(&record).unwrap().into_raw_vec_and_offset().0
    }

    fn softmax(logits: &[f32], temperature: f64) -> Vec<f64> {
        let powers: Vec<f64> = logits.iter().map(|&l| (f64::from(l) / temperature).exp()).collect();
        let sum: f64 = powers.iter().sum();
        powers.iter().map(|p| p / sum).collect()
    }

    proptest! {
        #[test]
        fn quantised_rows_are_half_a_step_off_at_most(logits in proptest::collection::vec(-50f32..50.0, 1..30)) {
            let found = coded(rows(logits.len(), Dtype::I8, 0), &logits);
            let spread = logits.iter().copied().fold(f32::MIN, f32::max) - logits.iter().copied().fold(f32::MAX, f32::min);
            // The bounds are rounded to 11 bits each: 2⁻¹⁰ of the size of the numbers and of the
            // step.
            let bound = (spread + 50.0 / 1024.0) / 255.0 / 2.0 * 1.002 + 1e-5;
            for (a, b) in found.iter().zip(&logits) {
                prop_assert!((a - b).abs() <= bound, "{a} for {b}, bound {bound}");
            }
        }

        #[test]
        fn the_rest_keeps_its_probability(logits in proptest::collection::vec(-20f32..20.0, 5..30), k in 1u32..5) {
            let found = coded(rows(logits.len(), Dtype::F32, k), &logits);
            let (before, after) = (softmax(&logits, 4.0), softmax(&found, 4.0));
            let mut order: Vec<usize> = (0..logits.len()).collect();
            order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
            let (kept, others) = order.split_at(k as usize);
            for &class in kept {
                prop_assert_eq!(found[class], logits[class]);
                prop_assert!((before[class] - after[class]).abs() < 1e-6);
            }
            prop_assert!(others.iter().all(|&class| found[class] == found[others[0]]));
        }
    }

    #[test]
    fn rows_have_these_bytes() {
        let logits = Array2::from_shape_vec((1, 4), vec![1.0, -2.0, 3.0, 0.0]).unwrap();
        let bytes = |rows: Rows| {
            let mut record = vec![];
            rows.encode(&logits, &mut record).unwrap();
            record
        };
        // low = -2 = 0xc000, step = 5/255 rounded up to f16 = 0x2506; codes 3/step, 0, 5/step,
        // 2/step.
        assert_eq!(bytes(rows(4, Dtype::I8, 0)), [0x00, 0xc0, 0x06, 0x25, 153, 0, 255, 102]);
        // Classes 2 and 0, then 3, 1 and 4 ln((exp(0) + exp(-1/2)) / 2) = -0.87628 = 0xbb03 in half
        // precision.
        assert_eq!(bytes(rows(4, Dtype::F16, 2)), [2, 0, 0, 0, 0x00, 0x42, 0x00, 0x3c, 0x03, 0xbb]);
    }

    #[test]
    fn without_a_temperature_the_rest_has_no_probability() {
        let logits = [1.0, -2.0, 3.0, 0.0];
        for dtype in [Dtype::F32, Dtype::F16, Dtype::I8] {
            let rows =
                Rows { classes: 4, dtype, top_k: Some(StoredTopK { k: 2, temperature: None }) };
            let found = coded(rows, &logits);
            assert_eq!((found[1], found[3]), (NO_PROBABILITY, NO_PROBABILITY), "{dtype:?}");
            // Half a step of `i8`.
            assert!((found[0] - 1.0).abs() < 4e-3 && (found[2] - 3.0).abs() < 4e-3, "{found:?}");
            for temperature in [0.01, 1.0, 20.0, 1000.0] {
                let expected = softmax(&[found[0], found[2]], temperature);
                let probabilities = softmax(&found, temperature);
                assert!((probabilities[0] - expected[0]).abs() < 1e-15, "{probabilities:?}");
                assert!(probabilities[1] < 1e-28, "{probabilities:?}");
            }
        }
    }

    #[test]
    fn extreme_rows_are_coded_or_refused() {
        assert_eq!(coded(rows(3, Dtype::I8, 0), &[0.5; 3]), [0.5; 3]);
        assert_eq!(coded(rows(1, Dtype::I8, 0), &[-0.0]), [0.0]);
        let tiny = coded(rows(2, Dtype::I8, 0), &[1e-9, 2e-9]);
        assert!(tiny.iter().all(|v| v.abs() < 1e-5), "{tiny:?}");
        let refuse = |dtype, row: [f32; 2]| {
            rows(2, dtype, 0)
                .encode(&Array2::from_shape_vec((1, 2), row.to_vec()).unwrap(), &mut vec![])
                .unwrap_err()
        };
        assert!(refuse(Dtype::F16, [7e4, 0.0]).contains("f16 cannot hold; use f32"));
        assert!(refuse(Dtype::I8, [-7e4, 0.0]).contains("f16 cannot hold; use f32"));
        assert!(refuse(Dtype::I8, [0.0, 3e7]).contains("f16 cannot hold; use f32"));
    }

    #[test]
    fn wrong_classes_are_refused() {
        let rows = rows(3, Dtype::F32, 2);
        let row = |classes: [u16; 2]| {
            let mut bytes: Vec<u8> = classes.iter().flat_map(|c| c.to_le_bytes()).collect();
            bytes.extend([0; 12]);
            rows.decode(&bytes).map(|_| ())
        };
        assert_eq!(row([2, 0]), Ok(()));
        assert_eq!(row([1, 1]), Err("class 1 twice in a row".into()));
        assert_eq!(row([1, 3]), Err("class 3 of 3".into()));
    }
}
