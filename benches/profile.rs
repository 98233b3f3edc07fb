//! Where the convolutions of a recover step spend their time, stage by stage, beside what one core
//! can do: `cargo bench -p scdd-kernels --bench profile -- [width] [batch]`, by default the 64
//! channels of ResNet-18's first layer and a batch of 50, at 32×32 pixels. `SCDD_MAX_ISA` limits
//! the instruction set.
//!
//! Everything runs on one thread. A time is the thread's own on the processor, the minimum of many
//! runs, as other processes only add to it. The passes are what a whole run takes longer than its
//! stages.

use std::hint::black_box;
use std::time::Duration;

use scdd_kernels::conv::{Epilogue, Extent, Geometry, Piece};
use scdd_kernels::direct::Direct;
use scdd_kernels::pass::{Backward, FusedActivation, Gathered, Moments, Pass};
use scdd_kernels::winograd::{Tile, Winograd, WinogradStage};
use scdd_kernels::{Isa, peak};

/// How long a measurement is repeated, and how often at least.
const LONG: Duration = Duration::from_millis(250);
const OFTEN: usize = 5;

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let (width, batch) =
        (numbers.first().copied().unwrap_or(64), numbers.get(1).copied().unwrap_or(50));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("one thread starts");
    pool.install(|| profile(Isa::best(), width, batch));
}

fn profile(isa: Isa, width: usize, batch: usize) {
    let most = gflops(isa);
    println!("{isa:?}, one thread: {most:.1} GFLOP/s in registers, copies {:.1} GB/s", copies());
    println!("ResNet-18 of width {width}, 32×32, batch {batch}; GFLOP/s, share of the peak; GB/s");
    for channels in [width, 8 * width] {
        passes(isa, channels);
    }
    let mut total = [0.0; 2];
    for layer in layers(width) {
        for backward in [false, true] {
            let found = measure(isa, layer, batch, backward, most);
            total[0] += found.whole * layer.times as f64;
            total[1] += found.operations * layer.times as f64;
        }
    }
    println!(
        "all: {:.1} ms, {:.2} of the time of direct convolutions at the peak",
        total[0] * 1e3,
        total[0] * 1e9 * most / total[1]
    );
}

/// A convolution of the network: its output's side, channels, kernel side, stride and number.
#[derive(Clone, Copy)]
struct Layer {
    side: usize,
    channels: [usize; 2],
    kernel: usize,
    stride: usize,
    times: usize,
}

fn layers(width: usize) -> Vec<Layer> {
    let layer =
        |side, channels, kernel, stride, times| Layer { side, channels, kernel, stride, times };
    let mut layers = vec![layer(32, [3, width], 3, 1, 1), layer(32, [width; 2], 3, 1, 4)];
    for (side, inputs) in [(16, width), (8, 2 * width), (4, 4 * width)] {
        layers.push(layer(side, [inputs, 2 * inputs], 3, 2, 1));
        layers.push(layer(side, [inputs, 2 * inputs], 1, 2, 1));
        layers.push(layer(side, [2 * inputs; 2], 3, 1, 3));
    }
    layers
}

enum Conv {
    Direct(Direct),
    Winograd(Winograd),
}

impl Conv {
    fn new(isa: Isa, Layer { channels, kernel, stride, .. }: Layer, backward: bool) -> Self {
        let weight = |o: usize, i: usize, y: usize, x: usize| {
            ((o * 7 + i * 5 + y * 3 + x) % 11) as f32 / 50.0 - 0.1
        };
        let pad = [kernel / 2; 2];
        if (kernel, stride) == (3, 1) && Winograd::accepts(isa, channels[0], channels[1]) {
            let forward = Winograd::new(isa, Tile::Four, channels, pad, weight);
            return Self::Winograd(match backward {
                false => forward,
                true if forward.is_wide() => forward.turned(),
                true => Winograd::new(isa, Tile::Four, [channels[1], channels[0]], pad, weight),
            });
        }
        let geometry = Geometry { kernel: [kernel; 2], stride: [stride; 2], dilation: [1, 1], pad };
        Self::Direct(match backward {
            false => Direct::forward(isa, channels, geometry, weight),
            true => Direct::backward(isa, channels, geometry, weight),
        })
    }

    fn run(&self, x: (&[f32], Extent), y: (&mut [f32], Extent), beside: &mut [f32], e: &Epilogue) {
        match self {
            Self::Direct(conv) => conv.run(x, y, Some(beside), e),
            Self::Winograd(conv) => conv.run(x, y, Some(beside), e),
        }
    }
}

struct Found {
    /// Seconds of the whole run, passes included.
    whole: f64,
    /// Floating-point operations of the direct algorithm.
    operations: f64,
}

fn measure(isa: Isa, layer: Layer, batch: usize, backward: bool, most: f64) -> Found {
    let Layer { side, channels: [inputs, outputs], kernel, stride, times } = layer;
    let conv = Conv::new(isa, layer, backward);
    let extent = |side| Extent { n: batch, h: side, w: side };
    let (mut from, mut to) = ((extent(side * stride), inputs), (extent(side), outputs));
    let operations = (2 * to.0.pixels() * kernel * kernel * inputs * outputs) as f64;
    if backward {
        (from, to) = (to, from);
    }
    let x = values(from.0.pixels() * from.1);
    let (mut y, mut out) = (values(to.0.pixels() * to.1), values(to.0.pixels() * to.1));
    let whole = {
        let (kept, scale, shift) = (values(y.len()), values(to.1), values(to.1));
        let activation = FusedActivation::Clamp { low: 0.0, high: f32::INFINITY };
        let pass = Pass { scale: &scale, shift: &shift, activation };
        shortest(|| {
            let gathered = Gathered::default();
            let forward = |piece: Piece| {
                gathered.add(piece.index, Moments::of(isa, piece.rows, to.1));
                pass.forward(isa, piece.rows, None, piece.beside.expect("there is a buffer"));
            };
            let pull = |piece: Piece| {
                let x = &kept[piece.range(to.1)];
                let slope = Some((&scale[..], &shift[..]));
                let gradient = piece.rows;
                let (residual, more, residual_gradient) = (None, &[][..], None);
                let work = Backward { x, residual, gradient, more, slope, residual_gradient };
                pass.backward(isa, work);
            };
            let epilogue: &Epilogue = if backward { &pull } else { &forward };
            conv.run((&x, from.0), (&mut y, to.0), &mut out, epilogue);
            drop(black_box(gathered));
        })
    };
    let name = format!(
        "{times} × {kernel}×{kernel}/{stride} {inputs:>3} → {outputs:>3} at {side:>2} {}",
        if backward { "back" } else { "forth" }
    );
    let mut line = format!("{name:<34}");
    let mut stages = 0.0;
    match &conv {
        Conv::Winograd(conv) => {
            let tiles = batch * side.div_ceil(4).pow(2);
            let (read, made) = (x.len() * 4, y.len() * 4);
            let (transformed, products) = (tiles * 36 * from.1 * 4, tiles * 36 * to.1 * 4);
            let multiplied = (2 * tiles * 36 * from.1 * to.1) as f64;
            for (stage, bytes) in [
                (WinogradStage::Input, read + transformed),
                (WinogradStage::Products, 0),
                (WinogradStage::Output, products + made),
            ] {
                let s = shortest(|| conv.profile(stage, (&x, from.0), (&mut y, to.0)));
                stages += s;
                let rate = if bytes > 0 {
                    format!("{:5.1} GB/s", bytes as f64 / s / 1e9)
                } else {
                    let rate = multiplied / s / 1e9;
                    format!("{rate:5.1} GFLOP/s {:3.0} %", rate / most * 100.0)
                };
                line += &format!(
                    " {:9} {:6.2} ms {rate}",
                    format!("{stage:?}").to_lowercase(),
                    s * 1e3
                );
            }
        }
        Conv::Direct(conv) => {
            stages = shortest(|| conv.run((&x, from.0), (&mut y, to.0), None, &|_| {}));
            let rate = operations / stages / 1e9;
            line += &format!(
                " direct {:6.2} ms {rate:5.1} GFLOP/s {:3.0} %",
                stages * 1e3,
                rate / most * 100.0
            );
            line = format!("{line:<117}");
        }
    }
    let rate = operations / whole / 1e9;
    println!(
        "{line} passes {:6.2} ms whole {:6.2} ms, as direct {rate:5.1}",
        (whole - stages) * 1e3,
        whole * 1e3
    );
    Found { whole, operations }
}

/// The passes on a piece in cache, by the bytes that they read and write.
fn passes(isa: Isa, channels: usize) {
    let len = (1 << 15) / channels * channels;
    let (x, gradient, mut out) = (values(len), values(len), values(len));
    let (scale, shift) = (values(channels), values(channels));
    let activation = FusedActivation::Clamp { low: 0.0, high: f32::INFINITY };
    let pass = Pass { scale: &scale, shift: &shift, activation };
    let moments = shortest(|| drop(black_box(Moments::of(isa, black_box(&x), channels))));
    let forward = shortest(|| pass.forward(isa, black_box(&x), None, &mut out));
    let backward = shortest(|| {
        out.copy_from_slice(&gradient);
        let (residual, more, residual_gradient) = (None, &[][..], None);
        let (gradient, slope) = (&mut out[..], Some((&scale[..], &shift[..])));
        let work = Backward { x: &x, residual, gradient, more, slope, residual_gradient };
        pass.backward(isa, work);
    });
    let rate = |arrays: usize, s: f64| (4 * arrays * len) as f64 / s / 1e9;
    println!(
        "{channels} channels in cache: moments {:.1}, forward {:.1}, backward {:.1} GB/s",
        rate(1, moments),
        rate(2, forward),
        rate(5, backward)
    );
}

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i % 97) as f32 / 97.0 - 0.4).collect()
}

/// The seconds of the shortest run.
fn shortest(mut run: impl FnMut()) -> f64 {
    run();
    let begin = processor_time();
    let mut best = Duration::MAX;
    let mut runs = 0;
    while runs < OFTEN || processor_time() - begin < LONG {
        let start = processor_time();
        run();
        best = best.min(processor_time() - start);
        runs += 1;
    }
    best.as_secs_f64()
}

/// This thread's time on a processor so far.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours.
    let rc = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(rc, 0, "the system keeps no time of threads");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// GFLOP/s of multiply-adds in registers.
fn gflops(isa: Isa) -> f64 {
    let operations = peak::multiply_add(isa, black_box(100_000)).0;
    operations as f64
        / shortest(|| _ = black_box(peak::multiply_add(isa, black_box(100_000))))
        / 1e9
}

/// GB/s of copies between arrays larger than a cache, read and written bytes together.
fn copies() -> f64 {
    let from = values(1 << 24);
    let mut to = values(1 << 24);
    let s = shortest(|| black_box(&mut to).copy_from_slice(black_box(&from)));
    (8 * from.len()) as f64 / s / 1e9
}
