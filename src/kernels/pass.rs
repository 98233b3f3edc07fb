//! The elementwise passes between convolutions, each one sweep over a piece of channels-last data:
//! statistics per channel; normalisation with a residual and an activation; and the backward pass
//! of both.

use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::conv::PIECE;
use super::simd::{Isa, Kernel, Vector};

/// An elementwise function.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FusedActivation {
    Identity,
    /// Limits to `low..=high`; ReLU is 0 to infinity. The gradient passes only strictly between the
    /// bounds.
    Clamp {
        low: f32,
        high: f32,
    },
    LeakyRelu {
        alpha: f32,
    },
    HardSwish,
}

/// Work that visits all pixels for a few channels at a time.
trait Columns {
    fn channels(&self) -> usize;
    /// Processes N vectors of channels, beginning with channel `first`.
    fn columns<V: Vector, const N: usize>(&mut self, first: usize);
}

#[inline(always)]
fn sweep<V: Vector>(work: &mut impl Columns) {
    let channels = work.channels();
    let mut c = 0;
    while c + 4 * V::COUNT <= channels {
        work.columns::<V, 4>(c);
        c += 4 * V::COUNT;
    }
    while c + V::COUNT <= channels {
        work.columns::<V, 1>(c);
        c += V::COUNT;
    }
    while c < channels {
        work.columns::<f32, 1>(c);
        c += 1;
    }
}

/// [`FusedActivation`] as a type, so that each has its own loop.
trait Function: Copy {
    fn apply<V: Vector>(self, p: V) -> V;
    /// The gradient with respect to `p`, from the gradient with respect to the result.
    fn pull<V: Vector>(self, p: V, gradient: V) -> V;
}

#[derive(Clone, Copy)]
struct Identity;

impl Function for Identity {
    #[inline(always)]
    fn apply<V: Vector>(self, p: V) -> V {
        p
    }
    #[inline(always)]
    fn pull<V: Vector>(self, _: V, gradient: V) -> V {
        gradient
    }
}

#[derive(Clone, Copy)]
struct Clamp {
    low: f32,
    high: f32,
}

impl Function for Clamp {
    #[inline(always)]
    fn apply<V: Vector>(self, p: V) -> V {
        // If one argument is NaN, `min` and `max` return the second: in this order a NaN stays NaN.
        V::splat(self.high).min(V::splat(self.low).max(p))
    }
    #[inline(always)]
    fn pull<V: Vector>(self, p: V, gradient: V) -> V {
        V::splat(self.high).above(p, p.above(V::splat(self.low), gradient))
    }
}

#[derive(Clone, Copy)]
struct LeakyRelu {
    alpha: f32,
}

impl Function for LeakyRelu {
    #[inline(always)]
    fn apply<V: Vector>(self, p: V) -> V {
        let zero = V::splat(0.0);
        zero.min(p).mul_add(V::splat(self.alpha), zero.max(p))
    }
    #[inline(always)]
    fn pull<V: Vector>(self, p: V, gradient: V) -> V {
        let positive = p.above(V::splat(0.0), gradient);
        gradient.sub(positive).mul_add(V::splat(self.alpha), positive)
    }
}

#[derive(Clone, Copy)]
struct HardSwish;

impl Function for HardSwish {
    #[inline(always)]
    fn apply<V: Vector>(self, p: V) -> V {
        let six = V::splat(6.0);
        p.mul(p.add(V::splat(3.0)).max(V::splat(0.0)).min(six)).div(six)
    }
    #[inline(always)]
    fn pull<V: Vector>(self, p: V, gradient: V) -> V {
        let three = V::splat(3.0);
        let slope = p.div(three).add(V::splat(0.5));
        let above = p.above(three, gradient);
        let between = p.above(V::splat(-3.0), gradient).sub(above);
        between.mul_add(slope, above)
    }
}

/// Work with the activation that it applies.
struct With<W, F> {
    work: W,
    function: F,
}

macro_rules! with_function {
    ($activation:expr, |$function:ident| $body:expr) => {
        match $activation {
            FusedActivation::Identity => {
                let $function = Identity;
                $body
            }
            FusedActivation::Clamp { low, high } => {
                let $function = Clamp { low, high };
                $body
            }
            FusedActivation::LeakyRelu { alpha } => {
                let $function = LeakyRelu { alpha };
                $body
            }
            FusedActivation::HardSwish => {
                let $function = HardSwish;
                $body
            }
        }
    };
}

/// Per channel, the mean and the sum of squared deviations over `count` pixels.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    pub count: usize,
    pub mean: Vec<f64>,
    pub squares: Vec<f64>,
}

/// Pixels that are summed in single precision before the sum is added in double precision.
const SINGLE: usize = 16;

impl Moments {
    /// The moments of `x`, whose rows are pixels of `channels` values.
    pub fn of(isa: Isa, x: &[f32], channels: usize) -> Self {
        let mut moments = Self {
            count: x.len() / channels,
            mean: vec![0.0; channels],
            squares: vec![0.0; channels],
        };
        isa.run(Sums { x, channels, moments: &mut moments });
        moments
    }

    /// As [`of`](Self::of), piece by piece in parallel.
    pub fn of_all(isa: Isa, x: &[f32], channels: usize) -> Self {
        let pixels = (PIECE / channels).max(1);
        let gathered = Gathered::default();
        x.par_chunks(pixels * channels)
            .enumerate()
            .for_each(|(i, part)| gathered.add(i, Self::of(isa, part, channels)));
        gathered.total().unwrap_or_else(|| Self::of(isa, x, channels))
    }

    /// Adds the pixels of `other` to these.
    pub fn merge(&mut self, other: &Self) {
        let (n, m) = (self.count as f64, other.count as f64);
        let total = (n + m).max(1.0);
        let channels =
            self.mean.iter_mut().zip(&mut self.squares).zip(other.mean.iter().zip(&other.squares));
        for ((mean, squares), (other_mean, other_squares)) in channels {
            let difference = other_mean - *mean;
            *mean += difference * m / total;
            *squares += other_squares + difference * difference * n * m / total;
        }
        self.count += other.count;
    }
}

struct Sums<'a> {
    x: &'a [f32],
    channels: usize,
    moments: &'a mut Moments,
}

impl Kernel for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self) {
        sweep::<V>(&mut self);
    }
}

impl Columns for Sums<'_> {
    fn channels(&self) -> usize {
        self.channels
    }

    /// Subtracts the first pixel before summing, so that a large mean cancels before anything is
    /// squared.
    #[inline(always)]
    fn columns<V: Vector, const N: usize>(&mut self, first: usize) {
        let Some(pixel) = self.x.get(first..) else { return };
        let mut shift = [V::splat(0.0); N];
        for (j, shift) in shift.iter_mut().enumerate() {
            *shift = V::read(&pixel[j * V::COUNT..]);
        }
        // The widest vector has 16 lanes.
        let mut totals = [[[0.0f64; 16]; 2]; N];
        for block in self.x.chunks(SINGLE * self.channels) {
            let mut sums = [[V::splat(0.0); 2]; N];
            for row in block.chunks_exact(self.channels) {
                let row = &row[first..first + N * V::COUNT];
                for (j, sums) in sums.iter_mut().enumerate() {
                    let d = V::read(&row[j * V::COUNT..]).sub(shift[j]);
                    sums[0] = sums[0].add(d);
                    sums[1] = d.mul_add(d, sums[1]);
                }
            }
            let mut lanes = [0.0f32; 16];
            for (total, sums) in totals.iter_mut().flatten().zip(sums.into_iter().flatten()) {
                sums.write(&mut lanes);
                total.iter_mut().zip(&lanes[..V::COUNT]).for_each(|(t, v)| *t += f64::from(*v));
            }
        }
        let count = self.moments.count as f64;
        for (j, [sum, squares]) in totals.iter().enumerate() {
            for lane in 0..V::COUNT {
                let c = first + j * V::COUNT + lane;
                let deviation = sum[lane] / count;
                self.moments.mean[c] = f64::from(pixel[c - first]) + deviation;
                self.moments.squares[c] = (squares[lane] - sum[lane] * deviation).max(0.0);
            }
        }
    }
}

/// `activation(scale · x + shift + residual)`, scale and shift per channel.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    pub scale: &'a [f32],
    pub shift: &'a [f32],
    pub activation: FusedActivation,
}

impl Pass<'_> {
    /// Writes the result of `x` to `out`.
    ///
    /// # Panics
    /// When lengths disagree.
    pub fn forward(&self, isa: Isa, x: &[f32], residual: Option<&[f32]>, out: &mut [f32]) {
        assert!(x.len() == out.len() && residual.is_none_or(|r| r.len() == x.len()));
        assert!(self.shift.len() == self.scale.len() && x.len().is_multiple_of(self.scale.len()));
        isa.run(Forward { pass: self, x, residual, out });
    }

    /// The backward pass.
    ///
    /// # Panics
    /// When lengths disagree.
    pub fn backward(&self, isa: Isa, work: Backward) {
        let len = work.gradient.len();
        assert!(work.x.len() == len && work.more.iter().all(|m| m.len() == len));
        assert!(work.residual.is_none_or(|r| r.len() == len));
        assert!(work.residual_gradient.as_ref().is_none_or(|r| r.len() == len));
        assert!(self.shift.len() == self.scale.len() && len.is_multiple_of(self.scale.len()));
        assert!(
            work.slope
                .is_none_or(|(a, b)| a.len() == self.scale.len() && b.len() == self.scale.len())
        );
        isa.run(Backwards { pass: self, work });
    }
}

/// Per channel, the sums that BatchNorm's own gradient needs: of the gradient of
/// `scale · x + shift`, and of that gradient times `x − centre`.
#[derive(Debug, Clone, PartialEq)]
pub struct GradientSums {
    pub gradient: Vec<f64>,
    pub product: Vec<f64>,
}

impl GradientSums {
    pub fn zeros(channels: usize) -> Self {
        Self { gradient: vec![0.0; channels], product: vec![0.0; channels] }
    }

    pub fn merge(&mut self, other: &Self) {
        self.gradient.iter_mut().zip(&other.gradient).for_each(|(sum, v)| *sum += v);
        self.product.iter_mut().zip(&other.product).for_each(|(sum, v)| *sum += v);
    }
}

/// The inputs of [`Pass::sum_gradients`].
#[derive(Clone, Copy)]
pub struct GradientInput<'a> {
    pub x: &'a [f32],
    pub residual: Option<&'a [f32]>,
    /// The gradient of the result.
    pub gradient: &'a [f32],
    /// Per channel, the value that is subtracted from `x`.
    pub centre: &'a [f32],
}

impl Pass<'_> {
    /// Adds the gradient sums over all pixels to `sums`.
    ///
    /// # Panics
    /// When lengths disagree.
    pub fn sum_gradients(&self, isa: Isa, work: GradientInput, sums: &mut GradientSums) {
        let (len, channels) = (work.gradient.len(), self.scale.len());
        assert!(
            work.x.len() == len
                && work.residual.is_none_or(|r| r.len() == len)
                && len.is_multiple_of(channels)
        );
        assert!(self.shift.len() == channels && work.centre.len() == channels);
        assert!(sums.gradient.len() == channels && sums.product.len() == channels);
        isa.run(Summing { pass: self, work, sums });
    }
}

struct Summing<'a, 'w> {
    pass: &'a Pass<'a>,
    work: GradientInput<'w>,
    sums: &'a mut GradientSums,
}

impl Kernel for Summing<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        with_function!(self.pass.activation, |function| sweep::<V>(&mut With {
            work: self,
            function
        }));
    }
}

impl<F: Function> Columns for With<Summing<'_, '_>, F> {
    fn channels(&self) -> usize {
        self.work.pass.scale.len()
    }

    #[inline(always)]
    fn columns<V: Vector, const N: usize>(&mut self, first: usize) {
        let Self { work: Summing { pass, work, sums }, function } = self;
        let channels = pass.scale.len();
        let scale = vectors::<V, N>(&pass.scale[first..]);
        let shift = vectors::<V, N>(&pass.shift[first..]);
        let centre = vectors::<V, N>(&work.centre[first..]);
        for block in (first..work.x.len()).step_by(SINGLE * channels) {
            let mut partial = [[V::splat(0.0); 2]; N];
            for at in (block..work.x.len().min(block + SINGLE * channels)).step_by(channels) {
                for (j, partial) in partial.iter_mut().enumerate() {
                    let here = at + j * V::COUNT..at + (j + 1) * V::COUNT;
                    let x = V::read(&work.x[here.clone()]);
                    let mut p = x.mul_add(scale[j], shift[j]);
                    if let Some(residual) = work.residual {
                        p = p.add(V::read(&residual[here.clone()]));
                    }
                    let gradient = function.pull(p, V::read(&work.gradient[here]));
                    partial[0] = partial[0].add(gradient);
                    partial[1] = gradient.mul_add(x.sub(centre[j]), partial[1]);
                }
            }
            let mut lanes = [0.0f32; 16];
            for (j, [gradient, product]) in partial.into_iter().enumerate() {
                for (part, sums) in [(gradient, &mut sums.gradient), (product, &mut sums.product)] {
                    part.write(&mut lanes);
                    let sums = &mut sums[first + j * V::COUNT..][..V::COUNT];
                    sums.iter_mut().zip(&lanes).for_each(|(sum, v)| *sum += f64::from(*v));
                }
            }
        }
    }
}

/// The inputs and outputs of the backward pass of a [`Pass`].
pub struct Backward<'a> {
    pub x: &'a [f32],
    pub residual: Option<&'a [f32]>,
    /// On entry a gradient of the result, on return the gradient of `x`.
    pub gradient: &'a mut [f32],
    /// Further gradients of the result, to be added.
    pub more: &'a [&'a [f32]],
    /// The gradient that the statistics of `x` add, per channel: a + b · x.
    pub slope: Option<(&'a [f32], &'a [f32])>,
    pub residual_gradient: Option<&'a mut [f32]>,
}

struct Forward<'a> {
    pass: &'a Pass<'a>,
    x: &'a [f32],
    residual: Option<&'a [f32]>,
    out: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        with_function!(self.pass.activation, |function| sweep::<V>(&mut With {
            work: self,
            function
        }));
    }
}

impl<F: Function> Columns for With<Forward<'_>, F> {
    fn channels(&self) -> usize {
        self.work.pass.scale.len()
    }

    #[inline(always)]
    fn columns<V: Vector, const N: usize>(&mut self, first: usize) {
        let Self { work, function } = self;
        let channels = work.pass.scale.len();
        let scale = vectors::<V, N>(&work.pass.scale[first..]);
        let shift = vectors::<V, N>(&work.pass.shift[first..]);
        for at in (first..work.x.len()).step_by(channels) {
            let x = &work.x[at..at + N * V::COUNT];
            let out = &mut work.out[at..at + N * V::COUNT];
            let residual = work.residual.map(|r| &r[at..at + N * V::COUNT]);
            for j in 0..N {
                let mut p = V::read(&x[j * V::COUNT..]).mul_add(scale[j], shift[j]);
                if let Some(residual) = residual {
                    p = p.add(V::read(&residual[j * V::COUNT..]));
                }
                function.apply(p).write(&mut out[j * V::COUNT..]);
            }
        }
    }
}

struct Backwards<'a, 'w> {
    pass: &'a Pass<'a>,
    work: Backward<'w>,
}

impl Kernel for Backwards<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        with_function!(self.pass.activation, |function| sweep::<V>(&mut With {
            work: self,
            function
        }));
    }
}

impl<F: Function> Columns for With<Backwards<'_, '_>, F> {
    fn channels(&self) -> usize {
        self.work.pass.scale.len()
    }

    #[inline(always)]
    fn columns<V: Vector, const N: usize>(&mut self, first: usize) {
        let Self { work, function } = self;
        let channels = work.pass.scale.len();
        let scale = vectors::<V, N>(&work.pass.scale[first..]);
        let shift = vectors::<V, N>(&work.pass.shift[first..]);
        let zero = [V::splat(0.0); N];
        let (a, b) = work.work.slope.map_or((zero, zero), |(a, b)| {
            (vectors::<V, N>(&a[first..]), vectors::<V, N>(&b[first..]))
        });
        for at in (first..work.work.x.len()).step_by(channels) {
            for j in 0..N {
                let here = at + j * V::COUNT..at + (j + 1) * V::COUNT;
                let x = V::read(&work.work.x[here.clone()]);
                let mut p = x.mul_add(scale[j], shift[j]);
                if let Some(residual) = work.work.residual {
                    p = p.add(V::read(&residual[here.clone()]));
                }
                let mut gradient = V::read(&work.work.gradient[here.clone()]);
                for more in work.work.more {
                    gradient = gradient.add(V::read(&more[here.clone()]));
                }
                let gradient = function.pull(p, gradient);
                if let Some(to) = &mut work.work.residual_gradient {
                    gradient.write(&mut to[here.clone()]);
                }
                gradient
                    .mul_add(scale[j], x.mul_add(b[j], a[j]))
                    .write(&mut work.work.gradient[here]);
            }
        }
    }
}

/// Reads the first N vectors of a slice.
#[inline(always)]
fn vectors<V: Vector, const N: usize>(from: &[f32]) -> [V; N] {
    let mut vectors = [V::splat(0.0); N];
    for (j, v) in vectors.iter_mut().enumerate() {
        *v = V::read(&from[j * V::COUNT..]);
    }
    vectors
}

/// Adds `bias` to every pixel of `rows`.
///
/// # Panics
/// When `rows` does not hold whole pixels.
pub fn add_bias(rows: &mut [f32], bias: &[f32]) {
    assert!(rows.len().is_multiple_of(bias.len()));
    for row in rows.chunks_exact_mut(bias.len()) {
        row.iter_mut().zip(bias).for_each(|(v, b)| *v += b);
    }
}

/// Collects the moments of pieces, which finish in any order.
#[derive(Default)]
pub struct Gathered(Mutex<Vec<(usize, Moments)>>);

impl Gathered {
    pub fn add(&self, index: usize, moments: Moments) {
        // The list is poisoned only if another piece panicked; that panic already reaches the
        // caller.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((index, moments));
    }

    /// The moments of all pieces, merged in the order of the pieces. `None` if there were none.
    pub fn total(self) -> Option<Moments> {
        let mut parts = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        parts.sort_unstable_by_key(|(index, _)| *index);
        parts.into_iter().map(|(_, part)| part).reduce(|mut all, part| {
            all.merge(&part);
            all
        })
    }
}
