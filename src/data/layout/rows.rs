//! The images in the rows of Parquet files, read and decoded when they are asked for.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use parquet::data_type::{ByteArray, ByteArrayType};
use rayon::prelude::*;

use super::parquet::{Opened, guarded};
use crate::entries::Findings;
use crate::images::exact;
use crate::{DataError, Fit, decode};

/// Encoded images in Parquet files, all of one shape after [`Fit`].
#[derive(Clone, Debug)]
pub struct ParquetRows {
    /// The directory that problems are told relative to.
    root: PathBuf,
    files: Vec<PathBuf>,
    /// The name of the label column.
    label: String,
    places: Vec<RowPlace>,
    /// `[C, H, W]`.
    shape: [usize; 3],
    fit: Fit,
    /// A row group can only be read whole, so the latest one is kept: images that follow each other
    /// are mostly in one.
    latest: Arc<Mutex<Option<RowGroup>>>,
}

/// Where an image is. The order is that of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RowPlace {
    /// The number of its file.
    pub file: u32,
    pub group: u32,
    /// Its row in the group.
    pub at: u32,
    /// Its row in the file.
    pub row: u32,
}

/// The encoded images of a row group.
#[derive(Debug)]
struct RowGroup {
    file: u32,
    group: u32,
    images: Arc<Vec<Option<ByteArray>>>,
}

impl PartialEq for ParquetRows {
    fn eq(&self, other: &Self) -> bool {
        (&self.files, &self.places) == (&other.files, &other.places)
            && (self.shape, self.fit) == (other.shape, other.fit)
    }
}

impl Eq for ParquetRows {}

impl ParquetRows {
    /// The images at `places` in `files`. Without a shape in `fit` it is that of the first image
    /// that can be decoded.
    pub(super) fn new(
        root: PathBuf,
        files: Vec<PathBuf>,
        label: String,
        places: Vec<RowPlace>,
        fit: Fit,
    ) -> Result<Self, DataError> {
        let latest = Arc::default();
        let mut rows = Self { root, files, label, places, shape: [1, 1, 1], fit, latest };
        match fit {
            Fit::To(shape) => rows.shape = shape,
            Fit::Exact => {
                for place in &rows.places {
                    let images = rows.group(place.file, place.group)?;
                    if let Ok(image) = decoded(&images, *place) {
                        rows.shape = [image.channels, image.height, image.width];
                        break;
                    }
                }
            }
        }
        Ok(rows)
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn root(&self) -> &PathBuf {
        &self.root
    }

    /// `[C, H, W]`.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// The images at `indices`, which must exist, without reading them.
    pub fn select(&self, indices: &[usize]) -> Self {
        let places = indices.iter().map(|&index| self.places[index]).collect();
        Self { places, ..self.clone() }
    }

    /// The pixels of the images at `indices`, which must exist, one after another. Row groups are
    /// read in their order in the files, each once, and images decoded in parallel. An undecodable
    /// image is a problem, and black.
    ///
    /// # Errors
    /// When a file can't be read.
    pub(crate) fn decode(
        &self,
        indices: &[usize],
        findings: &mut Findings,
    ) -> Result<Vec<u8>, DataError> {
        let length = self.shape.iter().product::<usize>();
        let mut pixels = vec![0; indices.len() * length];
        let mut wanted: Vec<(RowPlace, &mut [u8])> = indices
            .iter()
            .map(|&index| self.places[index])
            .zip(pixels.chunks_exact_mut(length.max(1)))
            .collect();
        wanted.sort_by_key(|(place, _)| *place);
        for group in wanted.chunk_by_mut(|(a, _), (b, _)| (a.file, a.group) == (b.file, b.group)) {
            let (first, _) = group[0];
            let images = self.group(first.file, first.group)?;
            let problems: Vec<Option<String>> = group
                .par_iter_mut()
                .map(|(place, target)| match self.image(&images, *place) {
                    Ok(image) => {
                        target.copy_from_slice(&image);
                        None
                    }
                    Err(problem) => Some(problem),
                })
                .collect();
            for ((place, _), problem) in group.iter().zip(problems) {
                if let Some(problem) = problem {
                    let path = &self.files[place.file as usize];
                    findings.problem(&self.root, path, format!("row {} {problem}", place.row));
                }
            }
        }
        Ok(pixels)
    }

    fn image(&self, images: &[Option<ByteArray>], place: RowPlace) -> Result<Vec<u8>, String> {
        let image = decoded(images, place)?;
        match self.fit {
            Fit::To(shape) => decode::fitted(image, shape),
            Fit::Exact => exact(image, self.shape),
        }
    }

    /// The encoded images of a row group.
    fn group(&self, file: u32, group: u32) -> Result<Arc<Vec<Option<ByteArray>>>, DataError> {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = latest.as_ref().filter(|kept| (kept.file, kept.group) == (file, group))
        {
            return Ok(kept.images.clone());
        }
        // Two groups are never in memory at once, unless another thread still decodes the former.
        *latest = None;
        let images = guarded(&self.root, || self.read_group(file, group))?;
        let images = Arc::new(images);
        *latest = Some(RowGroup { file, group, images: images.clone() });
        Ok(images)
    }

    fn read_group(&self, file: u32, group: u32) -> Result<Vec<Option<ByteArray>>, DataError> {
        let opened = Opened::new(&self.files[file as usize], Some(&self.label))?;
        let mut images = Vec::new();
        opened.column::<ByteArrayType>(group as usize, opened.image, |part| images.extend(part))?;
        Ok(images)
    }
}

fn decoded(images: &[Option<ByteArray>], place: RowPlace) -> Result<decode::Pixels, String> {
    let bytes = images.get(place.at as usize).cloned().flatten().ok_or("has no image")?;
    decode::decode(bytes.data())
}
