//! Convolution of any kernel, stride, padding and dilation (one group) as matrix products.
//!
//! For a block of output pixels, the input patches are gathered into the rows of a matrix (im2col,
//! in cache) and multiplied by the packed weights. The backward pass uses the same kernel: the
//! gradient of a strided convolution is one small convolution per phase of the stride, each with
//! the taps that reach the phase's pixels.

use std::ops::Range;

use rayon::prelude::*;

use super::aligned::Aligned;
use super::conv::{Epilogue, Extent, Geometry, cut, with_scratch};
use super::gemm::{Packed, multiply};
use super::simd::{Isa, Kernel, Vector};

/// Pixels that are gathered and multiplied in one go.
pub(super) const BLOCK: usize = 48;

/// Taps of one kernel row that are adjacent in the input, so that one copy gathers their pixels.
struct DirectRun {
    y: isize,
    x: isize,
    len: usize,
}

/// The output pixels at offset + step · base. Each reads the input around base · stride.
pub(super) struct Phase {
    offset: [usize; 2],
    runs: Vec<DirectRun>,
    pub weights: Packed,
}

/// A convolution, or its gradient with respect to the input, with packed weights.
pub struct Direct {
    pub(super) isa: Isa,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    stride: [usize; 2],
    step: [usize; 2],
    pub(super) phases: Vec<Phase>,
}

/// An output pixel of a phase.
pub(super) struct Target {
    /// Its index among all output pixels.
    pub pixel: usize,
    image: usize,
    /// The place in the input that its taps are offset from.
    base: [usize; 2],
}

/// A tap: its offset in the input, and its position in the kernel.
type Tap = ([isize; 2], [usize; 2]);

impl Direct {
    /// From `inputs` to `outputs` channels; `weight(o, i, y, x)` is the kernel from input channel
    /// `i` to output channel `o`.
    pub fn forward(
        isa: Isa,
        [inputs, outputs]: [usize; 2],
        geometry: Geometry,
        weight: impl Fn(usize, usize, usize, usize) -> f32,
    ) -> Self {
        let offset = |axis: usize, k: usize| {
            (k * geometry.dilation[axis]) as isize - geometry.pad[axis] as isize
        };
        let taps = geometry.taps().map(|[y, x]| ([offset(0, y), offset(1, x)], [y, x])).collect();
        let phases = vec![phase(isa, [inputs, outputs], [0, 0], taps, weight)];
        Self { isa, inputs, outputs, stride: geometry.stride, step: [1, 1], phases }
    }

    /// The gradient of that convolution with respect to its input: from `outputs` channels to
    /// `inputs`.
    pub fn backward(
        isa: Isa,
        [inputs, outputs]: [usize; 2],
        geometry: Geometry,
        weight: impl Fn(usize, usize, usize, usize) -> f32,
    ) -> Self {
        let turned = |i: usize, o: usize, y: usize, x: usize| weight(o, i, y, x);
        // Output pixel o reads input pixel o · stride − pad + k · dilation.
        let offset = |axis: usize, at: usize, k: usize| {
            let distance =
                (at + geometry.pad[axis]) as isize - (k * geometry.dilation[axis]) as isize;
            let stride = geometry.stride[axis] as isize;
            (distance.rem_euclid(stride) == 0).then_some(distance.div_euclid(stride))
        };
        let phases = (0..geometry.stride[0])
            .flat_map(|y| (0..geometry.stride[1]).map(move |x| [y, x]))
            .map(|at| {
                let tap =
                    |k: [usize; 2]| Some(([offset(0, at[0], k[0])?, offset(1, at[1], k[1])?], k));
                let taps = geometry.taps().filter_map(tap).collect();
                phase(isa, [outputs, inputs], at, taps, turned)
            })
            .collect();
        Self {
            isa,
            inputs: outputs,
            outputs: inputs,
            stride: [1, 1],
            step: geometry.stride,
            phases,
        }
    }

    /// The pixels of `phase` within `pixels` of an output of extent `to`, in order.
    pub(super) fn targets(
        &self,
        phase: &Phase,
        to: Extent,
        pixels: Range<usize>,
    ) -> impl Iterator<Item = Target> {
        let ([step_y, step_x], [stride_y, stride_x]) = (self.step, self.stride);
        let [offset_y, offset_x] = phase.offset;
        (pixels.start / to.w..pixels.end.div_ceil(to.w))
            .filter(move |row| row % to.h % step_y == offset_y)
            .flat_map(move |row| {
                let (image, y) = (row / to.h, row % to.h / step_y * stride_y);
                let columns = (offset_x..to.w).step_by(step_x).enumerate();
                columns.map(move |(x, column)| Target {
                    pixel: row * to.w + column,
                    image,
                    base: [y, x * stride_x],
                })
            })
            .filter(move |target| pixels.contains(&target.pixel))
    }

    /// Whether every output pixel reads only the input pixel at its own position.
    fn is_pointwise(&self) -> bool {
        self.stride == [1, 1]
            && matches!(self.phases.as_slice(), [p] if matches!(p.runs.as_slice(), [DirectRun { y: 0, x: 0, len: 1 }]))
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
            x.len() == from.pixels() * self.inputs
                && y.len() == to.pixels() * self.outputs
                && from.n == to.n
        );
        let pixels = if self.is_pointwise() {
            2 * BLOCK
        } else {
            BLOCK.div_ceil(to.w) * to.w * self.step[0]
        };
        cut(std::iter::repeat(pixels), self.outputs, y, beside).into_par_iter().for_each(|piece| {
            with_scratch(|scratch| {
                self.isa.run(DirectWork {
                    conv: self,
                    x,
                    from,
                    y: &mut *piece.rows,
                    to,
                    first_pixel: piece.first_pixel,
                    scratch,
                });
            });
            epilogue(piece);
        });
    }
}

fn phase(
    isa: Isa,
    [inputs, outputs]: [usize; 2],
    offset: [usize; 2],
    mut taps: Vec<Tap>,
    weight: impl Fn(usize, usize, usize, usize) -> f32,
) -> Phase {
    taps.sort_unstable();
    let mut runs: Vec<DirectRun> = Vec::new();
    for &([y, x], _) in &taps {
        match runs.last_mut() {
            Some(run) if run.y == y && run.x + run.len as isize == x => run.len += 1,
            _ => runs.push(DirectRun { y, x, len: 1 }),
        }
    }
    let weights = Packed::new(isa, taps.len() * inputs, outputs, |row, o| {
        let [y, x] = taps[row / inputs].1;
        weight(o, row % inputs, y, x)
    });
    Phase { offset, runs, weights }
}

/// The work on one piece.
struct DirectWork<'a> {
    conv: &'a Direct,
    x: &'a [f32],
    from: Extent,
    /// The piece's own pixels, from `first_pixel` on.
    y: &'a mut [f32],
    to: Extent,
    first_pixel: usize,
    scratch: &'a mut Aligned,
}

impl Kernel for DirectWork<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let conv = self.conv;
        let pixels = self.y.len() / conv.outputs;
        if conv.is_pointwise() && conv.outputs == conv.phases[0].weights.columns() {
            let x = &self.x[self.first_pixel * conv.inputs..];
            multiply::<V>(x, conv.inputs, pixels, &conv.phases[0].weights, self.y, conv.outputs);
            return;
        }
        for phase in &conv.phases {
            let (k, columns) = (phase.weights.depth(), phase.weights.columns());
            let range = self.first_pixel..self.first_pixel + pixels;
            let mut targets = conv.targets(phase, self.to, range);
            let place = |target: &Target| (target.pixel - self.first_pixel) * conv.outputs;
            if k == 0 {
                targets.for_each(|t| self.y[place(&t)..][..conv.outputs].fill(0.0));
                continue;
            }
            let (rows, products) = self.scratch.grow(BLOCK * (k + columns)).split_at_mut(BLOCK * k);
            // Where pixels follow each other without gaps, products need no scratch memory.
            let is_dense = conv.step == [1, 1] && columns == conv.outputs;
            let mut places = [0; BLOCK];
            loop {
                let mut count = 0;
                for (row, target) in rows.chunks_exact_mut(k).zip(targets.by_ref()) {
                    gather(conv, phase, self.x, self.from, &target, row);
                    places[count] = place(&target);
                    count += 1;
                }
                if count == 0 {
                    break;
                }
                if is_dense {
                    let y = &mut self.y[places[0]..];
                    multiply::<V>(rows, k, count, &phase.weights, y, columns);
                    continue;
                }
                multiply::<V>(rows, k, count, &phase.weights, products, columns);
                for (place, product) in places[..count].iter().zip(products.chunks_exact(columns)) {
                    self.y[*place..][..conv.outputs].copy_from_slice(&product[..conv.outputs]);
                }
            }
        }
    }
}

/// Gathers the input patch of one output pixel, tap by tap.
pub(super) fn gather(
    conv: &Direct,
    phase: &Phase,
    x: &[f32],
    from: Extent,
    target: &Target,
    mut row: &mut [f32],
) {
    let base = target.base.map(|b| b as isize);
    let channels = conv.inputs;
    for run in &phase.runs {
        let (part, rest) = row.split_at_mut(run.len * channels);
        row = rest;
        let (y, first) = (base[0] + run.y, base[1] + run.x);
        // The run's pixels from `before` to `end` lie inside the image.
        let before = (-first).clamp(0, run.len as isize) as usize;
        let end = (from.w as isize - first).clamp(before as isize, run.len as isize) as usize;
        if y < 0 || y >= from.h as isize || before == end {
            part.fill(0.0);
            continue;
        }
        let start =
            (target.image * from.h + y as usize) * from.w + (first + before as isize) as usize;
        part[..before * channels].fill(0.0);
        part[before * channels..end * channels]
            .copy_from_slice(&x[start * channels..][..(end - before) * channels]);
        part[end * channels..].fill(0.0);
    }
}
