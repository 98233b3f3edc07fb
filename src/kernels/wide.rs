//! Winograd's algorithm for transformed weights larger than a second-level cache: each weight is
//! read once for many tiles.
//!
//! First the tiles of several pieces are transformed. Then every panel of output channels is
//! multiplied with all of them, panels in parallel. Last, the panels' outputs are copied together,
//! piece by piece. The result equals that of [`Winograd::run`] bit by bit.
//!
//! As a panel serves many tiles, it may be transposed in passing. So the backward pass needs no
//! weights of its own: it transposes those of the forward pass.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::aligned::Aligned;
use super::conv::{Epilogue, Extent, Piece, with_scratch};
use super::filter::{Filter, Four, Two, WinogradInput};
use super::gemm::{Panel, multiply_panel};
use super::simd::{Kernel, Vector};
use super::tiles::{Place, Tiled, WinogradOutput, plane};
use super::winograd::{STRIP, Tile, WantedStages, Winograd, WinogradStage};

/// Pieces whose tiles are multiplied with one panel while the panel is in cache.
const PIECES: usize = 10;

/// Buffers of earlier calls for reuse: transformed tiles, and outputs panel by panel. There are as
/// many as calls ever ran at once.
static BUFFERS: Mutex<Vec<[Aligned; 2]>> = Mutex::new(Vec::new());

/// Convolves `x` into the `pieces`, each with the places of its tiles, and runs `epilogue` on every
/// piece.
pub(super) fn run(
    conv: &Winograd,
    stages: WantedStages,
    x: (&[f32], Extent),
    to: Extent,
    pieces: (Vec<Piece>, &[Vec<Place>]),
    epilogue: &Epilogue,
) {
    let free = || BUFFERS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut buffers = free().pop().unwrap_or_default();
    match conv.tile {
        Tile::Two => by_panels::<Two, 4, 2>(conv, stages, x, to, pieces, epilogue, &mut buffers),
        Tile::Four => by_panels::<Four, 6, 4>(conv, stages, x, to, pieces, epilogue, &mut buffers),
    }
    free().push(buffers);
}

fn by_panels<F: Filter<IN, OUT>, const IN: usize, const OUT: usize>(
    conv: &Winograd,
    stages: WantedStages,
    (x, from): (&[f32], Extent),
    to: Extent,
    (pieces, places): (Vec<Piece>, &[Vec<Place>]),
    epilogue: &Epilogue,
    [transformed, columns]: &mut [Aligned; 2],
) {
    let most = places.iter().map(Vec::len).max().unwrap_or(0);
    let (plane, width) = (plane(most * conv.inputs), STRIP.min(conv.outputs));
    let stride = IN * IN * plane;
    let mut pieces = pieces.into_iter();
    for places in places.chunks(PIECES) {
        let group: Vec<Piece> = pieces.by_ref().take(places.len()).collect();
        let Some(first) = group.first() else { return };
        let (first_pixel, values) =
            (first.first_pixel, group.iter().map(|piece| piece.rows.len()).sum::<usize>());
        let pixels = values / conv.outputs;
        let transformed = &mut transformed.grow(places.len() * stride)[..places.len() * stride];
        if stages.has(WinogradStage::Input) {
            transformed.par_chunks_exact_mut(stride).zip(places).for_each(|(to, places)| {
                conv.isa.run(Transforms::<F, IN, OUT> {
                    conv,
                    x,
                    from,
                    places,
                    to,
                    plane,
                    filter: PhantomData,
                });
            });
        }
        let transformed = Transformed { values: transformed, stride, plane, places };
        let columns = &mut columns.grow(values)[..values];
        columns.par_chunks_mut(pixels * width).enumerate().for_each(|(strip, y)| {
            let made = WinogradOutput { channels: y.len() / pixels, y, to, first_pixel };
            let work = TileColumns::<F, IN, OUT> {
                conv,
                stages,
                first: strip * width,
                transformed,
                made,
                filter: PhantomData,
            };
            with_scratch(|scratch| conv.isa.run(WideScratched { work, scratch }));
        });
        if !stages.has(WinogradStage::Output) {
            continue;
        }
        let columns = &*columns;
        group.into_par_iter().for_each(|piece| {
            for (pixel, row) in
                (piece.first_pixel - first_pixel..).zip(piece.rows.chunks_exact_mut(conv.outputs))
            {
                for (strip, part) in row.chunks_mut(width).enumerate() {
                    part.copy_from_slice(
                        &columns[strip * width * pixels + pixel * part.len()..][..part.len()],
                    );
                }
            }
            epilogue(piece);
        });
    }
}

/// Transforms the tiles of one piece.
struct Transforms<'a, F, const IN: usize, const OUT: usize> {
    conv: &'a Winograd,
    x: &'a [f32],
    from: Extent,
    places: &'a [Place],
    /// Position p of the tiles is written to `to[p · plane..]`, `[tiles, inputs]`.
    to: &'a mut [f32],
    plane: usize,
    filter: PhantomData<F>,
}

impl<F: Filter<IN, OUT>, const IN: usize, const OUT: usize> Kernel for Transforms<'_, F, IN, OUT> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let conv = self.conv;
        let zeros = vec![0.0; conv.inputs];
        for (t, &place) in self.places.iter().enumerate() {
            let tile =
                Tiled { x: self.x, extent: self.from, channels: conv.inputs, place, pad: conv.pad };
            tile.transform::<V, WinogradInput<F, OUT>, IN, IN>(
                &mut self.to[t * conv.inputs..],
                self.plane,
                &zeros,
            );
        }
    }
}

/// The results of [`Transforms`] for a group of pieces, `stride` values apart.
#[derive(Clone, Copy)]
struct Transformed<'a> {
    values: &'a [f32],
    stride: usize,
    plane: usize,
    places: &'a [Vec<Place>],
}

/// The work on one strip of output channels.
struct TileColumns<'a, F, const IN: usize, const OUT: usize> {
    conv: &'a Winograd,
    stages: WantedStages,
    /// The strip's first channel.
    first: usize,
    transformed: Transformed<'a>,
    made: WinogradOutput<'a>,
    filter: PhantomData<F>,
}

struct WideScratched<'a, F, const IN: usize, const OUT: usize> {
    work: TileColumns<'a, F, IN, OUT>,
    scratch: &'a mut Aligned,
}

impl<F: Filter<IN, OUT>, const IN: usize, const OUT: usize> Kernel
    for WideScratched<'_, F, IN, OUT>
{
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { work, scratch } = self;
        let TileColumns { conv, stages, first, transformed, mut made, .. } = work;
        let width = made.channels;
        let tiles: usize = transformed.places.iter().map(Vec::len).sum();
        let plane = plane(tiles * width);
        let (products, rest) =
            scratch.grow(IN * IN * plane + conv.inputs * width).split_at_mut(IN * IN * plane);
        let turned = &mut rest[..conv.inputs * width];
        let positions = if stages.has(WinogradStage::Products) { IN * IN } else { 0 };
        for position in 0..positions {
            if conv.turned {
                turn::<V, F, IN, OUT>(conv, position, first..first + width, turned);
            }
            for at in (0..width).step_by(V::PANEL * V::COUNT) {
                let panel = match conv.turned {
                    true => Panel::of(turned, conv.inputs, at, V::PANEL * V::COUNT),
                    false => conv.weights[position].panel(first + at),
                };
                let mut to = position * plane + at;
                for (piece, places) in
                    transformed.values.chunks_exact(transformed.stride).zip(transformed.places)
                {
                    let a = &piece[position * transformed.plane..];
                    let c = &mut products[to..];
                    multiply_panel::<V>(a, conv.inputs, places.len(), panel, c, width);
                    to += places.len() * width;
                }
            }
        }
        if !stages.has(WinogradStage::Output) {
            return;
        }
        for (t, &place) in transformed.places.iter().flatten().enumerate() {
            made.transform::<V, F, IN, OUT>(place, &products[t * width..], plane, 0..width);
        }
    }
}

/// Transposes the weights of one tile position for a strip of output channels.
#[inline(always)]
fn turn<V: Vector, F: Filter<IN, OUT>, const IN: usize, const OUT: usize>(
    conv: &Winograd,
    position: usize,
    strip: Range<usize>,
    turned: &mut [f32],
) {
    let ((y, factor_y), (x, factor_x)) = (F::TURNED[position / IN], F::TURNED[position % IN]);
    conv.weights[y * IN + x].transpose::<V>(strip, factor_y * factor_x, turned);
}
