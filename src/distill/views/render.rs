//! Renders a batch of views of an image set as the input of a network.

use ndarray::{Array4, ArrayRef4, ArrayViewMut4, s};

use super::BatchViews;
use crate::teacher::Bundle;
use scdd_data::view::apply_batch;
use scdd_data::{DataError, Dataset, DrawnMix, Normalization, Operation, Resample, Size};

/// Renders views for one network: border, normalisation, crop and resize, mix.
pub struct ViewRenderer {
    normalization: Normalization,
    /// Width of the black border in pixels.
    pad: usize,
    /// The size of the network's input.
    output: Size,
}

impl ViewRenderer {
    /// A renderer for the network of `bundle`, of images with a border of `pad` black pixels.
    ///
    /// # Errors
    /// When the bundle's preprocessing is not a valid normalisation.
    pub fn new(bundle: &Bundle, pad: u16) -> Result<Self, DataError> {
        let [_, height, width] = bundle.image_shape();
        Ok(Self {
            normalization: bundle.normalization()?,
            pad: pad.into(),
            output: Size { height, width },
        })
    }

    /// The views `batch` of the images of `set`, augmented and mixed, `[n, C, H, W]`. Views are
    /// boxes within the image with its border.
    ///
    /// # Errors
    /// When set, views and network do not fit each other.
    pub fn render(&self, set: &Dataset, batch: &BatchViews) -> Result<Array4<f32>, DataError> {
        let Size { height, width } = self.output;
        let mut seen = Array4::zeros((batch.indices.len(), set.channels, height, width));
        self.render_into(set, batch, seen.view_mut())?;
        Ok(seen)
    }

    /// As [`render`](Self::render), into `target`.
    ///
    /// # Errors
    /// Also when `target` has another shape.
    pub fn render_into(
        &self,
        set: &Dataset,
        batch: &BatchViews,
        mut target: ArrayViewMut4<f32>,
    ) -> Result<(), DataError> {
        let BatchViews { indices, views, operations, mix } = batch;
        let picked: Vec<usize> = indices.iter().map(|&i| i as usize).collect();
        let (on_pixels, on_views) = apart(operations);
        let images = match on_pixels {
            [] => self.normalization.batch(set, &picked)?,
            operations => {
                let augmented = augmented(set, &picked, operations)?;
                self.normalization.batch(&augmented, &(0..picked.len()).collect::<Vec<_>>())?
            }
        };
        let images = self.bordered(images);
        let (_, _, height, width) = images.dim();
        let source = Size { height, width };
        let maps = views
            .iter()
            .map(|v| Resample::new(v, source, self.output))
            .collect::<Result<Vec<_>, _>>()?;
        let unmixed = |seen: &mut ArrayRef4<f32>| {
            apply_batch(&maps, &images, seen)?;
            for (operation, mut view) in on_views.iter().zip(seen.outer_iter_mut()) {
                let values = view.as_slice_mut().ok_or(DataError::Layout)?;
                operation.apply_to_view(values, self.output)?;
            }
            Ok::<_, DataError>(())
        };
        if matches!(mix, DrawnMix::None) {
            return unmixed(&mut target);
        }
        let mut seen = Array4::zeros(target.raw_dim());
        unmixed(&mut seen)?;
        mix.apply(&seen, &mut target)
    }

    /// Adds the black border around the images.
    fn bordered(&self, images: Array4<f32>) -> Array4<f32> {
        if self.pad == 0 {
            return images;
        }
        let (count, channels, height, width) = images.dim();
        let pad = self.pad;
        let black: Vec<f32> =
            self.normalization.range().into_iter().map(|(black, _)| black).collect();
        let shape = (count, channels, height + 2 * pad, width + 2 * pad);
        let mut bordered = Array4::from_shape_fn(shape, |(_, channel, ..)| black[channel]);
        bordered.slice_mut(s![.., .., pad..pad + height, pad..pad + width]).assign(&images);
        bordered
    }
}

/// Splits the operations into those on pixels and those on normalised views. A batch has only one
/// kind.
fn apart(operations: &[Operation]) -> (&[Operation], &[Operation]) {
    match operations.first() {
        Some(first) if first.kind.is_dsa() => (&[], operations),
        _ => (operations, &[]),
    }
}

/// The `picked` images of `set`, each after its own part of the `operations`.
fn augmented(
    set: &Dataset,
    picked: &[usize],
    operations: &[Operation],
) -> Result<Dataset, DataError> {
    let per_view = (operations.len() / picked.len().max(1)).max(1);
    let mut images = set.pixels(picked)?.into_owned();
    let length = (set.channels * set.height * set.width).max(1);
    for (image, operations) in images.chunks_exact_mut(length).zip(operations.chunks(per_view)) {
        for operation in operations {
            operation.apply_to_pixels(image, set.channels, set.size())?;
        }
    }
    let labels =
        picked.iter().map(|&index| set.labels.get(index).copied().unwrap_or_default()).collect();
    let (name, classes) = (set.name.clone(), set.classes.clone());
    let Dataset { channels, height, width, .. } = *set;
    Ok(Dataset { name, classes, channels, height, width, images: images.into(), labels })
}

#[cfg(test)]
mod tests {
    use super::*;
    use scdd_data::View;

    /// `torchvision.transforms.functional.pad(image, 1)`, then the crop of rows 0 to 1 and columns
    /// 2 to 3, then normalisation.
    #[test]
    fn a_border_is_black_before_normalisation() {
        let set = Dataset {
            name: "test".into(),
            classes: vec!["a".into()],
            channels: 1,
            height: 2,
            width: 2,
            images: vec![51, 102, 153, 204].into(),
            labels: vec![0],
        };
        let normalization = Normalization::new(vec![0.5], vec![0.5]).unwrap();
        let renderer = ViewRenderer { normalization, pad: 1, output: Size { height: 2, width: 2 } };
        let view = View { top: 0, left: 2, height: 2, width: 2, flip: false };
        let batch = |view| BatchViews {
            indices: vec![0],
            views: vec![view],
            operations: vec![],
            mix: DrawnMix::None,
        };
        let seen = renderer.render(&set, &batch(view)).unwrap();
        let expected = [-1.0, -1.0, 2.0 * 102.0 / 255.0 - 1.0, -1.0];
        assert!(seen.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{seen:?}");
        let outside = View { left: 3, ..view };
        assert!(
            renderer
                .render(&set, &batch(outside))
                .unwrap_err()
                .to_string()
                .contains("not a box inside")
        );
    }
}
