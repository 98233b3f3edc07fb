//! The file of a state that is kept: tensors by name, and one JSON text beside them.

use std::collections::{BTreeMap, HashMap};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use tch::{Kind, TchError, Tensor};

use scdd_compute::transfer;

/// A safetensors file of `tensors`, float64 ones as such and all others as float32, and of the
/// `text` under its key in the metadata, if there is one.
///
/// # Errors
/// When a tensor can't be copied.
pub fn write(
    tensors: &[(String, Tensor)],
    text: Option<(&str, String)>,
) -> Result<Vec<u8>, String> {
    let mut copied = BTreeMap::new();
    for (name, tensor) in tensors {
        let dtype = if tensor.kind() == Kind::Double { Dtype::F64 } else { Dtype::F32 };
        let shape: Vec<usize> = tensor.size().iter().map(|&side| side as usize).collect();
        copied.insert(name, (dtype, shape, bytes_of(tensor).map_err(first_line)?));
    }
    let mut views = Vec::with_capacity(copied.len());
    for (name, (dtype, shape, bytes)) in &copied {
        let view = TensorView::new(*dtype, shape.clone(), bytes).map_err(|e| e.to_string())?;
        views.push((name, view));
    }
    let metadata = text.map(|(key, text)| HashMap::from([(key.to_owned(), text)]));
    safetensors::serialize(views, metadata).map_err(|e| e.to_string())
}

/// The tensors of a file that [`write`] wrote, and the text under `key`.
///
/// # Errors
/// When the bytes are damaged, or there is no such text.
pub fn read(bytes: &[u8], key: &str) -> Result<(String, BTreeMap<String, Tensor>), String> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| e.to_string())?;
    let text = header.metadata().as_ref().and_then(|metadata| metadata.get(key));
    let text = text.ok_or_else(|| format!("it holds no {key}"))?.clone();
    let file = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors() {
        let shape: Vec<i64> = view.shape().iter().map(|&side| side as i64).collect();
        let flat = match view.dtype() {
            Dtype::F64 => {
                let (values, _) = view.data().as_chunks::<8>();
                let values: Vec<f64> = values.iter().map(|v| f64::from_le_bytes(*v)).collect();
                Tensor::f_from_slice(&values)
            }
            Dtype::F32 => {
                let (values, _) = view.data().as_chunks::<4>();
                let values: Vec<f32> = values.iter().map(|v| f32::from_le_bytes(*v)).collect();
                Tensor::f_from_slice(&values)
            }
            other => return Err(format!("`{name}` is {other:?}")),
        };
        tensors.insert(name, flat.and_then(|flat| flat.f_reshape(shape)).map_err(first_line)?);
    }
    Ok((text, tensors))
}

fn bytes_of(tensor: &Tensor) -> Result<Vec<u8>, TchError> {
    let flat = transfer::fetch(&tensor.f_detach()?)?.f_contiguous()?.f_reshape([-1])?;
    Ok(match flat.kind() {
        Kind::Double => {
            Vec::<f64>::try_from(&flat)?.into_iter().flat_map(f64::to_le_bytes).collect()
        }
        _ => {
            let flat = flat.f_to_kind(Kind::Float)?;
            Vec::<f32>::try_from(&flat)?.into_iter().flat_map(f32::to_le_bytes).collect()
        }
    })
}

/// libtorch appends a C++ stack trace.
pub fn first_line(error: TchError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
