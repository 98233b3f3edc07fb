//! Image priors of SRe2L's ImageNet recipe (from DeepInversion): total variation and L2 norm, with
//! their gradients written out.
//!
//! TV is the sum of four norms, each over the whole batch, of the differences between pixels and
//! their right, lower, lower right and lower left neighbours. L2 is the mean over images of the
//! image's norm.

use scdd_experiment::config::RecoverConfig;

use ndarray::{Array4, ArrayView4, ArrayViewMut4, Axis, s};
use tch::{Kind, TchError, Tensor};

/// The weights of the priors; 0 turns a prior off.
#[derive(Debug, Clone, Copy)]
pub struct Priors {
    pub tv: f64,
    pub l2: f64,
}

impl Priors {
    pub fn new(config: &RecoverConfig) -> Self {
        Self { tv: config.tv, l2: config.l2 }
    }

    /// Adds the gradient at `images` `[N, C, H, W]` to `gradient` and returns the weighted loss.
    pub fn add(&self, images: &Array4<f32>, gradient: &mut Array4<f32>) -> f64 {
        let mut loss = 0.0;
        if self.tv > 0.0 {
            loss += self.tv * total_variation(images, gradient, self.tv);
        }
        if self.l2 > 0.0 {
            loss += self.l2 * l2_norm(images, gradient, self.l2);
        }
        loss
    }

    /// As [`add`](Self::add), by libtorch's operations, without waiting for a GPU. The loss is
    /// float64 `[]`.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn add_on_device(
        &self,
        images: &Tensor,
        gradient: &mut Tensor,
    ) -> Result<Tensor, TchError> {
        let mut loss = Tensor::f_zeros([], (Kind::Double, images.device()))?;
        if self.tv > 0.0 {
            for [pixel, neighbour] in DIRECTIONS {
                let difference = window(images, pixel)?.f_sub(&window(images, neighbour)?)?;
                let length = difference.f_norm()?;
                let unit = difference.f_mul(&length.f_clamp_min(TINY)?.f_reciprocal()?)?;
                let unit = unit.f_mul_scalar(self.tv)?;
                let _ = window(gradient, pixel)?.f_add_(&unit)?;
                let _ = window(gradient, neighbour)?.f_sub_(&unit)?;
                loss = loss.f_add(&length.f_mul_scalar(self.tv)?)?;
            }
        }
        if self.l2 > 0.0 {
            let share = self.l2 / images.size().first().map_or(1.0, |&n| n as f64);
            let lengths = images
                .f_square()?
                .f_sum_dim_intlist(&[1i64, 2, 3][..], true, Kind::Float)?
                .f_sqrt()?;
            let units = images.f_div(&lengths.f_clamp_min(TINY)?)?;
            let _ = gradient.f_add_(&units.f_mul_scalar(share)?)?;
            loss = loss.f_add(&lengths.f_sum(Kind::Double)?.f_mul_scalar(share)?)?;
        }
        Ok(loss)
    }
}

/// Below the length of any difference, so that a length of 0 has no direction.
const TINY: f64 = 1e-30;

/// For each direction of the variation whether the window of pixels and that of their neighbours
/// leave out the first or the last row and column.
const DIRECTIONS: [[[Trim; 2]; 2]; 4] = [
    [[Trim::None, Trim::Last], [Trim::None, Trim::First]],
    [[Trim::Last, Trim::None], [Trim::First, Trim::None]],
    [[Trim::Last, Trim::Last], [Trim::First, Trim::First]],
    [[Trim::Last, Trim::First], [Trim::First, Trim::Last]],
];

/// What a window leaves out of one axis.
#[derive(Debug, Clone, Copy)]
enum Trim {
    None,
    First,
    Last,
}

/// A view of `images` without some rows and columns.
fn window(images: &Tensor, trims: [Trim; 2]) -> Result<Tensor, TchError> {
    let trimmed = |images: Tensor, (axis, trim): (i64, Trim)| {
        let length = images.size()[axis as usize];
        match trim {
            Trim::None => Ok(images),
            Trim::First => images.f_narrow(axis, 1, length - 1),
            Trim::Last => images.f_narrow(axis, 0, length - 1),
        }
    };
    [2, 3].into_iter().zip(trims).try_fold(images.shallow_clone(), trimmed)
}

fn norm(values: impl Iterator<Item = f32>) -> f64 {
    values.map(|v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt()
}

/// The two overlapping windows, pixels and their neighbours in one direction, whose difference is
/// that direction's variation.
fn windows(images: &Array4<f32>) -> [(ArrayView4<'_, f32>, ArrayView4<'_, f32>); 4] {
    [
        (images.slice(s![.., .., .., ..-1]), images.slice(s![.., .., .., 1..])),
        (images.slice(s![.., .., ..-1, ..]), images.slice(s![.., .., 1.., ..])),
        (images.slice(s![.., .., ..-1, ..-1]), images.slice(s![.., .., 1.., 1..])),
        (images.slice(s![.., .., ..-1, 1..]), images.slice(s![.., .., 1.., ..-1])),
    ]
}

fn window_mut(
    images: &mut Array4<f32>,
    direction: usize,
    neighbour: bool,
) -> ArrayViewMut4<'_, f32> {
    match (direction, neighbour) {
        (0, false) => images.slice_mut(s![.., .., .., ..-1]),
        (0, true) => images.slice_mut(s![.., .., .., 1..]),
        (1, false) => images.slice_mut(s![.., .., ..-1, ..]),
        (1, true) => images.slice_mut(s![.., .., 1.., ..]),
        (2, false) => images.slice_mut(s![.., .., ..-1, ..-1]),
        (2, true) => images.slice_mut(s![.., .., 1.., 1..]),
        (_, false) => images.slice_mut(s![.., .., ..-1, 1..]),
        (_, true) => images.slice_mut(s![.., .., 1.., ..-1]),
    }
}

fn total_variation(images: &Array4<f32>, gradient: &mut Array4<f32>, weight: f64) -> f64 {
    let mut loss = 0.0;
    for (direction, (pixel, neighbour)) in windows(images).into_iter().enumerate() {
        let difference = &pixel - &neighbour;
        let length = norm(difference.iter().copied());
        loss += length;
        if length > 0.0 {
            let unit = difference * (weight / length) as f32;
            window_mut(gradient, direction, false).zip_mut_with(&unit, |g, u| *g += u);
            window_mut(gradient, direction, true).zip_mut_with(&unit, |g, u| *g -= u);
        }
    }
    loss
}

fn l2_norm(images: &Array4<f32>, gradient: &mut Array4<f32>, weight: f64) -> f64 {
    let count = images.len_of(Axis(0)) as f64;
    let mut sum = 0.0;
    for (image, mut target) in images.axis_iter(Axis(0)).zip(gradient.axis_iter_mut(Axis(0))) {
        let length = norm(image.iter().copied());
        sum += length;
        if length > 0.0 {
            let factor = (weight / (count * length)) as f32;
            target.zip_mut_with(&image, |g, v| *g += factor * v);
        }
    }
    sum / count
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_distr::{Distribution, StandardNormal};
    use scdd_compute::replica::to_tensor;
    use scdd_data::rng;

    #[test]
    fn the_gradient_is_that_of_central_differences() {
        let mut stream = rng::stream(1, "test", 0);
        let images =
            Array4::from_shape_simple_fn((2, 2, 4, 3), || StandardNormal.sample(&mut stream));
        let priors = Priors { tv: 0.3, l2: 0.7 };
        let mut gradient = Array4::zeros(images.raw_dim());
        priors.add(&images, &mut gradient);
        let value = |images: &Array4<f32>| priors.add(images, &mut Array4::zeros(images.raw_dim()));
        for (index, &expected) in gradient.indexed_iter() {
            let (mut up, mut down) = (images.clone(), images.clone());
            up[index] += 1e-2;
            down[index] -= 1e-2;
            let found = (value(&up) - value(&down)) / f64::from(up[index] - down[index]);
            assert!(
                (found - f64::from(expected)).abs() < 1e-3,
                "{index:?}: {found} against {expected}"
            );
        }
    }

    #[test]
    fn a_device_computes_the_same() {
        let mut stream = rng::stream(1, "test", 0);
        let mut images =
            Array4::from_shape_simple_fn((3, 2, 5, 4), || StandardNormal.sample(&mut stream));
        // An image without a direction to go.
        images.index_axis_mut(Axis(0), 1).fill(0.0);
        for (tv, l2) in [(0.3, 0.0), (0.0, 0.7), (0.3, 0.7), (0.0, 0.0)] {
            let (priors, mut expected) = (Priors { tv, l2 }, Array4::ones(images.raw_dim()));
            let loss = priors.add(&images, &mut expected);
            let mut found = Tensor::ones([3, 2, 5, 4], (Kind::Float, tch::Device::Cpu));
            let on_device =
                priors.add_on_device(&to_tensor(images.view()).unwrap(), &mut found).unwrap();
            assert!((f64::try_from(on_device).unwrap() - loss).abs() < 1e-5 * loss.max(1.0));
            let furthest = (found - to_tensor(expected.view()).unwrap()).abs().max();
            assert!(f64::try_from(furthest).unwrap() < 1e-6, "{tv} {l2}");
        }
    }

    #[test]
    fn priors_that_are_off_do_nothing() {
        let images = Array4::ones((1, 1, 2, 2));
        let mut gradient = Array4::zeros(images.raw_dim());
        assert_eq!(Priors { tv: 0.0, l2: 0.0 }.add(&images, &mut gradient), 0.0);
        assert!(gradient.iter().all(|&g| g == 0.0));
        assert_eq!(Priors { tv: 1.0, l2: 0.0 }.add(&images, &mut gradient), 0.0);
    }
}
