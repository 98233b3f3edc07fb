//! A labelled data set.

use std::borrow::Cow;
use std::path::Path;

use super::entries::Findings;
use super::images::{ImagePixels, PackedImages};
use super::{DataError, Fit, Size, Source};

/// The bytes of pixels that are decoded at once where all images pass by.
const PART_BYTES: usize = 1 << 24;

/// A part of a data set: students train on one and are evaluated on the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// The training images.
    Train,
    /// The test images.
    Test,
}

impl Split {
    /// `train` or `test`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
        }
    }
}

/// Images with labels, all of one size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// What the set is called.
    pub name: String,
    /// Pixels 0..=255, `[N, C, H, W]`.
    pub images: ImagePixels,
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
    /// Reads one split of `source` without resizing. [`Source::load`] also fits images
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

    /// The pixels of image `index` `[C, H, W]`.
    ///
    /// # Errors
    /// When there is no such image, or its file can't be read.
    pub fn image(&self, index: usize) -> Result<Cow<'_, [u8]>, DataError> {
        self.pixels(&[index])
    }

    /// The pixels of the images at `indices`, `[n, C, H, W]`. Image files are decoded in parallel.
    ///
    /// # Errors
    /// When there is no such image, or a file can't be read.
    pub fn pixels(&self, indices: &[usize]) -> Result<Cow<'_, [u8]>, DataError> {
        self.images.gather(indices, self.image_bytes())?.ok_or_else(|| {
            let index = indices.iter().max().copied().unwrap_or(0);
            let what = "asked for, but it has";
            DataError::Mismatch(format!(
                "image {index} of {} {what} {} images",
                self.name,
                self.len()
            ))
        })
    }

    /// The pixels of all images, `[N, C, H, W]`.
    ///
    /// # Errors
    /// When a file can't be read.
    pub fn all_pixels(&self) -> Result<Cow<'_, [u8]>, DataError> {
        match &self.images {
            ImagePixels::Held(pixels) => Ok(Cow::Borrowed(pixels)),
            _ => self.pixels(&(0..self.len()).collect::<Vec<_>>()),
        }
    }

    /// BLAKE3 of all pixels and labels, 64 hex digits. Files are decoded part by part.
    ///
    /// # Errors
    /// About all files that can't be read.
    pub fn hash(&self) -> Result<String, DataError> {
        let mut hasher = blake3::Hasher::new();
        match &self.images {
            ImagePixels::Held(pixels) => {
                hasher.update(pixels);
            }
            ImagePixels::Files(files) => {
                let mut findings = Findings::default();
                for part in self.parts_from(0) {
                    hasher.update(&files.decode(&part, &mut findings));
                }
                findings.conclude(&files.root, &mut Vec::new())?;
            }
            ImagePixels::Rows(rows) => {
                let mut findings = Findings::default();
                for part in self.parts_from(0) {
                    hasher.update(&rows.decode(&part, &mut findings)?);
                }
                findings.conclude(rows.root(), &mut Vec::new())?;
            }
            // It was computed when they were packed.
            ImagePixels::Packed(PackedImages { hash: Some(hash), .. }) => return Ok(hash.clone()),
            ImagePixels::Packed(_) => {
                for part in self.parts_from(0) {
                    hasher.update(&self.pixels(&part)?);
                }
            }
        }
        Ok(self.hash_with_labels(hasher))
    }

    /// The hash of what `pixels` has seen, which are all pixels, and of the labels.
    pub(super) fn hash_with_labels(&self, mut pixels: blake3::Hasher) -> String {
        self.labels.iter().for_each(|label| {
            pixels.update(&label.to_le_bytes());
        });
        pixels.finalize().to_hex().to_string()
    }

    /// The indices of the images from `first` on, in parts of a few megabytes of pixels.
    pub(super) fn parts_from(&self, first: usize) -> impl Iterator<Item = Vec<usize>> {
        let images = (PART_BYTES / self.image_bytes().max(1)).max(1);
        (first..self.len())
            .step_by(images)
            .map(move |start| (start..self.len().min(start + images)).collect())
    }

    /// The bytes of an image.
    pub(super) fn image_bytes(&self) -> usize {
        self.channels * self.height * self.width
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
            images: (0..12).collect::<Vec<u8>>().into(),
            labels: vec![0, 1],
            channels: 1,
            height: 2,
            width: 3,
            classes: vec!["a".into(), "b".into()],
        };
        assert_eq!(set.image(1).unwrap()[..], [6, 7, 8, 9, 10, 11]);
        assert_eq!(set.pixels(&[1, 0]).unwrap()[..8], [6, 7, 8, 9, 10, 11, 0, 1]);
        for beyond in [2, usize::MAX] {
            let message = set.image(beyond).unwrap_err().to_string();
            let expected = format!("image {beyond} of tiny asked for, but it has 2 images");
            assert_eq!(message, expected);
        }
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
