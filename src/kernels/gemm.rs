//! Matrix products. `multiply` takes a matrix that was packed into panels once, so that the kernel
//! reads memory sequentially. `add_outer` sums outer products, for the gradients of weights.

use std::ops::Range;

use super::aligned::{Aligned, LINE};
use super::simd::{Isa, Vector, prefetch};

/// Rows of the register tile. Its columns are the instruction set's [`Vector::PANEL`] vectors.
const ROWS: usize = 6;
/// Rows of a register tile of one vector, which has as many sums under way as a wider tile.
const TALL: usize = 2 * ROWS;
/// Rows of a panel that one sweep reads. Together with the matching part of `a` they fit the
/// first-level cache.
const DEPTH: usize = 256;

/// A `[k, n]` matrix, cut into panels of columns as wide as the register tile. Columns are padded
/// with zeros to whole vectors.
#[derive(Clone)]
pub struct Packed {
    k: usize,
    columns: usize,
    /// Columns of all panels but the last, which may be narrower.
    most: usize,
    data: Aligned,
}

impl Packed {
    /// Packs the matrix whose element in row `i`, column `j` is `at(i, j)`.
    pub fn new(isa: Isa, k: usize, n: usize, at: impl Fn(usize, usize) -> f32) -> Self {
        let most = isa.panel();
        let columns = n.next_multiple_of(isa.lanes());
        let mut data = Aligned::zeros(k * columns);
        for first in (0..columns).step_by(most) {
            let width = (columns - first).min(most);
            let panel = &mut data[first * k..][..width * k];
            for (i, row) in panel.chunks_exact_mut(width).enumerate() {
                let real = width.min(n.saturating_sub(first));
                row[..real].iter_mut().enumerate().for_each(|(j, v)| *v = at(i, first + j));
            }
        }
        Self { k, columns, most, data }
    }

    /// The panels: first column, number of columns, values row by row.
    pub(super) fn panels_mut(&mut self) -> impl Iterator<Item = (usize, usize, &mut [f32])> {
        let (k, columns, most) = (self.k, self.columns, self.most);
        let widths =
            (0..columns).step_by(most).map(move |first| (first, (columns - first).min(most)));
        let mut rest = &mut self.data[..k * columns];
        widths.map(move |(first, width)| {
            let (panel, after) = std::mem::take(&mut rest).split_at_mut(k * width);
            rest = after;
            (first, width, panel)
        })
    }

    /// The panel that starts at column `first`.
    ///
    /// # Panics
    /// Unless a panel starts there.
    pub(super) fn panel(&self, first: usize) -> Panel<'_> {
        Panel::of(&self.data[..self.k * self.columns], self.k, first, self.most)
    }

    /// Writes the transpose of `rows` (whole vectors), times `factor`, to `to` in panels, one after
    /// the other.
    #[inline(always)]
    pub(super) fn transpose<V: Vector>(&self, rows: Range<usize>, factor: f32, to: &mut [f32]) {
        let (count, columns, most) = (rows.len(), self.columns, self.most);
        assert!(count.is_multiple_of(V::COUNT) && columns.is_multiple_of(V::COUNT));
        assert!(rows.end <= self.k && to.len() >= columns * count);
        let part = |first: usize| {
            let Panel { values, width } = self.panel(first);
            (&values[rows.start * width..rows.end * width], width)
        };
        // The outer loop is over the columns here, so that memory is read in its order. It jumps
        // from panel to panel, where the processor does not foresee the next.
        for first in (0..columns).step_by(most) {
            let (values, width) = part(first);
            if first + most < columns {
                part(first + most).0.chunks(LINE).for_each(|line| prefetch(line.as_ptr()));
            }
            for row in (0..count).step_by(V::COUNT) {
                let panel = row / most * most;
                let stride = most.min(count - panel);
                for column in (0..width).step_by(V::COUNT) {
                    let at = row * width + column;
                    let place = panel * columns + (first + column) * stride + row - panel;
                    // SAFETY: by the assertions above, this panel has COUNT rows of COUNT values
                    // from `at` on, and `to` from `place` on.
                    unsafe {
                        let (from, to) = (values.as_ptr().add(at), to.as_mut_ptr().add(place));
                        V::transpose(from, width, factor, to, stride);
                    }
                }
            }
        }
    }

    /// The number of rows.
    pub fn depth(&self) -> usize {
        self.k
    }

    /// The number of columns, padding included.
    pub fn columns(&self) -> usize {
        self.columns
    }
}

/// A block of a matrix's columns, row by row.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    pub values: &'a [f32],
    /// The number of columns: one to [`Vector::PANEL`] whole vectors.
    pub width: usize,
}

impl<'a> Panel<'a> {
    /// The panel that starts at column `first` of `k` rows in panels of `most` columns.
    ///
    /// # Panics
    /// Unless a panel starts there.
    #[inline(always)]
    pub fn of(values: &'a [f32], k: usize, first: usize, most: usize) -> Self {
        assert!(first.is_multiple_of(most) && first * k < values.len());
        let values = &values[first * k..];
        let values = &values[..values.len().min(most * k)];
        Self { values, width: values.len() / k }
    }
}

/// `c = a · b` for `rows` rows of `a`. `lda` and `ldc` are the row strides of `a` and `c`; each row
/// of `c` gets `b.columns()` values.
#[inline(always)]
pub(super) fn multiply<V: Vector>(
    a: &[f32],
    lda: usize,
    rows: usize,
    b: &Packed,
    c: &mut [f32],
    ldc: usize,
) {
    multiply_columns::<V>(a, lda, rows, (b, 0..b.columns), c, ldc);
}

/// As [`multiply`] for a range of columns of `b`, which begins with a panel. They go to the start
/// of `c`'s rows.
#[inline(always)]
pub(super) fn multiply_columns<V: Vector>(
    a: &[f32],
    lda: usize,
    rows: usize,
    (b, range): (&Packed, Range<usize>),
    c: &mut [f32],
    ldc: usize,
) {
    for first in range.clone().step_by(V::PANEL * V::COUNT) {
        multiply_panel::<V>(a, lda, rows, b.panel(first), &mut c[first - range.start..], ldc);
    }
}

/// As [`multiply`] for one panel of `b`, whose columns go to the start of `c`'s rows.
#[inline(always)]
pub(super) fn multiply_panel<V: Vector>(
    a: &[f32],
    lda: usize,
    rows: usize,
    Panel { values, width }: Panel,
    c: &mut [f32],
    ldc: usize,
) {
    if rows == 0 {
        return;
    }
    assert!(width.is_multiple_of(V::COUNT) && (1..=V::PANEL).contains(&(width / V::COUNT)));
    let whole = values.len() / width;
    assert!(
        lda >= whole
            && ldc >= width
            && a.len() >= (rows - 1) * lda + whole
            && c.len() >= (rows - 1) * ldc + width
    );
    for depth in (0..whole).step_by(DEPTH) {
        let k = (whole - depth).min(DEPTH);
        let strip = GemmStrip { k, lda, ldc, accumulate: depth > 0 };
        // SAFETY: by the assertions above, each row of `a` has a value for each row of the panel,
        // and each row of `c` has `width` values.
        unsafe {
            let (a, b, c) =
                (a.as_ptr().add(depth), values.as_ptr().add(depth * width), c.as_mut_ptr());
            match width / V::COUNT {
                4 if V::PANEL >= 4 => strip.sweep::<V, 4>(rows, a, b, c),
                3 if V::PANEL >= 3 => strip.sweep::<V, 3>(rows, a, b, c),
                2 => strip.sweep::<V, 2>(rows, a, b, c),
                _ => strip.sweep::<V, 1>(rows, a, b, c),
            }
        }
    }
}

/// The sizes that all register tiles of one panel share.
#[derive(Clone, Copy)]
struct GemmStrip {
    k: usize,
    lda: usize,
    ldc: usize,
    accumulate: bool,
}

impl GemmStrip {
    /// Multiplies all rows of `a` by one panel. The first of them ask for the rows of `b` that
    /// follow in memory, if a row is one cache line: where such weights are read but once, the
    /// processor alone does not keep up.
    ///
    /// # Safety
    /// Memory must hold `rows` rows of k values at `a`, `rows` rows of N vectors at `c`, and k rows
    /// of N vectors at `b`.
    #[inline(always)]
    unsafe fn sweep<V: Vector, const N: usize>(
        self,
        rows: usize,
        a: *const f32,
        b: *const f32,
        c: *mut f32,
    ) {
        let tall = if N == 1 { rows - rows % TALL } else { 0 };
        let whole = rows - (rows - tall) % ROWS;
        let ahead = |row: usize| if row == 0 { self.k * N * V::COUNT } else { 0 };
        // SAFETY: every tile lies within the rows that the caller guarantees.
        unsafe {
            for row in (0..tall).step_by(TALL) {
                let (a, c) = (a.add(row * self.lda), c.add(row * self.ldc));
                self.tile::<V, TALL, N>(a, b, c, ahead(row));
            }
            for row in (tall..whole).step_by(ROWS) {
                let (a, c) = (a.add(row * self.lda), c.add(row * self.ldc));
                self.tile::<V, ROWS, N>(a, b, c, ahead(row));
            }
            let (a, c) = (a.add(whole * self.lda), c.add(whole * self.ldc));
            match rows - whole {
                0 => {}
                1 => self.tile::<V, 1, N>(a, b, c, ahead(whole)),
                2 => self.tile::<V, 2, N>(a, b, c, ahead(whole)),
                3 => self.tile::<V, 3, N>(a, b, c, ahead(whole)),
                4 => self.tile::<V, 4, N>(a, b, c, ahead(whole)),
                _ => self.tile::<V, 5, N>(a, b, c, ahead(whole)),
            }
        }
    }

    /// Multiplies M rows of `a`, and asks for the values of `b` that are `ahead` of those it reads.
    ///
    /// # Safety
    /// As [`sweep`](Self::sweep), with M rows.
    #[inline(always)]
    unsafe fn tile<V: Vector, const M: usize, const N: usize>(
        self,
        a: *const f32,
        b: *const f32,
        c: *mut f32,
        ahead: usize,
    ) {
        // SAFETY: i < M, j < N and p < k keep every access within the memory that the caller
        // guarantees.
        unsafe {
            let mut sums = [[V::splat(0.0); N]; M];
            for p in 0..self.k {
                let row = b.add(p * N * V::COUNT);
                if N * V::COUNT == LINE {
                    prefetch(row.wrapping_add(ahead));
                }
                let mut b = [V::splat(0.0); N];
                for (j, b) in b.iter_mut().enumerate() {
                    *b = V::load(row.add(j * V::COUNT));
                }
                for (i, sums) in sums.iter_mut().enumerate() {
                    let a = V::splat(*a.add(i * self.lda + p));
                    for (sum, b) in sums.iter_mut().zip(b) {
                        *sum = a.mul_add(b, *sum);
                    }
                }
            }
            for (i, sums) in sums.into_iter().enumerate() {
                for (j, sum) in sums.into_iter().enumerate() {
                    let to = c.add(i * self.ldc + j * V::COUNT);
                    let sum = if self.accumulate { sum.add(V::load(to)) } else { sum };
                    sum.store(to);
                }
            }
        }
    }
}

/// `c += aᵀ · b`: adds the outer products of `depth` rows of `a` (`m` values each) and of `b` (`n`
/// values each). The row strides are `lda`, `ldb` and, in `c` with its `m` rows, `n`.
#[inline(always)]
pub(super) fn add_outer<V: Vector>(
    (a, lda, m): (&[f32], usize, usize),
    (b, ldb, n): (&[f32], usize, usize),
    depth: usize,
    c: &mut [f32],
) {
    if depth == 0 || m == 0 || n == 0 {
        return;
    }
    assert!(
        lda >= m
            && ldb >= n
            && a.len() >= (depth - 1) * lda + m
            && b.len() >= (depth - 1) * ldb + n
    );
    assert!(c.len() >= m * n);
    let outer = Outer { lda, ldb, ldc: n, depth };
    // SAFETY: by the assertions above, `a` has `depth` rows of m values, `b` has `depth` rows of n
    // values and `c` has m rows of n values. A sweep over `width` columns from `first` on stays
    // below n.
    unsafe {
        let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
        let mut first = 0;
        while V::PANEL >= 4 && first + 4 * V::COUNT <= n {
            outer.sweep::<V, 4>(m, a, b.add(first), c.add(first));
            first += 4 * V::COUNT;
        }
        while first + 2 * V::COUNT <= n {
            outer.sweep::<V, 2>(m, a, b.add(first), c.add(first));
            first += 2 * V::COUNT;
        }
        while first + V::COUNT <= n {
            outer.sweep::<V, 1>(m, a, b.add(first), c.add(first));
            first += V::COUNT;
        }
        while first < n {
            outer.sweep::<f32, 1>(m, a, b.add(first), c.add(first));
            first += 1;
        }
    }
}

/// The sizes that all register tiles of a sum of outer products share.
#[derive(Clone, Copy)]
struct Outer {
    lda: usize,
    ldb: usize,
    ldc: usize,
    depth: usize,
}

impl Outer {
    /// # Safety
    /// Memory must hold `depth` rows of m values at `a`, `depth` rows of N vectors at `b`, and m
    /// rows of N vectors at `c`.
    #[inline(always)]
    unsafe fn sweep<V: Vector, const N: usize>(
        self,
        m: usize,
        a: *const f32,
        b: *const f32,
        c: *mut f32,
    ) {
        let whole = m - m % ROWS;
        // SAFETY: every tile lies within the m values that the caller guarantees.
        unsafe {
            for i in (0..whole).step_by(ROWS) {
                self.tile::<V, ROWS, N>(a.add(i), b, c.add(i * self.ldc));
            }
            let (a, c) = (a.add(whole), c.add(whole * self.ldc));
            match m - whole {
                0 => {}
                1 => self.tile::<V, 1, N>(a, b, c),
                2 => self.tile::<V, 2, N>(a, b, c),
                3 => self.tile::<V, 3, N>(a, b, c),
                4 => self.tile::<V, 4, N>(a, b, c),
                _ => self.tile::<V, 5, N>(a, b, c),
            }
        }
    }

    /// # Safety
    /// As [`sweep`](Self::sweep), with M values.
    #[inline(always)]
    unsafe fn tile<V: Vector, const M: usize, const N: usize>(
        self,
        a: *const f32,
        b: *const f32,
        c: *mut f32,
    ) {
        // SAFETY: i < M, j < N and p < depth keep every access within the memory that the caller
        // guarantees.
        unsafe {
            let mut sums = [[V::splat(0.0); N]; M];
            for p in 0..self.depth {
                let (a, row) = (a.add(p * self.lda), b.add(p * self.ldb));
                let mut b = [V::splat(0.0); N];
                for (j, b) in b.iter_mut().enumerate() {
                    *b = V::load(row.add(j * V::COUNT));
                }
                for (i, sums) in sums.iter_mut().enumerate() {
                    let a = V::splat(*a.add(i));
                    for (sum, b) in sums.iter_mut().zip(b) {
                        *sum = a.mul_add(b, *sum);
                    }
                }
            }
            for (i, sums) in sums.into_iter().enumerate() {
                for (j, sum) in sums.into_iter().enumerate() {
                    let to = c.add(i * self.ldc + j * V::COUNT);
                    sum.add(V::load(to)).store(to);
                }
            }
        }
    }
}
