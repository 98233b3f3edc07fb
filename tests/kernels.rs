//! All CPU kernels against plain loops in double precision, on every instruction set of this
//! machine.

use proptest::prelude::*;
use scdd::kernels::conv::{Epilogue, Extent, Geometry, for_pieces};
use scdd::kernels::depthwise::Depthwise;
use scdd::kernels::direct::Direct;
use scdd::kernels::gradient::sum_pixels;
use scdd::kernels::pass::{Backward, FusedActivation, GradientInput, GradientSums, Moments, Pass};
use scdd::kernels::pool;
use scdd::kernels::winograd::{Tile, Winograd};
use scdd::kernels::{Aligned, Isa};

fn values(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..len).map(|_| next()).collect()
}

fn relative(found: &[f32], wanted: &[f64]) -> f64 {
    let difference: f64 = found.iter().zip(wanted).map(|(f, w)| (f64::from(*f) - w).powi(2)).sum();
    (difference / wanted.iter().map(|w| w * w).sum::<f64>().max(1e-30)).sqrt()
}

/// Sums of products in double precision.
struct Sums {
    values: Vec<f64>,
    /// Of the products' squares.
    squares: f64,
}

impl Sums {
    fn zeros(len: usize) -> Self {
        Self { values: vec![0.0; len], squares: 0.0 }
    }

    fn add(&mut self, at: usize, one: f32, other: f32) {
        let product = f64::from(one) * f64::from(other);
        self.values[at] += product;
        self.squares += product * product;
    }

    /// The error of `found`, relative to the sums, or to their size if the products had random
    /// signs: products that cancel still have rounding errors.
    fn error(&self, found: &[f32]) -> f64 {
        let size = self.values.iter().map(|value| value * value).sum::<f64>().sqrt();
        relative(found, &self.values) * (size / self.squares.sqrt().max(1e-15)).min(1.0)
    }
}

#[derive(Debug, Clone)]
struct Case {
    n: usize,
    size: [usize; 2],
    channels: [usize; 2],
    geometry: Geometry,
    depthwise: bool,
}

impl Case {
    fn ends(&self) -> (Extent, Extent) {
        let g = &self.geometry;
        let out = |axis: usize| {
            (self.size[axis] + 2 * g.pad[axis] - g.dilation[axis] * (g.kernel[axis] - 1) - 1)
                / g.stride[axis]
                + 1
        };
        let [h, w] = self.size;
        (Extent { n: self.n, h, w }, Extent { n: self.n, h: out(0), w: out(1) })
    }

    /// Whether the kernel fits into the padded input.
    fn is_possible(&self) -> bool {
        let g = &self.geometry;
        (0..2).all(|a| self.size[a] + 2 * g.pad[a] > g.dilation[a] * (g.kernel[a] - 1))
    }

    fn weight_len(&self) -> usize {
        let [inputs, outputs] = self.channels;
        self.geometry.kernel.iter().product::<usize>()
            * outputs
            * if self.depthwise { 1 } else { inputs }
    }

    /// Calls `visit(y index, x index, weight index)` for every multiplication.
    fn multiplications(&self, mut visit: impl FnMut(usize, usize, usize)) {
        let (from, to) = self.ends();
        let g = &self.geometry;
        let [inputs, outputs] = self.channels;
        let place = |axis: usize, at: usize, k: usize, length: usize| {
            (at * g.stride[axis] + k * g.dilation[axis])
                .checked_sub(g.pad[axis])
                .filter(|&p| p < length)
        };
        for pixel in 0..to.pixels() {
            let (n, y, x) = (pixel / to.w / to.h, pixel / to.w % to.h, pixel % to.w);
            for (ky, kx) in (0..g.kernel[0]).flat_map(|ky| (0..g.kernel[1]).map(move |kx| (ky, kx)))
            {
                let (Some(sy), Some(sx)) = (place(0, y, ky, from.h), place(1, x, kx, from.w))
                else {
                    continue;
                };
                let source = (n * from.h + sy) * from.w + sx;
                for o in 0..outputs {
                    let seen = if self.depthwise { o..o + 1 } else { 0..inputs };
                    for i in seen {
                        let weight = if self.depthwise { o } else { o * inputs + i };
                        let weight = (weight * g.kernel[0] + ky) * g.kernel[1] + kx;
                        visit(pixel * outputs + o, source * inputs + i, weight);
                    }
                }
            }
        }
    }
}

fn case(depthwise: bool) -> impl Strategy<Value = Case> {
    let axis = || (1usize..12, 1usize..5, 1usize..4, 1usize..3, 0usize..4);
    let channels = prop::sample::select(vec![1usize, 3, 8, 16, 20, 48, 64, 96]);
    (1usize..3, axis(), axis(), channels.clone(), channels).prop_filter_map(
        "an impossible kernel",
        move |(n, y, x, i, o)| {
            let geometry = Geometry {
                kernel: [y.1, x.1],
                stride: [y.2, x.2],
                dilation: [y.3, x.3],
                pad: [y.4.min(y.1), x.4.min(x.1)],
            };
            let case = Case {
                n,
                size: [y.0, x.0],
                channels: [i, if depthwise { i } else { o }],
                geometry,
                depthwise,
            };
            case.is_possible().then_some(case)
        },
    )
}

fn small_kernel() -> impl Strategy<Value = Case> {
    let channels = prop::sample::select(vec![16usize, 32, 48, 80, 128]);
    (1usize..4, 1usize..15, 1usize..15, channels.clone(), channels, 0usize..3, 0usize..3)
        .prop_filter_map("an impossible kernel", |(n, h, w, i, o, py, px)| {
            let geometry =
                Geometry { kernel: [3, 3], stride: [1, 1], dilation: [1, 1], pad: [py, px] };
            let case = Case { n, size: [h, w], channels: [i, o], geometry, depthwise: false };
            case.is_possible().then_some(case)
        })
}

type Runner<'a> =
    dyn Fn((&[f32], Extent), (&mut [f32], Extent), Option<&mut [f32]>, &Epilogue) + 'a;

/// Runs both directions and compares them; `limit` is the largest relative error.
fn check(case: &Case, weight: &[f32], forward: &Runner, backward: &Runner, limit: f64) {
    let (from, to) = case.ends();
    let [inputs, outputs] = case.channels;
    let x = values(from.pixels() * inputs, 1);
    let g = values(to.pixels() * outputs, 2);
    let (mut y, mut dx) = (Sums::zeros(g.len()), Sums::zeros(x.len()));
    case.multiplications(|at_y, at_x, at_w| {
        y.add(at_y, x[at_x], weight[at_w]);
        dx.add(at_x, g[at_y], weight[at_w]);
    });
    for (run, (input, from), (wanted, to), channels) in
        [(forward, (&x, from), (&y, to), outputs), (backward, (&g, to), (&dx, from), inputs)]
    {
        let mut found = vec![f32::NAN; wanted.values.len()];
        let mut beside = vec![f32::NAN; wanted.values.len()];
        // The epilogue gets every pixel once, after it is complete.
        run((input, from), (&mut found, to), Some(&mut beside), &|piece| {
            assert_eq!(piece.range(channels).len(), piece.rows.len());
            piece.beside.expect("was given").copy_from_slice(piece.rows);
        });
        assert_eq!(found, beside);
        let error = wanted.error(&found);
        assert!(error < limit, "{case:?}: {error:e}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn direct_convolutions(case in case(false)) {
        let weight = values(case.weight_len(), 3);
        let [inputs, _] = case.channels;
        let [ky, kx] = case.geometry.kernel;
        let at = |o: usize, i: usize, y: usize, x: usize| weight[((o * inputs + i) * ky + y) * kx + x];
        for isa in Isa::available() {
            let forward = Direct::forward(isa, case.channels, case.geometry, at);
            let backward = Direct::backward(isa, case.channels, case.geometry, at);
            check(
                &case,
                &weight,
                &|x, y, beside, epilogue| forward.run(x, y, beside, epilogue),
                &|x, y, beside, epilogue| backward.run(x, y, beside, epilogue),
                2e-6,
            );
        }
    }

    #[test]
    fn depthwise_convolutions(case in case(true)) {
        let weight = values(case.weight_len(), 3);
        let [ky, kx] = case.geometry.kernel;
        let at = |c: usize, y: usize, x: usize| weight[(c * ky + y) * kx + x];
        for isa in Isa::available() {
            let forward = Depthwise::new(isa, case.channels[0], case.geometry, false, at);
            let backward = Depthwise::new(isa, case.channels[0], case.geometry, true, at);
            check(
                &case,
                &weight,
                &|x, y, beside, epilogue| forward.run(x, y, beside, epilogue),
                &|x, y, beside, epilogue| backward.run(x, y, beside, epilogue),
                2e-6,
            );
        }
    }

    #[test]
    fn winograd_convolutions(case in small_kernel()) {
        let weight = values(case.weight_len(), 3);
        let [inputs, outputs] = case.channels;
        let at = |o: usize, i: usize, y: usize, x: usize| weight[((o * inputs + i) * 3 + y) * 3 + x];
        let turned = |o: usize, i: usize, y: usize, x: usize| at(i, o, 2 - y, 2 - x);
        let isas = Isa::available().into_iter().filter(|&isa| Winograd::accepts(isa, inputs, outputs));
        for (isa, tile) in isas.flat_map(|isa| [(isa, Tile::Two), (isa, Tile::Four)]) {
            let pad = case.geometry.pad;
            let forward = Winograd::new(isa, tile, [inputs, outputs], pad, at);
            let backward = Winograd::new(isa, tile, [outputs, inputs], pad.map(|p| 2 - p), turned);
            check(
                &case,
                &weight,
                &|x, y, beside, epilogue| forward.run(x, y, beside, epilogue),
                &|x, y, beside, epilogue| backward.run(x, y, beside, epilogue),
                5e-6,
            );
            let turned = forward.turned();
            check(
                &case,
                &weight,
                &|x, y, beside, epilogue| turned.turned().run(x, y, beside, epilogue),
                &|x, y, beside, epilogue| turned.run(x, y, beside, epilogue),
                5e-6,
            );
        }
    }

    #[test]
    fn gradients_of_weights(case in prop_oneof![case(false), small_kernel()], more in 1usize..3) {
        // More images than one block or group of tiles holds.
        let case = Case { n: case.n * more * 9, ..case };
        let (from, to) = case.ends();
        let [inputs, outputs] = case.channels;
        let [height, width] = case.geometry.kernel;
        let (x, dy) = (values(from.pixels() * inputs, 1), values(to.pixels() * outputs, 2));
        let mut wanted = Sums::zeros(case.weight_len());
        case.multiplications(|at_y, at_x, at_w| {
            // From [O, I, y, x] to [y, x, I, O].
            let (o, rest) = (at_w / (inputs * height * width), at_w % (inputs * height * width));
            let (i, tap) = (rest / (height * width), rest % (height * width));
            wanted.add((tap * inputs + i) * outputs + o, x[at_x], dy[at_y]);
        });
        let mut scratch = Aligned::zeros(0);
        for isa in Isa::available() {
            let mut found = vec![f32::NAN; wanted.values.len()];
            let direct = Direct::forward(isa, case.channels, case.geometry, |_, _, _, _| 0.0);
            direct.weight_gradient((&x, from), (&dy, to), &mut scratch, &mut found);
            prop_assert!(wanted.error(&found) < 2e-6);
            let g = &case.geometry;
            let small = g.kernel == [3, 3] && g.stride == [1, 1] && g.dilation == [1, 1] && g.pad.iter().all(|&p| p <= 2);
            for tile in [Tile::Two, Tile::Four].into_iter().filter(|_| small && Winograd::accepts(isa, inputs, outputs)) {
                let mut found = vec![f32::NAN; wanted.values.len()];
                let winograd = Winograd::blank(isa, tile, case.channels, g.pad);
                winograd.weight_gradient((&x, from), (&dy, to), &mut scratch, &mut found);
                let error = wanted.error(&found);
                prop_assert!(error < 5e-6, "{:?} {:?}: {:e}", isa, tile, error);
            }
        }
    }

    #[test]
    fn weights_can_be_set_again(case in small_kernel()) {
        let [inputs, outputs] = case.channels;
        let kernel = values(9 * inputs * outputs, 3);
        let at = |o: usize, i: usize, y: usize, x: usize| kernel[((y * 3 + x) * inputs + i) * outputs + o];
        let (from, to) = case.ends();
        let x = values(from.pixels() * inputs, 1);
        let isas = Isa::available().into_iter().filter(|&isa| Winograd::accepts(isa, inputs, outputs));
        for (isa, tile) in isas.flat_map(|isa| [(isa, Tile::Two), (isa, Tile::Four)]) {
            let run = |winograd: &Winograd| {
                let mut y = vec![f32::NAN; to.pixels() * outputs];
                winograd.run((&x, from), (&mut y, to), None, &|_| {});
                y
            };
            let wanted: Vec<f64> =
                run(&Winograd::new(isa, tile, case.channels, case.geometry.pad, at)).into_iter().map(f64::from).collect();
            let mut again = Winograd::blank(isa, tile, case.channels, case.geometry.pad);
            again.set(&values(kernel.len(), 4));
            again.set(&kernel);
            prop_assert!(relative(&run(&again), &wanted) < 2e-6);
        }
    }

    #[test]
    fn averages_and_their_way_back(
        width in 2usize..9,
        channels in prop::sample::select(vec![1usize, 5, 16, 40, 64]),
    ) {
        let rows = values(2 * width * channels, 1);
        let half = width / 2;
        let gradient = values(half * channels, 2);
        let at = |y: usize, x: usize, c: usize| (y * width + x) * channels + c;
        for isa in Isa::available() {
            let mut out = vec![f32::NAN; half * channels];
            pool::average(isa, &rows, width, channels, &mut out);
            let mut back = vec![f32::NAN; rows.len()];
            pool::spread(isa, &gradient, width, channels, &mut back);
            for (x, c) in (0..half).flat_map(|x| (0..channels).map(move |c| (x, c))) {
                let four = [(0, 2 * x), (0, 2 * x + 1), (1, 2 * x), (1, 2 * x + 1)].map(|(y, x)| at(y, x, c));
                let mean = four.iter().map(|&i| rows[i]).sum::<f32>() / 4.0;
                prop_assert!((out[x * channels + c] - mean).abs() < 1e-6);
                prop_assert!(four.iter().all(|&i| back[i] == gradient[x * channels + c] / 4.0));
            }
            if width % 2 == 1 {
                prop_assert!((0..2).all(|y| (0..channels).all(|c| back[at(y, width - 1, c)] == 0.0)));
            }
        }
    }

    #[test]
    fn sums_that_batch_statistics_need(
        pixels in 1usize..200,
        channels in prop::sample::select(vec![1usize, 5, 16, 40, 64, 100]),
        with_residual: bool,
    ) {
        let len = pixels * channels;
        let (x, residual, gradient) = (values(len, 1), values(len, 2), values(len, 3));
        let [scale, shift, centre] = [5, 6, 7].map(|seed| values(channels, seed));
        let residual = with_residual.then_some(residual.as_slice());
        let activation = FusedActivation::Clamp { low: 0.0, high: f32::INFINITY };
        let (mut sums, mut products) = (vec![0f64; channels], vec![0f64; channels]);
        for i in 0..len {
            let c = i % channels;
            // In single precision, so that rounding can't move a value across the kink.
            let p = x[i].mul_add(scale[c], shift[c]) + residual.map_or(0.0, |r| r[i]);
            let g = f64::from(gradient[i]) * reference(activation, f64::from(p)).1;
            sums[c] += g;
            products[c] += g * (f64::from(x[i]) - f64::from(centre[c]));
        }
        let pass = Pass { scale: &scale, shift: &shift, activation };
        for isa in Isa::available().into_iter().filter(|&isa| isa != Isa::Portable) {
            let mut found = GradientSums::zeros(channels);
            pass.sum_gradients(isa, GradientInput { x: &x, residual, gradient: &gradient, centre: &centre }, &mut found);
            for (found, wanted) in [(&found.gradient, &sums), (&found.product, &products)] {
                let apart = found.iter().zip(wanted).map(|(f, w)| (f - w).abs()).fold(0.0, f64::max);
                prop_assert!(apart < 1e-5, "{apart:e}");
            }
            let whole = sum_pixels(isa, &gradient, channels);
            let wanted: Vec<f64> = (0..channels)
                .map(|c| gradient.iter().skip(c).step_by(channels).map(|&g| f64::from(g)).sum())
                .collect();
            prop_assert!(whole.iter().zip(&wanted).all(|(f, w)| (f64::from(*f) - w).abs() < 1e-4));
        }
    }

    #[test]
    fn moments_do_not_suffer_from_a_large_mean(
        pixels in 1usize..3000,
        channels in prop::sample::select(vec![1usize, 5, 16, 40, 64, 100]),
        mean in prop::sample::select(vec![0.0f32, 3.0, 1000.0]),
    ) {
        let x: Vec<f32> = values(pixels * channels, 4).into_iter().map(|v| v + mean).collect();
        for isa in Isa::available() {
            let found = Moments::of_all(isa, &x, channels);
            for c in 0..channels {
                let column = || x.iter().skip(c).step_by(channels).map(|v| f64::from(*v));
                let mean = column().sum::<f64>() / pixels as f64;
                let squares: f64 = column().map(|v| (v - mean).powi(2)).sum();
                prop_assert_eq!(found.count, pixels);
                prop_assert!((found.mean[c] - mean).abs() <= 1e-6 * mean.abs().max(0.5), "mean {} {mean}", found.mean[c]);
                // The kernel sums deviations from the first pixel, so rounding is relative to
                // these.
                let rounded: f64 = column().map(|v| (v - f64::from(x[c])).powi(2)).sum();
                let apart = (found.squares[c] - squares).abs();
                prop_assert!(apart <= 1e-6 * rounded.max(1e-3), "{} {squares} {rounded}", found.squares[c]);
            }
        }
    }

    #[test]
    fn passes_forward_and_back(
        pixels in 1usize..40,
        channels in prop::sample::select(vec![1usize, 5, 16, 40, 64, 100]),
        with_residual: bool,
        with_slope: bool,
        gradients in 1usize..4,
        activation in prop::sample::select(vec![
            FusedActivation::Identity,
            FusedActivation::Clamp { low: 0.0, high: f32::INFINITY },
            FusedActivation::Clamp { low: -0.1, high: 0.2 },
            FusedActivation::LeakyRelu { alpha: 0.1 },
            FusedActivation::HardSwish,
        ]),
    ) {
        let len = pixels * channels;
        let part = |seed| values(len, seed);
        let (x, residual) = (part(1).iter().map(|v| 8.0 * v).collect::<Vec<_>>(), part(2));
        let gradients: Vec<Vec<f32>> = (0..gradients as u64).map(|i| part(10 + i)).collect();
        let [scale, shift, a, b] = [5, 6, 7, 8].map(|seed| values(channels, seed));
        let residual = with_residual.then_some(residual.as_slice());
        let (mut out, mut dx, mut dr) = (vec![0f64; len], vec![0f64; len], vec![0f64; len]);
        for i in 0..len {
            let c = i % channels;
            let p = f64::from(x[i]) * f64::from(scale[c]) + f64::from(shift[c]) + residual.map_or(0.0, |r| f64::from(r[i]));
            let g: f64 = gradients.iter().map(|g| f64::from(g[i])).sum();
            let (value, slope) = reference(activation, p);
            out[i] = value;
            dr[i] = g * slope;
            let statistics = if with_slope { f64::from(a[c]) + f64::from(b[c]) * f64::from(x[i]) } else { 0.0 };
            dx[i] = dr[i] * f64::from(scale[c]) + statistics;
        }
        let pass = Pass { scale: &scale, shift: &shift, activation };
        let more: Vec<&[f32]> = gradients[1..].iter().map(Vec::as_slice).collect();
        for isa in Isa::available() {
            let mut found = vec![f32::NAN; len];
            pass.forward(isa, &x, residual, &mut found);
            prop_assert!(relative(&found, &out) < 1e-6);
            let (mut found_x, mut found_r) = (gradients[0].clone(), vec![f32::NAN; len]);
            pass.backward(isa, Backward {
                x: &x,
                residual,
                gradient: &mut found_x,
                more: &more,
                slope: with_slope.then_some((&a[..], &b[..])),
                residual_gradient: Some(&mut found_r),
            });
            prop_assert!(relative(&found_x, &dx) < 1e-6);
            prop_assert!(relative(&found_r, &dr) < 1e-6);
        }
    }
}

/// Value and derivative.
fn reference(activation: FusedActivation, p: f64) -> (f64, f64) {
    match activation {
        FusedActivation::Identity => (p, 1.0),
        FusedActivation::Clamp { low, high } => {
            let (low, high) = (f64::from(low), f64::from(high));
            (p.clamp(low, high), if p > low && p < high { 1.0 } else { 0.0 })
        }
        FusedActivation::LeakyRelu { alpha } => {
            let slope = if p > 0.0 { 1.0 } else { f64::from(alpha) };
            (p * slope, slope)
        }
        FusedActivation::HardSwish => {
            let slope = if p <= -3.0 {
                0.0
            } else if p > 3.0 {
                1.0
            } else {
                p / 3.0 + 0.5
            };
            (p * (p + 3.0).clamp(0.0, 6.0) / 6.0, slope)
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let (channels, pixels) = (48, 5000);
    let x = values(channels * pixels, 9);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| Moments::of_all(Isa::best(), &x, channels))
    };
    assert_eq!(run(1), run(3));
}

/// Activations keep NaN, so that a diverged image is noticed: no bound may turn NaN into a number.
#[test]
fn activations_keep_nan() {
    let activations = [
        FusedActivation::Clamp { low: 0.0, high: f32::INFINITY },
        FusedActivation::LeakyRelu { alpha: 0.1 },
        FusedActivation::HardSwish,
    ];
    for (isa, activation) in
        Isa::available().into_iter().flat_map(|isa| activations.map(|activation| (isa, activation)))
    {
        // A number of channels that uses every vector width, single elements included.
        let channels = 71;
        let (scale, shift) = (vec![1.0; channels], vec![0.0; channels]);
        let mut out = vec![0.0; channels];
        Pass { scale: &scale, shift: &shift, activation }.forward(
            isa,
            &vec![f32::NAN; channels],
            None,
            &mut out,
        );
        assert!(out.iter().all(|value| value.is_nan()), "{isa:?}, {activation:?}: {out:?}");
    }
}

#[test]
fn pieces_cover_everything_once_and_memory_is_aligned() {
    let mut rows = Aligned::zeros(7 * 10_007);
    assert!(rows.as_ptr().addr().is_multiple_of(64));
    for_pieces(7, &mut rows, None, &|piece| piece.rows.iter_mut().for_each(|v| *v += 1.0));
    assert!(rows.iter().all(|&v| v == 1.0));
}

/// Weights larger than a cache are processed in another order, and the backward pass transposes
/// them. Neither changes a bit of the results.
#[test]
fn wide_convolutions_are_the_narrow_ones_side_by_side() {
    let (inputs, outputs, parts) = (512, 288, 2);
    // More tiles than one group of blocks has.
    let extent = Extent { n: 63, h: 8, w: 7 };
    let weight = values(9 * inputs * outputs, 3);
    let at = |o: usize, i: usize, y: usize, x: usize| weight[((o * inputs + i) * 3 + y) * 3 + x];
    let run = |conv: &Winograd, x: &[f32], channels: usize| {
        let mut y = vec![f32::NAN; extent.pixels() * channels];
        conv.run((x, extent), (&mut y, extent), None, &|_| {});
        y
    };
    let part_of = |rows: &[f32], channels: usize, part: std::ops::Range<usize>| -> Vec<f32> {
        rows.chunks_exact(channels).flat_map(|row| row[part.clone()].to_vec()).collect()
    };
    for isa in Isa::available().into_iter().filter(|&isa| Winograd::accepts(isa, inputs, outputs)) {
        let forth = Winograd::new(isa, Tile::Four, [inputs, outputs], [1, 1], at);
        assert!(forth.is_wide());
        let x = values(extent.pixels() * inputs, 1);
        let y = run(&forth, &x, outputs);
        let width = outputs / parts;
        for first in (0..outputs).step_by(width) {
            let narrow = Winograd::new(isa, Tile::Four, [inputs, width], [1, 1], |o, i, y, x| {
                at(first + o, i, y, x)
            });
            assert!(!narrow.is_wide());
            assert!(
                run(&narrow, &x, width) == part_of(&y, outputs, first..first + width),
                "{isa:?}: forward"
            );
        }
        let back = run(&forth.turned(), &y, inputs);
        let width = inputs / parts;
        for first in (0..inputs).step_by(width) {
            let turned = |o: usize, i: usize, y: usize, x: usize| at(i, first + o, 2 - y, 2 - x);
            let narrow = Winograd::new(isa, Tile::Four, [outputs, width], [1, 1], turned);
            assert!(
                run(&narrow, &y, width) == part_of(&back, inputs, first..first + width),
                "{isa:?}: backward"
            );
        }
    }
}

/// Tensors without images or pixels: nothing is computed, and nothing panics.
#[test]
fn empty_outputs_have_no_pieces() {
    for ([inputs, outputs], isa) in [[64, 64], [512, 288]]
        .into_iter()
        .flat_map(|c| Isa::available().into_iter().map(move |i| (c, i)))
    {
        for tile in
            [Tile::Two, Tile::Four].into_iter().filter(|_| Winograd::accepts(isa, inputs, outputs))
        {
            let conv = Winograd::new(isa, tile, [inputs, outputs], [1, 1], |_, _, _, _| 1.0);
            for to in [
                Extent { n: 0, h: 8, w: 8 },
                Extent { n: 2, h: 0, w: 8 },
                Extent { n: 2, h: 8, w: 0 },
            ] {
                conv.run((&[], to), (&mut [], to), None, &|_| panic!("a piece of nothing"));
            }
        }
    }
}
