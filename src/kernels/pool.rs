//! 2×2 average pooling, row by row, so that it can run on rows that another kernel has just written
//! and that are still in cache.

use super::simd::{Isa, Kernel, Vector};

/// Averages two consecutive rows of `width` pixels into one row of `width / 2` pixels.
///
/// # Panics
/// When lengths disagree.
pub fn average(isa: Isa, rows: &[f32], width: usize, channels: usize, out: &mut [f32]) {
    assert!(rows.len() == 2 * width * channels && out.len() == width / 2 * channels);
    isa.run(Average { rows, width, channels, out });
}

/// The backward pass of [`average`]. A quarter of each gradient in `row` (`width / 2` pixels) goes
/// to each of its four pixels in two rows. An odd last pixel gets 0.
///
/// # Panics
/// When lengths disagree.
pub fn spread(isa: Isa, row: &[f32], width: usize, channels: usize, out: &mut [f32]) {
    assert!(out.len() == 2 * width * channels && row.len() == width / 2 * channels);
    isa.run(SpreadKernel { row, width, channels, out });
}

struct Average<'a> {
    rows: &'a [f32],
    width: usize,
    channels: usize,
    out: &'a mut [f32],
}

impl Kernel for Average<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let (upper, lower) = self.rows.split_at(self.width * self.channels);
        let pairs =
            upper.chunks_exact(2 * self.channels).zip(lower.chunks_exact(2 * self.channels));
        for (out, (upper, lower)) in self.out.chunks_exact_mut(self.channels).zip(pairs) {
            let whole = self.channels - self.channels % V::COUNT;
            quarter::<V>(upper, lower, 0..whole, out);
            quarter::<f32>(upper, lower, whole..self.channels, out);
        }
    }
}

/// Averages two pixels of the upper and two of the lower row, for the channels in `range`.
#[inline(always)]
fn quarter<V: Vector>(
    upper: &[f32],
    lower: &[f32],
    range: std::ops::Range<usize>,
    out: &mut [f32],
) {
    let channels = out.len();
    for c in range.step_by(V::COUNT) {
        let upper = V::read(&upper[c..]).add(V::read(&upper[channels + c..]));
        let lower = V::read(&lower[c..]).add(V::read(&lower[channels + c..]));
        upper.add(lower).mul(V::splat(0.25)).write(&mut out[c..]);
    }
}

struct SpreadKernel<'a> {
    row: &'a [f32],
    width: usize,
    channels: usize,
    out: &'a mut [f32],
}

impl Kernel for SpreadKernel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let channels = self.channels;
        for row in self.out.chunks_exact_mut(self.width * channels) {
            let (pairs, last) = row.split_at_mut(self.width / 2 * 2 * channels);
            last.fill(0.0);
            for (pair, from) in
                pairs.chunks_exact_mut(2 * channels).zip(self.row.chunks_exact(channels))
            {
                let whole = channels - channels % V::COUNT;
                share::<V>(from, 0..whole, pair);
                share::<f32>(from, whole..channels, pair);
            }
        }
    }
}

/// Writes a quarter of `from` to both pixels of `pair`, for the channels in `range`.
#[inline(always)]
fn share<V: Vector>(from: &[f32], range: std::ops::Range<usize>, pair: &mut [f32]) {
    for c in range.step_by(V::COUNT) {
        let quarter = V::read(&from[c..]).mul(V::splat(0.25));
        quarter.write(&mut pair[c..]);
        quarter.write(&mut pair[from.len() + c..]);
    }
}
