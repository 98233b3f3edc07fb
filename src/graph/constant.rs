//! Constant tensors: initialisers, `Constant` nodes and tensor attributes, all as little-endian
//! bytes.

use super::error::GraphError;
use super::proto::TensorProto;

/// Element types that a graph may hold. The codes are those of ONNX's `TensorProto.DataType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    F32,
    F64,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl DType {
    const CODES: [(i32, DType); 10] = [
        (1, Self::F32),
        (2, Self::U8),
        (3, Self::I8),
        (5, Self::I16),
        (6, Self::I32),
        (7, Self::I64),
        (9, Self::Bool),
        (10, Self::F16),
        (11, Self::F64),
        (16, Self::BF16),
    ];

    /// The type of an ONNX `data_type` code, or `None` if it is not supported.
    pub fn from_onnx(code: i32) -> Option<Self> {
        Self::CODES.iter().find(|(c, _)| *c == code).map(|(_, t)| *t)
    }

    /// The error text for an unsupported type.
    pub(super) fn refusal(code: i32) -> String {
        const OTHERS: [(i32, &str); 16] = [
            (4, "uint16"),
            (8, "string"),
            (12, "uint32"),
            (13, "uint64"),
            (14, "complex64"),
            (15, "complex128"),
            (17, "float8e4m3fn"),
            (18, "float8e4m3fnuz"),
            (19, "float8e5m2"),
            (20, "float8e5m2fnuz"),
            (21, "uint4"),
            (22, "int4"),
            (23, "float4e2m1"),
            (24, "float8e8m0"),
            (25, "uint2"),
            (26, "int2"),
        ];
        match OTHERS.iter().find(|(c, _)| *c == code) {
            Some((_, name)) => format!("element type {name} is not supported"),
            None => format!("element type {code} is not supported"),
        }
    }

    /// The type's name in ONNX.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F64 => "float64",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
            Self::I64 => "int64",
            Self::I32 => "int32",
            Self::I16 => "int16",
            Self::I8 => "int8",
            Self::U8 => "uint8",
            Self::Bool => "bool",
        }
    }

    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64 | Self::F16 | Self::BF16)
    }
}

/// A tensor whose values are known at load time. `bytes` holds exactly `dims.product() *
/// dtype.size()` little-endian bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Constant {
    pub dtype: DType,
    pub dims: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Constant {
    pub fn from_i64s(dims: &[usize], values: &[i64]) -> Self {
        Self {
            dtype: DType::I64,
            dims: dims.to_vec(),
            bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        }
    }

    pub fn from_f32s(dims: &[usize], values: &[f32]) -> Self {
        Self {
            dtype: DType::F32,
            dims: dims.to_vec(),
            bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        }
    }

    pub fn len(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The values of a float32 constant.
    pub fn f32s(&self) -> Option<Vec<f32>> {
        let read = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        (self.dtype == DType::F32).then(|| self.bytes.chunks_exact(4).map(read).collect())
    }

    /// The values of an int64 or int32 constant.
    pub fn i64s(&self) -> Option<Vec<i64>> {
        match self.dtype {
            DType::I64 => {
                Some(self.bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect())
            }
            DType::I32 => Some(
                self.bytes
                    .as_chunks::<4>()
                    .0
                    .iter()
                    .map(|b| i32::from_le_bytes(*b).into())
                    .collect(),
            ),
            _ => None,
        }
    }

    /// Reads `proto`. Sizes are checked against the file's actual data before anything is
    /// allocated.
    ///
    /// # Errors
    /// External or sparse data, an unsupported element type, negative or overflowing dims, dims
    /// that disagree with the data.
    pub fn read(proto: &TensorProto) -> Result<Self, GraphError> {
        let name = proto.name.as_deref().unwrap_or("<unnamed>");
        let fail = |what: String| Err(GraphError::tensor(name, what));
        if proto.data_location == Some(1) {
            return fail("its data lie in another file; save the model as a single file".into());
        }
        let code = proto.data_type.unwrap_or(0);
        let Some(dtype) = DType::from_onnx(code) else {
            return fail(DType::refusal(code));
        };
        let Some((dims, count)) = checked_dims(&proto.dims) else {
            return fail(format!("impossible dims {:?}", proto.dims));
        };
        let bytes = match &proto.raw_data {
            Some(raw) => raw.clone(),
            None => typed_data(proto, dtype),
        };
        if Some(bytes.len()) != count.checked_mul(dtype.size()) {
            return fail(format!(
                "dims {dims:?} need {count} elements of {} bytes, the file holds {} bytes",
                dtype.size(),
                bytes.len()
            ));
        }
        Ok(Self { dtype, dims, bytes })
    }
}

fn checked_dims(dims: &[i64]) -> Option<(Vec<usize>, usize)> {
    let dims: Vec<usize> = dims.iter().map(|&d| usize::try_from(d).ok()).collect::<Option<_>>()?;
    let count = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    Some((dims, count))
}

/// Data in the typed fields. Small integers and half floats are stored in `int32_data`.
fn typed_data(proto: &TensorProto, dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F32 => proto.float_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::F64 => proto.double_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::I64 => proto.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        _ => {
            let size = dtype.size();
            proto
                .int32_data
                .iter()
                .flat_map(move |v| v.to_le_bytes().into_iter().take(size))
                .collect()
        }
    }
}
