//! The operators: one file per family, with typed settings, readers and rows of the registry.
//!
//! Readers absorb opset differences, so that executors see one form: an attribute that later became
//! an input is injected as a constant input, defaults are filled in, and unsupported settings are
//! refused by name.

pub mod activation;
pub mod conv;
pub mod elementwise;
pub mod layout;
pub mod linear;
pub mod norm;
pub mod pool;
pub mod reduce;
pub mod resize;
pub mod shape;

use super::attrs::NodeReader;
use super::error::GraphError;

pub use activation::Activation;
pub use conv::{Conv, ConvTranspose, Padding};
pub use elementwise::{Binary, Unary};
pub use layout::{Layout, PadMode, Scatter};
pub use linear::Linear;
pub use norm::Norm;
pub use pool::{Pool, PoolKind};
pub use reduce::{Reduce, ReduceKind};
pub use resize::{AspectPolicy, Coordinates, Resize, ResizeKernel, Rounding};
pub use shape::ShapeOp;

/// A typed operator. Inputs are numbered as in the newest ONNX opset; see
/// [`Node::inputs`](super::Node).
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    Activation(Activation),
    Binary(Binary),
    Conv(Conv),
    ConvTranspose(ConvTranspose),
    Layout(Layout),
    Linear(Linear),
    Norm(Norm),
    Pool(Pool),
    Reduce(Reduce),
    Resize(Resize),
    Shape(ShapeOp),
    Unary(Unary),
}

/// One row of the registry.
pub struct OpSpec {
    /// The operator's domain; `""` is the default ONNX domain.
    pub domain: &'static str,
    pub name: &'static str,
    /// The oldest supported opset.
    pub since: i64,
    /// Whether gradients flow through input 0.
    pub differentiable: bool,
    pub read: fn(&mut NodeReader) -> Result<Op, GraphError>,
}

impl OpSpec {
    const fn new(
        name: &'static str,
        since: i64,
        differentiable: bool,
        read: fn(&mut NodeReader) -> Result<Op, GraphError>,
    ) -> Self {
        Self { domain: "", name, since, differentiable, read }
    }
}

/// Every supported operator, by family.
pub fn registry() -> impl Iterator<Item = &'static OpSpec> {
    [
        activation::OPS,
        conv::OPS,
        elementwise::OPS,
        layout::OPS,
        linear::OPS,
        norm::OPS,
        pool::OPS,
        reduce::OPS,
        resize::OPS,
        shape::OPS,
    ]
    .into_iter()
    .flatten()
}

/// The registry's row for an operator. `ai.onnx` is an alias of the default domain.
pub fn find(domain: &str, name: &str) -> Option<&'static OpSpec> {
    let domain = if domain == "ai.onnx" { "" } else { domain };
    registry().find(|spec| spec.domain == domain && spec.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_operator_is_registered_twice() {
        let mut names: Vec<_> = registry().map(|s| (s.domain, s.name)).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(find("ai.onnx", "Conv").is_some());
        assert!(find("com.microsoft", "Conv").is_none());
    }
}
