//! Loads ONNX bytes as a typed graph.
//!
//! Loading checks everything that can be checked without running the graph: the bytes decode, sizes
//! agree with the data, every value has one producer that comes before its readers, every operator
//! is known, every attribute is understood. One message reports all unsupported features. This
//! crate does not execute graphs and depends on no tensor library.

#![forbid(unsafe_code)]

mod attrs;
mod constant;
mod error;
mod load;
pub mod ops;
pub mod proto;
pub mod support;

use std::collections::BTreeMap;

pub use constant::{Constant, DType};
pub use error::{Gap, GraphError};
pub use ops::Op;

/// A value of the graph: an input, a constant or a node's output. Indexes [`Graph::values`].
pub type ValueId = usize;

/// One operation of a graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The node's name in the file, or `<op type>#<position>` if it has none.
    pub name: String,
    pub op_type: String,
    pub op: Op,
    /// `None` stands for an optional input that is absent.
    pub inputs: Vec<Option<ValueId>>,
    pub outputs: Vec<Option<ValueId>>,
}

/// An input that the caller must supply.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    pub value: ValueId,
    pub dtype: Option<DType>,
    /// `None` inside is a dynamic dim; `None` outside means that the file gives no shape.
    pub dims: Option<Vec<Option<usize>>>,
}

/// A network. Its nodes are in execution order.
#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    pub opset: i64,
    /// The name of each value, by [`ValueId`].
    pub values: Vec<String>,
    pub constants: BTreeMap<ValueId, Constant>,
    pub inputs: Vec<Input>,
    pub outputs: Vec<ValueId>,
    pub nodes: Vec<Node>,
    /// Remarks for the user about odd but valid features of the file.
    pub warnings: Vec<String>,
}

/// Returns the same model with the values called `names` as additional outputs.
///
/// Protobuf messages merge by concatenation, so the original bytes are neither decoded nor changed.
pub fn with_outputs(model: &[u8], names: &[String]) -> Vec<u8> {
    use prost::Message;
    let output = names
        .iter()
        .map(|name| proto::ValueInfoProto { name: Some(name.clone()), r#type: None })
        .collect();
    let graph = Some(proto::GraphProto { output, ..Default::default() });
    let mut bytes = model.to_vec();
    bytes.extend(proto::ModelProto { graph, ..Default::default() }.encode_to_vec());
    bytes
}

impl Graph {
    /// Reads an ONNX model.
    ///
    /// # Errors
    /// See [`GraphError`]; each names the node or tensor at fault.
    pub fn load(bytes: &[u8]) -> Result<Self, GraphError> {
        load::load(bytes)
    }

    /// The value called `name`.
    pub fn value(&self, name: &str) -> Option<ValueId> {
        self.values.iter().position(|v| v == name)
    }

    /// The node called `name`.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|n| n.name == name)
    }

    /// The node that computes `value`, or `None` for inputs and constants.
    pub fn producer(&self, value: ValueId) -> Option<&Node> {
        self.nodes.iter().find(|n| n.outputs.contains(&Some(value)))
    }

    /// `LayerNormalization` nodes, in execution order.
    pub fn layer_norms(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|n| matches!(n.op, Op::Norm(ops::Norm::Layer { .. })))
    }

    /// `Conv` nodes, in execution order.
    pub fn convolutions(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|n| matches!(n.op, Op::Conv(_)))
    }

    /// The number of convolutions with a bias. Folding a `BatchNormalization` into a convolution
    /// gives it one.
    pub fn biased_convolutions(&self) -> usize {
        self.convolutions().filter(|n| n.inputs.get(2).is_some_and(Option::is_some)).count()
    }

    /// `BatchNormalization` nodes, in execution order.
    pub fn batch_norms(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|n| matches!(n.op, Op::Norm(ops::Norm::Batch { .. })))
    }
}
