//! A batch under way as one file, so that an interrupted recovery goes on in the middle of a batch
//! and ends in the same bytes.

use ndarray::Array4;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::state_file::{self, first_line};
use scdd_compute::replica::{to_array, to_tensor};

use super::Point;
use super::images::ImagesState;

/// The state of a batch between two steps.
#[derive(Debug)]
pub struct BatchState {
    pub progress: BatchProgress,
    /// The images at the first step of the budget, `[N, C, H, W]`.
    pub start: Array4<f32>,
    pub images: ImagesState,
    /// Moving averages of statistics: evaluator, layer, mean and variance.
    pub statistics: Vec<(usize, usize, [Tensor; 2])>,
}

/// Everything in a [`BatchState`] that is no array.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BatchProgress {
    /// The number of the residual blend's budget; 0 without one.
    pub budget: usize,
    /// The first step that is still to be taken.
    pub next: u32,
    /// The number of steps of this budget so far.
    pub steps: u32,
    /// The losses of all steps before.
    pub points: Vec<Point>,
}

/// The key of the progress in the file's metadata.
const PROGRESS: &str = "batch";
const AVERAGE: &str = "average";
const STATISTICS: &str = "statistics";

impl BatchState {
    /// The state as a safetensors file.
    ///
    /// # Errors
    /// When a tensor can't be copied.
    pub fn write(&self) -> Result<Vec<u8>, String> {
        let ImagesState { images, moments: [first, second], average, steps: _ } = &self.images;
        let arrays = [
            ("start", Some(&self.start)),
            ("images", Some(images)),
            ("first moment", Some(first)),
            ("second moment", Some(second)),
            (AVERAGE, average.as_ref()),
        ];
        let mut tensors = Vec::new();
        for (name, array) in arrays {
            if let Some(array) = array {
                tensors.push((name.to_owned(), to_tensor(array.view()).map_err(first_line)?));
            }
        }
        for (evaluator, layer, parts) in &self.statistics {
            for (part, tensor) in parts.iter().enumerate() {
                let name = format!("{STATISTICS}/{evaluator}/{layer}/{part}");
                tensors.push((name, tensor.shallow_clone()));
            }
        }
        let progress = serde_json::to_string(&self.progress).map_err(|e| e.to_string())?;
        state_file::write(&tensors, Some((PROGRESS, progress)))
    }

    /// The state that [`write`](Self::write) wrote.
    ///
    /// # Errors
    /// When the bytes are damaged.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let (progress, tensors) = state_file::read(bytes, PROGRESS)?;
        let progress: BatchProgress = serde_json::from_str(&progress).map_err(|e| e.to_string())?;
        let tensor = |name: &str| tensors.get(name).ok_or_else(|| format!("it lacks `{name}`"));
        let array = |name: &str| -> Result<Array4<f32>, String> {
            let array = to_array(tensor(name)?).map_err(first_line)?;
            array.into_dimensionality().map_err(|e| e.to_string())
        };
        let mut statistics = Vec::new();
        for place in
            tensors.keys().filter_map(|name| name.strip_prefix(STATISTICS)?.strip_suffix("/0"))
        {
            let number = |text: &str| text.parse().map_err(|_| format!("`{place}` is no layer"));
            let (evaluator, layer) =
                place.trim_start_matches('/').split_once('/').ok_or("a layer has no number")?;
            let part = |part: usize| {
                tensor(&format!("{STATISTICS}{place}/{part}")).map(Tensor::shallow_clone)
            };
            statistics.push((number(evaluator)?, number(layer)?, [part(0)?, part(1)?]));
        }
        let average = tensors.contains_key(AVERAGE).then(|| array(AVERAGE)).transpose()?;
        let (start, images) = (array("start")?, array("images")?);
        let moments = [array("first moment")?, array("second moment")?];
        if [&start, &moments[0], &moments[1]].iter().any(|other| other.dim() != images.dim()) {
            return Err("the arrays differ in shape".into());
        }
        let images = ImagesState { images, moments, steps: progress.steps, average };
        Ok(Self { progress, start, images, statistics })
    }
}
