//! Refuses graphs that no manifest can make usable: number formats, layouts and outputs that do not
//! allow recovery.

use scdd_graph::{DType, Graph, Input};

/// Checks the graph with the image input `input`.
///
/// # Errors
/// The fault, and the export that avoids it.
pub(super) fn check(graph: &Graph, input: &Input) -> Result<(), String> {
    let name = &graph.values[input.value];
    match input.dtype {
        Some(DType::F32) | None => {}
        Some(DType::U8) => {
            return Err(format!(
                "its input `{name}` is uint8, so the graph begins with a preprocessing of its own: export the network without it, \
                 and let the manifest say mean and std"
            ));
        }
        Some(other) => {
            return Err(format!(
                "its input `{name}` is {}: export the network in float32, after `model.float()`",
                other.name()
            ));
        }
    }
    if let Some([_, height, width, channels]) = input.dims.as_deref()
        && matches!(channels, Some(1 | 3))
        && !matches!(height, Some(1 | 3))
    {
        let side = |side: &Option<usize>| side.map_or("?".into(), |side| side.to_string());
        return Err(format!(
            "its input `{name}` is [N, {}, {}, {}], with the channels last: export the network with [N, C, H, W] \
             (tf2onnx: --inputs-as-nchw {name})",
            side(height),
            side(width),
            side(channels)
        ));
    }
    weights(graph)?;
    output(graph)
}

/// Refuses weights of another precision, which can't be combined with float32 images.
fn weights(graph: &Graph) -> Result<(), String> {
    let count = |wanted: DType| {
        graph.constants.values().filter(|constant| constant.dtype == wanted).count()
    };
    let single = count(DType::F32);
    let other =
        [DType::F16, DType::BF16, DType::F64].into_iter().find(|&dtype| count(dtype) > single);
    match other {
        Some(dtype) => Err(format!(
            "its weights are {} ({} tensors): export the network in float32, after `model.float()`",
            dtype.name(),
            count(dtype)
        )),
        None => Ok(()),
    }
}

/// Refuses a first output that is computed from logits or features instead of being them.
fn output(graph: &Graph) -> Result<(), String> {
    let mut value = graph.outputs[0];
    let name = &graph.values[value];
    // Nodes that only change type or shape are skipped.
    while let Some(node) = graph.producer(value) {
        let what = match node.op_type.as_str() {
            "Cast" | "Identity" | "Squeeze" | "Unsqueeze" | "Reshape" | "Flatten" => {
                match node.inputs.first() {
                    Some(Some(input)) => {
                        value = *input;
                        continue;
                    }
                    _ => return Ok(()),
                }
            }
            "ArgMax" | "ArgMin" | "TopK" => "the chosen class",
            "Softmax" => "probabilities",
            _ => return Ok(()),
        };
        return Err(format!(
            "its output `{name}` is {what}, by node `{}` ({}), where logits are wanted: export the network without that last step, \
             or make an earlier value the output (`exporters import --output`)",
            node.name, node.op_type
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use scdd_graph::proto::*;

    fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
        NodeProto {
            op_type: Some(op.into()),
            name: Some(op.to_lowercase()),
            input: inputs.iter().map(ToString::to_string).collect(),
            output: vec![output.into()],
            ..Default::default()
        }
    }

    fn cast(to: i64) -> NodeProto {
        let attribute = AttributeProto {
            name: Some("to".into()),
            i: Some(to),
            r#type: Some(2),
            ..Default::default()
        };
        NodeProto { attribute: vec![attribute], ..node("Cast", &["y"], "z") }
    }

    /// A model with one image input of type `kind` and these dims (0 is dynamic), and a weight of
    /// type `weights`.
    fn model(
        kind: i32,
        dims: &[i64],
        weights: (i32, usize),
        nodes: Vec<NodeProto>,
        output: &str,
    ) -> Vec<u8> {
        let dim =
            |&size: &i64| DimensionProto { dim_value: (size > 0).then_some(size), dim_param: None };
        let shape = Some(TensorShapeProto { dim: dims.iter().map(dim).collect() });
        let tensor_type = Some(TensorTypeProto { elem_type: Some(kind), shape });
        let input =
            ValueInfoProto { name: Some("x".into()), r#type: Some(TypeProto { tensor_type }) };
        let weight = TensorProto {
            dims: vec![1],
            data_type: Some(weights.0),
            name: Some("w".into()),
            raw_data: Some(vec![0; weights.1]),
            ..Default::default()
        };
        let graph = GraphProto {
            node: nodes,
            initializer: vec![weight],
            input: vec![input],
            output: vec![ValueInfoProto { name: Some(output.into()), r#type: None }],
            ..Default::default()
        };
        let opset_import = vec![OperatorSetIdProto { domain: None, version: Some(18) }];
        ModelProto { ir_version: Some(10), opset_import, graph: Some(graph), ..Default::default() }
            .encode_to_vec()
    }

    fn said(bytes: &[u8]) -> Result<(), String> {
        let graph = Graph::load(bytes).unwrap();
        check(&graph, &graph.inputs[0])
    }

    const FLOAT: i32 = 1;
    const NCHW: &[i64] = &[0, 3, 32, 32];

    #[test]
    fn what_is_no_float32_network_of_images_is_refused_with_the_export_that_is() {
        let mul = || vec![node("Mul", &["x", "w"], "y")];
        said(&model(FLOAT, NCHW, (FLOAT, 4), mul(), "y")).unwrap();
        said(&model(FLOAT, &[0, 1, 28, 1], (FLOAT, 4), mul(), "y")).unwrap();
        let cases = [
            (
                model(10, NCHW, (10, 2), mul(), "y"),
                "its input `x` is float16: export the network in float32",
            ),
            (
                model(11, NCHW, (11, 8), mul(), "y"),
                "its input `x` is float64: export the network in float32",
            ),
            (
                model(FLOAT, NCHW, (10, 2), mul(), "y"),
                "its weights are float16 (1 tensors): export the network in float32",
            ),
            (
                model(FLOAT, NCHW, (16, 2), mul(), "y"),
                "its weights are bfloat16 (1 tensors): export the network in float32",
            ),
            (
                model(2, NCHW, (FLOAT, 4), mul(), "y"),
                "its input `x` is uint8, so the graph begins with a preprocessing of its own",
            ),
            (
                model(FLOAT, &[0, 32, 32, 3], (FLOAT, 4), mul(), "y"),
                "its input `x` is [N, 32, 32, 3], with the channels last: export the network with [N, C, H, W] (tf2onnx: --inputs-as-nchw x)",
            ),
            (
                model(FLOAT, &[0, 0, 0, 1], (FLOAT, 4), mul(), "y"),
                "its input `x` is [N, ?, ?, 1], with the channels last: export the network with [N, C, H, W]",
            ),
        ];
        for (model, expected) in cases {
            let found = said(&model).unwrap_err();
            assert!(found.starts_with(expected), "{found:?} does not start with {expected:?}");
        }
    }

    #[test]
    fn what_is_decided_by_logits_is_refused_as_the_output() {
        let after = |nodes: Vec<NodeProto>, output: &str| {
            let first = node("Mul", &["x", "w"], "v");
            said(&model(FLOAT, NCHW, (FLOAT, 4), [vec![first], nodes].concat(), output))
        };
        for op in ["ArgMax", "ArgMin", "Softmax"] {
            let what = if op == "Softmax" { "probabilities" } else { "the chosen class" };
            let of = |output: &str| {
                format!(
                    "its output `{output}` is {what}, by node `{}` ({op}), where logits are wanted",
                    op.to_lowercase()
                )
            };
            for (nodes, output) in
                [(vec![node(op, &["v"], "y")], "y"), (vec![node(op, &["v"], "y"), cast(1)], "z")]
            {
                let found = after(nodes, output).unwrap_err();
                assert!(found.starts_with(&of(output)), "{found}");
            }
        }
        // Only the last operator before the output counts.
        after(vec![node("Softmax", &["v"], "u"), node("Relu", &["u"], "y")], "y").unwrap();
        after(vec![node("ArgMax", &["v"], "y")], "v").unwrap();
    }
}
