//! ONNX networks built node by node.

use std::sync::Arc;

use proptest::prelude::*;
use prost::Message;
use scdd::graph::Graph;
use scdd::graph::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorTypeProto, TypeProto, ValueInfoProto,
};
use tch::Tensor;

/// Builds an ONNX network node by node. A value consists of its name and its channels.
pub struct Net {
    nodes: Vec<NodeProto>,
    pub initializers: Vec<TensorProto>,
    seed: u64,
}

#[derive(Clone)]
pub struct Value(pub String, pub usize);

impl Net {
    pub fn new(seed: u64) -> (Self, Value) {
        (Self { nodes: Vec::new(), initializers: Vec::new(), seed }, Value("x".into(), 3))
    }

    pub fn random(&mut self) -> f32 {
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 40) as f32 / (1u64 << 24) as f32
    }

    pub fn constant(&mut self, dims: &[usize], low: f32, high: f32) -> String {
        let count = dims.iter().product();
        let data: Vec<f32> = (0..count).map(|_| low + (high - low) * self.random()).collect();
        let name = format!("c{}", self.initializers.len());
        self.initializers.push(TensorProto {
            dims: dims.iter().map(|&d| d as i64).collect(),
            data_type: Some(1),
            name: Some(name.clone()),
            float_data: data,
            ..Default::default()
        });
        name
    }

    pub fn node(&mut self, op: &str, inputs: &[&str], attribute: Vec<AttributeProto>) -> String {
        let name = format!("{}{}", op.to_lowercase(), self.nodes.len());
        self.nodes.push(NodeProto {
            op_type: Some(op.into()),
            name: Some(name.clone()),
            input: inputs.iter().map(ToString::to_string).collect(),
            output: vec![name.clone()],
            attribute,
            ..Default::default()
        });
        name
    }

    pub fn unary(&mut self, op: &str, x: &Value) -> Value {
        Value(self.node(op, &[&x.0], vec![]), x.1)
    }

    pub fn conv(
        &mut self,
        x: &Value,
        out: usize,
        k: i64,
        stride: i64,
        groups: usize,
        bias: bool,
    ) -> Value {
        self.conv_padded(x, out, k, stride, groups, bias, [k / 2; 4])
    }

    #[expect(clippy::too_many_arguments, reason = "one per setting of the operator")]
    pub fn conv_padded(
        &mut self,
        x: &Value,
        out: usize,
        k: i64,
        stride: i64,
        groups: usize,
        bias: bool,
        pads: [i64; 4],
    ) -> Value {
        let fan = (x.1 / groups) as f32 * (k * k) as f32;
        let bound = (3.0 / fan).sqrt();
        let weight = self.constant(&[out, x.1 / groups, k as usize, k as usize], -bound, bound);
        let bias = bias.then(|| self.constant(&[out], -0.2, 0.2));
        let mut inputs = vec![x.0.as_str(), weight.as_str()];
        inputs.extend(bias.as_deref());
        let attributes = vec![
            ints("strides", &[stride, stride]),
            ints("pads", &pads),
            int("group", groups as i64),
        ];
        Value(self.node("Conv", &inputs, attributes), out)
    }

    pub fn bn(&mut self, x: &Value) -> Value {
        let c = [x.1];
        let [weight, bias] = [self.constant(&c, -1.0, 1.0), self.constant(&c, -0.3, 0.3)];
        // A channel of almost no deviation is noise once the next normalisation has scaled it up.
        for w in &mut self.initializers.iter_mut().rev().nth(1).unwrap().float_data {
            *w += 0.2 * w.signum();
        }
        let [mean, var] = [self.constant(&c, -0.3, 0.3), self.constant(&c, 0.2, 1.5)];
        Value(self.node("BatchNormalization", &[&x.0, &weight, &bias, &mean, &var], vec![]), x.1)
    }

    pub fn relu(&mut self, x: &Value) -> Value {
        self.unary("Relu", x)
    }

    pub fn clip(&mut self, x: &Value, low: f32, high: f32) -> Value {
        let [low, high] = [self.constant(&[], low, low), self.constant(&[], high, high)];
        Value(self.node("Clip", &[&x.0, &low, &high], vec![]), x.1)
    }

    pub fn binary(&mut self, op: &str, a: &Value, b: &Value) -> Value {
        Value(self.node(op, &[&a.0, &b.0], vec![]), a.1)
    }

    pub fn concat(&mut self, parts: &[&Value]) -> Value {
        let names: Vec<&str> = parts.iter().map(|p| p.0.as_str()).collect();
        Value(self.node("Concat", &names, vec![int("axis", 1)]), parts.iter().map(|p| p.1).sum())
    }

    pub fn pool(&mut self, op: &str, x: &Value, k: i64, stride: i64, pad: i64) -> Value {
        let attributes = vec![
            ints("kernel_shape", &[k, k]),
            ints("strides", &[stride, stride]),
            ints("pads", &[pad; 4]),
        ];
        Value(self.node(op, &[&x.0], attributes), x.1)
    }

    pub fn finish(mut self, x: &Value) -> Arc<Graph> {
        let pooled = self.unary("GlobalAveragePool", x);
        let flat = self.unary("Flatten", &pooled);
        let [weight, bias] = [self.constant(&[5, x.1], -0.5, 0.5), self.constant(&[5], -0.1, 0.1)];
        let logits = self.node("Gemm", &[&flat.0, &weight, &bias], vec![int("transB", 1)]);
        let info = |name: &str| ValueInfoProto {
            name: Some(name.into()),
            r#type: Some(TypeProto {
                tensor_type: Some(TensorTypeProto { elem_type: Some(1), shape: None }),
            }),
        };
        let model = ModelProto {
            ir_version: Some(10),
            opset_import: vec![OperatorSetIdProto { domain: None, version: Some(18) }],
            graph: Some(GraphProto {
                node: self.nodes,
                initializer: self.initializers,
                input: vec![info("x")],
                output: vec![info(&logits)],
                ..Default::default()
            }),
            ..Default::default()
        };
        Arc::new(Graph::load(&model.encode_to_vec()).unwrap())
    }
}

pub fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(2),
        i: Some(value),
        ..Default::default()
    }
}

pub fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(7),
        ints: values.to_vec(),
        ..Default::default()
    }
}

/// `input` with noise in the fifth and the fourth digit, in eight directions. One of them moves an
/// activation that is next to zero across it, as another order of sums can: a gradient changes by
/// as much then as the activation passes on, and no rounding bounds that.
pub fn disturbed(input: &Tensor) -> impl Iterator<Item = Tensor> {
    (0..8).flat_map(move |_| {
        let noise = input.randn_like();
        // A value that one sign of the noise does not move across zero, the other does.
        [1e-5, -1e-5, 1e-4, -1e-4].map(|scale| input + scale * &noise)
    })
}

/// Building blocks of networks.
#[derive(Debug, Clone, Copy)]
pub enum Block {
    Plain {
        width: usize,
        kernel: i64,
        stride: i64,
    },
    Residual {
        projected: bool,
    },
    PreActivation,
    Dense,
    Depthwise {
        kernel: i64,
        stride: i64,
    },
    Gate,
    Pool {
        max: bool,
    },
    /// Activation and 2×2 average pooling.
    Halve,
    Biased,
}

/// Any building block.
pub fn block() -> impl Strategy<Value = Block> {
    let width = prop::sample::select(vec![4usize, 16, 24, 32]);
    let kernel = || prop::sample::select(vec![1i64, 3, 5]);
    prop_oneof![
        3 => (width, kernel(), 1i64..3).prop_map(|(width, kernel, stride)| Block::Plain { width, kernel, stride }),
        3 => any::<bool>().prop_map(|projected| Block::Residual { projected }),
        1 => Just(Block::PreActivation),
        1 => Just(Block::Dense),
        1 => (kernel(), 1i64..3).prop_map(|(kernel, stride)| Block::Depthwise { kernel, stride }),
        1 => Just(Block::Gate),
        1 => any::<bool>().prop_map(|max| Block::Pool { max }),
        1 => Just(Block::Halve),
        1 => Just(Block::Biased),
    ]
}

/// A stem and `blocks` on an input of `size`, height and width. A block that would leave fewer than
/// two pixels a side is left out: a pooling has nothing to pool there, and a normalisation over two
/// or three numbers no gradient that single precision could hold.
pub fn network(seed: u64, blocks: Vec<Block>, mut size: [i64; 2]) -> Arc<Graph> {
    let (mut net, x) = Net::new(seed);
    let stem = net.conv(&x, 16, 3, 1, 1, true);
    let mut x = net.bn(&stem);
    for block in blocks {
        let halves = match block {
            Block::Plain { stride, .. } | Block::Depthwise { stride, .. } => stride == 2,
            Block::Halve => true,
            _ => false,
        };
        if halves {
            if size.iter().any(|&side| side < 4) {
                continue;
            }
            size = size.map(|side| side / 2);
        }
        x = append(&mut net, x, block);
    }
    net.finish(&x)
}

fn append(net: &mut Net, x: Value, block: Block) -> Value {
    match block {
        Block::Plain { width, kernel, stride } => {
            let y = net.conv(&x, width, kernel, stride, 1, false);
            let y = net.bn(&y);
            net.clip(&y, 0.0, 6.0)
        }
        Block::Residual { projected } => {
            let y = net.conv(&x, x.1, 3, 1, 1, false);
            let y = net.bn(&y);
            let y = net.relu(&y);
            let y = net.conv(&y, x.1, 3, 1, 1, false);
            let y = net.bn(&y);
            let short = if projected {
                let short = net.conv(&x, x.1, 1, 1, 1, false);
                net.bn(&short)
            } else {
                x
            };
            let sum = net.binary("Add", &y, &short);
            net.relu(&sum)
        }
        Block::PreActivation => {
            let y = net.bn(&x);
            let y = net.unary("LeakyRelu", &y);
            let y = net.conv(&y, x.1, 3, 1, 1, false);
            net.binary("Add", &x, &y)
        }
        Block::Dense => {
            let y = net.bn(&x);
            let y = net.relu(&y);
            let y = net.conv(&y, 16, 3, 1, 1, false);
            net.concat(&[&x, &y])
        }
        Block::Depthwise { kernel, stride } => {
            let y = net.conv(&x, x.1, kernel, stride, x.1, false);
            let y = net.bn(&y);
            net.unary("HardSwish", &y)
        }
        Block::Gate => {
            let gate = net.unary("GlobalAveragePool", &x);
            let gate = net.conv(&gate, x.1, 1, 1, 1, true);
            let gate = net.unary("Sigmoid", &gate);
            net.binary("Mul", &x, &gate)
        }
        Block::Pool { max } => net.pool(if max { "MaxPool" } else { "AveragePool" }, &x, 3, 1, 1),
        Block::Halve => {
            let y = net.conv(&x, x.1, 3, 1, 1, true);
            let y = net.bn(&y);
            let y = net.relu(&y);
            net.pool("AveragePool", &y, 2, 2, 0)
        }
        Block::Biased => {
            let y = net.conv(&x, 16, 3, 1, 1, true);
            net.relu(&y)
        }
    }
}
