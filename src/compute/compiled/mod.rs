//! The parts that the compilers of synthesis and of training share.
//!
//! - [`survey`]: the shape of every value, and whether it depends on the input;
//! - [`fusion`]: which nodes can be fused;
//! - [`convolution`]: a convolution and its kernels;
//! - [`explicit`]: pools, the classifier, concatenation, reshaping, with their backward passes;
//! - [`autograd_node`]: any other operator, under autograd;
//! - [`value`]: tensors and the buffer pool that holds them.

pub mod autograd_node;
pub mod convolution;
pub mod explicit;
pub mod fusion;
pub mod survey;
pub mod value;

use std::collections::HashSet;

use tch::{Device, Kind, TchError, Tensor};

use crate::replica::ReplicaError;
use autograd_node::AutogradNode;
use scdd_graph::ValueId;
use survey::Known;
use value::Value;

/// One step of a plan.
pub trait Step {
    /// The values that the step reads, as far as they depend on the input.
    fn reads(&self) -> Vec<ValueId>;
    fn writes(&self) -> Vec<ValueId>;
    /// The step itself if autograd differentiates it.
    fn autograd(&self) -> Option<&AutogradNode>;
}

/// Per step, the values that no later step reads, so that their memory can be freed (the logits
/// stay). `values` is the number of the graph's values.
pub fn last_uses(steps: &[impl Step], logits: ValueId, values: usize) -> Vec<Vec<ValueId>> {
    let mut seen = vec![false; values];
    seen[logits] = true;
    let mut dying: Vec<Vec<ValueId>> = Vec::with_capacity(steps.len());
    for step in steps.iter().rev() {
        let used = step.reads().into_iter().chain(step.writes());
        dying.push(used.filter(|&id| !std::mem::replace(&mut seen[id], true)).collect());
    }
    dying.reverse();
    dying
}

/// The values that do not depend on the input and that autograd nodes read.
pub fn fixed_values(known: Vec<Option<Known>>, steps: &[impl Step]) -> Vec<Option<Tensor>> {
    let nodes = steps.iter().filter_map(Step::autograd);
    let needed: HashSet<ValueId> = nodes.flat_map(|node| node.constants.iter().copied()).collect();
    let known = known.into_iter().enumerate();
    known.map(|(id, k)| k.filter(|_| needed.contains(&id)).and_then(|k| k.fixed)).collect()
}

/// The sum of the gradients of one value; `None` if it has none.
///
/// # Errors
/// When libtorch can't add them.
pub fn sum(gradients: &[Value]) -> Result<Option<Value>, TchError> {
    let Some((first, more)) = gradients.split_first() else { return Ok(None) };
    more.iter()
        .try_fold(first.clone(), |sum, g| Ok(sum.tensor().f_add(g.tensor())?.into()))
        .map(Some)
}

/// Values per channel as `f32`s on the CPU, for the kernels.
///
/// # Errors
/// When libtorch can't copy them.
pub fn floats(per_channel: &Tensor) -> Result<Vec<f32>, TchError> {
    Vec::<f32>::try_from(&per_channel.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?)
}

/// A vector of `len` times `None`.
pub fn none<T>(len: usize) -> Vec<Option<T>> {
    std::iter::repeat_with(|| None).take(len).collect()
}

/// Adds the failed step's name to an error.
pub fn failed(step: &str) -> impl FnOnce(TchError) -> ReplicaError {
    let step = step.to_owned();
    move |source| ReplicaError::Step { step, source: source.into() }
}
