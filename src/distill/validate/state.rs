//! The state of an unfinished training as one file, so that an interrupted training resumes after
//! its last saved epoch and ends with the same bytes.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::state_file::{self, first_line};
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
    let numbers = numbers.map(serde_json::to_string).transpose().map_err(|e| e.to_string())?;
    state_file::write(tensors, numbers.map(|numbers| (NUMBERS, numbers)))
}

/// Fills `tensors` with the values that [`write`] saved for tensors of the same names and shapes.
/// Returns the numbers.
///
/// # Errors
/// When the bytes are damaged or hold other tensors. No tensor is changed then.
pub fn read(bytes: &[u8], tensors: &mut [(String, Tensor)]) -> Result<Numbers, String> {
    let (numbers, mut file) = state_file::read(bytes, NUMBERS)?;
    let numbers = serde_json::from_str(&numbers).map_err(|e| e.to_string())?;
    if file.len() != tensors.len() {
        return Err(format!("it holds {} tensors, the training has {}", file.len(), tensors.len()));
    }
    let mut found = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors.iter() {
        let kept = file.remove(name).ok_or_else(|| format!("it lacks `{name}`"))?;
        if kept.size() != tensor.size() {
            let (kept, own) = (kept.size(), tensor.size());
            return Err(format!("`{name}` is {kept:?}, the training has {own:?}"));
        }
        found.push(kept);
    }
    let _no_grad = tch::no_grad_guard();
    for ((_, tensor), found) in tensors.iter_mut().zip(found) {
        tensor.f_copy_(&found).map_err(first_line)?;
    }
    Ok(numbers)
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
            curve: vec![Epoch { epoch: 1, loss: 0.1 + 0.2, accuracy: None, top5: None }],
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
