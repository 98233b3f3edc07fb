//! The accuracy on the finished images of a network that was not used in the synthesis.

use ndarray::{Array2, Array4};

use super::RecoverError;
use crate::teacher::{Bundle, Provider, Runtime, SessionOptions};
use scdd_artifacts::records::Accuracy;
use scdd_compute::threads::Threads;
use scdd_data::view::apply_batch;
use scdd_data::{Dataset, Resample, Size, View};

/// Images per run.
const BATCH: usize = 32;

/// Runs `verifier` in ONNX Runtime on `set`, whose labels must be the verifier's classes.
///
/// Each image is a mosaic of `formation` × `formation` small ones, and each of those counts.
/// Images are resized bilinearly to the verifier's size if needed, as views are, and normalised as
/// its bundle specifies.
///
/// # Errors
/// When the network can't be run, or its number of channels differs from the images'.
pub fn accuracy(
    verifier: &Bundle,
    runtime: &Runtime,
    set: &Dataset,
    formation: u16,
    threads: &Threads,
) -> Result<Accuracy, RecoverError> {
    let normalization = verifier.normalization()?;
    let [channels, height, width] = verifier.image_shape();
    let places = (0..formation).flat_map(|row| (0..formation).map(move |column| (row, column)));
    let maps = places.map(|(row, column)| {
        let cell = View::cell(set.size(), formation, row, column)?;
        Resample::new(&cell, set.size(), Size { height, width })
    });
    let maps = maps.collect::<Result<Vec<_>, _>>()?;
    let options =
        SessionOptions { provider: Provider::Cpu, optimize: true, threads: threads.count() };
    let mut session = runtime.session(verifier.name(), &verifier.model, &[], options)?;
    let mut found = Accuracy { images: set.len() * maps.len(), top1: 0, top5: 0 };
    let indices: Vec<usize> = (0..set.len()).collect();
    for batch in indices.chunks(BATCH) {
        let pixels = normalization.batch(set, batch)?;
        for map in &maps {
            let mut images = Array4::zeros((batch.len(), channels, height, width));
            threads.run(|| apply_batch(&vec![map.clone(); batch.len()], &pixels, &mut images))?;
            let logits = session.logits(&images)?;
            for rank in ranks(&logits, batch.iter().map(|&i| set.labels[i] as usize)) {
                found.top1 += usize::from(rank < 1);
                found.top5 += usize::from(rank < 5);
            }
        }
    }
    Ok(found)
}

/// The rank of the target in each row of `logits` `[N, K]`: the number of other classes that are
/// not clearly below it, so 0 is first. An unknown target ranks last.
fn ranks(logits: &Array2<f32>, targets: impl Iterator<Item = usize>) -> Vec<usize> {
    let rank = |(row, target): (ndarray::ArrayView1<f32>, usize)| {
        let Some(own) = row.get(target) else { return row.len() };
        row.iter()
            .filter(|other| !matches!(other.partial_cmp(&own), Some(std::cmp::Ordering::Less)))
            .count()
            - 1
    };
    logits.rows().into_iter().zip(targets).map(rank).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn a_rank_counts_what_is_not_below_the_target() {
        let logits =
            array![[3.0, 1.0, 2.0], [3.0, 3.0, 2.0], [f32::NAN, 3.0, 2.0], [0.0, f32::NAN, 1.0]];
        assert_eq!(ranks(&logits, [2, 0, 1, 1].into_iter()), [1, 1, 1, 2]);
        assert_eq!(ranks(&logits, [0, 9, 3, 2].into_iter()), [0, 3, 3, 1]);
    }
}
