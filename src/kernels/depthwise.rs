//! Depthwise convolution (one kernel per channel), forward and backward. Each output pixel sums
//! over its kernel's taps, one vector of channels at a time.

use rayon::prelude::*;

use super::conv::{Epilogue, Extent, Geometry, PIECE, Piece, cut};
use super::simd::{Isa, Kernel, Vector};

/// A depthwise convolution, or its gradient with respect to the input.
pub struct Depthwise {
    isa: Isa,
    channels: usize,
    geometry: Geometry,
    backward: bool,
    /// One `[channels]` vector per tap.
    weights: Vec<Vec<f32>>,
}

impl Depthwise {
    /// `weight(c, y, x)` is the kernel of channel `c`.
    pub fn new(
        isa: Isa,
        channels: usize,
        geometry: Geometry,
        backward: bool,
        weight: impl Fn(usize, usize, usize) -> f32,
    ) -> Self {
        let weights = geometry
            .taps()
            .map(|[y, x]| (0..channels).map(|c| weight(c, y, x)).collect())
            .collect();
        Self { isa, channels, geometry, backward, weights }
    }

    /// Convolves `x` (extent `from`) into `y` (extent `to`). Runs `epilogue` on every finished
    /// piece of `y` and of the auxiliary buffer `beside`.
    ///
    /// # Panics
    /// When the slices' lengths disagree with the extents.
    pub fn run(
        &self,
        (x, from): (&[f32], Extent),
        (y, to): (&mut [f32], Extent),
        beside: Option<&mut [f32]>,
        epilogue: &Epilogue,
    ) {
        assert!(
            x.len() == from.pixels() * self.channels
                && y.len() == to.pixels() * self.channels
                && from.n == to.n
        );
        let pixels = (PIECE / self.channels).max(1);
        cut(std::iter::repeat(pixels), self.channels, y, beside).into_par_iter().for_each(
            |mut piece| {
                self.isa.run(DepthwiseWork { conv: self, x, from, to, piece: &mut piece });
                epilogue(piece);
            },
        );
    }

    /// The input position that tap `k` of output position `at` reads; `None` where it has none.
    fn source(&self, axis: usize, at: usize, k: usize, length: usize) -> Option<usize> {
        let g = &self.geometry;
        let (stride, reach) = (g.stride[axis], k * g.dilation[axis]);
        let place = if self.backward {
            let distance = (at + g.pad[axis]).checked_sub(reach)?;
            distance.is_multiple_of(stride).then_some(distance / stride)?
        } else {
            (at * stride + reach).checked_sub(g.pad[axis])?
        };
        (place < length).then_some(place)
    }
}

/// The work on one piece.
struct DepthwiseWork<'a, 'p> {
    conv: &'a Depthwise,
    x: &'a [f32],
    from: Extent,
    to: Extent,
    piece: &'a mut Piece<'p>,
}

/// A tap of one output pixel: the input pixel's channels and their weights.
type Seen<'a> = (&'a [f32], &'a [f32]);

impl Kernel for DepthwiseWork<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let (conv, from, to) = (self.conv, self.from, self.to);
        let first_pixel = self.piece.first_pixel;
        let mut seen: Vec<Seen> = Vec::with_capacity(conv.weights.len());
        for (at, out) in self.piece.rows.chunks_exact_mut(conv.channels).enumerate() {
            let pixel = first_pixel + at;
            let (n, y, x) = (pixel / to.w / to.h, pixel / to.w % to.h, pixel % to.w);
            seen.clear();
            for ([ky, kx], weights) in conv.geometry.taps().zip(&conv.weights) {
                if let (Some(y), Some(x)) =
                    (conv.source(0, y, ky, from.h), conv.source(1, x, kx, from.w))
                {
                    let pixel = (n * from.h + y) * from.w + x;
                    seen.push((&self.x[pixel * conv.channels..][..conv.channels], weights));
                }
            }
            let mut c = 0;
            while c + 4 * V::COUNT <= conv.channels {
                sum::<V, 4>(&seen, c, out);
                c += 4 * V::COUNT;
            }
            while c + V::COUNT <= conv.channels {
                sum::<V, 1>(&seen, c, out);
                c += V::COUNT;
            }
            while c < conv.channels {
                sum::<f32, 1>(&seen, c, out);
                c += 1;
            }
        }
    }
}

/// Sums N vectors of channels, beginning with channel `first`.
#[inline(always)]
fn sum<V: Vector, const N: usize>(seen: &[Seen], first: usize, out: &mut [f32]) {
    let mut sums = [V::splat(0.0); N];
    for (pixel, weights) in seen {
        let (pixel, weights) =
            (&pixel[first..first + N * V::COUNT], &weights[first..first + N * V::COUNT]);
        for (j, sum) in sums.iter_mut().enumerate() {
            *sum = V::read(&pixel[j * V::COUNT..]).mul_add(V::read(&weights[j * V::COUNT..]), *sum);
        }
    }
    for (j, sum) in sums.into_iter().enumerate() {
        sum.write(&mut out[first + j * V::COUNT..]);
    }
}
