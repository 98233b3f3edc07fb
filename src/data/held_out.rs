//! A part of the training set in place of the test set: choices made by it leave the test set
//! unseen.

use super::{DataError, Dataset, Split, sample};

/// The held out images of `train` as its test set, or the others as its training set. `images` are
/// held out, equally many of each class.
pub(super) fn part(train: Dataset, split: Split, images: usize) -> Result<Dataset, DataError> {
    // One fixed seed: every experiment on these data is tested on the same images.
    let mut held = sample::even(&train.labels, train.classes.len(), images, 0);
    held.sort_unstable();
    match split {
        Split::Test => select(&train, &held, "held-out"),
        Split::Train => {
            let is_held = |index: &usize| held.binary_search(index).is_ok();
            let rest: Vec<usize> = (0..train.len()).filter(|index| !is_held(index)).collect();
            select(&train, &rest, "without-held-out")
        }
    }
}

/// The images at `indices` of `set`, with `part` in the name.
fn select(set: &Dataset, indices: &[usize], part: &str) -> Result<Dataset, DataError> {
    let images = set.images.select(indices, set.image_bytes())?;
    let labels = indices.iter().map(|&index| set.labels[index]).collect();
    let name = format!("{}-{part}", set.name);
    let Dataset { channels, height, width, .. } = *set;
    let classes = set.classes.clone();
    Ok(Dataset { name, images, labels, channels, height, width, classes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_even_disjoint_and_whole() {
        let set = Dataset {
            name: "tiny".into(),
            images: (0..40).collect::<Vec<u8>>().into(),
            labels: (0..20).map(|image| image % 4).collect(),
            channels: 2,
            height: 1,
            width: 1,
            classes: ["a", "b", "c", "d"].map(String::from).into(),
        };
        let [test, train] =
            [Split::Test, Split::Train].map(|split| part(set.clone(), split, 8).unwrap());
        assert_eq!((test.len(), train.len()), (8, 12));
        assert_eq!(
            (test.name.as_str(), train.name.as_str()),
            ("tiny-held-out", "tiny-without-held-out")
        );
        for class in 0..4 {
            assert_eq!(test.labels.iter().filter(|&&label| label == class).count(), 2);
        }
        let mut pixels = [test.all_pixels().unwrap(), train.all_pixels().unwrap()].concat();
        pixels.sort_unstable();
        assert_eq!(pixels[..], set.all_pixels().unwrap()[..]);
        // Images keep their labels: pixel p belongs to image p / 2.
        for (index, &label) in test.labels.iter().enumerate() {
            assert_eq!(u32::from(test.image(index).unwrap()[0] / 2) % 4, label);
        }
    }
}
