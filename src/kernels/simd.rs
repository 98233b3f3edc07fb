//! One vector type per instruction set, all behind one trait: a kernel is written once and compiled
//! for each.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256, __m512, _CMP_GT_OQ, _MM_HINT_T0, _mm_prefetch, _mm256_add_ps, _mm256_and_ps,
    _mm256_cmp_ps, _mm256_div_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_max_ps, _mm256_min_ps,
    _mm256_mul_ps, _mm256_permute2f128_ps, _mm256_set1_ps, _mm256_shuffle_ps, _mm256_storeu_ps,
    _mm256_sub_ps, _mm256_unpackhi_ps, _mm256_unpacklo_ps, _mm512_add_ps, _mm512_cmp_ps_mask,
    _mm512_div_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_blend_ps, _mm512_max_ps,
    _mm512_min_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_storeu_ps, _mm512_sub_ps,
};
use std::sync::LazyLock;

/// A vector of `f32`s. It is private to the kernels: a vector type is named only inside
/// [`Isa::run`], on a machine that has its instructions.
pub(super) trait Vector: Copy {
    const COUNT: usize;
    /// Vectors per row of a matrix product's register tile: as many as the registers hold for its
    /// six rows, besides a row of each factor.
    const PANEL: usize;

    fn splat(value: f32) -> Self;
    /// # Safety
    /// `COUNT` values must be readable at `from`.
    unsafe fn load(from: *const f32) -> Self;
    /// # Safety
    /// `COUNT` values must be writable at `to`.
    unsafe fn store(self, to: *mut f32);
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    fn min(self, other: Self) -> Self;
    fn max(self, other: Self) -> Self;
    /// self · factor + addend, rounded once.
    fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// `yes` where `self > bound`, elsewhere 0.
    fn above(self, bound: Self, yes: Self) -> Self;
    /// Writes the transpose of a block of `COUNT` rows of `COUNT` values, times `factor`. The rows
    /// are `stride` apart at `from`, and `to_stride` at `to`.
    ///
    /// # Safety
    /// The block's values must be readable at `from`, and writable at `to`.
    unsafe fn transpose(
        from: *const f32,
        stride: usize,
        factor: f32,
        to: *mut f32,
        to_stride: usize,
    );

    /// The first `COUNT` values of a slice.
    #[inline(always)]
    fn read(from: &[f32]) -> Self {
        let from = &from[..Self::COUNT];
        // SAFETY: the slice has COUNT values.
        unsafe { Self::load(from.as_ptr()) }
    }

    /// Overwrites the first `COUNT` values of a slice.
    #[inline(always)]
    fn write(self, to: &mut [f32]) {
        let to = &mut to[..Self::COUNT];
        // SAFETY: the slice has COUNT values.
        unsafe { self.store(to.as_mut_ptr()) }
    }
}

impl Vector for f32 {
    const COUNT: usize = 1;
    const PANEL: usize = 2;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        value
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller guarantees it.
        unsafe { *from }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller guarantees it.
        unsafe { *to = self }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self + other
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self - other
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self * other
    }
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self / other
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        if self < other { self } else { other }
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        // Two operations: without a fused instruction, `f32::mul_add` is a slow library call.
        self * factor + addend
    }
    #[inline(always)]
    fn above(self, bound: Self, yes: Self) -> Self {
        if self > bound { yes } else { 0.0 }
    }
    #[inline(always)]
    unsafe fn transpose(from: *const f32, _: usize, factor: f32, to: *mut f32, _: usize) {
        // SAFETY: the caller guarantees it.
        unsafe { *to = *from * factor }
    }
}

/// Transposes eight rows of eight values in registers: pairs, then fours, then halves.
///
/// # Safety
/// As [`Vector::transpose`], on a machine with AVX.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn transpose_eight(
    from: *const f32,
    stride: usize,
    factor: f32,
    to: *mut f32,
    to_stride: usize,
) {
    // SAFETY: the caller guarantees the memory and the instructions.
    unsafe {
        let factor = _mm256_set1_ps(factor);
        let mut rows = [factor; 8];
        for (i, row) in rows.iter_mut().enumerate() {
            *row = _mm256_mul_ps(_mm256_loadu_ps(from.add(i * stride)), factor);
        }
        let mut pairs = rows;
        for i in 0..4 {
            pairs[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
            pairs[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
        }
        let mut fours = pairs;
        for i in [0, 4] {
            for j in 0..2 {
                fours[i + 2 * j] = _mm256_shuffle_ps::<0x44>(pairs[i + j], pairs[i + j + 2]);
                fours[i + 2 * j + 1] = _mm256_shuffle_ps::<0xee>(pairs[i + j], pairs[i + j + 2]);
            }
        }
        for i in 0..4 {
            let low = _mm256_permute2f128_ps::<0x20>(fours[i], fours[i + 4]);
            let high = _mm256_permute2f128_ps::<0x31>(fours[i], fours[i + 4]);
            _mm256_storeu_ps(to.add(i * to_stride), low);
            _mm256_storeu_ps(to.add((i + 4) * to_stride), high);
        }
    }
}

#[cfg(target_arch = "x86_64")]
macro_rules! x86 {
    ($vector:ty, $count:literal, $panel:literal, $splat:ident, $load:ident, $store:ident, $add:ident, $sub:ident, $mul:ident, $div:ident, $min:ident, $max:ident,
     $fma:ident, |$a:ident, $bound:ident, $yes:ident| $above:expr) => {
        // SAFETY of every block below: the type is named only on machines that have its
        // instructions (see `Vector`), and the caller guarantees that its pointers are valid.
        impl Vector for $vector {
            const COUNT: usize = $count;
            const PANEL: usize = $panel;

            #[inline(always)]
            fn splat(value: f32) -> Self {
                // SAFETY: see above.
                unsafe { $splat(value) }
            }
            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                // SAFETY: see above.
                unsafe { $load(from) }
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                // SAFETY: see above.
                unsafe { $store(to, self) }
            }
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                // SAFETY: see above.
                unsafe { $add(self, other) }
            }
            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                // SAFETY: see above.
                unsafe { $sub(self, other) }
            }
            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                // SAFETY: see above.
                unsafe { $mul(self, other) }
            }
            #[inline(always)]
            fn div(self, other: Self) -> Self {
                // SAFETY: see above.
                unsafe { $div(self, other) }
            }
            #[inline(always)]
            fn min(self, other: Self) -> Self {
                // SAFETY: see above.
                unsafe { $min(self, other) }
            }
            #[inline(always)]
            fn max(self, other: Self) -> Self {
                // SAFETY: see above.
                unsafe { $max(self, other) }
            }
            #[inline(always)]
            fn mul_add(self, factor: Self, addend: Self) -> Self {
                // SAFETY: see above.
                unsafe { $fma(self, factor, addend) }
            }
            #[inline(always)]
            fn above(self, bound: Self, yes: Self) -> Self {
                let ($a, $bound, $yes) = (self, bound, yes);
                // SAFETY: see above.
                unsafe { $above }
            }
            #[inline(always)]
            unsafe fn transpose(
                from: *const f32,
                stride: usize,
                factor: f32,
                to: *mut f32,
                to_stride: usize,
            ) {
                for (i, j) in
                    (0..$count).step_by(8).flat_map(|i| (0..$count).step_by(8).map(move |j| (i, j)))
                {
                    // SAFETY: the caller guarantees the whole block, and AVX2 and AVX-512 have AVX.
                    unsafe {
                        let (from, to) = (from.add(i * stride + j), to.add(j * to_stride + i));
                        transpose_eight(from, stride, factor, to, to_stride);
                    }
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
x86!(
    __m512,
    16,
    4,
    _mm512_set1_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_add_ps,
    _mm512_sub_ps,
    _mm512_mul_ps,
    _mm512_div_ps,
    _mm512_min_ps,
    _mm512_max_ps,
    _mm512_fmadd_ps,
    |a, bound, yes| _mm512_mask_blend_ps(
        _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, bound),
        _mm512_set1_ps(0.0),
        yes
    )
);

#[cfg(target_arch = "x86_64")]
x86!(
    __m256,
    8,
    2,
    _mm256_set1_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_add_ps,
    _mm256_sub_ps,
    _mm256_mul_ps,
    _mm256_div_ps,
    _mm256_min_ps,
    _mm256_max_ps,
    _mm256_fmadd_ps,
    |a, bound, yes| _mm256_and_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(a, bound), yes)
);

/// Asks for a cache line that will be read soon. It has no effect but on time, so the address may
/// be any.
#[inline(always)]
pub(super) fn prefetch(line: *const f32) {
    // SAFETY: every x86-64 processor has the instruction, and it never faults.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        _mm_prefetch::<_MM_HINT_T0>(line.cast())
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// An instruction set that the kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512F.
    Avx512,
    /// AVX2 with FMA.
    Avx2,
    /// The compiler's default instructions, without vectors of ours.
    Portable,
}

/// Work that is generic over [`Vector`].
pub(super) trait Kernel {
    type Output;

    fn run<V: Vector>(self) -> Self::Output;
}

impl Isa {
    /// The environment variable that limits the instruction set: `avx512`, `avx2` or `portable`.
    /// The machine then computes like one without the better sets.
    pub const LIMIT: &str = "SCDD_MAX_ISA";

    /// The limit that [`Isa::LIMIT`] sets; AVX-512 where the variable is not set.
    ///
    /// # Errors
    /// The variable has any other value.
    pub fn limit() -> Result<Self, String> {
        let Some(name) = std::env::var_os(Self::LIMIT) else { return Ok(Self::Avx512) };
        match name.to_str() {
            Some("avx512") => Ok(Self::Avx512),
            Some("avx2") => Ok(Self::Avx2),
            Some("portable") => Ok(Self::Portable),
            _ => Err(format!(
                "{} is {}; it must be avx512, avx2 or portable",
                Self::LIMIT,
                name.display()
            )),
        }
    }

    /// The best instruction set of this machine, within [`Isa::limit`].
    pub fn best() -> Self {
        Self::available()[0]
    }

    /// Every instruction set of this machine within [`Isa::limit`], best first. An invalid limit is
    /// ignored here; the program refuses it when it starts.
    pub fn available() -> Vec<Self> {
        static LIMIT: LazyLock<usize> =
            LazyLock::new(|| Isa::limit().map_or(usize::MAX, Isa::lanes));
        let all = [Self::Avx512, Self::Avx2, Self::Portable].into_iter();
        all.filter(|isa| isa.lanes() <= *LIMIT && isa.is_available()).collect()
    }

    fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx512 | Self::Avx2 => false,
            Self::Portable => true,
        }
    }

    /// Values per vector.
    pub fn lanes(self) -> usize {
        match self {
            Self::Avx512 => 16,
            Self::Avx2 => 8,
            Self::Portable => 1,
        }
    }

    /// Columns of a matrix product's register tile, [`Vector::PANEL`] vectors.
    pub(super) fn panel(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => <__m512 as Vector>::PANEL * self.lanes(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => <__m256 as Vector>::PANEL * self.lanes(),
            _ => <f32 as Vector>::PANEL,
        }
    }

    /// Runs `kernel` in code compiled for this instruction set.
    ///
    /// # Panics
    /// When this machine lacks the instruction set.
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        assert!(self.is_available(), "this machine lacks {self:?}");
        match self {
            // SAFETY: the machine has the instructions, as just checked.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { avx512(kernel) },
            // SAFETY: the machine has the instructions, as just checked.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2(kernel) },
            _ => kernel.run::<f32>(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,fma")]
fn avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<__m512>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<__m256>()
}
