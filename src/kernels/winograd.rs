//! 3×3 convolution of stride 1 with fewer multiplications: Winograd's minimal filtering (Lavin and Gray, arXiv 1509.09308) on tiles of 2×2 or 4×4
//! outputs.
//!
//! Weights are transformed once. A run cuts the output into pieces of whole tile rows; a piece's tiles are transformed, multiplied (one matrix
//! product per tile position) and transformed back while they are in cache, then handed to the caller's epilogue.

use rayon::prelude::*;

use super::aligned::Aligned;
use super::conv::{Epilogue, Extent, cut, with_scratch};
use super::gemm::{Packed, multiply_panel, panel_width};
use super::lanes::{Isa, Kernel, Lanes};

/// Tiles that are multiplied at once: enough for the product to run at full speed, few enough to stay in cache.
const TILES_PER_PIECE: usize = 24;

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

/// Column `j`. A loop, as everywhere between vectors: the closures of `array::from_fn` would be compiled without the vector instructions.
#[inline(always)]
fn column<V: Lanes, const ROWS: usize, const COLUMNS: usize>(rows: &[[V; COLUMNS]; ROWS], j: usize) -> [V; ROWS] {
    let mut column = [V::splat(0.0); ROWS];
    for (v, row) in column.iter_mut().zip(rows) {
        *v = row[j];
    }
    column
}

/// One dimension of the algorithm: `IN` inputs make `OUT` outputs.
trait Filter<const IN: usize, const OUT: usize> {
    fn weights(g: [f64; 3]) -> [f64; IN];
    fn input<V: Lanes>(d: [V; IN]) -> [V; IN];
    fn output<V: Lanes>(m: [V; IN]) -> [V; OUT];
}

/// F(2, 3) at the points 0, ±1, ∞.
struct Two;

impl Filter<4, 2> for Two {
    fn weights([g0, g1, g2]: [f64; 3]) -> [f64; 4] {
        [g0, (g0 + g1 + g2) / 2.0, (g0 - g1 + g2) / 2.0, g2]
    }

    #[inline(always)]
    fn input<V: Lanes>([d0, d1, d2, d3]: [V; 4]) -> [V; 4] {
        [d0.sub(d2), d1.add(d2), d2.sub(d1), d3.sub(d1)]
    }

    #[inline(always)]
    fn output<V: Lanes>([m0, m1, m2, m3]: [V; 4]) -> [V; 2] {
        [m0.add(m1).add(m2), m1.sub(m2).add(m3)]
    }
}

/// F(4, 3) at the points 0, ±A, ±B, ∞.
struct Four;

impl Four {
    const A: f64 = std::f64::consts::FRAC_1_SQRT_2;
    const B: f64 = std::f64::consts::SQRT_2;
}

impl Filter<6, 4> for Four {
    fn weights([g0, g1, g2]: [f64; 3]) -> [f64; 6] {
        let (a, b) = (Self::A, Self::B);
        let at = |p: f64, other: f64| (g0 + p * g1 + p * p * g2) / (2.0 * p * p * (p * p - other * other));
        [g0 / (a * a * b * b), at(a, b), at(-a, b), at(b, a), at(-b, a), g2]
    }

    #[inline(always)]
    fn input<V: Lanes>([d0, d1, d2, d3, d4, d5]: [V; 6]) -> [V; 6] {
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
    fn output<V: Lanes>([m0, m1, m2, m3, m4, m5]: [V; 6]) -> [V; 4] {
        const A: [f32; 3] = [Four::A as f32, (Four::A * Four::A) as f32, (Four::A * Four::A * Four::A) as f32];
        const B: [f32; 3] = [Four::B as f32, (Four::B * Four::B) as f32, (Four::B * Four::B * Four::B) as f32];
        let (sum_a, difference_a) = (m1.add(m2), m1.sub(m2));
        let (sum_b, difference_b) = (m3.add(m4), m3.sub(m4));
        [
            m0.add(sum_a).add(sum_b),
            difference_b.mul_add(V::splat(B[0]), difference_a.mul(V::splat(A[0]))),
            sum_b.mul_add(V::splat(B[1]), sum_a.mul(V::splat(A[1]))),
            difference_b.mul_add(V::splat(B[2]), difference_a.mul_add(V::splat(A[2]), m5)),
        ]
    }
}

/// A 3×3 convolution of stride 1 with its weights transformed.
pub struct Winograd {
    isa: Isa,
    tile: Tile,
    inputs: usize,
    outputs: usize,
    /// Zeros before the first row and column.
    pad: [usize; 2],
    /// Per position in the tile, `[inputs, outputs]`.
    weights: Vec<Packed>,
}

impl Winograd {
    /// Whether this many channels can be convolved: whole vectors of both.
    pub fn accepts(isa: Isa, inputs: usize, outputs: usize) -> bool {
        isa != Isa::Portable && inputs.is_multiple_of(isa.lanes()) && outputs.is_multiple_of(isa.lanes())
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
        assert!(Self::accepts(isa, inputs, outputs), "{inputs} to {outputs} channels are no whole vectors");
        let weights = match tile {
            Tile::Two => transform_weights::<Two, 4, 2>(isa, [inputs, outputs], weight),
            Tile::Four => transform_weights::<Four, 6, 4>(isa, [inputs, outputs], weight),
        };
        Self { isa, tile, inputs, outputs, pad, weights }
    }

    /// Convolves `x` into `y`, whose extents are `from` and `to`, and runs `epilogue` on every finished piece of `y` and what lies beside it.
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
        assert!(x.len() == from.pixels() * self.inputs && y.len() == to.pixels() * self.outputs && from.n == to.n);
        let side = self.tile.outputs();
        let rows_per_image = to.h.div_ceil(side);
        let tiles_per_row = to.w.div_ceil(side);
        let tile_rows = rows_per_image * to.n;
        let per_piece = TILES_PER_PIECE.div_ceil(tiles_per_row.max(1));
        // The first image row, counted through all images, of a tile row.
        let image_row = |row: usize| row / rows_per_image * to.h + row % rows_per_image * side;
        let starts: Vec<usize> = (0..tile_rows).step_by(per_piece).collect();
        let ends = starts[1..].iter().copied().chain([tile_rows]);
        let lengths = starts.iter().zip(ends).map(|(&first, last)| (image_row(last) - image_row(first)) * to.w);
        let pieces = cut(lengths, self.outputs, y, beside);
        starts.into_par_iter().zip(pieces).for_each(|(first, piece)| {
            let places: Vec<Place> = (first..(first + per_piece).min(tile_rows))
                .flat_map(|row| (0..tiles_per_row).map(move |column| (row, column)))
                .map(|(row, column)| Place {
                    n: row / rows_per_image,
                    y: row % rows_per_image * side,
                    x: column * side,
                })
                .collect();
            let work =
                Work { conv: self, x, from, y: &mut *piece.rows, to, first_pixel: piece.first_pixel, places: &places };
            with_scratch(|scratch| self.isa.run(Scratched { work, scratch }));
            epilogue(piece);
        });
    }
}

fn transform_weights<F: Filter<IN, OUT>, const IN: usize, const OUT: usize>(
    isa: Isa,
    [inputs, outputs]: [usize; 2],
    weight: impl Fn(usize, usize, usize, usize) -> f32 + Sync,
) -> Vec<Packed> {
    // Row by row of inputs: [position][output] of one row stays in cache while the positions are told apart.
    let mut transformed = vec![0.0f32; inputs * IN * IN * outputs];
    transformed.par_chunks_exact_mut(IN * IN * outputs).enumerate().for_each(|(i, row)| {
        for o in 0..outputs {
            let rows: [[f64; IN]; 3] =
                std::array::from_fn(|y| F::weights(std::array::from_fn(|x| f64::from(weight(o, i, y, x)))));
            for x in 0..IN {
                for (y, v) in F::weights(rows.map(|row| row[x])).into_iter().enumerate() {
                    row[(y * IN + x) * outputs + o] = v as f32;
                }
            }
        }
    });
    let at = |p: usize, i: usize, o: usize| transformed[(i * IN * IN + p) * outputs + o];
    (0..IN * IN).into_par_iter().map(|p| Packed::new(isa, inputs, outputs, |i, o| at(p, i, o))).collect()
}

/// A tile's first output pixel.
#[derive(Clone, Copy)]
struct Place {
    n: usize,
    y: usize,
    x: usize,
}

/// One piece.
struct Work<'a> {
    conv: &'a Winograd,
    x: &'a [f32],
    from: Extent,
    /// The piece's own pixels, from `first_pixel` on.
    y: &'a mut [f32],
    to: Extent,
    first_pixel: usize,
    places: &'a [Place],
}

struct Scratched<'a> {
    work: Work<'a>,
    scratch: &'a mut Aligned,
}

impl Kernel for Scratched<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(mut self) {
        match self.work.conv.tile {
            Tile::Two => self.work.filter::<V, Two, 4, 2>(self.scratch),
            Tile::Four => self.work.filter::<V, Four, 6, 4>(self.scratch),
        }
    }
}

impl Work<'_> {
    #[inline(always)]
    fn filter<V: Lanes, F: Filter<IN, OUT>, const IN: usize, const OUT: usize>(&mut self, scratch: &mut Aligned) {
        let conv = self.conv;
        let tiles = self.places.len();
        // An odd number of cache lines between positions keeps them from falling into the same cache sets.
        let plane = |values: usize| (values.div_ceil(16) | 1) * 16;
        let width = panel_width(V::COUNT).min(conv.outputs);
        let (from_plane, to_plane) = (plane(tiles * conv.inputs), plane(tiles * width));
        let scratch = scratch.grow(IN * IN * (from_plane + to_plane) + conv.inputs);
        let (transformed, rest) = scratch.split_at_mut(IN * IN * from_plane);
        let (products, zeros) = rest.split_at_mut(IN * IN * to_plane);
        let zeros = &mut zeros[..conv.inputs];
        zeros.fill(0.0);
        for (t, place) in self.places.iter().enumerate() {
            self.transform_input::<V, F, IN, OUT>(*place, &mut transformed[t * conv.inputs..], from_plane, zeros);
        }
        for first in (0..conv.outputs).step_by(width) {
            let width = width.min(conv.outputs - first);
            for (p, weights) in conv.weights.iter().enumerate() {
                let a = &transformed[p * from_plane..][..tiles * conv.inputs];
                let c = &mut products[p * to_plane..][..tiles * width];
                multiply_panel::<V>(a, conv.inputs, tiles, weights, first, c, width);
            }
            for (t, place) in self.places.iter().enumerate() {
                self.transform_output::<V, F, IN, OUT>(*place, &products[t * width..], to_plane, first..first + width);
            }
        }
    }

    /// Bᵀ d B of one tile, all channels; position p goes to `to[p · plane..]`.
    #[inline(always)]
    fn transform_input<V: Lanes, F: Filter<IN, OUT>, const IN: usize, const OUT: usize>(
        &self,
        place: Place,
        to: &mut [f32],
        plane: usize,
        zeros: &[f32],
    ) {
        let channels = self.conv.inputs;
        let pixel = |i: usize, j: usize| -> &[f32] {
            let (y, x) = ((place.y + i).wrapping_sub(self.conv.pad[0]), (place.x + j).wrapping_sub(self.conv.pad[1]));
            if y < self.from.h && x < self.from.w {
                &self.x[((place.n * self.from.h + y) * self.from.w + x) * channels..][..channels]
            } else {
                zeros
            }
        };
        let mut pixels = [[zeros; IN]; IN];
        for (i, row) in pixels.iter_mut().enumerate() {
            for (j, at) in row.iter_mut().enumerate() {
                *at = pixel(i, j);
            }
        }
        assert!(to.len() >= (IN * IN - 1) * plane + channels && channels.is_multiple_of(V::COUNT));
        for c in (0..channels).step_by(V::COUNT) {
            let mut rows = [[V::splat(0.0); IN]; IN];
            for (row, pixels) in rows.iter_mut().zip(&pixels) {
                for (v, pixel) in row.iter_mut().zip(pixels) {
                    // SAFETY: every pixel has `channels` values, of which V::COUNT begin at c.
                    *v = unsafe { V::load(pixel.as_ptr().add(c)) };
                }
                *row = F::input(*row);
            }
            for j in 0..IN {
                let column = F::input(column(&rows, j));
                for (i, v) in column.into_iter().enumerate() {
                    // SAFETY: by the assertion above, the last position has `channels` values too.
                    unsafe { v.store(to.as_mut_ptr().add((i * IN + j) * plane + c)) }
                }
            }
        }
    }

    /// Aᵀ m A of one tile into the output's channels `range`; position p comes from `from[p · plane..]`.
    #[inline(always)]
    fn transform_output<V: Lanes, F: Filter<IN, OUT>, const IN: usize, const OUT: usize>(
        &mut self,
        place: Place,
        from: &[f32],
        plane: usize,
        range: std::ops::Range<usize>,
    ) {
        let channels = self.conv.outputs;
        assert!(from.len() >= (IN * IN - 1) * plane + range.len() && range.end <= channels);
        let (height, width) = (OUT.min(self.to.h - place.y), OUT.min(self.to.w - place.x));
        for (at, c) in range.step_by(V::COUNT).enumerate() {
            let mut rows = [[V::splat(0.0); OUT]; IN];
            for (i, row) in rows.iter_mut().enumerate() {
                let mut products = [V::splat(0.0); IN];
                for (j, v) in products.iter_mut().enumerate() {
                    // SAFETY: by the assertion above, the last position has a value for every channel of the range too.
                    *v = unsafe { V::load(from.as_ptr().add((i * IN + j) * plane + at * V::COUNT)) };
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
