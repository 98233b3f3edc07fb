//! 3×3 convolution of stride 1 with fewer multiplications: Winograd's minimal filtering (Lavin and
//! Gray, arXiv 1509.09308) on tiles of 2×2 or 4×4 outputs.
//!
//! Weights are transformed once. A run cuts the output into pieces of whole tile rows. A piece's
//! tiles are transformed, multiplied (one matrix product per tile position) and transformed back
//! while they are in cache; then the caller's epilogue runs. Weights too large for the cache are
//! processed in the order of the module `wide`.

use std::sync::Arc;

use rayon::prelude::*;

use super::aligned::Aligned;
use super::conv::{Epilogue, Extent, Piece, cut, with_scratch};
use super::filter::{Filter, Four, Two, WinogradInput};
use super::gemm::{Packed, multiply_columns};
use super::simd::{Isa, Kernel, Vector};
use super::tiles::{Place, Tiled, WinogradOutput, plane};
use super::wide;

/// Tiles per piece: enough for the product to run at full speed, few enough to stay in cache.
const TILES_PER_PIECE: usize = 24;

/// Output channels whose products are transformed together: whole panels of every instruction set.
pub(super) const STRIP: usize = 64;

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

/// A stage of the algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WinogradStage {
    /// The transform of the input's tiles.
    Input,
    /// The matrix products, one per tile position.
    Products,
    /// The transform of the products to the output.
    Output,
}

/// The stages that a run computes: all, or one alone.
#[derive(Clone, Copy)]
pub(super) struct WantedStages(Option<WinogradStage>);

impl WantedStages {
    const ALL: Self = Self(None);

    pub fn has(self, stage: WinogradStage) -> bool {
        self.0.is_none_or(|only| only == stage)
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
        x: (&[f32], Extent),
        y: (&mut [f32], Extent),
        beside: Option<&mut [f32]>,
        epilogue: &Epilogue,
    ) {
        self.run_stages(WantedStages::ALL, x, y, beside, epilogue);
    }

    /// Runs one stage alone, for profiles: what it reads of an earlier stage is arbitrary, and so
    /// is the result.
    ///
    /// # Panics
    /// As [`run`](Self::run).
    pub fn profile(&self, stage: WinogradStage, x: (&[f32], Extent), y: (&mut [f32], Extent)) {
        self.run_stages(WantedStages(Some(stage)), x, y, None, &|_| {});
    }

    fn run_stages(
        &self,
        stages: WantedStages,
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
            return wide::run(self, stages, (x, from), to, (pieces, &places), epilogue);
        }
        starts.into_par_iter().zip(pieces).for_each(|(first, piece)| {
            self.run_piece(stages, (x, from), to, &places(first), piece, epilogue);
        });
    }

    fn run_piece(
        &self,
        stages: WantedStages,
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
        let work = WinogradWork { conv: self, stages, x, from, made, places };
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

/// The work on one piece.
struct WinogradWork<'a> {
    conv: &'a Winograd,
    stages: WantedStages,
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
        let width = STRIP.min(conv.outputs);
        let (from_plane, to_plane) = (plane(tiles * conv.inputs), plane(tiles * width));
        let scratch = scratch.grow(IN * IN * (from_plane + to_plane) + conv.inputs);
        let (transformed, rest) = scratch.split_at_mut(IN * IN * from_plane);
        let (products, zeros) = rest.split_at_mut(IN * IN * to_plane);
        let zeros = &mut zeros[..conv.inputs];
        zeros.fill(0.0);
        if self.stages.has(WinogradStage::Input) {
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
        }
        for first in (0..conv.outputs).step_by(width) {
            let width = width.min(conv.outputs - first);
            if self.stages.has(WinogradStage::Products) {
                for (p, weights) in conv.weights.iter().enumerate() {
                    let a = &transformed[p * from_plane..][..tiles * conv.inputs];
                    let c = &mut products[p * to_plane..][..tiles * width];
                    let columns = (weights, first..first + width);
                    multiply_columns::<V>(a, conv.inputs, tiles, columns, c, width);
                }
            }
            if self.stages.has(WinogradStage::Output) {
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
}
