//! Any other operator: one node, run as in the replica and differentiated by autograd.

use tch::{Kind, TchError, Tensor};

use super::survey::Known;
use super::value::Value;
use crate::replica::{Mode, Replica, ReplicaError};
use scdd_graph::{Node, ValueId};

/// A node that autograd differentiates.
pub struct AutogradNode {
    pub name: String,
    node: usize,
    /// The inputs that depend on the network's input, without repetition.
    pub reads: Vec<ValueId>,
    /// The other inputs.
    pub constants: Vec<ValueId>,
    pub writes: Vec<ValueId>,
}

/// The state that an [`AutogradNode`] saves for the backward pass: its inputs as autograd leaves,
/// and its outputs with their history.
pub struct SavedAutograd {
    leaves: Vec<Tensor>,
    inputs: Vec<Value>,
    outputs: Vec<Tensor>,
}

impl AutogradNode {
    pub fn new(index: usize, node: &Node, known: &[Option<Known>]) -> Self {
        let depends = |id: &ValueId| known[*id].as_ref().is_some_and(|k| k.fixed.is_none());
        let (mut reads, constants): (Vec<ValueId>, _) =
            node.inputs.iter().flatten().copied().partition(depends);
        reads.sort_unstable();
        reads.dedup();
        let writes = node.outputs.iter().flatten().copied().collect();
        Self { name: node.name.clone(), node: index, reads, constants, writes }
    }

    /// Copies those of the values `fixed`, which never change, that the node computes with to where
    /// it does, for all later evaluations.
    ///
    /// # Errors
    /// When libtorch can't copy them.
    pub fn settle(
        &self,
        replica: &mut Replica,
        fixed: &[Option<Tensor>],
    ) -> Result<(), ReplicaError> {
        replica.settle(self.node, fixed)
    }

    /// `fixed` holds every value that does not depend on the network's input. `inputs` are the
    /// values of [`reads`](Self::reads), in the same order.
    pub fn forward(
        &self,
        replica: &Replica,
        fixed: &[Option<Tensor>],
        inputs: Vec<Value>,
        mode: Mode,
    ) -> Result<(Vec<Value>, SavedAutograd), ReplicaError> {
        let node = &replica.graph().nodes[self.node];
        let mut values: Vec<Option<Tensor>> =
            fixed.iter().map(|t| t.as_ref().map(Tensor::shallow_clone)).collect();
        let leaf = |v: &Value| {
            let differentiable = v.tensor().is_floating_point();
            v.tensor().detach().set_requires_grad(differentiable)
        };
        let leaves: Vec<Tensor> = inputs.iter().map(leaf).collect();
        for (&id, leaf) in self.reads.iter().zip(&leaves) {
            values[id] = Some(leaf.shallow_clone());
        }
        let outputs = tch::with_grad(|| replica.run_node(node, &values, mode))?;
        let made = node.outputs.iter().zip(outputs).filter(|(id, _)| id.is_some());
        let outputs: Vec<Tensor> = made.map(|(_, tensor)| tensor).collect();
        let results = outputs.iter().map(|t| Value::view_of(&inputs, t.detach())).collect();
        Ok((results, SavedAutograd { leaves, inputs, outputs }))
    }

    /// The gradients of the inputs that have one, each with its value's number.
    pub fn backward(
        &self,
        kept: SavedAutograd,
        gradients: &[Option<Value>],
    ) -> Result<Vec<(ValueId, Value)>, TchError> {
        let mut root: Option<Tensor> = None;
        tch::with_grad(|| -> Result<(), TchError> {
            for (output, gradient) in kept.outputs.iter().zip(gradients) {
                if let (Some(gradient), true) = (gradient, output.requires_grad()) {
                    let share = output.f_mul(gradient.tensor())?.f_sum(None::<Kind>)?;
                    root = Some(match root.take() {
                        Some(root) => root.f_add(&share)?,
                        None => share,
                    });
                }
            }
            Ok(())
        })?;
        let Some(root) = root else { return Ok(Vec::new()) };
        root.f_backward()?;
        let mut pulled = Vec::new();
        for ((&id, leaf), input) in self.reads.iter().zip(&kept.leaves).zip(&kept.inputs) {
            if leaf.requires_grad() {
                let gradient = leaf.f_grad()?;
                if gradient.defined() {
                    pulled.push((id, input.view(gradient)));
                }
            }
        }
        Ok(pulled)
    }
}
