//! CutMix and MixUp within a batch, as in FKD and SRe2L: one permutation and one box or one λ per
//! batch.

use super::{DataError, Size, values, values_mut};
use ndarray::{Array4, ArrayRef4};
use rand::seq::SliceRandom;
use rand::{Rng, RngExt};
use rand_distr::{Beta, Distribution};
use rayon::prelude::*;

/// How sample `i` of a batch is mixed with sample `partner[i]` of the same batch.
#[derive(Clone, Debug, PartialEq)]
pub enum DrawnMix {
    /// No mixing.
    None,
    /// The box comes from the partner; it may be empty.
    CutMix {
        /// A permutation of the batch, `[N]`.
        partner: Vec<u32>,
        /// First row of the box.
        top: u16,
        /// First column of the box.
        left: u16,
        /// Rows of the box.
        height: u16,
        /// Columns of the box.
        width: u16,
    },
    /// `lambda * own + (1 - lambda) * partner`.
    MixUp {
        /// A permutation of the batch, `[N]`.
        partner: Vec<u32>,
        /// The share of the own image, 0..=1.
        lambda: f32,
    },
}

impl DrawnMix {
    /// CutMix of `count` images of size `size` with λ ~ Beta(alpha, alpha). The box covers 1 − λ of
    /// the area, has a uniform centre, and is cut off at the borders.
    pub fn cut_mix(
        rng: &mut impl Rng,
        count: usize,
        size: Size,
        alpha: f32,
    ) -> Result<Self, DataError> {
        let lambda = draw_lambda(rng, alpha)?;
        let partner = draw_partner(rng, count)?;
        let share = (1.0 - lambda).sqrt();
        let (top, height) = draw_side(rng, size.height, share)?;
        let (left, width) = draw_side(rng, size.width, share)?;
        Ok(Self::CutMix { partner, top, left, height, width })
    }

    /// MixUp of `count` images with λ ~ Beta(alpha, alpha).
    pub fn mix_up(rng: &mut impl Rng, count: usize, alpha: f32) -> Result<Self, DataError> {
        let lambda = draw_lambda(rng, alpha)? as f32;
        Ok(Self::MixUp { partner: draw_partner(rng, count)?, lambda })
    }

    /// The share of the own image in a mixed image of size `size`, 0..=1.
    pub fn lambda(&self, size: Size) -> f32 {
        match self {
            Self::None => 1.0,
            Self::CutMix { height, width, .. } => {
                let cut = f64::from(*height) * f64::from(*width);
                (1.0 - cut / (size.height as f64 * size.width as f64)) as f32
            }
            Self::MixUp { lambda, .. } => *lambda,
        }
    }

    /// Checks that the mix fits a batch of `count` images of size `size`.
    pub fn check(&self, count: usize, size: Size) -> Result<(), DataError> {
        let (fits, partner) = match self {
            Self::None => return Ok(()),
            Self::CutMix { partner, top, left, height, width } => {
                let rows = usize::from(*top) + usize::from(*height);
                let columns = usize::from(*left) + usize::from(*width);
                (rows <= size.height && columns <= size.width, partner)
            }
            Self::MixUp { partner, lambda } => ((0.0..=1.0).contains(lambda), partner),
        };
        if fits && is_permutation(partner, count) {
            return Ok(());
        }
        let Size { height, width } = size;
        Err(DataError::Mismatch(format!(
            "{self:?} does not fit {count} images of {height}x{width} pixels"
        )))
    }

    /// Writes the mixed images of the batch `unmixed` `[N, C, H, W]` to `mixed`, of the same shape.
    pub fn apply(
        &self,
        unmixed: &Array4<f32>,
        mixed: &mut ArrayRef4<f32>,
    ) -> Result<(), DataError> {
        let (count, channels, height, width) = unmixed.dim();
        self.check(count, Size { height, width })?;
        if mixed.dim() != unmixed.dim() {
            let message =
                format!("a batch {:?} cannot take the mix of {:?}", mixed.dim(), unmixed.dim());
            return Err(DataError::Mismatch(message));
        }
        let source = values(unmixed)?;
        let length = (channels * height * width).max(1);
        let image = |index: usize| &source[index * length..][..length];
        values_mut(mixed)?.par_chunks_exact_mut(length).enumerate().for_each(|(index, target)| {
            match self {
                Self::None => target.copy_from_slice(image(index)),
                Self::MixUp { partner, lambda } => {
                    let pairs = image(index).iter().zip(image(partner[index] as usize));
                    for (target, (own, other)) in target.iter_mut().zip(pairs) {
                        *target = lambda * own + (1.0 - lambda) * other;
                    }
                }
                Self::CutMix { partner, top, left, height: rows, width: columns } => {
                    target.copy_from_slice(image(index));
                    let other = image(partner[index] as usize);
                    for channel in 0..channels {
                        for row in usize::from(*top)..usize::from(*top) + usize::from(*rows) {
                            let start = (channel * height + row) * width + usize::from(*left);
                            let end = start + usize::from(*columns);
                            target[start..end].copy_from_slice(&other[start..end]);
                        }
                    }
                }
            }
        });
        Ok(())
    }
}

fn draw_lambda(rng: &mut impl Rng, alpha: f32) -> Result<f64, DataError> {
    let alpha = f64::from(alpha);
    let beta = Beta::new(alpha, alpha).ok().filter(|_| alpha.is_finite()).ok_or_else(|| {
        DataError::Mismatch(format!("alpha {alpha} of a mix; give a positive number"))
    })?;
    Ok(beta.sample(rng).clamp(0.0, 1.0))
}

fn draw_partner(rng: &mut impl Rng, count: usize) -> Result<Vec<u32>, DataError> {
    let count = u32::try_from(count)
        .map_err(|_| DataError::Mismatch(format!("a batch of {count} is too large")))?;
    let mut partner: Vec<u32> = (0..count).collect();
    partner.shuffle(rng);
    Ok(partner)
}

/// Start and length of one side of the box: `share` of `length`, with a uniform centre, cut off at
/// the borders.
fn draw_side(rng: &mut impl Rng, length: usize, share: f64) -> Result<(u16, u16), DataError> {
    let Ok(length @ 1..) = u16::try_from(length) else {
        return Err(DataError::Mismatch(format!(
            "images of {length} pixels a side; CutMix takes 1 to 65535"
        )));
    };
    let half = (f64::from(length) * share) as u16 / 2;
    let centre = rng.random_range(0..length);
    let start = centre.saturating_sub(half);
    Ok((start, centre.saturating_add(half).min(length) - start))
}

fn is_permutation(partner: &[u32], count: usize) -> bool {
    let mut seen = vec![false; partner.len()];
    partner.len() == count
        && partner.iter().all(|index| {
            seen.get_mut(*index as usize).is_some_and(|seen| !std::mem::replace(seen, true))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::stream;

    const SIZE: Size = Size { height: 4, width: 5 };

    /// Image n is filled with n.
    fn batch() -> Array4<f32> {
        Array4::from_shape_fn((3, 2, 4, 5), |(image, ..)| image as f32)
    }

    fn mixed(mix: &DrawnMix) -> Array4<f32> {
        let mut mixed = Array4::from_elem((3, 2, 4, 5), f32::NAN);
        mix.apply(&batch(), &mut mixed).unwrap();
        mixed
    }

    #[test]
    fn none_copies() {
        assert_eq!(mixed(&DrawnMix::None), batch());
        assert_eq!(DrawnMix::None.lambda(SIZE), 1.0);
    }

    #[test]
    fn mix_up_blends_with_the_partner() {
        let mix = DrawnMix::MixUp { partner: vec![2, 0, 1], lambda: 0.75 };
        let expected = [0.5, 0.75, 1.75];
        assert_eq!(mixed(&mix), Array4::from_shape_fn((3, 2, 4, 5), |(image, ..)| expected[image]));
        assert_eq!(mix.lambda(SIZE), 0.75);
    }

    #[test]
    fn cut_mix_pastes_the_partners_box() {
        let mix = DrawnMix::CutMix { partner: vec![2, 0, 1], top: 1, left: 2, height: 2, width: 3 };
        let expected = |(image, _, row, column): (usize, usize, usize, usize)| {
            let inside = (1..3).contains(&row) && (2..5).contains(&column);
            if inside { [2.0, 0.0, 1.0][image] } else { image as f32 }
        };
        assert_eq!(mixed(&mix), Array4::from_shape_fn((3, 2, 4, 5), expected));
        assert_eq!(mix.lambda(SIZE), 0.7);
    }

    #[test]
    fn drawn_mixes_fit_and_repeat() {
        let size = Size { height: 32, width: 24 };
        let mut cut = 0.0;
        for item in 0..1000 {
            let draw = || DrawnMix::cut_mix(&mut stream(1, "mix", item), 7, size, 1.0).unwrap();
            draw().check(7, size).unwrap();
            assert_eq!(draw(), draw());
            cut += (1.0 - draw().lambda(size)) / 1000.0;
            DrawnMix::mix_up(&mut stream(1, "mix", item), 7, 0.2).unwrap().check(7, size).unwrap();
        }
        // Half of the area, less the part that the borders cut off.
        assert!((0.2..0.45).contains(&cut), "mean share of the box {cut}");
    }

    #[test]
    fn misuse_is_explained() {
        let cut = |partner: Vec<u32>, top| DrawnMix::CutMix {
            partner,
            top,
            left: 0,
            height: 2,
            width: 2,
        };
        let mut rng = stream(0, "mix", 0);
        let cases = [
            (cut(vec![0, 1], 0).check(3, SIZE), "does not fit 3 images of 4x5 pixels"),
            (cut(vec![0, 1, 1], 0).check(3, SIZE), "does not fit"),
            (cut(vec![0, 1, 3], 0).check(3, SIZE), "does not fit"),
            (cut(vec![0, 1, 2], 3).check(3, SIZE), "does not fit"),
            (DrawnMix::MixUp { partner: vec![0], lambda: 1.5 }.check(1, SIZE), "does not fit"),
            (DrawnMix::MixUp { partner: vec![0], lambda: f32::NAN }.check(1, SIZE), "does not fit"),
            (
                DrawnMix::None.apply(&batch(), &mut Array4::zeros((2, 2, 4, 5))),
                "cannot take the mix",
            ),
            (DrawnMix::mix_up(&mut rng, 1, 0.0).map(|_| ()), "alpha 0 of a mix"),
            (DrawnMix::mix_up(&mut rng, 1, f32::INFINITY).map(|_| ()), "alpha inf of a mix"),
            (
                DrawnMix::cut_mix(&mut rng, 1, Size { height: 0, width: 1 }, 1.0).map(|_| ()),
                "images of 0 pixels a side",
            ),
        ];
        for (result, expected) in cases {
            let message = result.unwrap_err().to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
    }
}
