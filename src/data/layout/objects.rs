//! What pickled files of arrays call: the constructors of NumPy's arrays and of PyTorch's tensors.
//! They are known by their names, and nothing of theirs is executed.

use super::pickle::{PickleStep, PickleValue, wrong};

/// A tensor of PyTorch: a part of the numbers of a storage.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TensorPlace<'a> {
    /// The storage's type, such as `FloatStorage`.
    pub dtype: &'a str,
    /// The name of the storage's file.
    pub key: &'a [u8],
    /// The place of the first number.
    pub offset: usize,
    pub shape: Vec<usize>,
    /// For each axis the step, in numbers, from one element to the next.
    pub strides: Vec<usize>,
}

/// The storage that PyTorch names by a tuple: `storage`, its type, its file, its device, its
/// length.
pub(super) fn persistent<'a>(name: PickleValue<'a>) -> PickleStep<PickleValue<'a>> {
    match name.items() {
        Some(
            [
                PickleValue::Bytes(b"storage"),
                PickleValue::Global(class),
                PickleValue::Bytes(key),
                ..,
            ],
        ) => match STORAGES.iter().find(|dtype| class.strip_prefix("torch.") == Some(dtype)) {
            Some(dtype) => Ok(PickleValue::Storage { dtype, key }),
            None => wrong(format!(
                "has numbers of type {class:?}; save images as uint8 or float32, labels as int64"
            )),
        },
        _ => wrong("names something that is no storage of a tensor"),
    }
}

/// The types of PyTorch's numbers that are read.
const STORAGES: [&str; 9] = [
    "ByteStorage",
    "CharStorage",
    "ShortStorage",
    "IntStorage",
    "LongStorage",
    "HalfStorage",
    "BFloat16Storage",
    "FloatStorage",
    "DoubleStorage",
];

/// The sizes of a shape.
fn sizes(shape: &[PickleValue]) -> Option<Vec<usize>> {
    let size = |value: &PickleValue| {
        if let PickleValue::Int(size) = value { usize::try_from(*size).ok() } else { None }
    };
    shape.iter().map(size).collect()
}

/// The result of a call. NumPy's empty arrays and element types, and PyTorch's tensors, are known;
/// any other call is refused.
pub(super) fn reduced<'a>(
    function: PickleValue<'a>,
    arguments: PickleValue<'a>,
) -> PickleStep<PickleValue<'a>> {
    let name = if let PickleValue::Global(name) = &function { name.as_str() } else { "" };
    match (name, arguments.items()) {
        ("numpy.core.multiarray._reconstruct" | "numpy._core.multiarray._reconstruct", Some(_)) => {
            Ok(PickleValue::Array { shape: Vec::new(), dtype: b"", bytes: b"" })
        }
        ("numpy.dtype", Some([PickleValue::Bytes(dtype), ..])) => Ok(PickleValue::DType(dtype)),
        // Single numbers are figures of a training, whose values nobody reads. Protocol 2, which
        // PyTorch writes, has their bytes as text.
        ("_codecs.encode", Some([PickleValue::Bytes(text), PickleValue::Bytes(b"latin1")])) => {
            Ok(PickleValue::Bytes(text))
        }
        (
            "numpy.core.multiarray.scalar" | "numpy._core.multiarray.scalar",
            Some([PickleValue::DType(_), PickleValue::Bytes(_)]),
        ) => Ok(PickleValue::None),
        ("collections.OrderedDict", Some([])) => Ok(PickleValue::Dict(Vec::new())),
        ("torch._utils._rebuild_parameter", Some([PickleValue::Tensor(tensor), ..])) => {
            Ok(PickleValue::Tensor(tensor.clone()))
        }
        (
            "torch._utils._rebuild_tensor_v2",
            Some(
                [
                    PickleValue::Storage { dtype, key },
                    PickleValue::Int(offset),
                    PickleValue::Tuple(shape),
                    PickleValue::Tuple(strides),
                    ..,
                ],
            ),
        ) => match (usize::try_from(*offset), sizes(shape), sizes(strides)) {
            (Ok(offset), Some(shape), Some(strides)) if shape.len() == strides.len() => {
                Ok(PickleValue::Tensor(TensorPlace { dtype, key, offset, shape, strides }))
            }
            _ => wrong("has a tensor of an impossible shape"),
        },
        _ => wrong(format!("calls {name:?}, which is no array of numbers")),
    }
}

/// The result of giving `object` its state.
pub(super) fn built<'a>(
    object: PickleValue<'a>,
    state: PickleValue<'a>,
) -> PickleStep<PickleValue<'a>> {
    match (object, state.items()) {
        // The state is version, byte order, and fields of structured types.
        (PickleValue::DType(dtype), Some([_, PickleValue::Bytes(order), ..]))
            if matches!(*order, b"|" | b"<" | b"=") =>
        {
            Ok(PickleValue::DType(dtype))
        }
        (
            PickleValue::Array { .. },
            Some(
                [
                    _,
                    PickleValue::Tuple(shape),
                    PickleValue::DType(dtype),
                    PickleValue::Int(0),
                    PickleValue::Bytes(bytes),
                ],
            ),
        ) => {
            let Some(shape) = sizes(shape) else {
                return wrong("has an array of an impossible shape");
            };
            let width = dtype.last().map_or(0, |digit| usize::from(digit.saturating_sub(b'0')));
            let length = shape.iter().try_fold(width, |product, size| product.checked_mul(*size));
            if length != Some(bytes.len()) {
                return wrong(format!("has an array of shape {shape:?} in {} bytes", bytes.len()));
            }
            Ok(PickleValue::Array { shape, dtype, bytes })
        }
        _ => wrong("has an object that is not an array in C order"),
    }
}
