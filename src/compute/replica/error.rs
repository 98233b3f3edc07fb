//! The errors of running a graph, with the node that failed.

/// Why one operator failed.
#[derive(Debug, thiserror::Error)]
pub enum OpError {
    #[error("{}", first_line(.0))]
    Torch(#[from] tch::TchError),
    #[error("{0}")]
    Other(String),
}

/// The first line of libtorch's message. The rest is a C++ stack trace, which does not help a
/// reader of an ONNX graph.
fn first_line(error: &tch::TchError) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}

/// Why a [`Replica`](super::Replica) could not be built or run.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    #[error("constant `{name}`: {}", first_line(.source))]
    Constant { name: String, source: tch::TchError },
    #[error("the graph has {expected} inputs, {found} were given")]
    Inputs { expected: usize, found: usize },
    #[error("node `{node}` ({op}) failed: {source}. Inputs were {inputs}")]
    Node { node: String, op: String, inputs: String, source: OpError },
    #[error("the synthesis loss can't be computed: {}", first_line(.source))]
    Loss { source: tch::TchError },
    #[error("step `{step}` of the plan failed: {source}")]
    Step { step: String, source: OpError },
    #[error("the plan was compiled for inputs of shape {expected:?}, not {found:?}")]
    Shape { expected: Vec<i64>, found: Vec<i64> },
    #[error("value `{value}` was never computed")]
    Missing { value: String },
}
