//! Crops, flips and shifts as sparse linear maps with exact adjoints.
//!
//! A [`View`] (crop, bilinear resize, flip) and a [`Shift`] (roll) describe a transform; a
//! [`Resample`] is its linear map for one image size. It is separable: each output row is a mix of
//! two source rows, each output column of two source columns.

use super::{DataError, values, values_mut};
use ndarray::{Array4, ArrayRef4};
use rand::{Rng, RngExt};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// The number of random crops that are tried before the central one is taken.
const CROP_TRIES: usize = 10;
/// The most contiguous pieces for which a column map is copied piece by piece; with more pieces
/// that is not faster.
const MAX_RUNS: usize = 4;

/// Height and width of an image, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

/// A box in the source image that is resized bilinearly to the output size and then optionally
/// mirrored left to right.
///
/// Equals PyTorch's `interpolate(mode="bilinear", align_corners=False, antialias=False)` of the
/// cropped image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// First row of the box.
    pub top: u16,
    /// First column of the box.
    pub left: u16,
    /// Rows of the box, at least 1.
    pub height: u16,
    /// Columns of the box, at least 1.
    pub width: u16,
    /// Whether the resized box is mirrored left to right.
    pub flip: bool,
}

impl View {
    /// The whole image, not mirrored; at most 65535 pixels a side.
    pub fn full(source: Size) -> Result<Self, DataError> {
        let (height, width) = sides(source)?;
        Ok(Self { top: 0, left: 0, height, width, flip: false })
    }

    /// A random box of `scale` times the image's area and of aspect ratio (width / height) `ratio`,
    /// as torchvision's `RandomResizedCrop` draws it.
    ///
    /// Ten boxes are tried; when none fits, the largest central box within the ratios is taken.
    pub fn random_resized_crop(
        rng: &mut impl Rng,
        source: Size,
        scale: (f32, f32),
        ratio: (f32, f32),
    ) -> Result<Self, DataError> {
        check_range("scale", scale)?;
        check_range("ratio", ratio)?;
        let (rows, columns) = sides(source)?;
        let area = f64::from(rows) * f64::from(columns);
        let log_ratio = (f64::from(ratio.0).ln(), f64::from(ratio.1).ln());
        for _ in 0..CROP_TRIES {
            let target = area * rng.random_range(f64::from(scale.0)..=f64::from(scale.1));
            let aspect = rng.random_range(log_ratio.0..=log_ratio.1).exp();
            let width = (target * aspect).sqrt().round_ties_even();
            let height = (target / aspect).sqrt().round_ties_even();
            if (1.0..=f64::from(columns)).contains(&width)
                && (1.0..=f64::from(rows)).contains(&height)
            {
                let (height, width) = (height as u16, width as u16);
                let top = rng.random_range(0..=rows - height);
                let left = rng.random_range(0..=columns - width);
                return Ok(Self { top, left, height, width, flip: false });
            }
        }
        Ok(Self::central(rows, columns, ratio))
    }

    /// The largest central box whose aspect ratio lies within `ratio`.
    fn central(rows: u16, columns: u16, ratio: (f32, f32)) -> Self {
        let (low, high) = (f64::from(ratio.0), f64::from(ratio.1));
        let own = f64::from(columns) / f64::from(rows);
        let (mut height, mut width) = (rows, columns);
        if own < low {
            height =
                (f64::from(columns) / low).round_ties_even().clamp(1.0, f64::from(rows)) as u16;
        } else if own > high {
            width =
                (f64::from(rows) * high).round_ties_even().clamp(1.0, f64::from(columns)) as u16;
        }
        Self { top: (rows - height) / 2, left: (columns - width) / 2, height, width, flip: false }
    }

    /// A random cell of the image's `grid` × `grid` cells. A grid of one cell is the whole image
    /// and draws no random number.
    pub fn random_cell(rng: &mut impl Rng, source: Size, grid: u16) -> Result<Self, DataError> {
        if grid == 1 {
            return Self::full(source);
        }
        let (row, column) = (rng.random_range(0..grid), rng.random_range(0..grid));
        Self::cell(source, grid, row, column)
    }

    /// The cell in this row and column of the image's `grid` × `grid` cells. Edges are rounded
    /// down.
    pub fn cell(source: Size, grid: u16, row: u16, column: u16) -> Result<Self, DataError> {
        let (rows, columns) = sides(source)?;
        let edge = |i: u16, side: u16| (u32::from(i) * u32::from(side) / u32::from(grid)) as u16;
        let (top, left) = (edge(row, rows), edge(column, columns));
        let view = Self {
            top,
            left,
            height: edge(row + 1, rows) - top,
            width: edge(column + 1, columns) - left,
            flip: false,
        };
        view.check(source)?;
        Ok(view)
    }

    /// The box's size.
    pub fn size(&self) -> Size {
        Size { height: self.height.into(), width: self.width.into() }
    }

    /// Converts the box, which lies in the crop `outer`, to a box of the image that `outer` crops.
    pub fn inside(self, outer: &Self) -> Self {
        Self { top: self.top + outer.top, left: self.left + outer.left, ..self }
    }

    /// The same box, mirrored with `probability` (0..=1).
    pub fn with_random_flip(self, rng: &mut impl Rng, probability: f32) -> Self {
        Self { flip: rng.random::<f32>() < probability, ..self }
    }

    /// The same box, moved down and to the right by up to `limit` pixels each: a random crop of its
    /// size out of an image that is `limit` pixels larger.
    pub fn shifted(self, rng: &mut impl Rng, limit: u16) -> Self {
        Self {
            top: self.top + rng.random_range(0..=limit),
            left: self.left + rng.random_range(0..=limit),
            ..self
        }
    }

    /// Checks that the box is not empty and lies inside an image of size `source`.
    pub fn check(&self, source: Size) -> Result<(), DataError> {
        let rows = usize::from(self.top) + usize::from(self.height);
        let columns = usize::from(self.left) + usize::from(self.width);
        if self.height == 0 || self.width == 0 || rows > source.height || columns > source.width {
            let Size { height, width } = source;
            return Err(DataError::Mismatch(format!(
                "{self:?} is not a box inside an image of {height}x{width} pixels"
            )));
        }
        Ok(())
    }
}

/// A roll: pixels that leave at one border come back at the other. `out[y + dy, x + dx] = in[y,
/// x]`, as `torch.roll`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shift {
    /// Rows downwards.
    pub dy: i16,
    /// Columns to the right.
    pub dx: i16,
}

impl Shift {
    /// Both offsets uniform in `-limit..=limit`; `limit` at most 32767.
    pub fn random(rng: &mut impl Rng, limit: u16) -> Self {
        let limit = limit.min(i16::MAX as u16) as i16;
        Self { dy: rng.random_range(-limit..=limit), dx: rng.random_range(-limit..=limit) }
    }
}

/// One output position: `(1 - weight) * source[first] + weight * source[second]`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct PixelTap {
    first: usize,
    second: usize,
    weight: f32,
}

/// A piece of output that copies a piece of source, forwards or backwards.
#[derive(Clone, Copy, Debug)]
struct PixelRun {
    to: usize,
    /// The lowest source position.
    from: usize,
    length: usize,
    backwards: bool,
}

/// The linear map from images of one size to another that a view and shifts define.
#[derive(Clone, Debug)]
pub struct Resample {
    source: Size,
    rows: Vec<PixelTap>,
    columns: Vec<PixelTap>,
    /// The columns as contiguous copies, if they are.
    runs: Option<Vec<PixelRun>>,
}

impl Resample {
    /// The map that `view` defines from images of size `source` to images of size `output`.
    pub fn new(view: &View, source: Size, output: Size) -> Result<Self, DataError> {
        view.check(source)?;
        sides(output)?;
        let rows = bilinear(view.top.into(), view.height.into(), output.height);
        let mut columns = bilinear(view.left.into(), view.width.into(), output.width);
        if view.flip {
            columns.reverse();
        }
        Ok(Self::from_taps(source, rows, columns))
    }

    /// The same map, applied to an input that is rolled first.
    pub fn roll_input(self, shift: Shift) -> Self {
        let Self { source, mut rows, mut columns, .. } = self;
        for (taps, offset, length) in
            [(&mut rows, shift.dy, source.height), (&mut columns, shift.dx, source.width)]
        {
            let back = length - wrapped(offset, length);
            for tap in taps {
                tap.first = (tap.first + back) % length;
                tap.second = (tap.second + back) % length;
            }
        }
        Self::from_taps(source, rows, columns)
    }

    /// The same map, followed by a roll of its output.
    pub fn roll_output(self, shift: Shift) -> Self {
        let Self { source, mut rows, mut columns, .. } = self;
        for (taps, offset) in [(&mut rows, shift.dy), (&mut columns, shift.dx)] {
            let length = taps.len();
            taps.rotate_right(wrapped(offset, length));
        }
        Self::from_taps(source, rows, columns)
    }

    /// The map as numbers, for other hardware: for each output row, then for each output column,
    /// the source positions of its two taps and the second one's weight. The first one's is the
    /// rest.
    pub fn taps(&self) -> impl Iterator<Item = [f32; 3]> {
        let all = self.rows.iter().chain(&self.columns);
        all.map(|tap| [tap.first as f32, tap.second as f32, tap.weight])
    }

    fn from_taps(source: Size, rows: Vec<PixelTap>, columns: Vec<PixelTap>) -> Self {
        let runs = runs(&columns);
        Self { source, rows, columns, runs }
    }

    /// The size of the input images.
    pub fn source(&self) -> Size {
        self.source
    }

    /// The size of the output images.
    pub fn output(&self) -> Size {
        Size { height: self.rows.len(), width: self.columns.len() }
    }

    /// `dst = A src`: `src` is an image `[channels, H, W]` of the source size, `dst` one of the
    /// output size, overwritten.
    ///
    /// # Panics
    ///
    /// When a slice has another length.
    pub fn apply(&self, src: &[f32], dst: &mut [f32], channels: usize) {
        self.check_lengths(src.len(), dst.len(), channels);
        self.apply_planes(src, dst, &mut Vec::new());
    }

    /// `dst = Aᵀ src`, the exact transpose of [`apply`](Self::apply): `src` is an image (a
    /// gradient) `[channels, H, W]` of the output size, `dst` one of the source size, overwritten.
    ///
    /// # Panics
    ///
    /// When a slice has another length.
    pub fn adjoint(&self, src: &[f32], dst: &mut [f32], channels: usize) {
        self.check_lengths(dst.len(), src.len(), channels);
        self.adjoint_planes(src, dst, &mut Vec::new());
    }

    fn check_lengths(&self, source: usize, output: usize, channels: usize) {
        assert_eq!(
            source,
            channels * self.source_plane(),
            "the image of the source size has the wrong length"
        );
        assert_eq!(
            output,
            channels * self.output_plane(),
            "the image of the output size has the wrong length"
        );
    }

    fn source_plane(&self) -> usize {
        self.source.height * self.source.width
    }

    fn output_plane(&self) -> usize {
        self.rows.len() * self.columns.len()
    }

    fn apply_planes(&self, src: &[f32], dst: &mut [f32], scratch: &mut Vec<f32>) {
        let width = self.source.width;
        scratch.resize(width, 0.0);
        let planes =
            dst.chunks_exact_mut(self.output_plane()).zip(src.chunks_exact(self.source_plane()));
        for (dst, src) in planes {
            for (out, tap) in dst.chunks_exact_mut(self.columns.len()).zip(&self.rows) {
                let first = &src[tap.first * width..][..width];
                if tap.weight == 0.0 {
                    self.apply_columns(first, out);
                } else {
                    blend(first, &src[tap.second * width..][..width], tap.weight, scratch);
                    self.apply_columns(scratch, out);
                }
            }
        }
    }

    fn adjoint_planes(&self, src: &[f32], dst: &mut [f32], scratch: &mut Vec<f32>) {
        let width = self.source.width;
        scratch.resize(width, 0.0);
        dst.fill(0.0);
        let planes =
            dst.chunks_exact_mut(self.source_plane()).zip(src.chunks_exact(self.output_plane()));
        for (dst, src) in planes {
            for (gradient, tap) in src.chunks_exact(self.columns.len()).zip(&self.rows) {
                if tap.weight == 0.0 {
                    self.add_columns_adjoint(gradient, &mut dst[tap.first * width..][..width]);
                } else {
                    scratch.fill(0.0);
                    self.add_columns_adjoint(gradient, scratch);
                    add_scaled(scratch, 1.0 - tap.weight, &mut dst[tap.first * width..][..width]);
                    add_scaled(scratch, tap.weight, &mut dst[tap.second * width..][..width]);
                }
            }
        }
    }

    /// Computes one output row from one (blended) source row.
    fn apply_columns(&self, row: &[f32], out: &mut [f32]) {
        match &self.runs {
            Some(runs) => {
                for run in runs {
                    let from = &row[run.from..run.from + run.length];
                    let to = &mut out[run.to..run.to + run.length];
                    if run.backwards {
                        to.iter_mut().zip(from.iter().rev()).for_each(|(to, from)| *to = *from);
                    } else {
                        to.copy_from_slice(from);
                    }
                }
            }
            None => {
                for (to, tap) in out.iter_mut().zip(&self.columns) {
                    *to = (1.0 - tap.weight) * row[tap.first] + tap.weight * row[tap.second];
                }
            }
        }
    }

    /// Adds the contribution of one output row's gradient to the gradient of one source row.
    fn add_columns_adjoint(&self, gradient: &[f32], row: &mut [f32]) {
        match &self.runs {
            Some(runs) => {
                for run in runs {
                    let to = &mut row[run.from..run.from + run.length];
                    let from = &gradient[run.to..run.to + run.length];
                    if run.backwards {
                        to.iter_mut().zip(from.iter().rev()).for_each(|(to, from)| *to += from);
                    } else {
                        to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
                    }
                }
            }
            None => {
                for (from, tap) in gradient.iter().zip(&self.columns) {
                    row[tap.first] += (1.0 - tap.weight) * from;
                    row[tap.second] += tap.weight * from;
                }
            }
        }
    }
}

/// `dst[n] = maps[n] src[n]` for a whole batch, in parallel: `src` `[N, C, H, W]` of the maps'
/// source size, `dst` `[N, C, h, w]` of their output size.
pub fn apply_batch(
    maps: &[Resample],
    src: &Array4<f32>,
    dst: &mut ArrayRef4<f32>,
) -> Result<(), DataError> {
    let (from, to) = check_batch(maps, src, dst)?;
    let images = values_mut(dst)?
        .par_chunks_exact_mut(to)
        .zip(values(src)?.par_chunks_exact(from))
        .zip(maps);
    images
        .for_each_init(Vec::new, |scratch, ((dst, src), map)| map.apply_planes(src, dst, scratch));
    Ok(())
}

/// `dst[n] = maps[n]ᵀ src[n]` for a whole batch, in parallel: `src` `[N, C, h, w]` of the maps'
/// output size, `dst` `[N, C, H, W]` of their source size.
pub fn adjoint_batch(
    maps: &[Resample],
    src: &Array4<f32>,
    dst: &mut Array4<f32>,
) -> Result<(), DataError> {
    let (to, from) = check_batch(maps, dst, src)?;
    let images = values_mut(dst)?
        .par_chunks_exact_mut(to)
        .zip(values(src)?.par_chunks_exact(from))
        .zip(maps);
    images.for_each_init(Vec::new, |scratch, ((dst, src), map)| {
        map.adjoint_planes(src, dst, scratch)
    });
    Ok(())
}

/// Checks that the maps fit both batches; returns the lengths of an image in each (at least 1).
fn check_batch(
    maps: &[Resample],
    source: &ArrayRef4<f32>,
    output: &ArrayRef4<f32>,
) -> Result<(usize, usize), DataError> {
    let (count, channels, height, width) = source.dim();
    let from = Size { height, width };
    let (out_count, out_channels, out_height, out_width) = output.dim();
    let to = Size { height: out_height, width: out_width };
    if (count, channels) != (out_count, out_channels) || maps.len() != count {
        return Err(DataError::Mismatch(format!(
            "{} views for {count} images of {channels} channels into {out_count} of {out_channels}; give one per image",
            maps.len()
        )));
    }
    if let Some(map) = maps.iter().find(|map| map.source != from || map.output() != to) {
        let (source, output) = (map.source, map.output());
        return Err(DataError::Mismatch(format!(
            "a view maps {source:?} to {output:?}, but the batches hold {from:?} and {to:?}; build it for their sizes"
        )));
    }
    Ok(((channels * height * width).max(1), (channels * out_height * out_width).max(1)))
}

/// Both sides of `size` as `u16`, the range that views can address.
fn sides(size: Size) -> Result<(u16, u16), DataError> {
    match (u16::try_from(size.height), u16::try_from(size.width)) {
        (Ok(height @ 1..), Ok(width @ 1..)) => Ok((height, width)),
        _ => Err(DataError::Mismatch(format!(
            "{size:?} has no views; use images of 1 to 65535 pixels a side"
        ))),
    }
}

fn check_range(what: &str, (low, high): (f32, f32)) -> Result<(), DataError> {
    if low > 0.0 && low <= high && high.is_finite() {
        return Ok(());
    }
    Err(DataError::Mismatch(format!(
        "{what} ({low}, {high}) of a random crop; give 0 < low <= high"
    )))
}

/// The taps that resize the `length` positions from `start` on to `output` positions, clamped at
/// both ends, in PyTorch's arithmetic.
fn bilinear(start: usize, length: usize, output: usize) -> Vec<PixelTap> {
    let scale = length as f32 / output as f32;
    let tap = |position: usize| {
        let exact = (scale * (position as f32 + 0.5) - 0.5).max(0.0);
        let low = (exact as usize).min(length - 1);
        let high = (low + 1).min(length - 1);
        let weight = if high == low { 0.0 } else { (exact - low as f32).clamp(0.0, 1.0) };
        PixelTap { first: start + low, second: start + high, weight }
    };
    (0..output).map(tap).collect()
}

/// `offset` modulo `length`, in `0..length`.
fn wrapped(offset: i16, length: usize) -> usize {
    isize::from(offset).rem_euclid(length as isize) as usize
}

/// The taps as a few contiguous copies, or `None` if they are not.
fn runs(taps: &[PixelTap]) -> Option<Vec<PixelRun>> {
    let mut runs: Vec<PixelRun> = vec![];
    for (to, tap) in taps.iter().enumerate() {
        if tap.weight != 0.0 {
            return None;
        }
        if !runs.last_mut().is_some_and(|run| run.extend(tap.first)) {
            if runs.len() == MAX_RUNS {
                return None;
            }
            runs.push(PixelRun { to, from: tap.first, length: 1, backwards: false });
        }
    }
    Some(runs)
}

impl PixelRun {
    /// Adds `position` to the run if it is adjacent in the run's direction.
    fn extend(&mut self, position: usize) -> bool {
        if position == self.from + self.length && !self.backwards {
            self.length += 1;
        } else if position + 1 == self.from && (self.backwards || self.length == 1) {
            self.from = position;
            self.length += 1;
            self.backwards = true;
        } else {
            return false;
        }
        true
    }
}

/// `out = (1 - weight) * first + weight * second`.
fn blend(first: &[f32], second: &[f32], weight: f32, out: &mut [f32]) {
    for ((out, first), second) in out.iter_mut().zip(first).zip(second) {
        *out = (1.0 - weight) * first + weight * second;
    }
}

/// `out += factor * values`.
fn add_scaled(values: &[f32], factor: f32, out: &mut [f32]) {
    for (out, value) in out.iter_mut().zip(values) {
        *out += factor * value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::stream;
    use proptest::prelude::*;
    use safetensors::SafeTensors;

    const IMAGENET_RATIO: (f32, f32) = (0.75, 4.0 / 3.0);

    fn size(height: usize, width: usize) -> Size {
        Size { height, width }
    }

    #[test]
    fn cells_tile_the_image_and_boxes_of_a_cell_lie_within_it() {
        let (source, mut rng) = (size(28, 31), stream(1, "test", 0));
        assert_eq!(View::random_cell(&mut rng, source, 1).unwrap(), View::full(source).unwrap());
        let mut covered = vec![0; 28 * 31];
        for (row, column) in (0..9).map(|i| (i / 3, i % 3)) {
            let cell = View::cell(source, 3, row, column).unwrap();
            for y in cell.top..cell.top + cell.height {
                (cell.left..cell.left + cell.width)
                    .for_each(|x| covered[usize::from(y) * 31 + usize::from(x)] += 1);
            }
            let inner = View { top: 2, left: 1, height: 3, width: 4, flip: true };
            let outer = inner.inside(&cell);
            assert_eq!(
                (outer.top - cell.top, outer.left - cell.left, outer.size(), outer.flip),
                (2, 1, size(3, 4), true)
            );
        }
        assert!(covered.iter().all(|&times| times == 1));
        assert!(View::cell(size(2, 2), 3, 0, 0).is_err());
    }

    fn floats(tensors: &SafeTensors, name: &str) -> (Vec<usize>, Vec<f32>) {
        let tensor = tensors.tensor(name).unwrap();
        let values = tensor
            .data()
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
        (tensor.shape().to_vec(), values.collect())
    }

    fn assert_close(found: &[f32], expected: &[f32], what: &str) {
        assert_eq!(found.len(), expected.len(), "{what}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                (found - expected).abs() < 1e-5 * expected.abs().max(1.0),
                "{what}: {found} instead of {expected}"
            );
        }
    }

    /// Each case of `tests/goldens/make_views.py` holds PyTorch's output, and the gradient of its
    /// input for a given gradient of its output.
    #[test]
    fn agrees_with_pytorch() {
        let bytes = std::fs::read(crate::in_repository("tests/goldens/views.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let mut cases = 0;
        while let Ok(tensor) = tensors.tensor(&format!("{cases}.case")) {
            let case: Vec<i32> = tensor
                .data()
                .chunks_exact(4)
                .map(|bytes| i32::from_le_bytes(bytes.try_into().unwrap()))
                .collect();
            let [top, left, height, width, flip, in_dy, in_dx, out_dy, out_dx] = case[..] else {
                panic!("{case:?}")
            };
            let view = View {
                top: top as u16,
                left: left as u16,
                height: height as u16,
                width: width as u16,
                flip: flip == 1,
            };
            let (from, input) = floats(&tensors, &format!("{cases}.input"));
            let (to, output) = floats(&tensors, &format!("{cases}.output"));
            let map = Resample::new(&view, size(from[1], from[2]), size(to[1], to[2]))
                .unwrap()
                .roll_input(Shift { dy: in_dy as i16, dx: in_dx as i16 })
                .roll_output(Shift { dy: out_dy as i16, dx: out_dx as i16 });
            let mut found = vec![f32::NAN; output.len()];
            map.apply(&input, &mut found, from[0]);
            assert_close(&found, &output, &format!("output of case {cases}: {case:?}"));

            let (_, gradient) = floats(&tensors, &format!("{cases}.output_grad"));
            let (_, expected) = floats(&tensors, &format!("{cases}.input_grad"));
            let mut found = vec![f32::NAN; input.len()];
            map.adjoint(&gradient, &mut found, from[0]);
            assert_close(&found, &expected, &format!("gradient of case {cases}: {case:?}"));
            cases += 1;
        }
        assert!(cases >= 10, "only {cases} cases");
    }

    fn random_image(length: usize, seed: u64) -> Vec<f32> {
        let mut rng = stream(seed, "test", 0);
        (0..length).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    fn dot(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    }

    fn any_map() -> impl Strategy<Value = Resample> {
        let sizes = (1usize..20, 1usize..20, 1usize..20, 1usize..20, any::<u64>());
        let shifts = (-40i16..40, -40i16..40, -40i16..40, -40i16..40, any::<bool>(), any::<bool>());
        (sizes, shifts).prop_map(|((height, width, out_height, out_width, seed), shifts)| {
            let (source, mut output) = (size(height, width), size(out_height, out_width));
            let mut rng = stream(seed, "map", 0);
            let view = if shifts.4 {
                output = source;
                View::full(source).unwrap().with_random_flip(&mut rng, 0.5)
            } else {
                let crop = View::random_resized_crop(&mut rng, source, (0.05, 1.0), IMAGENET_RATIO)
                    .unwrap();
                crop.with_random_flip(&mut rng, 0.5)
            };
            let map = Resample::new(&view, source, output).unwrap();
            let map = map.roll_input(Shift { dy: shifts.0, dx: shifts.1 });
            if shifts.5 { map.roll_output(Shift { dy: shifts.2, dx: shifts.3 }) } else { map }
        })
    }

    proptest! {
        #[test]
        fn adjoint_is_the_transpose(map in any_map(), channels in 1usize..4, seed in any::<u64>()) {
            let x = random_image(channels * map.source_plane(), seed);
            let y = random_image(channels * map.output_plane(), seed ^ 1);
            let (mut forward, mut backward) = (vec![f32::NAN; y.len()], vec![f32::NAN; x.len()]);
            map.apply(&x, &mut forward, channels);
            map.adjoint(&y, &mut backward, channels);
            let (left, right) = (dot(&forward, &y), dot(&x, &backward));
            prop_assert!((left - right).abs() < 1e-5 * (y.len() as f64).sqrt().max(1.0), "{left} and {right}");
        }

        #[test]
        fn copies_and_taps_agree(mut map in any_map(), seed in any::<u64>()) {
            let x = random_image(map.source_plane(), seed);
            let mut by_runs = vec![f32::NAN; map.output_plane()];
            map.apply(&x, &mut by_runs, 1);
            map.runs = None;
            let mut by_taps = vec![f32::NAN; map.output_plane()];
            map.apply(&x, &mut by_taps, 1);
            prop_assert_eq!(by_runs, by_taps);
        }

        #[test]
        fn random_crops_lie_inside(height in 1usize..80, width in 1usize..80, seed in any::<u64>(), low in 0.01f32..1.0) {
            let source = size(height, width);
            let mut rng = stream(seed, "crop", 0);
            let view = View::random_resized_crop(&mut rng, source, (low, 1.0), IMAGENET_RATIO).unwrap();
            prop_assert!(view.check(source).is_ok());
        }
    }

    #[test]
    fn identity_and_shift_are_copies() {
        let source = size(3, 4);
        let image: Vec<f32> = (0..12).map(|value| value as f32).collect();
        let map = Resample::new(&View::full(source).unwrap(), source, source).unwrap();
        assert_eq!(map.runs.as_ref().unwrap().len(), 1);
        let mut out = vec![0.0; 12];
        map.apply(&image, &mut out, 1);
        assert_eq!(out, image);

        let map = map.roll_input(Shift { dy: 1, dx: -1 });
        assert_eq!(map.runs.as_ref().unwrap().len(), 2);
        map.apply(&image, &mut out, 1);
        assert_eq!(out, [9.0, 10.0, 11.0, 8.0, 1.0, 2.0, 3.0, 0.0, 5.0, 6.0, 7.0, 4.0]);
        map.adjoint(&out.clone(), &mut out, 1);
        assert_eq!(out, image);
    }

    #[test]
    fn batches_equal_single_images() {
        let (source, output) = (size(9, 11), size(8, 8));
        let maps: Vec<_> = (0..5)
            .map(|item| {
                let mut rng = stream(7, "views", item);
                let view = View::random_resized_crop(&mut rng, source, (0.2, 1.0), IMAGENET_RATIO)
                    .unwrap();
                Resample::new(&view, source, output).unwrap()
            })
            .collect();
        let images = Array4::from_shape_vec((5, 2, 9, 11), random_image(5 * 2 * 99, 3)).unwrap();
        let mut views = Array4::from_elem((5, 2, 8, 8), f32::NAN);
        apply_batch(&maps, &images, &mut views).unwrap();
        let mut gradients = Array4::from_elem((5, 2, 9, 11), f32::NAN);
        adjoint_batch(&maps, &views, &mut gradients).unwrap();
        for (item, map) in maps.iter().enumerate() {
            let (image, view) = (
                &images.as_slice().unwrap()[item * 198..][..198],
                &views.as_slice().unwrap()[item * 128..][..128],
            );
            let (mut forward, mut backward) = (vec![0.0; 128], vec![0.0; 198]);
            map.apply(image, &mut forward, 2);
            map.adjoint(view, &mut backward, 2);
            assert_eq!(forward, view);
            assert_eq!(backward, gradients.as_slice().unwrap()[item * 198..][..198]);
        }
    }

    #[test]
    fn random_crops_follow_the_ranges() {
        let source = size(64, 64);
        let (mut area, mut flips) = (0.0, 0);
        for item in 0..2000 {
            let mut rng = stream(1, "crop", item);
            let view =
                View::random_resized_crop(&mut rng, source, (0.08, 1.0), IMAGENET_RATIO).unwrap();
            let share = f64::from(view.height) * f64::from(view.width) / 4096.0;
            let ratio = f64::from(view.width) / f64::from(view.height);
            assert!((0.07..=1.0).contains(&share), "{view:?}");
            assert!((0.7..=1.43).contains(&ratio), "{view:?}");
            area += share / 2000.0;
            flips += u32::from(view.with_random_flip(&mut rng, 0.5).flip);
        }
        assert!((0.47..0.56).contains(&area), "mean area {area}");
        assert!((900..1100).contains(&flips), "{flips} flips");
    }

    #[test]
    fn crops_that_cannot_fit_fall_back_to_the_centre() {
        let mut rng = stream(1, "crop", 0);
        let mut crop = |source| {
            View::random_resized_crop(&mut rng, source, (1.0, 1.0), IMAGENET_RATIO).unwrap()
        };
        assert_eq!(
            crop(size(30, 90)),
            View { top: 0, left: 25, height: 30, width: 40, flip: false }
        );
        assert_eq!(
            crop(size(90, 30)),
            View { top: 25, left: 0, height: 40, width: 30, flip: false }
        );
    }

    #[test]
    fn shifts_are_symmetric() {
        let shifts: Vec<_> =
            (0..500).map(|item| Shift::random(&mut stream(1, "shift", item), 2)).collect();
        for offset in -2..=2 {
            assert!(shifts.iter().filter(|shift| shift.dy == offset).count() > 50);
            assert!(shifts.iter().filter(|shift| shift.dx == offset).count() > 50);
        }
        assert!(shifts.iter().all(|shift| shift.dy.abs() <= 2 && shift.dx.abs() <= 2));
    }

    #[test]
    fn misuse_is_explained() {
        let (source, output) = (size(4, 4), size(2, 2));
        let full = View::full(source).unwrap();
        let map = Resample::new(&full, source, output).unwrap();
        let mut rng = stream(0, "crop", 0);
        let mut crop =
            |scale| View::random_resized_crop(&mut rng, source, scale, IMAGENET_RATIO).map(|_| ());
        let images = |count, side| Array4::<f32>::zeros((count, 1, side, side));
        let cases = [
            (View::full(size(0, 4)).map(|_| ()), "has no views"),
            (View::full(size(4, 65536)).map(|_| ()), "has no views"),
            (
                Resample::new(&View { top: 1, ..full }, source, output).map(|_| ()),
                "is not a box inside an image of 4x4",
            ),
            (
                Resample::new(&View { width: 0, ..full }, source, output).map(|_| ()),
                "is not a box inside",
            ),
            (Resample::new(&full, source, size(0, 1)).map(|_| ()), "has no views"),
            (crop((0.0, 1.0)), "scale (0, 1) of a random crop"),
            (crop((0.5, 0.1)), "scale (0.5, 0.1) of a random crop"),
            (
                apply_batch(std::slice::from_ref(&map), &images(2, 4), &mut images(2, 2)),
                "1 views for 2 images",
            ),
            (
                apply_batch(std::slice::from_ref(&map), &images(1, 4), &mut images(1, 4)),
                "build it for their sizes",
            ),
            (
                apply_batch(&[map], &images(1, 4), &mut images(1, 2).permuted_axes([0, 1, 3, 2])),
                "not contiguous",
            ),
        ];
        for (result, expected) in cases {
            let message = result.unwrap_err().to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
        apply_batch(&[], &images(0, 4), &mut images(0, 2)).unwrap();
    }
}
