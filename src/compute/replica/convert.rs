//! Conversions into and out of `tch`: the graph's constants, and `ndarray` (for data and ONNX
//! Runtime). Each makes one copy.

use ndarray::{ArrayD, ArrayView, Dimension, IxDyn};
use tch::{Device, Kind, TchError, Tensor};

use crate::transfer;
use scdd_graph::{Constant, DType};

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

/// The same `[N, C, H, W]` values with the channels innermost in memory, the layout in which CPU
/// convolutions are fastest; tensors of other ranks are returned unchanged.
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
    let flat = transfer::fetch(&tensor.f_detach()?)?
        .f_to_kind(Kind::Float)?
        .f_contiguous()?
        .f_reshape([-1])?;
    let values = Vec::<f32>::try_from(&flat)?;
    ArrayD::from_shape_vec(IxDyn(&dims), values).map_err(|e| TchError::Shape(e.to_string()))
}

/// The `tch` equivalent of an element type.
pub fn kind(dtype: DType) -> Kind {
    match dtype {
        DType::F32 => Kind::Float,
        DType::F64 => Kind::Double,
        DType::F16 => Kind::Half,
        DType::BF16 => Kind::BFloat16,
        DType::I64 => Kind::Int64,
        DType::I32 => Kind::Int,
        DType::I16 => Kind::Int16,
        DType::I8 => Kind::Int8,
        DType::U8 => Kind::Uint8,
        DType::Bool => Kind::Bool,
    }
}

/// The constant as a tensor on the CPU.
///
/// # Errors
/// When libtorch can't make the tensor.
pub fn tensor_of(constant: &Constant) -> Result<Tensor, TchError> {
    let dims: Vec<i64> = constant.dims.iter().map(|&d| d as i64).collect();
    if constant.is_empty() {
        return Tensor::f_zeros(dims, (kind(constant.dtype), Device::Cpu));
    }
    Tensor::f_from_data_size(&constant.bytes, &dims, kind(constant.dtype))
}
