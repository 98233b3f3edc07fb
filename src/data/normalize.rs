//! Pixels to normalised network input, and back.

use super::{DataError, Dataset, values, values_mut};
use ndarray::Array4;
use rayon::prelude::*;

/// Per channel, `value = (pixel / 255 - mean) / std`.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalization {
    mean: Vec<f32>,
    std: Vec<f32>,
}

impl Normalization {
    /// `mean` and `std` of pixels in 0..=1, `[C]` each; every std positive.
    pub fn new(mean: Vec<f32>, std: Vec<f32>) -> Result<Self, DataError> {
        let good = mean.iter().all(|mean| mean.is_finite())
            && std.iter().all(|std| std.is_finite() && *std > 0.0);
        if mean.is_empty() || mean.len() != std.len() || !good {
            return Err(DataError::Mismatch(format!(
                "cannot normalise by mean {mean:?} and std {std:?}; give one finite mean and one positive std per channel"
            )));
        }
        Ok(Self { mean, std })
    }

    /// The number of channels, C.
    pub fn channels(&self) -> usize {
        self.mean.len()
    }

    /// Per channel, the normalised values of pixel 0 and pixel 255.
    pub fn range(&self) -> Vec<(f32, f32)> {
        (0..self.channels())
            .map(|channel| (self.value(channel, 0), self.value(channel, 255)))
            .collect()
    }

    /// The images of `set` at `indices`, normalised: `[indices.len(), C, H, W]`. Image files are
    /// decoded in parallel.
    pub fn batch(&self, set: &Dataset, indices: &[usize]) -> Result<Array4<f32>, DataError> {
        self.check_channels(set.channels, &set.name)?;
        let pixels = set.pixels(indices)?;
        let tables: Vec<_> = (0..set.channels).map(|channel| self.table(channel)).collect();
        let mut batch = Array4::zeros((indices.len(), set.channels, set.height, set.width));
        let plane = (set.height * set.width).max(1);
        let planes = values_mut(&mut batch)?.par_chunks_exact_mut(plane).enumerate();
        planes.zip(pixels.par_chunks_exact(plane)).for_each(|((position, target), source)| {
            let table = &tables[position % set.channels];
            for (value, pixel) in target.iter_mut().zip(source) {
                *value = table[usize::from(*pixel)];
            }
        });
        Ok(batch)
    }

    /// The nearest pixels of a normalised batch `[N, C, H, W]`, clamped to 0..=255, in the same
    /// order.
    pub fn to_pixels(&self, batch: &Array4<f32>) -> Result<Vec<u8>, DataError> {
        let (_, channels, height, width) = batch.dim();
        self.check_channels(channels, "the batch")?;
        let batch = values(batch)?;
        if let Some(value) = batch.iter().find(|value| !value.is_finite()) {
            let message = format!(
                "a pixel has the value {value}; the images have diverged: lower the learning rate"
            );
            return Err(DataError::Mismatch(message));
        }
        let mut pixels = vec![0; batch.len()];
        let plane = (height * width).max(1);
        let planes =
            pixels.par_chunks_exact_mut(plane).zip(batch.par_chunks_exact(plane)).enumerate();
        planes.for_each(|(position, (target, source))| {
            let (mean, std) = (self.mean[position % channels], self.std[position % channels]);
            for (pixel, value) in target.iter_mut().zip(source) {
                *pixel = ((value * std + mean) * 255.0).round().clamp(0.0, 255.0) as u8;
            }
        });
        Ok(pixels)
    }

    fn value(&self, channel: usize, pixel: u8) -> f32 {
        (f32::from(pixel) / 255.0 - self.mean[channel]) / self.std[channel]
    }

    fn table(&self, channel: usize) -> [f32; 256] {
        std::array::from_fn(|pixel| self.value(channel, pixel as u8))
    }

    fn check_channels(&self, channels: usize, what: &str) -> Result<(), DataError> {
        if channels == self.channels() {
            return Ok(());
        }
        let own = self.channels();
        Err(DataError::Mismatch(format!(
            "{what} has {channels} channels, the normalisation {own}; use matching data"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_pixel() -> Dataset {
        Dataset {
            name: "every pixel".into(),
            images: (0..2 * 3 * 256).map(|at| (at % 256) as u8).collect::<Vec<_>>().into(),
            labels: vec![0, 0],
            channels: 3,
            height: 16,
            width: 16,
            classes: vec!["only".into()],
        }
    }

    fn imagenet() -> Normalization {
        Normalization::new(vec![0.485, 0.456, 0.406], vec![0.229, 0.224, 0.225]).unwrap()
    }

    #[test]
    fn pixels_survive_the_round_trip() {
        let set = every_pixel();
        let batch = imagenet().batch(&set, &[1, 0, 1]).unwrap();
        assert_eq!(batch.dim(), (3, 3, 16, 16));
        assert_eq!(batch[[0, 1, 0, 7]], (7.0 / 255.0 - 0.456) / 0.224);
        let pixels = imagenet().to_pixels(&batch).unwrap();
        assert_eq!(pixels[..2 * 768], set.all_pixels().unwrap()[..]);
    }

    #[test]
    fn values_outside_the_range_are_clamped() {
        let plain = Normalization::new(vec![0.0], vec![1.0]).unwrap();
        let batch =
            Array4::from_shape_vec((1, 1, 1, 4), vec![-3.0, 9.0, 0.4999 / 255.0, 0.5001 / 255.0])
                .unwrap();
        assert_eq!(plain.to_pixels(&batch).unwrap(), [0, 255, 0, 1]);
        assert_eq!(imagenet().range()[0], (-0.485 / 0.229, (1.0 - 0.485) / 0.229));
    }

    #[test]
    fn misuse_is_explained() {
        for (mean, std) in [
            (vec![], vec![]),
            (vec![0.0], vec![]),
            (vec![0.0], vec![0.0]),
            (vec![f32::NAN], vec![1.0]),
        ] {
            let message = Normalization::new(mean, std).unwrap_err().to_string();
            assert!(
                message.contains("give one finite mean and one positive std per channel"),
                "{message}"
            );
        }
        let gray = Normalization::new(vec![0.0], vec![1.0]).unwrap();
        let message = gray.batch(&every_pixel(), &[0]).unwrap_err().to_string();
        assert!(message.contains("has 3 channels, the normalisation 1"), "{message}");
        let message = imagenet().batch(&every_pixel(), &[2]).unwrap_err().to_string();
        assert!(
            message.contains("image 2 of every pixel asked for, but it has 2 images"),
            "{message}"
        );
        let message =
            gray.to_pixels(&Array4::from_elem((1, 1, 1, 1), f32::NAN)).unwrap_err().to_string();
        assert!(message.contains("diverged"), "{message}");
        assert_eq!(gray.to_pixels(&Array4::zeros((0, 1, 4, 4))).unwrap(), [] as [u8; 0]);
    }
}
