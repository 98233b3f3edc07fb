//! The types that all convolution kernels share: extents, pieces of the output, scratch memory.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::aligned::Aligned;

/// The number of images, their height and their width in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub n: usize,
    pub h: usize,
    pub w: usize,
}

impl Extent {
    pub fn pixels(self) -> usize {
        self.n * self.h * self.w
    }
}

/// The settings of a convolution, per axis (y, x).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    /// Rows and columns of zeros before the first. The padding at the end follows from the output's
    /// extent.
    pub pad: [usize; 2],
}

impl Geometry {
    /// The kernel's taps `[y, x]`, row by row.
    pub(super) fn taps(self) -> impl Iterator<Item = [usize; 2]> {
        (0..self.kernel[0]).flat_map(move |y| (0..self.kernel[1]).map(move |x| [y, x]))
    }
}

/// Consecutive output pixels, with all their channels.
pub struct Piece<'a> {
    /// The piece's number, in the order of pixels.
    pub index: usize,
    pub first_pixel: usize,
    pub rows: &'a mut [f32],
    /// The same pixels of the auxiliary buffer, if the caller has one.
    pub beside: Option<&'a mut [f32]>,
}

impl Piece<'_> {
    /// The range of these pixels in a whole tensor of `channels` channels.
    pub fn range(&self, channels: usize) -> Range<usize> {
        self.first_pixel * channels..self.first_pixel * channels + self.rows.len()
    }
}

/// Cuts an output of `channels` channels, and the auxiliary buffer `beside` of the same size, into
/// pieces of `lengths` pixels each (the last piece may be shorter).
pub(super) fn cut<'a>(
    lengths: impl IntoIterator<Item = usize>,
    channels: usize,
    mut rows: &'a mut [f32],
    mut beside: Option<&'a mut [f32]>,
) -> Vec<Piece<'a>> {
    assert!(
        beside.as_ref().is_none_or(|b| b.len() == rows.len()),
        "the auxiliary buffer has another size than the output"
    );
    let mut pieces = Vec::new();
    let mut first_pixel = 0;
    for pixels in lengths {
        if rows.is_empty() {
            break;
        }
        let len = (pixels * channels).min(rows.len());
        let (piece, rest) = rows.split_at_mut(len);
        let (piece_beside, rest_beside) = beside.map(|b| b.split_at_mut(len)).unzip();
        pieces.push(Piece { index: pieces.len(), first_pixel, rows: piece, beside: piece_beside });
        first_pixel += len / channels;
        (rows, beside) = (rest, rest_beside);
    }
    pieces
}

/// Runs `work` on an output piece by piece, in parallel.
pub fn for_pieces(channels: usize, rows: &mut [f32], beside: Option<&mut [f32]>, work: &Epilogue) {
    let pixels = (PIECE / channels).max(1);
    cut(std::iter::repeat(pixels), channels, rows, beside).into_par_iter().for_each(work);
}

/// Values per piece where the convolution prescribes no cut: a piece and its inputs fit the
/// second-level cache.
pub(super) const PIECE: usize = 1 << 14;

/// The caller's work on a finished piece while it is in cache. It runs on several threads, in any
/// order.
pub type Epilogue<'a> = dyn Fn(Piece) + Sync + 'a;

thread_local! {
    static SCRATCH: RefCell<Aligned> = RefCell::new(Aligned::zeros(0));
}

/// This thread's scratch memory, whose contents are arbitrary.
pub(super) fn with_scratch<T>(f: impl FnOnce(&mut Aligned) -> T) -> T {
    SCRATCH.with_borrow_mut(f)
}
