//! Interpolation to another size, one axis at a time. Each axis is a matrix product, or a selection
//! for nearest-pixel interpolation.

use tch::{Kind, Tensor};

use super::super::error::OpError;
use super::{Args, axis_of, bounded};
use crate::transfer;
use scdd_graph::ops::{AspectPolicy, Coordinates, Resize, ResizeKernel, Rounding};

/// The largest side of a resized image.
const LARGEST_SIDE: i64 = 1 << 16;

pub fn run(op: &Resize, args: &Args) -> Result<Tensor, OpError> {
    let x = args.get(0)?;
    let axes: Vec<i64> = match &op.axes {
        None => (0..x.dim() as i64).collect(),
        Some(axes) => axes.iter().map(|&a| axis_of(a, x.dim())).collect::<Result<_, _>>()?,
    };
    let sizes: Vec<i64> = axes.iter().map(|&a| x.size()[a as usize]).collect();
    let targets = targets(op, args, &sizes)?;
    let region = match (op.coordinates, args.opt(1)) {
        (Coordinates::CropAndResize, Some(region)) => numbers(region)?,
        _ => Vec::new(),
    };
    let mut shape = x.size();
    for (&axis, (target, _)) in axes.iter().zip(&targets) {
        shape[axis as usize] = *target;
    }
    bounded(&shape)?;
    let mut y = x.shallow_clone();
    for (i, &axis) in axes.iter().enumerate() {
        let (size, (target, scale)) = (sizes[i], targets[i]);
        let line = ResizeAxis {
            op,
            size,
            target,
            scale,
            start: region.get(i).copied().unwrap_or(0.0),
            end: region.get(i + axes.len()).copied().unwrap_or(1.0),
        };
        if size != target || scale != 1.0 || !region.is_empty() {
            y = line.resize(&y, axis)?;
        }
    }
    Ok(y)
}

fn numbers(tensor: &Tensor) -> Result<Vec<f64>, OpError> {
    Ok(Vec::<f64>::try_from(&tensor.f_to_kind(Kind::Double)?.f_reshape([-1])?)?)
}

/// Per axis, the new size and its ratio to the old one.
fn targets(op: &Resize, args: &Args, sizes: &[i64]) -> Result<Vec<(i64, f64)>, OpError> {
    let count = |found: usize| match found == sizes.len() {
        true => Ok(()),
        false => Err(OpError::Other(format!("{found} scales or sizes for {} axes", sizes.len()))),
    };
    let found: Vec<(i64, f64)> = match args.opt(op.scales_input).filter(|t| t.numel() > 0) {
        Some(scales) => {
            let scales = numbers(scales)?;
            count(scales.len())?;
            sizes
                .iter()
                .zip(scales)
                .map(|(&size, scale)| ((size as f64 * scale).floor() as i64, scale))
                .collect()
        }
        None => {
            let wanted = args.i64s(3)?;
            count(wanted.len())?;
            let ratios =
                || sizes.iter().zip(&wanted).map(|(&size, &target)| target as f64 / size as f64);
            let common = match op.policy {
                AspectPolicy::Stretch => None,
                AspectPolicy::NotLarger => Some(ratios().fold(f64::INFINITY, f64::min)),
                AspectPolicy::NotSmaller => Some(ratios().fold(0.0, f64::max)),
            };
            match common {
                None => wanted.iter().copied().zip(ratios()).collect(),
                Some(scale) => sizes
                    .iter()
                    .map(|&size| ((size as f64 * scale + 0.5).floor() as i64, scale))
                    .collect(),
            }
        }
    };
    match found
        .iter()
        .find(|(target, scale)| !(1..=LARGEST_SIDE).contains(target) || !scale.is_finite())
    {
        Some((target, _)) => {
            Err(OpError::Other(format!("resizes {sizes:?} to a side of {target}")))
        }
        None => Ok(found),
    }
}

/// The resizing along one axis.
struct ResizeAxis<'a> {
    op: &'a Resize,
    size: i64,
    target: i64,
    scale: f64,
    /// The region of interest, as fractions of the axis.
    start: f64,
    end: f64,
}

impl ResizeAxis<'_> {
    fn resize(&self, x: &Tensor, axis: i64) -> Result<Tensor, OpError> {
        let coordinates: Vec<f64> = (0..self.target).map(|i| self.coordinate(i as f64)).collect();
        let y = if let ResizeKernel::Nearest(rounding) = self.op.kernel {
            let picks: Vec<i64> =
                coordinates.iter().map(|&c| nearest(c, rounding).clamp(0, self.size - 1)).collect();
            x.f_index_select(axis, &transfer::send(&Tensor::from_slice(&picks), x.device())?)?
        } else {
            let weights: Vec<f64> = coordinates.iter().flat_map(|&c| self.weights(c)).collect();
            let matrix = Tensor::from_slice(&weights).f_reshape([self.target, self.size])?;
            let matrix = transfer::send(&matrix.f_to_kind(x.kind())?, x.device())?;
            x.f_transpose(axis, -1)?.f_matmul(&matrix.f_transpose(0, 1)?)?.f_transpose(axis, -1)?
        };
        if self.op.coordinates != Coordinates::CropAndResize {
            return Ok(y);
        }
        let last = (self.size - 1) as f64;
        let outside: Vec<bool> = coordinates.iter().map(|c| !(0.0..=last).contains(c)).collect();
        let mut shape = vec![1; x.dim()];
        shape[axis as usize] = self.target;
        let outside =
            transfer::send(&Tensor::from_slice(&outside), x.device())?.f_reshape(shape)?;
        Ok(y.f_masked_fill(&outside, self.op.extrapolation)?)
    }

    /// The position in the input of pixel `i` of the result.
    fn coordinate(&self, i: f64) -> f64 {
        let (size, target, scale) = (self.size as f64, self.target as f64, self.scale);
        match self.op.coordinates {
            Coordinates::HalfPixel => (i + 0.5) / scale - 0.5,
            Coordinates::HalfPixelSymmetric => {
                let offset = size / 2.0 * (1.0 - target / (scale * size));
                offset + (i + 0.5) / scale - 0.5
            }
            Coordinates::PytorchHalfPixel if self.target == 1 => 0.0,
            Coordinates::PytorchHalfPixel => (i + 0.5) / scale - 0.5,
            Coordinates::AlignCorners if self.target == 1 => 0.0,
            Coordinates::AlignCorners => i * (size - 1.0) / (target - 1.0),
            Coordinates::Asymmetric => i / scale,
            Coordinates::CropAndResize if self.target == 1 => {
                0.5 * (self.start + self.end) * (size - 1.0)
            }
            Coordinates::CropAndResize => {
                (self.start + i * (self.end - self.start) / (target - 1.0)) * (size - 1.0)
            }
        }
    }

    /// The weights of all input pixels at `coordinate`.
    fn weights(&self, coordinate: f64) -> Vec<f64> {
        let widening = if self.op.antialias { self.scale.min(1.0) } else { 1.0 };
        let radius = if matches!(self.op.kernel, ResizeKernel::Cubic { .. }) { 2.0 } else { 1.0 };
        let reach = (radius / widening).ceil();
        let mut weights = vec![0.0; self.size as usize];
        let (first, last) =
            ((coordinate - reach).floor() as i64, (coordinate + reach).ceil() as i64);
        for pixel in first..=last {
            if self.op.exclude_outside && !(0..self.size).contains(&pixel) {
                continue;
            }
            let weight = self.kernel((pixel as f64 - coordinate) * widening);
            weights[pixel.clamp(0, self.size - 1) as usize] += weight;
        }
        let total: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|w| *w /= total);
        weights
    }

    fn kernel(&self, distance: f64) -> f64 {
        let d = distance.abs();
        match self.op.kernel {
            ResizeKernel::Cubic { a } if d <= 1.0 => ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0,
            ResizeKernel::Cubic { a } if d < 2.0 => ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a,
            ResizeKernel::Cubic { .. } => 0.0,
            ResizeKernel::Linear | ResizeKernel::Nearest(_) => (1.0 - d).max(0.0),
        }
    }
}

fn nearest(coordinate: f64, rounding: Rounding) -> i64 {
    let rounded = match rounding {
        Rounding::Floor => coordinate.floor(),
        Rounding::Ceil => coordinate.ceil(),
        Rounding::PreferFloor => (coordinate - 0.5).ceil(),
        Rounding::PreferCeil => (coordinate + 0.5).floor(),
    };
    rounded as i64
}
