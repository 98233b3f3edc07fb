//! The loader: proto messages become the typed graph.

use std::collections::{BTreeMap, HashMap, HashSet};

use prost::Message;

use super::attrs::NodeReader;
use super::constant::{Constant, DType};
use super::error::{Gap, GraphError};
use super::ops::{self, Op, OpSpec};
use super::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto,
};
use super::{Graph, Input, Node, ValueId};

/// The newest versions that were tested. Newer ones load with a warning.
const NEWEST_OPSET: i64 = 28;
const NEWEST_IR: i64 = 14;
/// The largest allowed number of constants that no node reads. ONNX Runtime removes them one by
/// one, each in time that grows with their number: 50,000 take 20 seconds in every session.
const MAX_UNREAD: usize = 10_000;

pub(super) fn load(bytes: &[u8]) -> Result<Graph, GraphError> {
    let model = ModelProto::decode(bytes)?;
    let fail = |what: &str| Err(GraphError::Model(what.into()));
    let Some(graph) = &model.graph else { return fail("holds no graph") };
    if !graph.sparse_initializer.is_empty() {
        return fail("has sparse initialisers, which are not supported");
    }
    let opset = default_opset(&model);
    let mut gaps = Gaps::default();
    let nodes = read_nodes(&graph.node, opset, &mut gaps);
    let initializers = read_initializers(&graph.initializer, &mut gaps);
    if let Some(error) = gaps.report() {
        return Err(error);
    }
    let mut builder = Builder::new(opset, warnings(&model, opset));
    for (name, constant) in initializers {
        builder.define_constant(name, constant)?;
    }
    builder.add_inputs(&graph.input)?;
    for (proto, node) in graph.node.iter().zip(nodes) {
        builder.add_node(proto, node)?;
    }
    builder.finish(graph)
}

fn is_default(domain: &str) -> bool {
    domain.is_empty() || domain == "ai.onnx"
}

fn default_opset(model: &ModelProto) -> i64 {
    let stamp = model.opset_import.iter().find(|o| is_default(o.domain.as_deref().unwrap_or("")));
    stamp.and_then(|o| o.version).unwrap_or(1)
}

fn warnings(model: &ModelProto, opset: i64) -> Vec<String> {
    let ir = model.ir_version.unwrap_or(0);
    let mut warnings = Vec::new();
    if opset > NEWEST_OPSET {
        warnings.push(format!(
            "opset {opset} is newer than {NEWEST_OPSET}, the newest that was tested"
        ));
    }
    if ir > NEWEST_IR {
        warnings
            .push(format!("IR version {ir} is newer than {NEWEST_IR}, the newest that was tested"));
    }
    warnings
}

fn node_name(node: &NodeProto, position: usize) -> String {
    match node.name.as_deref() {
        None | Some("") => format!("{}#{position}", node.op_type.as_deref().unwrap_or("?")),
        Some(name) => name.into(),
    }
}

/// The registry's row for a node. `Constant` nodes are data, not operators, and have none.
fn spec_of(node: &NodeProto) -> Option<&'static OpSpec> {
    ops::find(node.domain.as_deref().unwrap_or(""), node.op_type.as_deref().unwrap_or(""))
}

fn is_constant(node: &NodeProto) -> bool {
    node.op_type.as_deref() == Some("Constant") && is_default(node.domain.as_deref().unwrap_or(""))
}

/// A node alone, before its inputs and outputs are resolved in the graph.
struct ReadNode {
    name: String,
    content: Content,
}

enum Content {
    Constant(Constant),
    /// An operator, and the attributes that became inputs.
    Op(Op, Vec<(usize, Constant)>),
}

fn is_known(node: &NodeProto) -> bool {
    is_constant(node) || spec_of(node).is_some()
}

/// Reads initialisers with their names. Unreadable ones are recorded as gaps.
fn read_initializers<'a>(tensors: &'a [TensorProto], gaps: &mut Gaps) -> Vec<(&'a str, Constant)> {
    let mut read = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        match Constant::read(tensor) {
            Ok(constant) => read.push((tensor.name.as_deref().unwrap_or(""), constant)),
            Err(error) => gaps.errors.push(error),
        }
    }
    read
}

/// Reads nodes. Their unsupported features are recorded as gaps.
fn read_nodes(nodes: &[NodeProto], opset: i64, gaps: &mut Gaps) -> Vec<ReadNode> {
    gaps.add_operators(nodes);
    let mut read = Vec::with_capacity(nodes.len());
    for (position, node) in nodes.iter().enumerate().filter(|(_, node)| is_known(node)) {
        let name = node_name(node, position);
        match read_node(node, &name, opset) {
            Ok(content) => read.push(ReadNode { name, content }),
            Err(error) => gaps.errors.push(error),
        }
    }
    read
}

fn read_node(proto: &NodeProto, name: &str, opset: i64) -> Result<Content, GraphError> {
    let mut reader = NodeReader::new(proto, name.into(), opset);
    check_attributes(&proto.attribute).map_err(|what| reader.error(what))?;
    let Some(spec) = spec_of(proto) else {
        let constant = read_constant(&reader)?;
        reader.finish()?;
        return Ok(Content::Constant(constant));
    };
    if opset < spec.since {
        return Err(
            reader.error(format!("is read from opset {} on, the model uses {opset}", spec.since))
        );
    }
    let op = (spec.read)(&mut reader)?;
    Ok(Content::Op(op, reader.finish()?))
}

/// The unsupported features of a graph.
#[derive(Default)]
struct Gaps {
    /// Names of nodes by operator that the registry lacks.
    operators: BTreeMap<String, Vec<String>>,
    /// Errors of known operators' nodes and of initialisers.
    errors: Vec<GraphError>,
}

impl Gaps {
    /// Adds the operators that the registry lacks, those within subgraphs included.
    fn add_operators(&mut self, nodes: &[NodeProto]) {
        for (position, node) in nodes.iter().enumerate().filter(|(_, node)| !is_known(node)) {
            let op = node.op_type.as_deref().unwrap_or("?");
            let domain = node.domain.as_deref().unwrap_or("");
            let key = if is_default(domain) { op.into() } else { format!("{domain}::{op}") };
            self.operators.entry(key).or_default().push(node_name(node, position));
            node.attribute
                .iter()
                .filter_map(|a| a.g.as_ref())
                .for_each(|graph| self.add_operators(&graph.node));
        }
    }

    /// One error for all gaps. A single faulty node or initialiser keeps its own error.
    fn report(mut self) -> Option<GraphError> {
        if self.operators.is_empty() && self.errors.len() < 2 {
            return self.errors.pop();
        }
        let mut uses: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for error in self.errors {
            let (what, node) = match error {
                GraphError::Node { node, op, what } => (format!("{op}: {what}"), node),
                GraphError::Tensor { name, what } => (format!("tensor: {what}"), name),
                other => (other.to_string(), "the model".into()),
            };
            uses.entry(what).or_default().push(node);
        }
        let list = |gaps: BTreeMap<String, Vec<String>>| {
            gaps.into_iter().map(|(what, nodes)| Gap { what, nodes }).collect()
        };
        Some(GraphError::Unsupported { operators: list(self.operators), uses: list(uses) })
    }
}

struct Builder {
    graph: Graph,
    ids: HashMap<String, ValueId>,
}

impl Builder {
    fn new(opset: i64, warnings: Vec<String>) -> Self {
        let graph = Graph {
            opset,
            values: Vec::new(),
            constants: BTreeMap::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            nodes: Vec::new(),
            warnings,
        };
        Self { graph, ids: HashMap::new() }
    }

    /// Registers the definition of `name`, which must be its only one.
    fn define(&mut self, name: &str) -> Result<ValueId, GraphError> {
        let id = self.graph.values.len();
        if self.ids.insert(name.into(), id).is_some() {
            return Err(GraphError::tensor(name, "is defined more than once"));
        }
        self.graph.values.push(name.into());
        Ok(id)
    }

    fn define_constant(&mut self, name: &str, constant: Constant) -> Result<ValueId, GraphError> {
        let id = self.define(name)?;
        self.graph.constants.insert(id, constant);
        Ok(id)
    }

    /// Adds inputs. Old files list initialisers as inputs too; those are skipped.
    fn add_inputs(&mut self, inputs: &[ValueInfoProto]) -> Result<(), GraphError> {
        for info in inputs {
            let name = info.name.as_deref().unwrap_or("");
            if self.ids.get(name).is_some_and(|id| self.graph.constants.contains_key(id)) {
                continue;
            }
            let value = self.define(name)?;
            let input = read_input(info, value, name)?;
            self.graph.inputs.push(input);
        }
        Ok(())
    }

    fn add_node(&mut self, proto: &NodeProto, node: ReadNode) -> Result<(), GraphError> {
        let ReadNode { name, content } = node;
        let op_type = proto.op_type.clone().unwrap_or_default();
        let (op, injected) = match content {
            Content::Constant(constant) => return self.add_constant(proto, name, constant),
            Content::Op(op, injected) => (op, injected),
        };
        let mut inputs = self.resolve_inputs(proto, &name, &op_type)?;
        for (index, constant) in injected {
            let id = self.define_constant(&format!("{name}/input{index}"), constant)?;
            inputs.resize(inputs.len().max(index + 1), None);
            inputs[index] = Some(id);
        }
        let outputs = self.define_outputs(proto)?;
        if outputs.is_empty() {
            return Err(GraphError::Node { node: name, op: op_type, what: "has no output".into() });
        }
        self.graph.nodes.push(Node { name, op_type, op, inputs, outputs });
        Ok(())
    }

    fn resolve_inputs(
        &self,
        proto: &NodeProto,
        node: &str,
        op: &str,
    ) -> Result<Vec<Option<ValueId>>, GraphError> {
        let resolve = |input: &String| match (input.is_empty(), self.ids.get(input)) {
            (true, _) => Ok(None),
            (false, Some(&id)) => Ok(Some(id)),
            (false, None) => {
                let what = format!(
                    "reads `{input}`, which nothing before it makes (missing, out of order, or a cycle)"
                );
                Err(GraphError::Node { node: node.into(), op: op.into(), what })
            }
        };
        proto.input.iter().map(resolve).collect()
    }

    fn define_outputs(&mut self, proto: &NodeProto) -> Result<Vec<Option<ValueId>>, GraphError> {
        proto
            .output
            .iter()
            .map(|o| if o.is_empty() { Ok(None) } else { self.define(o).map(Some) })
            .collect()
    }

    fn add_constant(
        &mut self,
        proto: &NodeProto,
        node: String,
        constant: Constant,
    ) -> Result<(), GraphError> {
        let [output] = proto.output.as_slice() else {
            let what = format!("has {} outputs, not one", proto.output.len());
            return Err(GraphError::Node { node, op: "Constant".into(), what });
        };
        self.define_constant(output, constant)?;
        Ok(())
    }

    fn finish(mut self, graph: &GraphProto) -> Result<Graph, GraphError> {
        for output in &graph.output {
            let name = output.name.as_deref().unwrap_or("");
            let id = self
                .ids
                .get(name)
                .ok_or_else(|| GraphError::tensor(name, "is an output that nothing makes"))?;
            self.graph.outputs.push(*id);
        }
        if self.graph.outputs.is_empty() {
            return Err(GraphError::Model("has no outputs".into()));
        }
        self.check_unread()?;
        Ok(self.graph)
    }
}

impl Builder {
    fn check_unread(&self) -> Result<(), GraphError> {
        let Graph { nodes, outputs, constants, values, .. } = &self.graph;
        let read: HashSet<ValueId> = nodes
            .iter()
            .flat_map(|node| node.inputs.iter().flatten())
            .chain(outputs)
            .copied()
            .collect();
        let mut unread = constants.keys().filter(|id| !read.contains(id));
        match (unread.clone().count(), unread.next()) {
            (count, Some(first)) if count > MAX_UNREAD => Err(GraphError::Model(format!(
                "has {count} initialisers that no node reads, such as `{}`, of which {MAX_UNREAD} are allowed: remove them, as \
                 onnxsim or onnxruntime's optimised model file does",
                values[*first]
            ))),
            _ => Ok(()),
        }
    }
}

fn check_attributes(attributes: &[AttributeProto]) -> Result<(), String> {
    let mut names = HashSet::new();
    for attribute in attributes {
        let name = attribute.name.as_deref().unwrap_or("");
        if attribute.g.is_some() {
            return Err(format!("attribute `{name}` holds a subgraph, which is not supported"));
        }
        if !names.insert(name) {
            return Err(format!("attribute `{name}` is given twice"));
        }
    }
    Ok(())
}

fn read_constant(reader: &NodeReader) -> Result<Constant, GraphError> {
    if let Some(proto) = reader.tensor("value")? {
        return Constant::read(proto);
    }
    if let Some(value) = reader.float("value_float")? {
        return Ok(Constant::from_f32s(&[], &[value]));
    }
    if let Some(values) = reader.floats("value_floats")? {
        return Ok(Constant::from_f32s(&[values.len()], &values));
    }
    if let Some(value) = reader.int("value_int")? {
        return Ok(Constant::from_i64s(&[], &[value]));
    }
    if let Some(values) = reader.ints("value_ints")? {
        return Ok(Constant::from_i64s(&[values.len()], &values));
    }
    Err(reader.error("holds no numeric value"))
}

fn read_input(info: &ValueInfoProto, value: ValueId, name: &str) -> Result<Input, GraphError> {
    let Some(tensor) = info.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()) else {
        return Err(GraphError::tensor(name, "is an input that is no tensor"));
    };
    let dims = match &tensor.shape {
        None => None,
        Some(shape) => {
            Some(shape.dim.iter().map(|d| read_dim(d.dim_value, name)).collect::<Result<_, _>>()?)
        }
    };
    Ok(Input { value, dtype: tensor.elem_type.and_then(DType::from_onnx), dims })
}

fn read_dim(value: Option<i64>, name: &str) -> Result<Option<usize>, GraphError> {
    match value {
        None => Ok(None),
        Some(v) => usize::try_from(v)
            .map(Some)
            .map_err(|_| GraphError::tensor(name, format!("has a dim of {v}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::proto::*;
    use super::*;

    fn node(op: &str, name: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
        NodeProto {
            op_type: Some(op.into()),
            name: Some(name.into()),
            input: inputs.iter().map(ToString::to_string).collect(),
            output: outputs.iter().map(ToString::to_string).collect(),
            ..Default::default()
        }
    }

    fn info(name: &str) -> ValueInfoProto {
        let tensor_type = TensorTypeProto { elem_type: Some(1), shape: None };
        ValueInfoProto {
            name: Some(name.into()),
            r#type: Some(TypeProto { tensor_type: Some(tensor_type) }),
        }
    }

    fn model(nodes: Vec<NodeProto>, initializer: Vec<TensorProto>, output: &str) -> ModelProto {
        ModelProto {
            ir_version: Some(10),
            opset_import: vec![OperatorSetIdProto { domain: None, version: Some(18) }],
            graph: Some(GraphProto {
                node: nodes,
                initializer,
                input: vec![info("x")],
                output: vec![info(output)],
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn error(model: &ModelProto) -> String {
        load(&model.encode_to_vec()).expect_err("must be refused").to_string()
    }

    #[test]
    fn a_chain_loads_in_order() {
        let m = model(
            vec![node("Relu", "r", &["x"], &["y"]), node("Sigmoid", "", &["y"], &["z"])],
            vec![],
            "z",
        );
        let graph = load(&m.encode_to_vec()).unwrap();
        assert_eq!(
            graph.nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>(),
            ["r", "Sigmoid#1"]
        );
        assert_eq!(graph.outputs, [graph.value("z").unwrap()]);
    }

    #[test]
    fn all_unsupported_operators_come_in_one_message() {
        let m = model(
            vec![
                node("Foo", "a", &["x"], &["y"]),
                node("Bar", "b", &["y"], &["z"]),
                node("Foo", "c", &["z"], &["w"]),
            ],
            vec![],
            "w",
        );
        assert_eq!(error(&m), "unsupported operators: Bar ×1 (b); Foo ×2 (a, c)");
    }

    #[test]
    fn graphs_rewritten_for_inference_are_named_with_the_remedy() {
        let chain = |ops: &[(&str, &str)]| -> Vec<NodeProto> {
            let value = |at: usize| if at == 0 { "x".to_string() } else { format!("v{at}") };
            let one = |(at, (domain, op)): (usize, &(&str, &str))| NodeProto {
                domain: Some(domain.to_string()),
                ..node(op, &format!("{op}{at}"), &[&value(at)], &[&value(at + 1)])
            };
            ops.iter().enumerate().map(one).collect()
        };
        let said =
            |ops: &[(&str, &str)]| error(&model(chain(ops), vec![], &format!("v{}", ops.len())));
        let remedy = "which leaves no gradients: export the float32 network that it was made of";
        assert_eq!(
            said(&[("", "QLinearConv")]),
            format!("the graph is quantised (QLinearConv ×1), {remedy}")
        );
        let qdq: Vec<_> = [
            ("", "QuantizeLinear"),
            ("", "DequantizeLinear"),
            ("", "Relu"),
            ("", "DequantizeLinear"),
        ]
        .repeat(30);
        assert_eq!(
            said(&qdq),
            format!("the graph is quantised (DequantizeLinear ×60, QuantizeLinear ×30), {remedy}")
        );
        let dynamic = [
            ("", "DynamicQuantizeLinear"),
            ("", "MatMulInteger"),
            ("", "ConvInteger"),
            ("com.microsoft", "QLinearAdd"),
        ];
        assert_eq!(
            said(&dynamic),
            format!(
                "the graph is quantised (ConvInteger ×1, DynamicQuantizeLinear ×1, MatMulInteger ×1 and 1 more kinds), {remedy}"
            )
        );
        let fused: Vec<_> =
            [("com.microsoft", "FusedConv"), ("", "Frobnicate"), ("com.microsoft", "FusedConv")]
                .repeat(20);
        assert_eq!(
            said(&fused),
            "the graph has operators outside ONNX (com.microsoft::FusedConv ×40), as ONNX Runtime's optimiser writes them: \
             use the file from before that, or export the network without operators of your own"
        );
        let names: Vec<String> = (0..12).map(|i| format!("Odd{i:02}")).collect();
        let many = names.iter().map(|name| node(name, name, &["x"], &["y"])).collect();
        assert!(error(&model(many, vec![], "y")).ends_with("and 4 more kinds"));
    }

    #[test]
    fn what_known_operators_lack_and_what_subgraphs_hold_comes_with_it() {
        let float = |name: &str| AttributeProto {
            name: Some(name.into()),
            r#type: Some(1),
            ..Default::default()
        };
        let relu = |name: &str, i: &str, o: &str| NodeProto {
            attribute: vec![float("alpha")],
            ..node("Relu", name, &[i], &[o])
        };
        let body =
            GraphProto { node: vec![node("Foo", "inner", &["x"], &["u"])], ..Default::default() };
        let branch = AttributeProto {
            name: Some("then_branch".into()),
            g: Some(body),
            r#type: Some(5),
            ..Default::default()
        };
        let choice = NodeProto { attribute: vec![branch], ..node("If", "choice", &["x"], &["w"]) };
        let mut sigmoid = node("Sigmoid", "s", &["w"], &["v"]);
        sigmoid.attribute.push(float("beta"));
        let m = model(
            vec![relu("a", "x", "y"), relu("b", "y", "z"), choice, sigmoid.clone()],
            vec![],
            "v",
        );
        assert_eq!(
            error(&m),
            "unsupported operators: Foo ×1 (inner); If ×1 (choice); unsupported of known operators: \
             Relu: unsupported attributes at opset 18: alpha ×2 (a, b); Sigmoid: unsupported attributes at opset 18: beta ×1 (s)"
        );
        let m = model(vec![relu("a", "x", "w"), sigmoid], vec![], "v");
        assert!(error(&m).starts_with("unsupported of known operators: Relu: "), "{}", error(&m));
    }

    #[test]
    fn initialisers_that_cannot_be_read_come_with_the_rest() {
        let text = |name: &str| TensorProto {
            name: Some(name.into()),
            data_type: Some(8),
            ..Default::default()
        };
        let m = model(vec![node("Foo", "a", &["x"], &["y"])], vec![text("v"), text("w")], "y");
        assert_eq!(
            error(&m),
            "unsupported operators: Foo ×1 (a); unsupported of known operators: tensor: element type string is not supported ×2 (v, w)"
        );
    }

    #[test]
    fn newer_stamps_load_with_a_warning() {
        let mut m = model(vec![node("Relu", "r", &["x"], &["y"])], vec![], "y");
        assert_eq!(load(&m.encode_to_vec()).unwrap().warnings, [""; 0]);
        m.opset_import[0].version = Some(NEWEST_OPSET + 1);
        m.ir_version = Some(NEWEST_IR + 1);
        let warnings = load(&m.encode_to_vec()).unwrap().warnings;
        assert_eq!(warnings.len(), 2);
        assert!(warnings[0].starts_with("opset 29 is newer than 28"), "{warnings:?}");
        assert!(warnings[1].starts_with("IR version 15 is newer than 14"), "{warnings:?}");
    }

    #[test]
    fn malformed_graphs_are_refused_by_name() {
        let relu = |name: &str, i: &str, o: &str| node("Relu", name, &[i], &[o]);
        let mut subgraph = relu("r", "x", "y");
        subgraph.attribute.push(AttributeProto {
            name: Some("body".into()),
            g: Some(GraphProto::default()),
            ..Default::default()
        });
        let mut unread = relu("r", "x", "y");
        unread.attribute.push(AttributeProto {
            name: Some("alpha".into()),
            f: Some(1.0),
            r#type: Some(1),
            ..Default::default()
        });
        let cases = [
            (
                model(vec![relu("r", "y", "z"), relu("s", "x", "y")], vec![], "z"),
                "node `r` (Relu): reads `y`",
            ),
            (model(vec![relu("r", "y", "y")], vec![], "y"), "node `r` (Relu): reads `y`"),
            (
                model(vec![relu("r", "x", "x")], vec![], "x"),
                "tensor `x`: is defined more than once",
            ),
            (
                model(vec![relu("r", "x", "y")], vec![], "q"),
                "tensor `q`: is an output that nothing makes",
            ),
            (
                model(vec![node("Relu", "r", &[], &["y"])], vec![], "y"),
                "node `r` (Relu): 0 inputs where 1 are expected",
            ),
            (
                model(vec![node("Relu", "r", &["x"], &[])], vec![], "x"),
                "node `r` (Relu): has no output",
            ),
            (
                model(vec![subgraph], vec![], "y"),
                "node `r` (Relu): attribute `body` holds a subgraph",
            ),
            (
                model(vec![unread], vec![], "y"),
                "node `r` (Relu): unsupported attributes at opset 18: alpha",
            ),
        ];
        for (model, expected) in cases {
            let message = error(&model);
            assert!(message.starts_with(expected), "{message:?} does not start with {expected:?}");
        }
    }

    #[test]
    fn lying_tensors_are_refused_without_allocating() {
        let tensor = |dims: &[i64], raw: Vec<u8>| TensorProto {
            dims: dims.to_vec(),
            data_type: Some(1),
            name: Some("w".into()),
            raw_data: Some(raw),
            ..Default::default()
        };
        let mut external = tensor(&[1], vec![0; 4]);
        external.data_location = Some(1);
        let mut dtype = tensor(&[1], vec![0; 4]);
        dtype.data_type = Some(8);
        let cases = [
            (tensor(&[1 << 40, 1 << 40], vec![]), "tensor `w`: impossible dims"),
            (
                tensor(&[1 << 31], vec![0; 16]),
                "tensor `w`: dims [2147483648] need 2147483648 elements",
            ),
            (tensor(&[-1], vec![]), "tensor `w`: impossible dims [-1]"),
            (
                tensor(&[2], vec![0; 7]),
                "tensor `w`: dims [2] need 2 elements of 4 bytes, the file holds 7 bytes",
            ),
            (external, "tensor `w`: its data lie in another file"),
            (dtype, "tensor `w`: element type string is not supported"),
        ];
        for (tensor, expected) in cases {
            let message = error(&model(vec![node("Relu", "r", &["x"], &["y"])], vec![tensor], "y"));
            assert!(message.starts_with(expected), "{message:?} does not start with {expected:?}");
        }
    }

    #[test]
    fn constants_that_nothing_reads_are_bounded() {
        let tensor = |i: usize| TensorProto {
            dims: vec![1],
            data_type: Some(1),
            name: Some(format!("w{i}")),
            raw_data: Some(vec![0; 4]),
            ..Default::default()
        };
        let of = |count: usize| {
            model(vec![node("Relu", "r", &["x"], &["y"])], (0..count).map(tensor).collect(), "y")
        };
        load(&of(MAX_UNREAD).encode_to_vec()).unwrap();
        let message = error(&of(MAX_UNREAD + 1));
        assert!(
            message.contains("has 10001 initialisers that no node reads, such as `w0`"),
            "{message}"
        );
    }

    #[test]
    fn truncated_files_never_panic() {
        let bytes = model(vec![node("Relu", "r", &["x"], &["y"])], vec![], "y").encode_to_vec();
        for end in 0..bytes.len() {
            let _ = load(&bytes[..end]);
        }
    }
}
