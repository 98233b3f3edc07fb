//! The pixels of a data set's images: in memory, or read from their files when they are asked for.

use std::borrow::Cow;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rayon::prelude::*;

use super::decode::{self, Pixels};
use super::entries::Findings;
use super::layout::packed;
use super::layout::rows::ParquetRows;
use super::{DataError, Fit, png};

/// The pixels of a set of images of one shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImagePixels {
    /// In memory, `[N, C, H, W]`.
    Held(Vec<u8>),
    /// Image files, which are decoded each time that they are asked for.
    Files(ImageFiles),
    /// Rows of Parquet files, which are decoded each time that they are asked for.
    Rows(ParquetRows),
    /// A packed array, which is read each time that it is asked for.
    Packed(PackedImages),
}

/// The images of a packed data set, one after another in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedImages {
    pub(super) file: PathBuf,
    /// The set's images by their places in the file.
    pub(super) places: Vec<usize>,
    /// BLAKE3 of the set's pixels and labels, 64 hex digits; `None` of a part of a set.
    pub(super) hash: Option<String>,
}

/// Image files of one shape after [`Fit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFiles {
    /// The directory that problems are told relative to.
    pub(super) root: PathBuf,
    pub(super) paths: Vec<PathBuf>,
    /// `[C, H, W]`.
    pub(super) shape: [usize; 3],
    pub(super) fit: Fit,
}

impl From<Vec<u8>> for ImagePixels {
    fn from(pixels: Vec<u8>) -> Self {
        Self::Held(pixels)
    }
}

impl ImagePixels {
    /// Whether the images are read each time that they are asked for.
    pub fn are_read_anew(&self) -> bool {
        !matches!(self, Self::Held(_))
    }

    /// The images at `indices`, one after another. Each has `length` bytes. Files are decoded in
    /// parallel. `None` if there is no such image.
    pub(super) fn gather(
        &self,
        indices: &[usize],
        length: usize,
    ) -> Result<Option<Cow<'_, [u8]>>, DataError> {
        match self {
            Self::Held(pixels) => {
                let image = |&index: &usize| {
                    let start = index.checked_mul(length)?;
                    pixels.get(start..start.checked_add(length)?)
                };
                Ok(match indices {
                    [only] => image(only).map(Cow::Borrowed),
                    several => {
                        let parts: Option<Vec<&[u8]>> = several.iter().map(image).collect();
                        parts.map(|parts| Cow::Owned(parts.concat()))
                    }
                })
            }
            Self::Files(files) => {
                if indices.iter().any(|&index| index >= files.paths.len()) {
                    return Ok(None);
                }
                let mut findings = Findings::default();
                let pixels = files.decode(indices, &mut findings);
                findings.conclude(&files.root, &mut Vec::new())?;
                Ok(Some(Cow::Owned(pixels)))
            }
            Self::Rows(rows) => {
                if indices.iter().any(|&index| index >= rows.len()) {
                    return Ok(None);
                }
                let mut findings = Findings::default();
                let pixels = rows.decode(indices, &mut findings)?;
                findings.conclude(rows.root(), &mut Vec::new())?;
                Ok(Some(Cow::Owned(pixels)))
            }
            Self::Packed(packed) => {
                if indices.iter().any(|&index| index >= packed.places.len()) {
                    return Ok(None);
                }
                let pixels = packed.read(indices, length);
                Ok(Some(Cow::Owned(pixels.map_err(DataError::io(&packed.file, "read"))?)))
            }
        }
    }
}

impl ImagePixels {
    /// The images at `indices`, which must exist, as a set of their own. Each has `length` bytes.
    /// Files are not read.
    pub(super) fn select(&self, indices: &[usize], length: usize) -> Result<Self, DataError> {
        Ok(match self {
            Self::Held(_) => Self::Held(self.gather(indices, length)?.unwrap_or_default().into()),
            Self::Files(files) => {
                let paths = indices.iter().map(|&index| files.paths[index].clone()).collect();
                Self::Files(ImageFiles { root: files.root.clone(), paths, ..*files })
            }
            Self::Rows(rows) => Self::Rows(rows.select(indices)),
            Self::Packed(packed) => {
                let places = indices.iter().map(|&index| packed.places[index]).collect();
                Self::Packed(PackedImages { file: packed.file.clone(), places, hash: None })
            }
        })
    }
}

impl PackedImages {
    /// The images at `indices`, which must exist. The system keeps what is read often in memory.
    fn read(&self, indices: &[usize], length: usize) -> std::io::Result<Vec<u8>> {
        let file = File::open(&self.file)?;
        let mut pixels = vec![0; indices.len() * length];
        let targets = pixels.par_chunks_exact_mut(length.max(1)).zip(indices);
        targets.try_for_each(|(target, &index)| {
            let place = self.places[index] as u64;
            file.read_exact_at(target, packed::HEADER as u64 + place * length as u64)
        })?;
        Ok(pixels)
    }
}

impl ImageFiles {
    /// The pixels of one image.
    fn open(&self, index: usize) -> Result<Vec<u8>, String> {
        let bytes = std::fs::read(&self.paths[index])
            .map_err(|error| format!("can't be read ({error})"))?;
        let image = decode::decode(&bytes)?;
        match self.fit {
            Fit::To(shape) => decode::fitted(image, shape),
            Fit::Exact => exact(image, self.shape),
        }
    }

    /// The images at `indices`, which must exist, decoded in parallel. An undecodable file is a
    /// problem, and black.
    pub(super) fn decode(&self, indices: &[usize], findings: &mut Findings) -> Vec<u8> {
        let length = self.shape.iter().product::<usize>();
        let mut pixels = vec![0; indices.len() * length];
        let targets = pixels.par_chunks_exact_mut(length.max(1)).zip(indices);
        let problems: Vec<Option<String>> = targets
            .map(|(target, &index)| match self.open(index) {
                Ok(image) => {
                    target.copy_from_slice(&image);
                    None
                }
                Err(problem) => Some(problem),
            })
            .collect();
        for (&index, problem) in indices.iter().zip(problems) {
            if let Some(problem) = problem {
                findings.problem(&self.root, &self.paths[index], problem);
            }
        }
        pixels
    }
}

/// The pixels `[C, H, W]` of `image`, which must have this shape.
pub(super) fn exact(
    image: Pixels,
    [channels, height, width]: [usize; 3],
) -> Result<Vec<u8>, String> {
    if (image.channels, image.height, image.width) != (channels, height, width) {
        let found = format!("is {}x{}x{}", image.channels, image.height, image.width);
        return Err(format!("{found}, but the images before it are {channels}x{height}x{width}"));
    }
    Ok(png::planes(&image.values, channels))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dataset, Normalization, Source, Split};
    use std::fs;
    use std::path::Path;

    fn load(place: &Path, held: u64, fit: Fit) -> Dataset {
        let source = Source::open(place).unwrap();
        source.load_holding(held, Split::Train, fit, &mut Vec::new()).unwrap()
    }

    #[test]
    fn files_that_are_read_anew_give_the_bytes_of_those_in_memory() {
        let goldens = crate::in_repository("tests/goldens/folder");
        for shape in [[3, 24, 24], [1, 28, 28]] {
            let bytes = (23 * shape.iter().product::<usize>()) as u64;
            let held = load(&goldens, bytes, Fit::To(shape));
            let anew = load(&goldens, bytes - 1, Fit::To(shape));
            assert!(anew.images.are_read_anew() && !held.images.are_read_anew());
            assert_eq!(
                (anew.len(), &anew.labels, &anew.classes),
                (23, &held.labels, &held.classes)
            );
            assert_eq!(anew.all_pixels().unwrap(), held.all_pixels().unwrap());
            assert_eq!(anew.hash().unwrap(), held.hash().unwrap());
            let chosen = [22, 0, 7, 7];
            assert_eq!(anew.pixels(&chosen).unwrap(), held.pixels(&chosen).unwrap());
            let normalization = Normalization::new(vec![0.5; shape[0]], vec![0.25; shape[0]]);
            let batch = |set| normalization.as_ref().unwrap().batch(set, &chosen).unwrap();
            assert_eq!(batch(&anew), batch(&held));
            let message = anew.pixels(&[0, 23]).unwrap_err().to_string();
            assert!(message.contains("image 23 of") && message.contains("23 images"), "{message}");
        }
    }

    #[test]
    fn files_that_cannot_be_decoded_are_named_when_they_are_read() {
        let dir = tempfile::tempdir().unwrap();
        for (file, value) in [("a/0.png", 5), ("a/1.png", 6), ("b/0.png", 7), ("b/1.png", 8)] {
            let path = dir.path().join("train").join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, png::encode(&[value], 1, 1, 1).unwrap()).unwrap();
        }
        let set = load(dir.path(), 0, Fit::Exact);
        assert_eq!(set.all_pixels().unwrap()[..], [5, 6, 7, 8]);
        fs::write(dir.path().join("train/a/1.png"), png::encode(&[6, 6], 1, 1, 2).unwrap())
            .unwrap();
        fs::write(dir.path().join("train/b/0.png"), "no").unwrap();
        assert_eq!(set.pixels(&[3, 0]).unwrap()[..], [8, 5], "only what is asked for is read");
        let message = set.hash().unwrap_err().to_string();
        for part in [
            "2 entries can't be used",
            "train/a/1.png is 1x1x2, but the images before it are 1x1x1",
            "train/b/0.png is neither a PNG nor a JPEG",
        ] {
            assert!(message.contains(part), "{message:?} lacks {part:?}");
        }
    }
}
