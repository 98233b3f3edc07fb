//! Augmentations beyond crops and flips: RandAugment on pixels, DSA on normalised views.
//!
//! An [`Operation`] is one step with its drawn parameters. It can be stored and repeated exactly.

use rand::{Rng, RngExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DataError, Size};

/// The number of steps into which RandAugment divides its ranges (torchvision's default).
const BINS: f32 = 31.0;
/// The upper bound of an operation's values: images have at most so many pixels a side.
const LARGEST: f32 = 65_535.0;
/// Weights of torchvision's `rgb_to_grayscale`.
const LUMA: [f32; 3] = [0.2989, 0.587, 0.114];

/// How views are augmented.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Augment {
    /// RandAugment (arXiv 1909.13719) as torchvision has it for tensors. It acts on an image's
    /// pixels, before the view is cropped.
    RandAugment {
        /// Operations per view, 1 to 16. Published: 2 (EDC).
        #[schemars(range(min = 1, max = 16))]
        operations: u8,
        /// Strength of the operations, 0 to 30. Published: 9 (EDC).
        #[schemars(range(max = 30))]
        magnitude: u8,
    },
    /// DSA (arXiv 2102.08259), on a normalised view. Each batch draws one of colour, crop, cutout,
    /// flip, scale and rotation; each view draws its own parameters. Published: by DSA, DM and CIM
    /// in place of crops and flips.
    Dsa {},
}

/// The kinds of operations, with the meaning of [`Operation::values`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Identity,
    /// Shear along rows, by the value.
    ShearX,
    ShearY,
    /// Translation by the value, in whole pixels.
    TranslateX,
    TranslateY,
    /// Rotation counter-clockwise by the value, in degrees.
    Rotate,
    /// This and the next three: blending with the factor 1 + value.
    Brightness,
    Color,
    Contrast,
    Sharpness,
    /// Keeps as many high bits as the value says.
    Posterize,
    /// Inverts pixels that are at least the value.
    Solarize,
    AutoContrast,
    Equalize,
    /// DSA's colour: brightness, saturation and contrast, by three uniform numbers.
    DsaColor,
    /// DSA's crop: a shift by so many rows and columns, filled with zeros.
    DsaCrop,
    /// DSA's cutout: a box of half the sides, centred on a row and a column, becomes zeros.
    DsaCutout,
    /// DSA's flip, if the value is not 0.
    DsaFlip,
    /// DSA's scale, by two factors.
    DsaScale,
    /// DSA's rotation, in radians.
    DsaRotate,
}

/// All kinds, in the order of their numbers.
const KINDS: [Kind; 20] = [
    Kind::Identity,
    Kind::ShearX,
    Kind::ShearY,
    Kind::TranslateX,
    Kind::TranslateY,
    Kind::Rotate,
    Kind::Brightness,
    Kind::Color,
    Kind::Contrast,
    Kind::Sharpness,
    Kind::Posterize,
    Kind::Solarize,
    Kind::AutoContrast,
    Kind::Equalize,
    Kind::DsaColor,
    Kind::DsaCrop,
    Kind::DsaCutout,
    Kind::DsaFlip,
    Kind::DsaScale,
    Kind::DsaRotate,
];
/// The number of RandAugment's kinds, which come first.
const RAND_AUGMENT: usize = 14;

impl Kind {
    /// The kind with this number.
    pub fn of(number: u32) -> Option<Self> {
        KINDS.get(number as usize).copied()
    }

    /// Whether the kind acts on normalised views instead of pixels.
    pub fn is_dsa(self) -> bool {
        self as usize >= RAND_AUGMENT
    }
}

/// One step of an augmentation. [`Kind`] gives the meaning of `values`; unused ones are 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Operation {
    pub kind: Kind,
    pub values: [f32; 3],
}

impl Augment {
    /// The number of operations per view.
    pub fn per_view(self) -> usize {
        match self {
            Augment::RandAugment { operations, .. } => operations.into(),
            Augment::Dsa {} => 1,
        }
    }

    /// Whether this augmentation can draw `operation`.
    pub fn has(self, operation: &Operation) -> bool {
        operation.kind.is_dsa() == matches!(self, Augment::Dsa {})
            && operation.values.iter().all(|v| v.abs() <= LARGEST)
    }

    /// Draws the operations of a batch of `count` views, view after view, `[count · per_view]`.
    /// `source` is the size of the images, `view` the size of the views.
    pub fn draw(
        self,
        rng: &mut impl Rng,
        count: usize,
        source: Size,
        view: Size,
    ) -> Vec<Operation> {
        match self {
            Augment::RandAugment { operations, magnitude } => {
                let draws = count * usize::from(operations);
                (0..draws).map(|_| rand_augment(rng, f32::from(magnitude), source)).collect()
            }
            Augment::Dsa {} => {
                let kind = KINDS[rng.random_range(RAND_AUGMENT..KINDS.len())];
                (0..count).map(|_| dsa(rng, kind, view)).collect()
            }
        }
    }
}

fn rand_augment(rng: &mut impl Rng, magnitude: f32, size: Size) -> Operation {
    let kind = KINDS[rng.random_range(0..RAND_AUGMENT)];
    let share = magnitude / (BINS - 1.0);
    let (value, signed) = match kind {
        Kind::ShearX | Kind::ShearY => (0.3 * share, true),
        Kind::TranslateX => ((150.0 / 331.0 * size.width as f32 * share).trunc(), true),
        Kind::TranslateY => ((150.0 / 331.0 * size.height as f32 * share).trunc(), true),
        Kind::Rotate => (30.0 * share, true),
        Kind::Brightness | Kind::Color | Kind::Contrast | Kind::Sharpness => (0.9 * share, true),
        Kind::Posterize => (8.0 - (magnitude / ((BINS - 1.0) / 4.0)).round_ties_even(), false),
        Kind::Solarize => (255.0 * (1.0 - share), false),
        _ => (0.0, false),
    };
    let negative = signed && rng.random_range(0..2) == 1;
    Operation { kind, values: [if negative { -value } else { value }, 0.0, 0.0] }
}

fn dsa(rng: &mut impl Rng, kind: Kind, size: Size) -> Operation {
    let (height, width) = (size.height as i64, size.width as i64);
    let values = match kind {
        Kind::DsaColor => [rng.random(), rng.random(), rng.random()],
        Kind::DsaCrop => {
            let mut shift = |side: i64| {
                let most = (side as f32 * 0.125 + 0.5) as i64;
                rng.random_range(-most..=most) as f32
            };
            [shift(height), shift(width), 0.0]
        }
        Kind::DsaCutout => {
            let mut centre = |side: i64| rng.random_range(0..side + (1 - cutout(side) % 2)) as f32;
            [centre(height), centre(width), 0.0]
        }
        Kind::DsaFlip => [if rng.random::<f32>() < 0.5 { 1.0 } else { 0.0 }, 0.0, 0.0],
        Kind::DsaScale => {
            let mut factor = || rng.random::<f32>() * (1.2 - 1.0 / 1.2) + 1.0 / 1.2;
            [factor(), factor(), 0.0]
        }
        Kind::DsaRotate => [(rng.random::<f32>() - 0.5) * 2.0 * 15f32.to_radians(), 0.0, 0.0],
        _ => [0.0; 3],
    };
    Operation { kind, values }
}

/// The side of DSA's cutout box.
fn cutout(side: i64) -> i64 {
    (side as f32 * 0.5 + 0.5) as i64
}

impl Operation {
    /// Applies one of RandAugment's operations to the pixels of an image, `[C, H, W]`, C = 1 or 3.
    ///
    /// # Errors
    /// When the operation is one of DSA's, or the number of pixels does not match.
    pub fn apply_to_pixels(
        &self,
        pixels: &mut [u8],
        channels: usize,
        size: Size,
    ) -> Result<(), DataError> {
        let plane = size.height * size.width;
        let fits = plane > 0 && pixels.len() == channels * plane && [1, 3].contains(&channels);
        if self.kind.is_dsa() || !fits {
            let problem = format!(
                "{:?} on {} bytes of {channels} channels of {size:?}",
                self.kind,
                pixels.len()
            );
            return Err(DataError::Mismatch(problem));
        }
        let value = self.values[0];
        match self.kind {
            Kind::ShearX | Kind::ShearY | Kind::TranslateX | Kind::TranslateY | Kind::Rotate => {
                let moved: Vec<u8> = pixels
                    .chunks_exact(plane)
                    .flat_map(|p| moved(p, size, self.kind, value))
                    .collect();
                pixels.copy_from_slice(&moved);
            }
            Kind::Brightness => blend(pixels, |_, _| 0.0, 1.0 + f64::from(value)),
            Kind::Color if channels == 3 => {
                let gray = gray(pixels, plane);
                blend(pixels, |_, place| gray[place % plane], 1.0 + f64::from(value));
            }
            Kind::Contrast => {
                let gray = gray(pixels, plane);
                let mean = gray.iter().map(|&g| f64::from(g)).sum::<f64>() / plane as f64;
                blend(pixels, |_, _| mean as f32, 1.0 + f64::from(value));
            }
            Kind::Sharpness if size.height > 2 && size.width > 2 => {
                let blurred: Vec<f32> =
                    pixels.chunks_exact(plane).flat_map(|p| blurred(p, size)).collect();
                blend(pixels, |_, place| blurred[place], 1.0 + f64::from(value));
            }
            Kind::Posterize => {
                let mask =
                    255u32.checked_shl(8 - (value as i32).clamp(0, 8) as u32).unwrap_or(0) as u8;
                pixels.iter_mut().for_each(|p| *p &= mask);
            }
            Kind::Solarize => {
                pixels.iter_mut().filter(|p| f32::from(**p) >= value).for_each(|p| *p = 255 - *p);
            }
            Kind::AutoContrast => pixels.chunks_exact_mut(plane).for_each(stretch),
            Kind::Equalize => pixels.chunks_exact_mut(plane).for_each(equalize),
            _ => {}
        }
        Ok(())
    }

    /// Applies one of DSA's operations to a normalised view, `[C, H, W]`.
    ///
    /// # Errors
    /// When the operation is one of RandAugment's, or the number of values does not match.
    pub fn apply_to_view(&self, view: &mut [f32], size: Size) -> Result<(), DataError> {
        let plane = size.height * size.width;
        if !self.kind.is_dsa() || plane == 0 || !view.len().is_multiple_of(plane) {
            let problem = format!("{:?} on {} values of planes of {size:?}", self.kind, view.len());
            return Err(DataError::Mismatch(problem));
        }
        let [first, second, third] = self.values;
        let (height, width) = (size.height as i64, size.width as i64);
        match self.kind {
            Kind::DsaColor => recolour(view, plane, [first, second, third]),
            Kind::DsaCrop => each_plane(
                view,
                plane,
                |old, row, column| {
                    let (from_row, from_column) = (row + first as i64, column + second as i64);
                    let inside =
                        (0..height).contains(&from_row) && (0..width).contains(&from_column);
                    if inside { old[(from_row * width + from_column) as usize] } else { 0.0 }
                },
                width,
            ),
            Kind::DsaCutout => {
                let (rows, columns) = (cutout(height), cutout(width));
                let (top, left) = (first as i64 - rows / 2, second as i64 - columns / 2);
                // The box is clamped to the image, so a box beyond an edge still clears the edge's
                // row or column.
                let rows = top.clamp(0, height - 1)..=(top + rows - 1).clamp(0, height - 1);
                let columns = left.clamp(0, width - 1)..=(left + columns - 1).clamp(0, width - 1);
                each_plane(
                    view,
                    plane,
                    |old, row, column| {
                        let inside = rows.contains(&row) && columns.contains(&column);
                        if inside { 0.0 } else { old[(row * width + column) as usize] }
                    },
                    width,
                );
            }
            Kind::DsaFlip if first != 0.0 => {
                each_plane(
                    view,
                    plane,
                    |old, row, column| old[(row * width + width - 1 - column) as usize],
                    width,
                );
            }
            Kind::DsaScale => sample(view, size, [first, 0.0, 0.0, second]),
            Kind::DsaRotate => {
                sample(view, size, [first.cos(), (-first).sin(), first.sin(), first.cos()])
            }
            _ => {}
        }
        Ok(())
    }
}

/// factor · pixel + (1 − factor) · other(pixel, place), clamped to 0..=255 and rounded down.
fn blend(pixels: &mut [u8], other: impl Fn(u8, usize) -> f32, factor: f64) {
    let (own, rest) = (factor as f32, (1.0 - factor) as f32);
    for (place, pixel) in pixels.iter_mut().enumerate() {
        let mixed = own * f32::from(*pixel) + rest * other(*pixel, place);
        *pixel = mixed.clamp(0.0, 255.0) as u8;
    }
}

/// Gray levels `[H · W]`, rounded down.
fn gray(pixels: &[u8], plane: usize) -> Vec<f32> {
    if pixels.len() == plane {
        return pixels.iter().map(|&p| f32::from(p)).collect();
    }
    let at =
        |place: usize, channel: usize| LUMA[channel] * f32::from(pixels[channel * plane + place]);
    (0..plane).map(|place| (at(place, 0) + at(place, 1) + at(place, 2)).trunc()).collect()
}

/// Shears, shifts or rotates a plane by nearest-neighbour sampling; pixels from outside are 0.
fn moved(plane: &[u8], size: Size, kind: Kind, value: f32) -> Vec<u8> {
    let value = f64::from(value);
    let (middle_row, middle_column) =
        ((size.height as f64 - 1.0) / 2.0, (size.width as f64 - 1.0) / 2.0);
    let (sin, cos) = value.to_radians().sin_cos();
    let place = |index: usize| ((index / size.width) as f64, (index % size.width) as f64);
    let from = |(row, column): (f64, f64)| match kind {
        Kind::ShearX => (row, column + value * (row + 0.5)),
        Kind::ShearY => (row + value * (column + 0.5), column),
        Kind::TranslateX => (row, column - value),
        Kind::TranslateY => (row - value, column),
        _ => {
            let (y, x) = (row - middle_row, column - middle_column);
            (sin * x + cos * y + middle_row, cos * x - sin * y + middle_column)
        }
    };
    let value = |index: usize| {
        let (row, column) = from(place(index));
        let (row, column) = (row.round_ties_even(), column.round_ties_even());
        let inside =
            (0.0..size.height as f64).contains(&row) && (0.0..size.width as f64).contains(&column);
        if inside { plane[row as usize * size.width + column as usize] } else { 0 }
    };
    (0..plane.len()).map(value).collect()
}

/// The 3×3 mean with fivefold weight of the centre, rounded to the nearest level. Border pixels
/// stay as they are.
fn blurred(plane: &[u8], size: Size) -> Vec<f32> {
    let mut blurred: Vec<f32> = plane.iter().map(|&p| f32::from(p)).collect();
    for row in 1..size.height - 1 {
        for column in 1..size.width - 1 {
            let at = |dy: usize, dx: usize| {
                f32::from(plane[(row + dy - 1) * size.width + column + dx - 1])
            };
            let sum: f32 = (0..9).map(|i| at(i / 3, i % 3)).sum::<f32>() + 4.0 * at(1, 1);
            blurred[row * size.width + column] = (sum / 13.0).round_ties_even();
        }
    }
    blurred
}

/// Stretches levels so that the darkest becomes 0 and the brightest 255.
fn stretch(plane: &mut [u8]) {
    let (Some(&low), Some(&high)) = (plane.iter().min(), plane.iter().max()) else { return };
    if low < high {
        let scale = 255.0 / f32::from(high - low);
        plane.iter_mut().for_each(|p| *p = (f32::from(*p - low) * scale).clamp(0.0, 255.0) as u8);
    }
}

/// Equalises the histogram as PIL does.
fn equalize(plane: &mut [u8]) {
    let mut histogram = [0usize; 256];
    plane.iter().for_each(|&p| histogram[usize::from(p)] += 1);
    let last = histogram.iter().rposition(|&count| count > 0).map_or(0, |level| histogram[level]);
    let step = (plane.len() - last) / 255;
    if step == 0 {
        return;
    }
    let mut below = step / 2;
    let table = histogram.map(|count| {
        let level = (below / step).min(255) as u8;
        below += count;
        level
    });
    plane.iter_mut().for_each(|p| *p = table[usize::from(*p)]);
}

fn each_plane(view: &mut [f32], plane: usize, value: impl Fn(&[f32], i64, i64) -> f32, width: i64) {
    for values in view.chunks_exact_mut(plane) {
        let old = values.to_vec();
        for (index, new) in values.iter_mut().enumerate() {
            *new = value(&old, index as i64 / width, index as i64 % width);
        }
    }
}

/// Changes brightness, saturation and contrast.
fn recolour(view: &mut [f32], plane: usize, [brightness, saturation, contrast]: [f32; 3]) {
    view.iter_mut().for_each(|x| *x += brightness - 0.5);
    let channels = view.len() / plane;
    for place in 0..plane {
        let mean = (0..channels).map(|c| view[c * plane + place]).sum::<f32>() / channels as f32;
        for c in 0..channels {
            let x = &mut view[c * plane + place];
            *x = (*x - mean) * (2.0 * saturation) + mean;
        }
    }
    let mean = (view.iter().map(|&x| f64::from(x)).sum::<f64>() / view.len() as f64) as f32;
    view.iter_mut().for_each(|x| *x = (*x - mean) * (contrast + 0.5) + mean);
}

/// PyTorch's `grid_sample(x, affine_grid([[a, b, 0], [c, d, 0]]))`, bilinear, zeros outside,
/// without aligned corners.
fn sample(view: &mut [f32], size: Size, [a, b, c, d]: [f32; 4]) {
    let (height, width) = (size.height as f32, size.width as f32);
    let centred = |index: i64, side: f32| (2.0 * index as f32 + 1.0) / side - 1.0;
    let pixel = |at: f32, side: f32| ((at + 1.0) * side - 1.0) / 2.0;
    each_plane(
        view,
        size.height * size.width,
        |old, row, column| {
            let (x, y) = (centred(column, width), centred(row, height));
            let (from_column, from_row) =
                (pixel(a * x + b * y, width), pixel(c * x + d * y, height));
            let (left, top) = (from_column.floor(), from_row.floor());
            let at = |row: f32, column: f32| {
                let inside = (0.0..height).contains(&row) && (0.0..width).contains(&column);
                if inside { old[row as usize * size.width + column as usize] } else { 0.0 }
            };
            let (right, below) = (from_column - left, from_row - top);
            at(top, left) * (1.0 - right) * (1.0 - below)
                + at(top, left + 1.0) * right * (1.0 - below)
                + at(top + 1.0, left) * (1.0 - right) * below
                + at(top + 1.0, left + 1.0) * right * below
        },
        size.width as i64,
    );
}
