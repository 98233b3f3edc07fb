//! The tiles of Winograd's algorithm: read from an image, transformed, and written to one.

use super::conv::Extent;
use super::filter::{Along, Filter, column};
use super::simd::Vector;

/// A tile's first output pixel.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub n: usize,
    pub y: usize,
    pub x: usize,
}

/// The destination of the outputs.
pub(super) struct WinogradOutput<'a> {
    /// The pixels from `first_pixel` on, of `channels` values each.
    pub y: &'a mut [f32],
    pub to: Extent,
    pub first_pixel: usize,
    pub channels: usize,
}

impl WinogradOutput<'_> {
    /// Writes Aᵀ m A of one tile to the output's channels `range`. Position p is read from
    /// `from[p · plane..]`.
    #[inline(always)]
    pub fn transform<V: Vector, F: Filter<IN, OUT>, const IN: usize, const OUT: usize>(
        &mut self,
        place: Place,
        from: &[f32],
        plane: usize,
        range: std::ops::Range<usize>,
    ) {
        let channels = self.channels;
        assert!(from.len() >= (IN * IN - 1) * plane + range.len() && range.end <= channels);
        assert!(range.len().is_multiple_of(V::COUNT));
        let (height, width) = (OUT.min(self.to.h - place.y), OUT.min(self.to.w - place.x));
        for (at, c) in range.step_by(V::COUNT).enumerate() {
            let mut rows = [[V::splat(0.0); OUT]; IN];
            for (i, row) in rows.iter_mut().enumerate() {
                let mut products = [V::splat(0.0); IN];
                for (j, v) in products.iter_mut().enumerate() {
                    // SAFETY: by the assertion above, even the last position has a value for every
                    // channel of the range.
                    *v =
                        unsafe { V::load(from.as_ptr().add((i * IN + j) * plane + at * V::COUNT)) };
                }
                *row = F::output(products);
            }
            for j in 0..width {
                let column = F::output(column(&rows, j));
                for (i, v) in column.into_iter().enumerate().take(height) {
                    let pixel = (place.n * self.to.h + place.y + i) * self.to.w + place.x + j;
                    v.write(&mut self.y[(pixel - self.first_pixel) * channels + c..]);
                }
            }
        }
    }
}

/// The distance in values between tile positions. It is an odd number of cache lines, so that the
/// positions do not compete for the same cache sets.
pub(super) fn plane(values: usize) -> usize {
    (values.div_ceil(16) | 1) * 16
}

/// The pixels of one tile.
pub(super) struct Tiled<'a> {
    pub x: &'a [f32],
    pub extent: Extent,
    pub channels: usize,
    pub place: Place,
    /// Rows and columns by which the tile begins before its place.
    pub pad: [usize; 2],
}

impl Tiled<'_> {
    /// Applies `A` along both axes of `FROM` by `FROM` pixels (zeros outside the image), for all
    /// channels. Position p is written to `to[p · plane..]`.
    ///
    /// # Panics
    /// When the channels are no whole vectors, or `zeros` is shorter than `channels`.
    #[inline(always)]
    pub fn transform<V: Vector, A: Along<FROM, TO>, const FROM: usize, const TO: usize>(
        &self,
        to: &mut [f32],
        plane: usize,
        zeros: &[f32],
    ) {
        let (channels, extent) = (self.channels, self.extent);
        let mut pixels = [[zeros; FROM]; FROM];
        for (i, row) in pixels.iter_mut().enumerate() {
            for (j, at) in row.iter_mut().enumerate() {
                let y = (self.place.y + i).wrapping_sub(self.pad[0]);
                let x = (self.place.x + j).wrapping_sub(self.pad[1]);
                if y < extent.h && x < extent.w {
                    *at = &self.x[((self.place.n * extent.h + y) * extent.w + x) * channels..]
                        [..channels];
                }
            }
        }
        assert!(zeros.len() >= channels && channels.is_multiple_of(V::COUNT));
        assert!(to.len() >= (TO * TO - 1) * plane + channels);
        for c in (0..channels).step_by(V::COUNT) {
            let mut rows = [[V::splat(0.0); TO]; FROM];
            for (row, pixels) in rows.iter_mut().zip(&pixels) {
                let mut values = [V::splat(0.0); FROM];
                for (v, pixel) in values.iter_mut().zip(pixels) {
                    // SAFETY: every pixel has `channels` values, and at least V::COUNT of them from
                    // c on.
                    *v = unsafe { V::load(pixel.as_ptr().add(c)) };
                }
                *row = A::apply(values);
            }
            for j in 0..TO {
                let column = A::apply(column(&rows, j));
                for (i, v) in column.into_iter().enumerate() {
                    // SAFETY: by the assertion above, even the last position has `channels` values.
                    unsafe { v.store(to.as_mut_ptr().add((i * TO + j) * plane + c)) }
                }
            }
        }
    }
}
