//! Gradients of convolutions with respect to their weights. Only training needs these kernels.
//!
//! Weights and their gradients are `[kernel y, kernel x, inputs, outputs]`, so that output channels
//! are contiguous. Sums have a fixed number of parts, independent of the number of threads, so
//! their rounding never changes.

use std::marker::PhantomData;

use rayon::prelude::*;

use super::aligned::Aligned;
use super::conv::Extent;
use super::direct::{BLOCK, Direct, gather};
use super::filter::{Filter, Four, Spread, Two, WinogradInput};
use super::gemm::add_outer;
use super::simd::{Isa, Kernel, Vector};
use super::tiles::{Place, Tiled, plane};
use super::winograd::{Tile, Winograd};

/// Tiles per group: the depth of one matrix product.
const GROUP: usize = 32;
/// Groups that are transformed before they are multiplied, few enough to stay in a third-level
/// cache.
const GROUPS: usize = 8;
/// The number of partial sums over the output.
const PARTS: usize = 8;

impl Winograd {
    /// The gradient with respect to the weights, from the convolution's input `x` and its output's
    /// gradient `dy`. It is the transpose of [`run`](Self::run), by the same transforms. `scratch`
    /// should be kept between calls.
    ///
    /// # Panics
    /// When the slices' lengths disagree with the extents or the weights.
    pub fn weight_gradient(
        &self,
        x: (&[f32], Extent),
        dy: (&[f32], Extent),
        scratch: &mut Aligned,
        gradient: &mut [f32],
    ) {
        assert!(
            x.0.len() == x.1.pixels() * self.inputs && dy.0.len() == dy.1.pixels() * self.outputs
        );
        assert!(x.1.n == dy.1.n && gradient.len() == 9 * self.inputs * self.outputs);
        match self.tile {
            Tile::Two => tiled_gradient::<Two, 4, 2>(self, x, dy, scratch, gradient),
            Tile::Four => tiled_gradient::<Four, 6, 4>(self, x, dy, scratch, gradient),
        }
    }

    fn places(&self, to: Extent, side: usize) -> Vec<Place> {
        let row = |n: usize, y: usize| (0..to.w).step_by(side).map(move |x| Place { n, y, x });
        (0..to.n).flat_map(|n| (0..to.h).step_by(side).flat_map(move |y| row(n, y))).collect()
    }
}

fn tiled_gradient<F: Filter<IN, OUT>, const IN: usize, const OUT: usize>(
    conv: &Winograd,
    x: (&[f32], Extent),
    dy: (&[f32], Extent),
    scratch: &mut Aligned,
    gradient: &mut [f32],
) {
    let (inputs, outputs) = (conv.inputs, conv.outputs);
    let places = conv.places(dy.1, OUT);
    let planes = [plane(GROUP * inputs), plane(GROUP * outputs)];
    let group = IN * IN * (planes[0] + planes[1]);
    let (len, product) = (IN * IN * inputs * outputs, inputs * outputs);
    let scratch = scratch.grow(len + GROUPS * group);
    let (sums, transformed) = scratch.split_at_mut(len);
    sums.fill(0.0);
    let zeros = vec![0.0; inputs.max(outputs)];
    for places in places.chunks(GROUP * GROUPS) {
        transformed.par_chunks_exact_mut(group).zip(places.par_chunks(GROUP)).for_each(
            |(to, places)| {
                let work = GradientTransforms::<'_, F, IN, OUT> {
                    conv,
                    x,
                    dy,
                    places,
                    planes,
                    zeros: &zeros,
                    to,
                    filter: PhantomData,
                };
                conv.isa.run(work);
            },
        );
        sums.par_chunks_exact_mut(product).enumerate().for_each(|(p, sums)| {
            for (group, places) in transformed.chunks_exact(group).zip(places.chunks(GROUP)) {
                let (x, dy) = group.split_at(IN * IN * planes[0]);
                let (a, b) = (&x[p * planes[0]..], &dy[p * planes[1]..]);
                conv.isa.run(OuterSum {
                    a: (a, inputs),
                    b: (b, outputs),
                    depth: places.len(),
                    sums: &mut *sums,
                });
            }
        });
    }
    let factors = F::factors();
    gradient.par_chunks_exact_mut(product).enumerate().for_each(|(k, gradient)| {
        let factors: Vec<f32> = factors.iter().map(|f| f[k]).collect();
        conv.isa.run(Weighted { parts: sums, factors: &factors, sum: gradient });
    });
}

/// Transforms a group of tiles: of the input, and of the output's gradient.
struct GradientTransforms<'a, F, const IN: usize, const OUT: usize> {
    conv: &'a Winograd,
    x: (&'a [f32], Extent),
    dy: (&'a [f32], Extent),
    places: &'a [Place],
    planes: [usize; 2],
    zeros: &'a [f32],
    to: &'a mut [f32],
    filter: PhantomData<F>,
}

impl<F: Filter<IN, OUT>, const IN: usize, const OUT: usize> Kernel
    for GradientTransforms<'_, F, IN, OUT>
{
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let conv = self.conv;
        let (x, dy) = self.to.split_at_mut(IN * IN * self.planes[0]);
        for (t, &place) in self.places.iter().enumerate() {
            let seen = Tiled {
                x: self.x.0,
                extent: self.x.1,
                channels: conv.inputs,
                place,
                pad: conv.pad,
            };
            seen.transform::<V, WinogradInput<F, OUT>, IN, IN>(
                &mut x[t * conv.inputs..],
                self.planes[0],
                self.zeros,
            );
            let made = Tiled {
                x: self.dy.0,
                extent: self.dy.1,
                channels: conv.outputs,
                place,
                pad: [0, 0],
            };
            made.transform::<V, Spread<F>, OUT, IN>(
                &mut dy[t * conv.outputs..],
                self.planes[1],
                self.zeros,
            );
        }
    }
}

/// `sums += aᵀ · b`. The number beside each matrix is its row length.
struct OuterSum<'a> {
    a: (&'a [f32], usize),
    b: (&'a [f32], usize),
    depth: usize,
    sums: &'a mut [f32],
}

impl Kernel for OuterSum<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let ((a, m), (b, n)) = (self.a, self.b);
        add_outer::<V>((a, m, m), (b, n, n), self.depth, self.sums);
    }
}

/// The weighted sum of equally long parts.
struct Weighted<'a> {
    parts: &'a [f32],
    factors: &'a [f32],
    sum: &'a mut [f32],
}

impl Kernel for Weighted<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let len = self.sum.len();
        let whole = len - len % V::COUNT;
        self.columns::<V>(0..whole).columns::<f32>(whole..len);
    }
}

impl Weighted<'_> {
    #[inline(always)]
    fn columns<V: Vector>(self, range: std::ops::Range<usize>) -> Self {
        let len = self.sum.len();
        for at in range.step_by(V::COUNT) {
            let mut sum = V::splat(0.0);
            for (part, &factor) in self.parts.chunks_exact(len).zip(self.factors) {
                sum = V::read(&part[at..]).mul_add(V::splat(factor), sum);
            }
            sum.write(&mut self.sum[at..]);
        }
        self
    }
}

impl Direct {
    /// The gradient with respect to the weights, from the convolution's input `x` and its output's
    /// gradient `dy`. `scratch` should be kept between calls.
    ///
    /// # Panics
    /// When the slices' lengths disagree with the extents or the weights, or when this is a
    /// backward pass.
    pub fn weight_gradient(
        &self,
        (x, from): (&[f32], Extent),
        (dy, to): (&[f32], Extent),
        scratch: &mut Aligned,
        gradient: &mut [f32],
    ) {
        let [phase] = self.phases.as_slice() else {
            panic!("only a forward convolution has a gradient of its weights")
        };
        let (k, outputs) = (phase.weights.depth(), self.outputs);
        assert!(
            x.len() == from.pixels() * self.inputs
                && dy.len() == to.pixels() * outputs
                && from.n == to.n
        );
        assert!(gradient.len() == k * outputs);
        let part = k * outputs + BLOCK * k;
        let scratch = scratch.grow(PARTS * part);
        let pixels = to.pixels().div_ceil(PARTS);
        scratch[..PARTS * part].par_chunks_exact_mut(part).enumerate().for_each(|(index, part)| {
            let (sums, rows) = part.split_at_mut(k * outputs);
            sums.fill(0.0);
            let (first, last) =
                ((index * pixels).min(to.pixels()), ((index + 1) * pixels).min(to.pixels()));
            for block in (first..last).step_by(BLOCK) {
                let count = BLOCK.min(last - block);
                let targets = self.targets(phase, to, block..block + count);
                for (target, row) in targets.zip(rows.chunks_exact_mut(k)) {
                    gather(self, phase, x, from, &target, row);
                }
                let work = OuterSum {
                    a: (rows, k),
                    b: (&dy[block * outputs..], outputs),
                    depth: count,
                    sums: &mut *sums,
                };
                self.isa.run(work);
            }
        });
        gradient.fill(0.0);
        for part in scratch[..PARTS * part].chunks_exact(part) {
            gradient.iter_mut().zip(part).for_each(|(sum, v)| *sum += v);
        }
    }
}

/// Sums `x` over all pixels, giving `[channels]`: the gradient of a convolution's bias.
pub fn sum_pixels(isa: Isa, x: &[f32], channels: usize) -> Vec<f32> {
    let moments = super::pass::Moments::of_all(isa, x, channels);
    moments.mean.iter().map(|mean| (mean * moments.count as f64) as f32).collect()
}
