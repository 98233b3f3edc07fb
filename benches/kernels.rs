//! Each kernel on its own, at the sizes of a small teacher and the ConvNet-3 student:
//! `cargo bench --bench kernels`.
//!
//! An item is one multiplication of the direct algorithm (in the passes: one value), so that the
//! rates of different algorithms can be compared.

use std::sync::Mutex;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use scdd::kernels::conv::{Extent, Geometry};
use scdd::kernels::direct::Direct;
use scdd::kernels::pass::{Backward, FusedActivation, GradientInput, GradientSums, Moments, Pass};
use scdd::kernels::winograd::{Tile, Winograd};
use scdd::kernels::{Aligned, Isa, pool};

fn main() {
    divan::main();
}

const RELU: FusedActivation = FusedActivation::Clamp { low: 0.0, high: f32::INFINITY };

/// Side of the square images and channels (from, to) of a 3×3 convolution, batch 50.
const SHAPES: [(usize, [usize; 2]); 3] = [(28, [1, 128]), (14, [128, 128]), (7, [128, 128])];
/// The shapes that Winograd's algorithm accepts.
const TILED: [(usize, [usize; 2]); 2] = [SHAPES[1], SHAPES[2]];

fn images(side: usize) -> Extent {
    Extent { n: 50, h: side, w: side }
}

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i % 97) as f32 / 97.0 - 0.4).collect()
}

fn multiplications((side, [from, to]): (usize, [usize; 2])) -> ItemsCount {
    ItemsCount::new(images(side).pixels() * 9 * from * to)
}

fn geometry() -> Geometry {
    Geometry { kernel: [3, 3], stride: [1, 1], dilation: [1, 1], pad: [1, 1] }
}

#[divan::bench(args = SHAPES)]
fn direct_forward(bencher: Bencher, shape: (usize, [usize; 2])) {
    let (extent, channels) = (images(shape.0), shape.1);
    let conv = Direct::forward(Isa::best(), channels, geometry(), |_, _, _, _| 0.1);
    let (x, mut y) = (values(extent.pixels() * channels[0]), values(extent.pixels() * channels[1]));
    bencher
        .counter(multiplications(shape))
        .bench_local(|| conv.run((&x, extent), (&mut y, extent), None, &|_| {}));
}

#[divan::bench(args = SHAPES)]
fn direct_weight_gradient(bencher: Bencher, shape: (usize, [usize; 2])) {
    let (extent, channels) = (images(shape.0), shape.1);
    let conv = Direct::forward(Isa::best(), channels, geometry(), |_, _, _, _| 0.1);
    let (x, dy) = (values(extent.pixels() * channels[0]), values(extent.pixels() * channels[1]));
    let (mut scratch, mut gradient) = (Aligned::zeros(0), values(9 * channels[0] * channels[1]));
    bencher.counter(multiplications(shape)).bench_local(|| {
        conv.weight_gradient((&x, extent), (&dy, extent), &mut scratch, &mut gradient)
    });
}

#[divan::bench(args = TILED)]
fn winograd_forward(bencher: Bencher, shape: (usize, [usize; 2])) {
    let (extent, channels) = (images(shape.0), shape.1);
    if !Winograd::accepts(Isa::best(), channels[0], channels[1]) {
        return;
    }
    let conv = Winograd::new(Isa::best(), Tile::Four, channels, [1, 1], |_, _, _, _| 0.1);
    let (x, mut y) = (values(extent.pixels() * channels[0]), values(extent.pixels() * channels[1]));
    bencher
        .counter(multiplications(shape))
        .bench_local(|| conv.run((&x, extent), (&mut y, extent), None, &|_| {}));
}

#[divan::bench(args = TILED)]
fn winograd_weight_gradient(bencher: Bencher, shape: (usize, [usize; 2])) {
    let (extent, channels) = (images(shape.0), shape.1);
    if !Winograd::accepts(Isa::best(), channels[0], channels[1]) {
        return;
    }
    let conv = Winograd::blank(Isa::best(), Tile::Four, channels, [1, 1]);
    let (x, dy) = (values(extent.pixels() * channels[0]), values(extent.pixels() * channels[1]));
    let (mut scratch, mut gradient) = (Aligned::zeros(0), values(9 * channels[0] * channels[1]));
    bencher.counter(multiplications(shape)).bench_local(|| {
        conv.weight_gradient((&x, extent), (&dy, extent), &mut scratch, &mut gradient)
    });
}

#[divan::bench]
fn winograd_set_weights(bencher: Bencher) {
    if !Winograd::accepts(Isa::best(), 128, 128) {
        return;
    }
    let mut conv = Winograd::blank(Isa::best(), Tile::Four, [128, 128], [1, 1]);
    let kernel = values(9 * 128 * 128);
    bencher.bench_local(|| conv.set(&kernel));
}

/// 28×28 pixels of 128 channels: one image, the unit that the steps process.
const IMAGE: usize = 28 * 28 * 128;

#[divan::bench]
fn moments(bencher: Bencher) {
    let x = values(IMAGE);
    bencher
        .counter(ItemsCount::new(IMAGE))
        .bench_local(|| Moments::of(Isa::best(), black_box(&x), 128));
}

fn pass<'a>(scale: &'a [f32], shift: &'a [f32]) -> Pass<'a> {
    Pass { scale, shift, activation: RELU }
}

#[divan::bench]
fn pass_forward(bencher: Bencher) {
    let (x, scale, shift, mut out) = (values(IMAGE), values(128), values(128), values(IMAGE));
    let count = ItemsCount::new(IMAGE);
    bencher
        .counter(count)
        .bench_local(|| pass(&scale, &shift).forward(Isa::best(), black_box(&x), None, &mut out));
}

#[divan::bench]
fn pass_sum_gradients(bencher: Bencher) {
    let (x, scale, shift, gradient) = (values(IMAGE), values(128), values(128), values(IMAGE));
    let mut sums = GradientSums::zeros(128);
    bencher.counter(ItemsCount::new(IMAGE)).bench_local(|| {
        let work =
            GradientInput { x: black_box(&x), residual: None, gradient: &gradient, centre: &shift };
        pass(&scale, &shift).sum_gradients(Isa::best(), work, &mut sums);
    });
}

#[divan::bench]
fn pass_backward(bencher: Bencher) {
    let (x, scale, shift) = (values(IMAGE), values(128), values(128));
    let gradient = Mutex::new(values(IMAGE));
    bencher.counter(ItemsCount::new(IMAGE)).bench_local(|| {
        let mut gradient = gradient.lock().unwrap();
        let slope = Some((&shift[..], &shift[..]));
        let work = Backward {
            x: &x,
            residual: None,
            gradient: &mut gradient,
            more: &[],
            slope,
            residual_gradient: None,
        };
        pass(&scale, &shift).backward(Isa::best(), work);
    });
}

#[divan::bench]
fn average(bencher: Bencher) {
    let (rows, mut out) = (values(2 * 28 * 128), values(14 * 128));
    let count = ItemsCount::new(rows.len());
    bencher
        .counter(count)
        .bench_local(|| pool::average(Isa::best(), black_box(&rows), 28, 128, &mut out));
}
