//! What one core can do at most, for profiles.

use std::hint::black_box;

use super::simd::{Isa, Kernel, Vector};

/// Sums that do not wait for each other: more than any core's fused multiply-adds under way.
const SUMS: usize = 12;

/// Multiplies and adds in registers, `rounds` times, and returns the number of floating-point
/// operations and the sum, which must be used.
pub fn multiply_add(isa: Isa, rounds: usize) -> (usize, f32) {
    (2 * SUMS * isa.lanes() * rounds, isa.run(MultiplyAdd(rounds)))
}

struct MultiplyAdd(usize);

impl Kernel for MultiplyAdd {
    type Output = f32;

    #[inline(always)]
    fn run<V: Vector>(self) -> f32 {
        let (factor, addend) = (V::splat(black_box(0.999)), V::splat(black_box(0.001)));
        let mut sums = [V::splat(1.0); SUMS];
        for _ in 0..black_box(self.0) {
            for sum in &mut sums {
                *sum = sum.mul_add(factor, addend);
            }
        }
        let mut total = V::splat(0.0);
        for (i, sum) in sums.into_iter().enumerate() {
            total = sum.mul_add(V::splat(i as f32), total);
        }
        let mut lanes = [0.0; 16];
        total.write(&mut lanes);
        lanes.iter().sum()
    }
}
