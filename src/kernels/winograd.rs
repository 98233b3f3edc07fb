//! 3×3 convolution of stride 1 with fewer multiplications: Winograd's minimal filtering (Lavin and
//! Gray, arXiv 1509.09308) on tiles of 2×2 or 4×4 outputs.
//!
//! Weights are transformed once. A run cuts the output into pieces of whole tile rows. A piece's
//! tiles are transformed, multiplied (one matrix product per tile position) and transformed back
//! while they are in cache; then the caller's epilogue runs. Weights too large for the cache are
//! processed in the order of the module `wide`.

use std::marker::PhantomData;
use std::sync::Arc;

use rayon::prelude::*;

use super::aligned::Aligned;
use super::conv::{Epilogue, Extent, Piece, cut, with_scratch};
use super::gemm::{Packed, multiply_panel, panel_width};
use super::simd::{Isa, Kernel, Vector};
use super::wide;

/// Tiles per piece: enough for the product to run at full speed, few enough to stay in cache.
const TILES_PER_PIECE: usize = 24;

/// Weights of more bytes than this are processed in the order of [`wide`].
const WIDE: usize = 16 << 20;

/// Outputs per tile side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tile {
    Two,
    Four,
}

impl Tile {
    fn outputs(self) -> usize {
        match self {
            Self::Two => 2,
            Self::Four => 4,
        }
    }
}

/// Column `j`. This is a loop, like all code on vectors: the closures of `array::from_fn` would be
/// compiled without the vector instructions.
#[inline(always)]
fn column<V: Vector, const ROWS: usize, const COLUMNS: usize>(
    rows: &[[V; COLUMNS]; ROWS],
    j: usize,
) -> [V; ROWS] {
    let mut column = [V::splat(0.0); ROWS];
    for (v, row) in column.iter_mut().zip(rows) {
        *v = row[j];
    }
    column
}

/// One dimension of the algorithm: `IN` inputs give `OUT` outputs.
pub(super) trait Filter<const IN: usize, const OUT: usize> {
    fn weights(g: [f64; 3]) -> [f64; IN];
    fn input<V: Vector>(d: [V; IN]) -> [V; IN];
    fn output<V: Vector>(m: [V; IN]) -> [V; OUT];
    /// The transpose of `output`, for gradients.
    fn spread<V: Vector>(y: [V; OUT]) -> [V; IN];
    /// The rotated kernel (g2, g1, g0) needs no transform of its own: its transformed weights are
    /// those of [`weights`](Self::weights) at these indices, times these factors. To rotate a
    /// kernel is to reverse the coefficients of its polynomial, p² g(1/p); so every point's
    /// reciprocal must be a point as well.
    const TURNED: [(usize, f32); IN];

    /// Per tile position, the factors of the kernel's nine weights in the transformed weight.
    fn factors() -> Vec<[f32; 9]> {
        let unit =
            |k: usize| Self::weights(std::array::from_fn(|i| if i == k { 1.0 } else { 0.0 }));
        let parts: [[f64; IN]; 3] = [unit(0), unit(1), unit(2)];
        let factor = |p: usize, k: usize| (parts[k / 3][p / IN] * parts[k % 3][p % IN]) as f32;
        (0..IN * IN).map(|p| std::array::from_fn(|k| factor(p, k))).collect()
    }
}

/// A linear map from `FROM` vectors to `TO`. It is a type because a closure would be compiled
/// without the vector instructions.
pub(super) trait Along<const FROM: usize, const TO: usize> {
    fn apply<V: Vector>(values: [V; FROM]) -> [V; TO];
}

/// [`Filter::input`] of `F`.
pub(super) struct WinogradInput<F, const OUT: usize>(PhantomData<F>);

impl<F: Filter<IN, OUT>, const IN: usize, const OUT: usize> Along<IN, IN>
    for WinogradInput<F, OUT>
{
    #[inline(always)]
    fn apply<V: Vector>(values: [V; IN]) -> [V; IN] {
        F::input(values)
    }
}

/// [`Filter::spread`] of `F`.
pub(super) struct Spread<F>(PhantomData<F>);

impl<F: Filter<IN, OUT>, const IN: usize, const OUT: usize> Along<OUT, IN> for Spread<F> {
    #[inline(always)]
    fn apply<V: Vector>(values: [V; OUT]) -> [V; IN] {
        F::spread(values)
    }
}

/// F(2, 3) at the points 0, ±1, ∞.
pub(super) struct Two;

impl Filter<4, 2> for Two {
    const TURNED: [(usize, f32); 4] = [(3, 1.0), (1, 1.0), (2, 1.0), (0, 1.0)];

    fn weights([g0, g1, g2]: [f64; 3]) -> [f64; 4] {
        [g0, (g0 + g1 + g2) / 2.0, (g0 - g1 + g2) / 2.0, g2]
    }

    #[inline(always)]
    fn input<V: Vector>([d0, d1, d2, d3]: [V; 4]) -> [V; 4] {
        [d0.sub(d2), d1.add(d2), d2.sub(d1), d3.sub(d1)]
    }

    #[inline(always)]
    fn output<V: Vector>([m0, m1, m2, m3]: [V; 4]) -> [V; 2] {
        [m0.add(m1).add(m2), m1.sub(m2).add(m3)]
    }

    #[inline(always)]
    fn spread<V: Vector>([y0, y1]: [V; 2]) -> [V; 4] {
        [y0, y0.add(y1), y0.sub(y1), y1]
    }
}

/// F(4, 3) at the points 0, ±A, ±B, ∞.
pub(super) struct Four;

impl Four {
    const A: f64 = std::f64::consts::FRAC_1_SQRT_2;
    const B: f64 = std::f64::consts::SQRT_2;
}

impl Filter<6, 4> for Four {
    // Because A² = ½ and B² = 2.
    const TURNED: [(usize, f32); 6] =
        [(5, 1.0), (3, -2.0), (4, -2.0), (1, -0.5), (2, -0.5), (0, 1.0)];

    fn weights([g0, g1, g2]: [f64; 3]) -> [f64; 6] {
        let (a, b) = (Self::A, Self::B);
        let at = |p: f64, other: f64| {
            (g0 + p * g1 + p * p * g2) / (2.0 * p * p * (p * p - other * other))
        };
        [g0 / (a * a * b * b), at(a, b), at(-a, b), at(b, a), at(-b, a), g2]
    }

    #[inline(always)]
    fn input<V: Vector>([d0, d1, d2, d3, d4, d5]: [V; 6]) -> [V; 6] {
        const A2: f32 = (Four::A * Four::A) as f32;
        const B2: f32 = (Four::B * Four::B) as f32;
        const PRODUCT: f32 = (Four::A * Four::A * Four::B * Four::B) as f32;
        let (minus_a2, minus_b2, minus_sum) = (V::splat(-A2), V::splat(-B2), V::splat(-(A2 + B2)));
        let (a, minus_a) = (V::splat(Four::A as f32), V::splat(-Four::A as f32));
        let (b, minus_b) = (V::splat(Four::B as f32), V::splat(-Four::B as f32));
        let product = V::splat(PRODUCT);
        let (even_a, odd_a) = (d2.mul_add(minus_b2, d4), d1.mul_add(minus_b2, d3));
        let (even_b, odd_b) = (d2.mul_add(minus_a2, d4), d1.mul_add(minus_a2, d3));
        [
            d0.mul_add(product, d2.mul_add(minus_sum, d4)),
            odd_a.mul_add(a, even_a),
            odd_a.mul_add(minus_a, even_a),
            odd_b.mul_add(b, even_b),
            odd_b.mul_add(minus_b, even_b),
            d1.mul_add(product, d3.mul_add(minus_sum, d5)),
        ]
    }

    #[inline(always)]
    fn output<V: Vector>([m0, m1, m2, m3, m4, m5]: [V; 6]) -> [V; 4] {
        const A: [f32; 3] =
            [Four::A as f32, (Four::A * Four::A) as f32, (Four::A * Four::A * Four::A) as f32];
        const B: [f32; 3] =
            [Four::B as f32, (Four::B * Four::B) as f32, (Four::B * Four::B * Four::B) as f32];
        let (sum_a, difference_a) = (m1.add(m2), m1.sub(m2));
        let (sum_b, difference_b) = (m3.add(m4), m3.sub(m4));
        [
            m0.add(sum_a).add(sum_b),
            difference_b.mul_add(V::splat(B[0]), difference_a.mul(V::splat(A[0]))),
            sum_b.mul_add(V::splat(B[1]), sum_a.mul(V::splat(A[1]))),
            difference_b.mul_add(V::splat(B[2]), difference_a.mul_add(V::splat(A[2]), m5)),
        ]
    }

    #[inline(always)]
    fn spread<V: Vector>([y0, y1, y2, y3]: [V; 4]) -> [V; 6] {
        const A: [f32; 3] =
            [Four::A as f32, (Four::A * Four::A) as f32, (Four::A * Four::A * Four::A) as f32];
        const B: [f32; 3] =
            [Four::B as f32, (Four::B * Four::B) as f32, (Four::B * Four::B * Four::B) as f32];
        let (even_a, odd_a) =
            (y2.mul_add(V::splat(A[1]), y0), y3.mul_add(V::splat(A[2]), y1.mul(V::splat(A[0]))));
        let (even_b, odd_b) =
            (y2.mul_add(V::splat(B[1]), y0), y3.mul_add(V::splat(B[2]), y1.mul(V::splat(B[0]))));
        [y0, even_a.add(odd_a), even_a.sub(odd_a), even_b.add(odd_b), even_b.sub(odd_b), y3]
    }
}

/// A 3×3 convolution of stride 1 with transformed weights.
pub struct Winograd {
    pub(super) isa: Isa,
    pub(super) tile: Tile,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// Rows and columns of zeros before the first.
    pub(super) pad: [usize; 2],
    /// Per tile position, `[inputs, outputs]`. If `turned`, the weights of the forward convolution,
    /// `[outputs, inputs]`.
    pub(super) weights: Arc<Vec<Packed>>,
    pub(super) turned: bool,
}

impl Winograd {
    /// Whether the kernel supports these channels: both counts must be whole vectors.
    pub fn accepts(isa: Isa, inputs: usize, outputs: usize) -> bool {
        isa != Isa::Portable
            && inputs.is_multiple_of(isa.lanes())
            && outputs.is_multiple_of(isa.lanes())
    }

    /// `weight(o, i, y, x)` is the kernel from input channel `i` to output channel `o`.
    ///
    /// # Panics
    /// Unless [`accepts`](Self::accepts).
    pub fn new(
        isa: Isa,
        tile: Tile,
        [inputs, outputs]: [usize; 2],
        pad: [usize; 2],
        weight: impl Fn(usize, usize, usize, usize) -> f32 + Sync,
    ) -> Self {
        assert!(
            Self::accepts(isa, inputs, outputs),
            "{inputs} to {outputs} channels are no whole vectors"
        );
        let weights = match tile {
            Tile::Two => transform_weights::<Two, 4, 2>(isa, [inputs, outputs], weight),
            Tile::Four => transform_weights::<Four, 6, 4>(isa, [inputs, outputs], weight),
        };
        Self { isa, tile, inputs, outputs, pad, weights: Arc::new(weights), turned: false }
    }

    /// As [`new`](Self::new) with zero weights, for weights that [`set`](Self::set) replaces at
    /// every step.
    ///
    /// # Panics
    /// Unless [`accepts`](Self::accepts).
    pub fn blank(isa: Isa, tile: Tile, channels: [usize; 2], pad: [usize; 2]) -> Self {
        Self::new(isa, tile, channels, pad, |_, _, _, _| 0.0)
    }

    /// The tile size.
    pub fn tile(&self) -> Tile {
        self.tile
    }

    /// The backward pass with respect to the input: the convolution with the kernel rotated by
    /// 180°, from the output's channels to the input's, with the opposite padding. It shares the
    /// present weights in memory, and keeps them when [`set`](Self::set) replaces them here.
    ///
    /// A few weights may differ in the last bit from those of a kernel that is rotated before its
    /// transform, because the two already round differently in double precision.
    pub fn turned(&self) -> Self {
        let pad = self.pad.map(|p| 2 - p);
        Self {
            inputs: self.outputs,
            outputs: self.inputs,
            pad,
            weights: self.weights.clone(),
            turned: !self.turned,
            ..*self
        }
    }

    /// Whether the convolution runs panel by panel: its weights do not fit the cache, or are
    /// transposed, which only that order can do.
    pub fn is_wide(&self) -> bool {
        self.turned
            || self
                .weights
                .iter()
                .map(|packed| packed.depth() * packed.columns() * size_of::<f32>())
                .sum::<usize>()
                > WIDE
    }

    /// Replaces the weights by `kernel`, `[3, 3, inputs, outputs]`, and transforms them in single
    /// precision.
    ///
    /// # Panics
    /// When `kernel` has another length, or this is [`turned`](Self::turned).
    pub fn set(&mut self, kernel: &[f32]) {
        assert!(kernel.len() == 9 * self.inputs * self.outputs && !self.turned);
        let factors = match self.tile {
            Tile::Two => <Two as Filter<4, 2>>::factors(),
            Tile::Four => <Four as Filter<6, 4>>::factors(),
        };
        let (isa, columns) = (self.isa, self.outputs);
        let work = Arc::make_mut(&mut self.weights).par_iter_mut().zip(factors);
        work.for_each(|(packed, factors)| isa.run(Transform { packed, kernel, columns, factors }));
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
        let side = self.tile.outputs();
        let rows_per_image = to.h.div_ceil(side);
        let tiles_per_row = to.w.div_ceil(side);
        let tile_rows = rows_per_image * to.n;
        let per_piece = TILES_PER_PIECE.div_ceil(tiles_per_row.max(1));
        // The first image row of a tile row, counted over all images.
        let image_row = |row: usize| row / rows_per_image * to.h + row % rows_per_image * side;
        let starts: Vec<usize> = (0..tile_rows).step_by(per_piece).collect();
        let ends = starts.iter().skip(1).copied().chain([tile_rows]);
        let lengths = starts
            .iter()
            .zip(ends)
            .map(|(&first, last)| (image_row(last) - image_row(first)) * to.w);
        let pieces = cut(lengths, self.outputs, y, beside);
        let place = |row: usize, column: usize| Place {
            n: row / rows_per_image,
            y: row % rows_per_image * side,
            x: column * side,
        };
        let places = |first: usize| -> Vec<Place> {
            let rows = first..(first + per_piece).min(tile_rows);
            rows.flat_map(|row| (0..tiles_per_row).map(move |column| place(row, column))).collect()
        };
        if self.is_wide() {
            let places: Vec<_> = starts.into_iter().map(places).collect();
            return wide::run(self, (x, from), to, (pieces, &places), epilogue);
        }
        starts.into_par_iter().zip(pieces).for_each(|(first, piece)| {
            self.run_piece((x, from), to, &places(first), piece, epilogue);
        });
    }

    fn run_piece(
        &self,
        (x, from): (&[f32], Extent),
        to: Extent,
        places: &[Place],
        piece: Piece,
        epilogue: &Epilogue,
    ) {
        let made = WinogradOutput {
            y: &mut *piece.rows,
            to,
            first_pixel: piece.first_pixel,
            channels: self.outputs,
        };
        let work = WinogradWork { conv: self, x, from, made, places };
        with_scratch(|scratch| self.isa.run(Scratched { work, scratch }));
        epilogue(piece);
    }
}

fn transform_weights<F: Filter<IN, OUT>, const IN: usize, const OUT: usize>(
    isa: Isa,
    [inputs, outputs]: [usize; 2],
    weight: impl Fn(usize, usize, usize, usize) -> f32 + Sync,
) -> Vec<Packed> {
    // One row of inputs at a time: its [position][output] values stay in cache while they are
    // written to their positions.
    let mut transformed = vec![0.0f32; inputs * IN * IN * outputs];
    transformed.par_chunks_exact_mut(IN * IN * outputs).enumerate().for_each(|(i, row)| {
        for o in 0..outputs {
            let rows: [[f64; IN]; 3] = std::array::from_fn(|y| {
                F::weights(std::array::from_fn(|x| f64::from(weight(o, i, y, x))))
            });
            for x in 0..IN {
                for (y, v) in F::weights(rows.map(|row| row[x])).into_iter().enumerate() {
                    row[(y * IN + x) * outputs + o] = v as f32;
                }
            }
        }
    });
    let at = |p: usize, i: usize, o: usize| transformed[(i * IN * IN + p) * outputs + o];
    (0..IN * IN)
        .into_par_iter()
        .map(|p| Packed::new(isa, inputs, outputs, |i, o| at(p, i, o)))
        .collect()
}

/// Computes the transformed weights of one tile position from a kernel `[3, 3, depth, columns]`.
struct Transform<'a> {
    packed: &'a mut Packed,
    kernel: &'a [f32],
    columns: usize,
    factors: [f32; 9],
}

impl Kernel for Transform<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let tap = self.packed.depth() * self.columns;
        for (first, width, panel) in self.packed.panels_mut() {
            for (i, row) in panel.chunks_exact_mut(width).enumerate() {
                for (j, to) in row.chunks_exact_mut(V::COUNT).enumerate() {
                    let at = i * self.columns + first + j * V::COUNT;
                    let mut sum = V::splat(0.0);
                    for (k, factor) in self.factors.into_iter().enumerate() {
                        sum = V::read(&self.kernel[k * tap + at..]).mul_add(V::splat(factor), sum);
                    }
                    sum.write(to);
                }
            }
        }
    }
}

/// A tile's first output pixel.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub n: usize,
    pub y: usize,
    pub x: usize,
}

/// The work on one piece.
struct WinogradWork<'a> {
    conv: &'a Winograd,
    x: &'a [f32],
    from: Extent,
    made: WinogradOutput<'a>,
    places: &'a [Place],
}

struct Scratched<'a> {
    work: WinogradWork<'a>,
    scratch: &'a mut Aligned,
}

impl Kernel for Scratched<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self) {
        match self.work.conv.tile {
            Tile::Two => self.work.filter::<V, Two, 4, 2>(self.scratch),
            Tile::Four => self.work.filter::<V, Four, 6, 4>(self.scratch),
        }
    }
}

impl WinogradWork<'_> {
    #[inline(always)]
    fn filter<V: Vector, F: Filter<IN, OUT>, const IN: usize, const OUT: usize>(
        &mut self,
        scratch: &mut Aligned,
    ) {
        let conv = self.conv;
        let tiles = self.places.len();
        let width = panel_width(V::COUNT).min(conv.outputs);
        let (from_plane, to_plane) = (plane(tiles * conv.inputs), plane(tiles * width));
        let scratch = scratch.grow(IN * IN * (from_plane + to_plane) + conv.inputs);
        let (transformed, rest) = scratch.split_at_mut(IN * IN * from_plane);
        let (products, zeros) = rest.split_at_mut(IN * IN * to_plane);
        let zeros = &mut zeros[..conv.inputs];
        zeros.fill(0.0);
        for (t, place) in self.places.iter().enumerate() {
            let tile = Tiled {
                x: self.x,
                extent: self.from,
                channels: conv.inputs,
                place: *place,
                pad: conv.pad,
            };
            tile.transform::<V, WinogradInput<F, OUT>, IN, IN>(
                &mut transformed[t * conv.inputs..],
                from_plane,
                zeros,
            );
        }
        for first in (0..conv.outputs).step_by(width) {
            let width = width.min(conv.outputs - first);
            for (p, weights) in conv.weights.iter().enumerate() {
                let a = &transformed[p * from_plane..][..tiles * conv.inputs];
                let c = &mut products[p * to_plane..][..tiles * width];
                multiply_panel::<V>(a, conv.inputs, tiles, weights.panel(first), c, width);
            }
            for (t, place) in self.places.iter().enumerate() {
                self.made.transform::<V, F, IN, OUT>(
                    *place,
                    &products[t * width..],
                    to_plane,
                    first..first + width,
                );
            }
        }
    }
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
