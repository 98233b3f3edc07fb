//! Hostile graphs: each is refused with the node's name, or runs, in bounded time and memory; none
//! panics.
//!
//! `mutated_files_never_panic` tests a fixed number of random mutations; with `SCDD_FUZZ_SECONDS`
//! it runs for that long.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;
use rand::RngExt;
use rand::seq::IndexedRandom;
use scdd::graph::Graph;
use scdd::graph::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorTypeProto, TypeProto, ValueInfoProto,
};
use scdd::replica::{Mode, Replica};
use scdd::rng;
use tch::{Device, Kind, Tensor};

fn info(name: &str) -> ValueInfoProto {
    let tensor_type = TensorTypeProto { elem_type: Some(1), shape: None };
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto { tensor_type: Some(tensor_type) }),
    }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        ints: values.to_vec(),
        r#type: Some(7),
        ..Default::default()
    }
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        i: Some(value),
        r#type: Some(2),
        ..Default::default()
    }
}

fn node(op: &str, inputs: &[&str], attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: Some(op.into()),
        name: Some("the_node".into()),
        input: inputs.iter().map(ToString::to_string).collect(),
        output: vec!["y".into()],
        attribute,
        ..Default::default()
    }
}

/// An int64 initialiser.
fn list(name: &str, values: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: vec![values.len() as i64],
        data_type: Some(7),
        int64_data: values.to_vec(),
        ..Default::default()
    }
}

fn model(nodes: Vec<NodeProto>, initializer: Vec<TensorProto>) -> Vec<u8> {
    let graph = GraphProto {
        node: nodes,
        initializer,
        input: vec![info("x")],
        output: vec![info("y")],
        ..Default::default()
    };
    ModelProto {
        ir_version: Some(10),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(18) }],
        graph: Some(graph),
        ..Default::default()
    }
    .encode_to_vec()
}

/// Loads `model` and runs it on a small image.
fn run(model: &[u8]) -> Result<(), String> {
    let graph = Graph::load(model).map_err(|e| e.to_string())?;
    let count = graph.inputs.len();
    let replica = Replica::new(Arc::new(graph), Device::Cpu).map_err(|e| e.to_string())?;
    let inputs: Vec<Tensor> =
        (0..count).map(|_| Tensor::ones([1, 2, 4, 4], (Kind::Float, Device::Cpu))).collect();
    tch::no_grad(|| replica.run(&inputs, &[], Mode::Eval)).map(|_| ()).map_err(|e| e.to_string())
}

#[test]
fn enormous_results_are_refused_at_the_node() {
    const HUGE: i64 = 1 << 40;
    let cases = [
        (node("Expand", &["x", "a"], vec![]), vec![list("a", &[HUGE, 2, 4, 4])]),
        (node("Expand", &["x", "a"], vec![]), vec![list("a", &[i64::MAX, i64::MAX, 1, 1, 1, 1])]),
        (node("Expand", &["x", "a"], vec![]), vec![list("a", &[-5, 2, 4, 4])]),
        (node("Tile", &["x", "a"], vec![]), vec![list("a", &[HUGE, 1, 1, 1])]),
        (node("Tile", &["x", "a"], vec![]), vec![list("a", &[1, 1])]),
        (node("Pad", &["x", "a"], vec![]), vec![list("a", &[0, 0, HUGE, 0, 0, 0, 0, 0])]),
        (
            node("Pad", &["x", "a"], vec![]),
            vec![list("a", &[0, 0, i64::MIN, 0, 0, 0, i64::MIN, 0])],
        ),
        (node("ConstantOfShape", &["a"], vec![]), vec![list("a", &[HUGE])]),
        (node("Reshape", &["x", "a"], vec![]), vec![list("a", &[HUGE, -1])]),
        (node("Split", &["x"], vec![int("num_outputs", i64::MAX)]), vec![]),
        (node("MaxPool", &["x"], vec![ints("kernel_shape", &[1 << 20, 1 << 20])]), vec![]),
        (
            node(
                "AveragePool",
                &["x"],
                vec![
                    ints("kernel_shape", &[2, 2]),
                    ints("pads", &[1 << 20, 1 << 20, 1 << 20, 1 << 20]),
                ],
            ),
            vec![],
        ),
        (node("Resize", &["x", "", "", "a"], vec![]), vec![list("a", &[1, 2, 1 << 16, 1 << 16])]),
        (node("LRN", &["x"], vec![int("size", i64::MAX)]), vec![]),
        (node("DepthToSpace", &["x"], vec![int("blocksize", i64::MAX)]), vec![]),
        (
            node("Col2Im", &["x", "a", "b"], vec![]),
            vec![list("a", &[HUGE, HUGE]), list("b", &[1, 1])],
        ),
        (node("Transpose", &["x"], vec![ints("perm", &[7, 7, 7, 7])]), vec![]),
        (node("Concat", &["x", "x"], vec![int("axis", i64::MIN)]), vec![]),
        (node("Slice", &["x", "a", "a", "a", "a"], vec![]), vec![list("a", &[0])]),
        (node("Gather", &["x", "a"], vec![]), vec![list("a", &[99])]),
        (node("Einsum", &["x"], vec![]), vec![]),
    ];
    for (node, initializers) in cases {
        let op = node.op_type.clone().unwrap_or_default();
        let started = Instant::now();
        let message = run(&model(vec![node], initializers)).expect_err(&op);
        assert!(message.starts_with(&format!("node `the_node` ({op})")), "{message}");
        assert!(started.elapsed() < Duration::from_secs(5), "{op} took {:?}", started.elapsed());
    }
}

#[test]
fn broadcasting_can_not_explode() {
    let column = node("Reshape", &["x", "a"], vec![]);
    let column = NodeProto { output: vec!["c".into()], ..column };
    let tall = NodeProto { output: vec!["t".into()], ..node("Expand", &["c", "b"], vec![]) };
    let wide = NodeProto { output: vec!["w".into()], ..node("Reshape", &["t", "d"], vec![]) };
    let initializers = vec![
        list("a", &[-1, 1]),
        list("b", &[32, 1 << 15]),
        list("d", &[1, -1]),
        list("e", &[-1, 1]),
    ];
    let tower = NodeProto { output: vec!["v".into()], ..node("Reshape", &["t", "e"], vec![]) };
    let product = node("Mul", &["w", "v"], vec![]);
    let message = run(&model(vec![column, tall, wide, tower, product], initializers))
        .expect_err("must be refused");
    assert!(
        message.starts_with("node `the_node` (Mul) failed: asks for a tensor of shape"),
        "{message}"
    );
}

#[test]
fn many_attributes_and_deep_nesting_take_no_time() {
    let attributes = (0..200_000).map(|i| int(&format!("a{i}"), i)).collect();
    let started = Instant::now();
    let message =
        run(&model(vec![node("Relu", &["x"], attributes)], vec![])).expect_err("must be refused");
    assert!(
        message.starts_with("node `the_node` (Relu): unsupported attributes"),
        "{}",
        &message[..100]
    );
    // Length-delimited fields nested a thousand deep: model, graph, node, attribute, graph, node,
    // attribute, …
    let mut bytes = Vec::new();
    for level in 0..3000 {
        let tag = [0x3A, 0x0A, 0x2A, 0x32][if level == 2999 { 0 } else { 1 + (2999 - level) % 3 }];
        let mut outer = vec![tag];
        prost::encoding::encode_varint(bytes.len() as u64, &mut outer);
        outer.extend(bytes);
        bytes = outer;
    }
    run(&bytes).expect_err("must be refused");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

/// A graph with a convolution, a norm, a pool, computed shapes, and a matrix product.
fn specimen() -> Vec<u8> {
    let tensor = |name: &str, dims: &[i64]| TensorProto {
        name: Some(name.into()),
        dims: dims.to_vec(),
        data_type: Some(1),
        float_data: (0..dims.iter().product()).map(|i| 0.1 * i as f32).collect(),
        ..Default::default()
    };
    let step =
        |op: &str, inputs: &[&str], output: &str, attributes: Vec<AttributeProto>| NodeProto {
            name: Some(output.into()),
            output: vec![output.into()],
            ..node(op, inputs, attributes)
        };
    let nodes = vec![
        step(
            "Conv",
            &["x", "w", "b"],
            "conv",
            vec![ints("pads", &[1, 1, 1, 1]), ints("strides", &[1, 1])],
        ),
        step("BatchNormalization", &["conv", "b", "b", "b", "b"], "bn", vec![]),
        step(
            "MaxPool",
            &["bn"],
            "pool",
            vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])],
        ),
        step("Resize", &["pool", "", "", "sizes"], "big", vec![]),
        step("Shape", &["big"], "shape", vec![int("start", 0), int("end", 1)]),
        step("Concat", &["shape", "rest"], "target", vec![int("axis", 0)]),
        step("Reshape", &["big", "target"], "rows", vec![]),
        step("Slice", &["rows", "zero", "rest", "zero"], "cut", vec![]),
        step("ReduceMean", &["rows", "rest"], "mean", vec![int("keepdims", 1)]),
        step("Add", &["rows", "mean"], "sum", vec![]),
        step("Gemm", &["sum", "m"], "y", vec![int("transB", 0)]),
    ];
    let initializers = vec![
        tensor("w", &[3, 2, 3, 3]),
        tensor("b", &[3]),
        tensor("m", &[48, 5]),
        list("sizes", &[1, 3, 4, 4]),
        list("rest", &[-1]),
        list("zero", &[0]),
    ];
    model(nodes, initializers)
}

#[test]
fn mutated_files_never_panic() {
    let specimen = specimen();
    run(&specimen).unwrap();
    let seconds = std::env::var("SCDD_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok());
    let started = Instant::now();
    let interesting = [0u8, 1, 2, 7, 0x7F, 0x80, 0xFE, 0xFF];
    for round in 0u64.. {
        match seconds {
            Some(seconds) if started.elapsed() >= Duration::from_secs(seconds) => break,
            None if round == 3000 => break,
            _ => {}
        }
        let mut random = rng::stream(0, "fuzz", round);
        let mut bytes = specimen.clone();
        for _ in 0..random.random_range(1..6) {
            let at = random.random_range(0..bytes.len());
            match random.random_range(0..6) {
                0 => bytes[at] ^= 1 << random.random_range(0..8),
                1 => bytes[at] = *interesting.choose(&mut random).unwrap_or(&0),
                2 => bytes.truncate(at.max(1)),
                3 => bytes.insert(at, random.random()),
                4 => drop(bytes.remove(at)),
                _ => {
                    let end = (at + random.random_range(1..64)).min(bytes.len());
                    let piece = bytes[at..end].to_vec();
                    let place = random.random_range(0..bytes.len());
                    bytes.splice(place..place, piece);
                }
            }
            if bytes.is_empty() {
                bytes.push(0);
            }
        }
        // The result does not matter; it must only return.
        let _ = run(&bytes);
    }
}
