//! One run on zeros finds the shape and type of every value, and whether the value depends on the
//! input.

use tch::{Kind, Tensor};

use crate::replica::ops::BatchSize;
use crate::replica::{Mode, Replica, ReplicaError};
use scdd_graph::ops::{Layout, ShapeOp};
use scdd_graph::{Op, ValueId};

/// The facts about one value for a given input shape.
pub struct Known {
    pub size: Vec<i64>,
    pub kind: Kind,
    /// The value itself, if it does not depend on the input's values.
    pub fixed: Option<Tensor>,
}

/// Runs the graph once on zeros. `live` are constants that change between runs, so values that
/// depend on them are not fixed.
pub fn survey(
    replica: &Replica,
    input: &Tensor,
    live: &[ValueId],
) -> Result<Vec<Option<Known>>, ReplicaError> {
    let _batch = BatchSize::of(&input.size());
    let graph = replica.graph();
    let mut values: Vec<Option<Tensor>> = Vec::new();
    values.resize_with(graph.values.len(), || None);
    let mut known: Vec<Option<Known>> = Vec::new();
    known.resize_with(graph.values.len(), || None);
    for &id in graph.constants.keys() {
        known[id] = replica.constants[id].as_ref().map(|t| Known {
            size: t.size(),
            kind: t.kind(),
            fixed: (!live.contains(&id)).then(|| t.shallow_clone()),
        });
    }
    for id in graph.inputs.iter().map(|i| i.value) {
        known[id] = Some(Known { size: input.size(), kind: input.kind(), fixed: None });
        values[id] = Some(input.shallow_clone());
    }
    for (node, dying) in graph.nodes.iter().zip(&replica.dying) {
        let results = replica.run_node(node, &values, Mode::Eval)?;
        let is_fixed = |id: ValueId| known[id].as_ref().is_some_and(|k| k.fixed.is_some());
        let by_shape = matches!(node.op, Op::Shape(ShapeOp::Shape { .. } | ShapeOp::Size));
        let inputs = match node.op {
            // The second input only gives the type.
            Op::Layout(Layout::CastLike) => &node.inputs[..1],
            _ => &node.inputs[..],
        };
        let fixed = by_shape || inputs.iter().flatten().all(|&id| is_fixed(id));
        for (output, result) in node.outputs.iter().zip(results) {
            let Some(id) = *output else { continue };
            let keep = fixed.then(|| result.shallow_clone());
            known[id] = Some(Known { size: result.size(), kind: result.kind(), fixed: keep });
            values[id] = Some(result);
        }
        for &id in dying {
            values[id] = None;
        }
    }
    Ok(known)
}
