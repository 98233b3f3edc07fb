//! The state of an unfinished training as one file, so that an interrupted training resumes after
//! its last saved epoch and ends with the same bytes.

use std::collections::{BTreeMap, HashMap};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use tch::{TchError, Tensor};

use scdd_artifacts::records::Epoch;

/// All numbers of a training that are no tensors.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Numbers {
    /// The finished epochs.
    pub curve: Vec<Epoch>,
    /// Steps that the optimiser has taken.
    pub steps: i32,
    /// The student's temperature, if it is fitted.
    pub fitted: f64,
}

/// The key of the [`Numbers`] in the file's metadata.
const NUMBERS: &str = "training";

/// A safetensors file of float32 `tensors`, and of `numbers` if there are any.
///
/// # Errors
/// When a tensor can't be copied.
pub fn write(tensors: &[(String, Tensor)], numbers: Option<&Numbers>) -> Result<Vec<u8>, String> {
    let mut copied: BTreeMap<&str, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
    for (name, tensor) in tensors {
        let array = scdd_compute::replica::to_array(tensor).map_err(|e| e.to_string())?;
        copied.insert(
            name,
            (array.shape().to_vec(), array.iter().flat_map(|v| v.to_le_bytes()).collect()),
        );
    }
    let mut views = Vec::with_capacity(copied.len());
    for (name, (shape, bytes)) in &copied {
        views.push((
            name,
            TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(|e| e.to_string())?,
        ));
    }
    let numbers = numbers.map(serde_json::to_string).transpose().map_err(|e| e.to_string())?;
    let metadata = numbers.map(|numbers| HashMap::from([(NUMBERS.to_owned(), numbers)]));
    safetensors::serialize(views, metadata).map_err(|e| e.to_string())
}

/// Fills `tensors` with the values that [`write`] saved for tensors of the same names and shapes.
/// Returns the numbers.
///
/// # Errors
/// When the bytes are damaged or hold other tensors. No tensor is changed then.
pub fn read(bytes: &[u8], tensors: &mut [(String, Tensor)]) -> Result<Numbers, String> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| e.to_string())?;
    let numbers = header
        .metadata()
        .as_ref()
        .and_then(|metadata| metadata.get(NUMBERS))
        .ok_or("it holds no training")?;
    let numbers = serde_json::from_str(numbers).map_err(|e| e.to_string())?;
    let file = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
    if file.len() != tensors.len() {
        return Err(format!("it holds {} tensors, the training has {}", file.len(), tensors.len()));
    }
    let mut found = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors.iter() {
        let view = file.tensor(name).map_err(|e| e.to_string())?;
        let shape: Vec<i64> = view.shape().iter().map(|&side| side as i64).collect();
        if view.dtype() != Dtype::F32 || shape != tensor.size() {
            return Err(format!(
                "`{name}` is {:?} {shape:?}, the training has {:?}",
                view.dtype(),
                tensor.size()
            ));
        }
        let (values, _) = view.data().as_chunks::<4>();
        let values: Vec<f32> = values.iter().map(|value| f32::from_le_bytes(*value)).collect();
        found.push(
            Tensor::f_from_slice(&values)
                .and_then(|values| values.f_reshape(shape))
                .map_err(first_line)?,
        );
    }
    let _no_grad = tch::no_grad_guard();
    for ((_, tensor), found) in tensors.iter_mut().zip(found) {
        tensor.f_copy_(&found).map_err(first_line)?;
    }
    Ok(numbers)
}

fn first_line(error: TchError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_and_foreign_files_change_nothing() {
        let tensors = |value: f32| {
            vec![
                ("a".to_owned(), Tensor::from_slice(&[value, -0.0])),
                ("b".to_owned(), Tensor::from(value)),
            ]
        };
        let numbers = Numbers {
            curve: vec![Epoch { epoch: 1, loss: 0.1 + 0.2, accuracy: None }],
            steps: 7,
            fitted: 0.3,
        };
        let bytes = write(&tensors(1.5), Some(&numbers)).unwrap();
        let mut other = tensors(0.0);
        assert_eq!(read(&bytes, &mut other).unwrap(), numbers);
        assert_eq!(Vec::<f32>::try_from(&other[0].1).unwrap(), [1.5, 0.0]);
        let mut fewer = tensors(0.0);
        fewer.truncate(1);
        assert!(read(&bytes, &mut fewer).unwrap_err().contains("2 tensors"));
        let mut of_other_shape = vec![
            ("a".to_owned(), Tensor::from_slice(&[0f32; 3])),
            ("b".to_owned(), Tensor::from(0f32)),
        ];
        assert!(read(&bytes, &mut of_other_shape).unwrap_err().contains("[3]"));
        assert!(read(&bytes[..bytes.len() - 1], &mut tensors(0.0)).is_err());
        let plain = write(&tensors(1.5), None).unwrap();
        assert!(read(&plain, &mut tensors(0.0)).unwrap_err().contains("no training"));
    }
}
