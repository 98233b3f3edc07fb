//! A labelled data set in memory.

use super::{DataError, Fit, Size, Source};
use std::path::Path;

/// A part of a data set: students train on one and are evaluated on the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// The training images.
    Train,
    /// The test images.
    Test,
}

/// Images with labels, all of one size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// What the set is called.
    pub name: String,
    /// Pixels 0..=255, `[N, C, H, W]`.
    pub images: Vec<u8>,
    /// `[N]`, each below `classes.len()`.
    pub labels: Vec<u32>,
    /// C.
    pub channels: usize,
    /// H.
    pub height: usize,
    /// W.
    pub width: usize,
    /// Class names in label order.
    pub classes: Vec<String>,
}

impl Dataset {
    /// Reads one split of `source` into memory without resizing. [`Source::load`] also fits images
    /// and returns remarks.
    pub fn load(source: &Source, split: Split) -> Result<Self, DataError> {
        source.load(split, Fit::Exact, &mut Vec::new())
    }

    /// How many images there are.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Height and width of every image.
    pub fn size(&self) -> Size {
        Size { height: self.height, width: self.width }
    }

    /// The pixels of image `index` `[C, H, W]`, or `None` if there is no such image.
    pub fn image(&self, index: usize) -> Option<&[u8]> {
        let length = self.channels * self.height * self.width;
        let start = index.checked_mul(length)?;
        self.images.get(start..start.checked_add(length)?)
    }
}

/// Checks that each label read from `path` is below `classes`.
pub(super) fn check_labels(path: &Path, labels: &[u32], classes: usize) -> Result<(), DataError> {
    match labels.iter().position(|label| *label as usize >= classes) {
        None => Ok(()),
        Some(image) => {
            let problem = format!(
                "label {} of image {image}, but there are {classes} classes",
                labels[image]
            );
            Err(DataError::invalid(
                path,
                problem,
                "the file belongs to another data set or is damaged",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_sliced_by_index() {
        let set = Dataset {
            name: "tiny".into(),
            images: (0..12).collect(),
            labels: vec![0, 1],
            channels: 1,
            height: 2,
            width: 3,
            classes: vec!["a".into(), "b".into()],
        };
        assert_eq!(set.image(1).unwrap(), [6, 7, 8, 9, 10, 11]);
        assert!(set.image(2).is_none() && set.image(usize::MAX).is_none());
        assert_eq!(
            (set.len(), set.is_empty(), set.size()),
            (2, false, Size { height: 2, width: 3 })
        );
    }

    /// The repository does not contain the data set; `make data` fetches it. Without it this test
    /// checks nothing.
    #[test]
    fn reads_fashion_mnist_where_present() {
        let Ok(source) = Source::find("fashion-mnist") else { return };
        for (split, count) in [(Split::Train, 60_000), (Split::Test, 10_000)] {
            let set = Dataset::load(&source, split).unwrap();
            assert_eq!((set.len(), set.channels, set.height, set.width), (count, 1, 28, 28));
            for class in 0..10 {
                assert_eq!(set.labels.iter().filter(|label| **label == class).count(), count / 10);
            }
        }
        let test = Dataset::load(&source, Split::Test).unwrap();
        assert_eq!(test.labels[..4], [9, 2, 1, 1]);
        assert_eq!(test.classes[9], "Ankle boot");
    }
}
