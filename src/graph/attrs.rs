//! Reads one node: its inputs and its attributes, each of which a reader must ask for.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::constant::{Constant, DType};
use super::error::GraphError;
use super::proto::{AttributeProto, NodeProto, TensorProto};

/// Hands the node's attributes to an operator's reader by type, and records which were read.
///
/// An attribute that the reader never asks for is an error: a setting that is silently ignored
/// would give silently wrong numbers.
pub struct NodeReader<'a> {
    pub opset: i64,
    name: String,
    proto: &'a NodeProto,
    unread: RefCell<BTreeMap<&'a str, &'a AttributeProto>>,
    injected: Vec<(usize, Constant)>,
}

impl<'a> NodeReader<'a> {
    pub(super) fn new(proto: &'a NodeProto, name: String, opset: i64) -> Self {
        let unread = proto.attribute.iter().map(|a| (a.name.as_deref().unwrap_or(""), a)).collect();
        Self { opset, name, proto, unread: RefCell::new(unread), injected: Vec::new() }
    }

    /// An error at this node.
    pub fn error(&self, what: impl Into<String>) -> GraphError {
        GraphError::Node {
            node: self.name.clone(),
            op: self.proto.op_type.clone().unwrap_or_default(),
            what: what.into(),
        }
    }

    fn take(&self, name: &str, kind: i32) -> Result<Option<&'a AttributeProto>, GraphError> {
        let Some(attr) = self.unread.borrow_mut().remove(name) else { return Ok(None) };
        // Very old files leave the type out.
        match attr.r#type {
            Some(found) if found != kind && found != 0 => Err(self.error(format!(
                "attribute `{name}` has type code {found} where {kind} is expected"
            ))),
            _ => Ok(Some(attr)),
        }
    }

    pub fn float(&self, name: &str) -> Result<Option<f32>, GraphError> {
        Ok(self.take(name, 1)?.map(|a| a.f.unwrap_or(0.0)))
    }

    pub fn float_or(&self, name: &str, default: f32) -> Result<f32, GraphError> {
        Ok(self.float(name)?.unwrap_or(default))
    }

    pub fn int(&self, name: &str) -> Result<Option<i64>, GraphError> {
        Ok(self.take(name, 2)?.map(|a| a.i.unwrap_or(0)))
    }

    pub fn int_or(&self, name: &str, default: i64) -> Result<i64, GraphError> {
        Ok(self.int(name)?.unwrap_or(default))
    }

    /// A 0/1 integer attribute.
    pub fn flag_or(&self, name: &str, default: bool) -> Result<bool, GraphError> {
        match self.int_or(name, default.into())? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.error(format!("attribute `{name}` is {other}, neither 0 nor 1"))),
        }
    }

    pub fn string_or(&self, name: &str, default: &str) -> Result<String, GraphError> {
        let Some(attr) = self.take(name, 3)? else { return Ok(default.into()) };
        String::from_utf8(attr.s.clone().unwrap_or_default())
            .map_err(|_| self.error(format!("attribute `{name}` is not UTF-8")))
    }

    pub fn ints(&self, name: &str) -> Result<Option<Vec<i64>>, GraphError> {
        Ok(self.take(name, 7)?.map(|a| a.ints.clone()))
    }

    pub fn floats(&self, name: &str) -> Result<Option<Vec<f32>>, GraphError> {
        Ok(self.take(name, 6)?.map(|a| a.floats.clone()))
    }

    pub fn tensor(&self, name: &str) -> Result<Option<&'a TensorProto>, GraphError> {
        match self.take(name, 4)? {
            None => Ok(None),
            Some(attr) => attr
                .t
                .as_ref()
                .map(Some)
                .ok_or_else(|| self.error(format!("attribute `{name}` is empty"))),
        }
    }

    /// The element type named by an integer attribute.
    pub fn dtype(&self, name: &str) -> Result<Option<DType>, GraphError> {
        let Some(code) = self.int(name)? else { return Ok(None) };
        let code = i32::try_from(code).unwrap_or(0);
        DType::from_onnx(code).map(Some).ok_or_else(|| self.error(DType::refusal(code)))
    }

    /// Reads and drops an attribute that has no meaning in inference.
    pub fn ignore(&self, name: &str) {
        self.unread.borrow_mut().remove(name);
    }

    /// Whether the node has input `index` (an empty name stands for an absent optional input).
    pub fn has_input(&self, index: usize) -> bool {
        self.proto.input.get(index).is_some_and(|name| !name.is_empty())
    }

    pub fn input_count(&self) -> usize {
        self.proto.input.len()
    }

    pub fn output_count(&self) -> usize {
        self.proto.output.len()
    }

    /// Turns an attribute that later opsets pass as input `index` into that input, so that
    /// executors see one form.
    pub fn inject(&mut self, index: usize, constant: Constant) {
        self.injected.push((index, constant));
    }

    /// Checks that there are between `min` and `max` inputs and that the first `min` are present.
    pub fn expect_inputs(&self, min: usize, max: usize) -> Result<(), GraphError> {
        let count = self.input_count();
        if count > max || (0..min).any(|i| !self.has_input(i)) {
            let wanted = if min == max { min.to_string() } else { format!("{min} to {max}") };
            return Err(self.error(format!("{count} inputs where {wanted} are expected")));
        }
        Ok(())
    }

    /// Ends the reading: unread attributes are an error; otherwise returns the injected inputs.
    pub(super) fn finish(self) -> Result<Vec<(usize, Constant)>, GraphError> {
        let unread: Vec<&str> = self.unread.borrow().keys().copied().collect();
        if unread.is_empty() {
            return Ok(self.injected);
        }
        Err(self.error(format!(
            "unsupported attributes at opset {}: {}",
            self.opset,
            unread.join(", ")
        )))
    }
}
