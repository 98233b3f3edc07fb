//! Winograd's minimal filtering along one axis: the points, and the transforms that follow from
//! them.

use std::marker::PhantomData;

use super::simd::Vector;

/// Column `j`. This is a loop, like all code on vectors: the closures of `array::from_fn` would be
/// compiled without the vector instructions.
#[inline(always)]
pub(super) fn column<V: Vector, const ROWS: usize, const COLUMNS: usize>(
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
