//! ONNX bytes become a typed graph.
//!
//! Loading checks everything that can be checked without running the graph: the bytes decode, sizes
//! agree with the data, every value has one producer that comes before its readers, every operator
//! is known, every attribute was understood. All that is not supported is reported in one message.
//! What executes the graph is elsewhere; this module knows nothing of tensor libraries.

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

/// One operation.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The file's name for it, or `<op type>#<position>` where the file has none.
    pub name: String,
    pub op_type: String,
    pub op: Op,
    /// `None` is an optional input that is absent.
    pub inputs: Vec<Option<ValueId>>,
    pub outputs: Vec<Option<ValueId>>,
}

/// An input that the caller feeds.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    pub value: ValueId,
    pub dtype: Option<DType>,
    /// `None` is a dynamic dim; the whole is `None` where the file says nothing.
    pub dims: Option<Vec<Option<usize>>>,
}

/// A network, its nodes in an order in which they can run.
#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    pub opset: i64,
    /// Every value's name, by [`ValueId`].
    pub values: Vec<String>,
    pub constants: BTreeMap<ValueId, Constant>,
    pub inputs: Vec<Input>,
    pub outputs: Vec<ValueId>,
    pub nodes: Vec<Node>,
    /// What was odd but not wrong, for the user to see.
    pub warnings: Vec<String>,
}

/// The same model with the values called `names` as further outputs.
///
/// Protobuf messages merge by concatenation, so nothing of the original is decoded or changed.
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

    /// The node that makes `value`, if a node does.
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

    /// How many convolutions have a bias, as they do after a `BatchNormalization` was folded into
    /// them.
    pub fn biased_convolutions(&self) -> usize {
        self.convolutions().filter(|n| n.inputs.get(2).is_some_and(Option::is_some)).count()
    }

    /// `BatchNormalization` nodes, in execution order.
    pub fn batch_norms(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|n| matches!(n.op, Op::Norm(ops::Norm::Batch { .. })))
    }
}
