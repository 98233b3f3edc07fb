//! Between `ndarray` (data, ONNX Runtime) and `tch` (replica): one copy each way.

use ndarray::{ArrayD, ArrayView, Dimension, IxDyn};
use tch::{Device, Kind, TchError, Tensor};

/// A float32 tensor on the CPU with the array's shape and values.
///
/// # Errors
/// When libtorch can't make the tensor.
pub fn to_tensor<D: Dimension>(array: ArrayView<f32, D>) -> Result<Tensor, TchError> {
    let dims: Vec<i64> = array.shape().iter().map(|&d| d as i64).collect();
    match array.as_slice() {
        Some(slice) => Tensor::f_from_slice(slice)?.f_reshape(dims),
        None => Tensor::f_from_slice(&array.iter().copied().collect::<Vec<_>>())?.f_reshape(dims),
    }
}

/// The same `[N, C, H, W]` values with the channels innermost in memory, the layout in which CPU convolutions are fastest; other ranks unchanged.
///
/// # Errors
/// When libtorch can't copy the tensor.
pub fn channels_last(tensor: &Tensor) -> Result<Tensor, TchError> {
    if tensor.dim() != 4 {
        return Ok(tensor.shallow_clone());
    }
    tensor.f_permute([0, 2, 3, 1])?.f_contiguous()?.f_permute([0, 3, 1, 2])
}

/// The tensor's values as a float32 array of the same shape.
///
/// # Errors
/// When libtorch can't copy the tensor to the CPU.
pub fn to_array(tensor: &Tensor) -> Result<ArrayD<f32>, TchError> {
    let dims: Vec<usize> = tensor.size().iter().map(|&d| d as usize).collect();
    let flat = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?.f_reshape([-1])?;
    let values = Vec::<f32>::try_from(&flat)?;
    ArrayD::from_shape_vec(IxDyn(&dims), values).map_err(|e| TchError::Shape(e.to_string()))
}
