//! What can be wrong with an ONNX file, and where.

use std::fmt;

/// An operator that the registry lacks, with every node that uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsupportedOp {
    /// `Conv`, or `com.microsoft::FusedConv` outside the default domain.
    pub op: String,
    pub nodes: Vec<String>,
}

impl fmt::Display for UnsupportedOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 3;
        write!(f, "{} ×{} ({}", self.op, self.nodes.len(), self.nodes[..self.nodes.len().min(SHOWN)].join(", "))?;
        if self.nodes.len() > SHOWN {
            write!(f, ", …")?;
        }
        write!(f, ")")
    }
}

fn list(ops: &[UnsupportedOp]) -> String {
    ops.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Why ONNX bytes did not become a [`Graph`](super::Graph).
#[derive(Debug, thiserror::Error)]
pub enum GraphError {
    #[error("not a readable ONNX file (truncated or corrupt): {0}")]
    Decode(#[from] prost::DecodeError),
    #[error("the ONNX model {0}")]
    Model(String),
    #[error("unsupported operators: {}", list(.0))]
    UnsupportedOps(Vec<UnsupportedOp>),
    #[error("node `{node}` ({op}): {what}")]
    Node { node: String, op: String, what: String },
    #[error("tensor `{name}`: {what}")]
    Tensor { name: String, what: String },
}

impl GraphError {
    pub(super) fn tensor(name: &str, what: impl Into<String>) -> Self {
        Self::Tensor { name: name.into(), what: what.into() }
    }
}
