//! The random views of the images at a step: crop, then flip, then shift, as in the published code.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::views::CROP_RATIO;
use scdd_data::{DataError, Resample, Shift, Size, View};
use scdd_experiment::config::{Quirk, RecoverConfig};

/// Draws one view per image of size `size`, each from the image's own stream. `progress` is the
/// share of the steps already done, 0..=1.
///
/// # Errors
/// When the configuration's ranges are impossible.
pub fn draw(
    config: &RecoverConfig,
    streams: &mut [ChaCha8Rng],
    size: Size,
    progress: f64,
) -> Result<Vec<Resample>, DataError> {
    if !config.compat.contains(&Quirk::SharedViews) {
        return streams.iter_mut().map(|stream| draw_one(config, stream, size, progress)).collect();
    }
    let Some((first, others)) = streams.split_first_mut() else { return Ok(Vec::new()) };
    let view = draw_one(config, first, size, progress)?;
    Ok(vec![view; 1 + others.len()])
}

fn draw_one(
    config: &RecoverConfig,
    stream: &mut ChaCha8Rng,
    size: Size,
    progress: f64,
) -> Result<Resample, DataError> {
    let cell = View::random_cell(stream, size, config.formation)?;
    let mut view = match config.crop {
        Some(crop) => {
            let low = smallest(crop.scale[0], config.crop_curriculum, progress);
            let scale = (low as f32, crop.scale[1].max(low) as f32);
            View::random_resized_crop(stream, cell.size(), scale, CROP_RATIO)?.inside(&cell)
        }
        None => cell,
    };
    if config.flip {
        view = view.with_random_flip(stream, 0.5);
    }
    let map = Resample::new(&view, size, size)?;
    if config.jitter == 0 {
        return Ok(map);
    }
    let limit = config.jitter.min(i16::MAX as u32) as u16;
    let shift = if config.compat.contains(&Quirk::PositiveJitter) {
        let limit = limit as i16;
        Shift { dy: stream.random_range(0..=limit), dx: stream.random_range(0..=limit) }
    } else {
        Shift::random(stream, limit)
    };
    Ok(map.roll_output(shift))
}

/// CDA's curriculum: the smallest area share falls from 1 to `target` along half a cosine, and
/// reaches it at the share `milestone` of the steps.
fn smallest(target: f64, milestone: f64, progress: f64) -> f64 {
    if progress >= milestone {
        return target;
    }
    target + (1.0 - target) * 0.5 * (1.0 + (std::f64::consts::PI * progress / milestone).cos())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recover::tests::config;
    use scdd_data::rng;

    const SIZE: Size = Size { height: 9, width: 9 };

    fn streams() -> Vec<ChaCha8Rng> {
        (0..40).map(|item| rng::stream(5, "test", item)).collect()
    }

    /// The position to which a view moves the pixel in the middle, found with an image that is 1
    /// there and 0 elsewhere.
    fn offset(map: &Resample) -> (usize, usize) {
        let mut image = vec![0.0; 81];
        image[40] = 1.0;
        let mut seen = vec![0.0; 81];
        map.apply(&image, &mut seen, 1);
        let at = seen.iter().position(|&v| v == 1.0).unwrap();
        (at / 9, at % 9)
    }

    #[test]
    fn the_curriculum_goes_from_whole_images_to_the_smallest_crops() {
        assert_eq!(
            (smallest(0.08, 1.0, 0.0), smallest(0.08, 0.5, 0.5), smallest(0.08, 0.0, 0.0)),
            (1.0, 0.08, 0.08)
        );
        assert!((smallest(0.08, 1.0, 0.5) - 0.54).abs() < 1e-12);
        assert!((smallest(0.08, 0.5, 0.25) - 0.54).abs() < 1e-12);
    }

    #[test]
    fn each_image_has_its_own_shift_either_way() {
        let config = config("{jitter: 3}");
        let found: Vec<_> =
            draw(&config, &mut streams(), SIZE, 0.0).unwrap().iter().map(offset).collect();
        assert!(found.iter().any(|(y, _)| *y < 4) && found.iter().any(|(y, _)| *y > 4));
        assert!(found.iter().all(|(y, x)| (1..=7).contains(y) && (1..=7).contains(x)));
    }

    #[test]
    fn quirks_share_the_view_and_never_shift_back() {
        let shared = config("{jitter: 3, flip: true, compat: [shared_views]}");
        let maps = draw(&shared, &mut streams(), SIZE, 0.0).unwrap();
        assert!(maps.iter().map(offset).all(|at| at == offset(&maps[0])));
        let positive = config("{jitter: 3, compat: [positive_jitter]}");
        let found: Vec<_> =
            draw(&positive, &mut streams(), SIZE, 0.0).unwrap().iter().map(offset).collect();
        assert!(found.iter().all(|(y, x)| (4..=7).contains(y) && (4..=7).contains(x)));
        assert!(found.iter().any(|at| *at != found[0]));
    }
}
