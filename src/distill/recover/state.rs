//! A batch under way as one file, so that an interrupted recovery goes on in the middle of a batch
//! and ends in the same bytes.

use std::collections::HashMap;

use ndarray::{Array4, ArrayViewD};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::Point;

/// The state of a batch between two steps.
#[derive(Debug)]
pub struct BatchState {
    pub progress: BatchProgress,
    /// The images at the first step of the budget, `[N, C, H, W]`.
    pub start: Array4<f32>,
    pub images: Array4<f32>,
    /// Adam's first and second moments.
    pub moments: [Array4<f32>; 2],
    /// The moving average of the images, where the configuration asks for one.
    pub average: Option<Array4<f32>>,
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
        let [first, second] = &self.moments;
        let arrays = [
            ("start", Some(&self.start)),
            ("images", Some(&self.images)),
            ("first moment", Some(first)),
            ("second moment", Some(second)),
            (AVERAGE, self.average.as_ref()),
        ];
        let mut tensors = Vec::new();
        for (name, array) in arrays.into_iter().filter_map(|(name, array)| Some((name, array?))) {
            tensors.push((
                name.to_owned(),
                Dtype::F32,
                array.shape().to_vec(),
                bytes(array.view().into_dyn()),
            ));
        }
        for (evaluator, layer, parts) in &self.statistics {
            for (part, tensor) in parts.iter().enumerate() {
                let dtype = if tensor.kind() == Kind::Double { Dtype::F64 } else { Dtype::F32 };
                let shape = tensor.size().iter().map(|&side| side as usize).collect();
                let name = format!("{STATISTICS}/{evaluator}/{layer}/{part}");
                tensors.push((
                    name,
                    dtype,
                    shape,
                    values(tensor, dtype).map_err(|e| e.to_string())?,
                ));
            }
        }
        let mut views = Vec::with_capacity(tensors.len());
        for (name, dtype, shape, bytes) in &tensors {
            let view = TensorView::new(*dtype, shape.clone(), bytes).map_err(|e| e.to_string())?;
            views.push((name, view));
        }
        let progress = serde_json::to_string(&self.progress).map_err(|e| e.to_string())?;
        let metadata = HashMap::from([(PROGRESS.to_owned(), progress)]);
        safetensors::serialize(views, Some(metadata)).map_err(|e| e.to_string())
    }

    /// The state that [`write`](Self::write) wrote.
    ///
    /// # Errors
    /// When the bytes are damaged.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| e.to_string())?;
        let progress = header.metadata().as_ref().and_then(|metadata| metadata.get(PROGRESS));
        let progress = progress.ok_or("the file holds no batch")?;
        let progress = serde_json::from_str(progress).map_err(|e| e.to_string())?;
        let file = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
        let array = |name: &str| array(&file.tensor(name).map_err(|e| e.to_string())?);
        let names = file.names();
        let mut statistics = Vec::new();
        for name in
            names.iter().filter_map(|name| name.strip_prefix(STATISTICS)?.strip_suffix("/0"))
        {
            let place = |text: &str| text.parse().map_err(|_| format!("`{name}` names no layer"));
            let (evaluator, layer) = name.trim_start_matches('/').split_once('/').ok_or(name)?;
            let part = |part: usize| {
                let name = format!("{STATISTICS}{name}/{part}");
                tensor(&file.tensor(&name).map_err(|e| e.to_string())?)
            };
            statistics.push((place(evaluator)?, place(layer)?, [part(0)?, part(1)?]));
        }
        let average = names.contains(&AVERAGE).then(|| array(AVERAGE)).transpose()?;
        let (start, images) = (array("start")?, array("images")?);
        let moments = [array("first moment")?, array("second moment")?];
        if [&start, &moments[0], &moments[1]].iter().any(|other| other.dim() != images.dim()) {
            return Err("the arrays differ in shape".into());
        }
        Ok(Self { progress, start, images, moments, average, statistics })
    }
}

fn bytes(array: ArrayViewD<f32>) -> Vec<u8> {
    array.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn values(tensor: &Tensor, dtype: Dtype) -> Result<Vec<u8>, tch::TchError> {
    let flat = tensor.f_to_device(tch::Device::Cpu)?.f_reshape([-1])?;
    Ok(match dtype {
        Dtype::F64 => Vec::<f64>::try_from(&flat)?.iter().flat_map(|v| v.to_le_bytes()).collect(),
        _ => Vec::<f32>::try_from(&flat.f_to_kind(Kind::Float)?)?
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect(),
    })
}

fn array(view: &TensorView) -> Result<Array4<f32>, String> {
    let [n, c, h, w] = view.shape() else { return Err("an image batch has four axes".into()) };
    if view.dtype() != Dtype::F32 {
        return Err("images are float32".into());
    }
    let (values, _) = view.data().as_chunks::<4>();
    let values = values.iter().map(|value| f32::from_le_bytes(*value)).collect();
    Array4::from_shape_vec((*n, *c, *h, *w), values).map_err(|e| e.to_string())
}

fn tensor(view: &TensorView) -> Result<Tensor, String> {
    let shape: Vec<i64> = view.shape().iter().map(|&side| side as i64).collect();
    let flat = match view.dtype() {
        Dtype::F64 => {
            let (values, _) = view.data().as_chunks::<8>();
            let values: Vec<f64> = values.iter().map(|v| f64::from_le_bytes(*v)).collect();
            Tensor::f_from_slice(&values)
        }
        _ => {
            let (values, _) = view.data().as_chunks::<4>();
            let values: Vec<f32> = values.iter().map(|v| f32::from_le_bytes(*v)).collect();
            Tensor::f_from_slice(&values)
        }
    };
    flat.and_then(|flat| flat.f_reshape(shape)).map_err(|e| e.to_string())
}
