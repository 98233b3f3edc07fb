//! Selects real training images and writes them as an image set.

use std::path::Path;

use rand::seq::SliceRandom;

use scdd_artifacts::files::{FOLDER, write_images};
use scdd_artifacts::records::Item;
use scdd_artifacts::stage::WorkDir;
use scdd_data::rng;
use scdd_data::{DataError, Dataset};
use scdd_experiment::run::stages::real::RealTask;
use scdd_experiment::run::{Failure, RealChoice};

pub fn make(task: &RealTask, work: &WorkDir) -> Result<(), Failure> {
    let &RealTask { train, choice, ipc, seed } = task;
    let train = train.images()?;
    let (items, indices): (Vec<Item>, Vec<usize>) =
        chosen(train, choice, ipc, seed)?.into_iter().unzip();
    let (pixels, shape) = (train.pixels(&indices)?, [train.channels, train.height, train.width]);
    Ok(write_images(work, Path::new(FOLDER), &train.classes, &items, &pixels, shape)?)
}

/// Images of a class that are decoded at once.
const AT_ONCE: usize = 64;

/// The training images selected by `choice`: items of the new set with indices of the old one.
fn chosen(
    train: &Dataset,
    choice: RealChoice,
    ipc: u32,
    seed: u64,
) -> Result<Vec<(Item, usize)>, DataError> {
    let mut chosen = Vec::new();
    for class in 0..train.classes.len() as u32 {
        let mut own: Vec<usize> = (0..train.len()).filter(|&i| train.labels[i] == class).collect();
        match choice {
            RealChoice::Random => own.shuffle(&mut rng::stream(seed, "real/choice", class.into())),
            RealChoice::NearestMean => sort_by_distance_to_mean(train, &mut own)?,
        }
        let items = (0..ipc).map(|number| Item { class, number });
        chosen.extend(items.zip(own));
    }
    Ok(chosen)
}

/// Sorts images of one class by the Euclidean distance of their pixels to the mean image. Images at
/// equal distance keep the data set's order.
fn sort_by_distance_to_mean(train: &Dataset, own: &mut [usize]) -> Result<(), DataError> {
    let mut mean = vec![0.0; train.channels * train.height * train.width];
    for part in own.chunks(AT_ONCE) {
        for image in train.pixels(part)?.chunks_exact(mean.len()) {
            let sums = mean.iter_mut().zip(image);
            sums.for_each(|(sum, &pixel)| *sum += f64::from(pixel) / own.len() as f64);
        }
    }
    let mut sorted: Vec<(f64, usize)> = Vec::with_capacity(own.len());
    for part in own.chunks(AT_ONCE) {
        for (&index, image) in part.iter().zip(train.pixels(part)?.chunks_exact(mean.len())) {
            let squares = image.iter().zip(&mean).map(|(&p, mean)| (f64::from(p) - mean).powi(2));
            sorted.push((squares.sum(), index));
        }
    }
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    own.iter_mut().zip(sorted).for_each(|(place, (_, index))| *place = index);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_images_are_chosen_by_class() {
        // One pixel per image: class 0 has 0, 10, 20, 90 (mean 30), class 1 has 5, 7 (mean 6).
        let train = Dataset {
            name: "x".into(),
            images: vec![0, 5, 10, 20, 7, 90].into(),
            labels: vec![0, 1, 0, 0, 1, 0],
            channels: 1,
            height: 1,
            width: 1,
            classes: vec!["a".into(), "b".into()],
        };
        let nearest: Vec<(u32, u32, usize)> = chosen(&train, RealChoice::NearestMean, 3, 9)
            .unwrap()
            .into_iter()
            .map(|(item, index)| (item.class, item.number, index))
            .collect();
        assert_eq!(nearest, [(0, 0, 3), (0, 1, 2), (0, 2, 0), (1, 0, 1), (1, 1, 4)]);
        let random = |seed| chosen(&train, RealChoice::Random, 2, seed).unwrap();
        assert_eq!(random(1), random(1));
        assert!((2..20).any(|seed| random(seed) != random(1)));
        assert!(random(1).iter().all(|(item, index)| train.labels[*index] == item.class));
    }
}
