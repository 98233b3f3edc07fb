//! Properties of single operators over random shapes and settings, in float64: values against loops
//! written from ONNX's definitions, gradients against the loss's slope along a random direction.

use std::sync::Arc;

use proptest::prelude::*;
use prost::Message;
use scdd::graph::Graph;
use scdd::graph::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorTypeProto,
    TypeProto, ValueInfoProto,
};
use scdd::replica::{Mode, Replica};
use tch::{Device, Kind, Tensor};

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

/// A graph of one node with `inputs` inputs and one output.
fn one_node(op: &str, inputs: usize, attribute: Vec<AttributeProto>) -> Replica {
    let names: Vec<String> = (0..inputs).map(|i| format!("x{i}")).collect();
    let info = |name: &str| ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto {
            tensor_type: Some(TensorTypeProto { elem_type: Some(11), shape: None }),
        }),
    };
    let node = NodeProto {
        op_type: Some(op.into()),
        name: Some("node".into()),
        input: names.clone(),
        output: vec!["y".into()],
        attribute,
        ..Default::default()
    };
    let graph = GraphProto {
        node: vec![node],
        input: names.iter().map(|n| info(n)).collect(),
        output: vec![info("y")],
        ..Default::default()
    };
    let model = ModelProto {
        ir_version: Some(10),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(18) }],
        graph: Some(graph),
        ..Default::default()
    };
    Replica::new(Arc::new(Graph::load(&model.encode_to_vec()).unwrap()), Device::Cpu).unwrap()
}

fn run(replica: &Replica, inputs: &[Tensor]) -> Tensor {
    replica.run(inputs, &[], Mode::Eval).unwrap().outputs.remove(0)
}

/// Distinct values, none close to another or to zero, so that no kink lies within a step.
fn values(shape: &[i64], seed: u64) -> Tensor {
    let count: i64 = shape.iter().product();
    let order = Tensor::from_slice(&permutation(count as usize, seed));
    ((order + 0.37) * (4.0 / count.max(1) as f64) - 2.0).to_kind(Kind::Double).reshape(shape)
}

fn permutation(count: usize, seed: u64) -> Vec<i64> {
    let mut order: Vec<i64> = (0..count as i64).collect();
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for i in (1..count).rev() {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        order.swap(i, (state >> 33) as usize % (i + 1));
    }
    order
}

fn flat(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double).contiguous().reshape([-1])).unwrap()
}

fn assert_equal(found: &Tensor, shape: &[i64], expected: &[f64]) -> Result<(), TestCaseError> {
    prop_assert_eq!(found.size(), shape);
    for (i, (a, b)) in flat(found).iter().zip(expected).enumerate() {
        prop_assert!(
            (a - b).abs() <= 1e-9 * b.abs().max(1.0),
            "element {i}: {a} where {b} is expected"
        );
    }
    Ok(())
}

/// The gradient of Σ output · w agrees with its slope along a random direction.
fn assert_gradient(replica: &Replica, inputs: &[Tensor]) -> Result<(), TestCaseError> {
    const STEP: f64 = 1e-6;
    let leaves: Vec<Tensor> = inputs.iter().map(|t| t.copy().set_requires_grad(true)).collect();
    let output = run(replica, &leaves);
    let weights = values(&output.size(), 77);
    let gradients =
        Tensor::run_backward(&[(output * &weights).sum(Kind::Double)], &leaves, false, false);
    let directions: Vec<Tensor> =
        inputs.iter().enumerate().map(|(i, t)| values(&t.size(), 55 + i as u64)).collect();
    let at = |step: f64| {
        let moved: Vec<Tensor> =
            inputs.iter().zip(&directions).map(|(t, d)| t + d * step).collect();
        (run(replica, &moved) * &weights).sum(Kind::Double).double_value(&[])
    };
    let slope = (at(STEP) - at(-STEP)) / (2.0 * STEP);
    let predicted: f64 = gradients
        .iter()
        .zip(&directions)
        .map(|(g, d)| (g * d).sum(Kind::Double).double_value(&[]))
        .sum();
    prop_assert!(
        (slope - predicted).abs() <= 1e-5 * slope.abs().max(1.0),
        "slope {slope}, gradient says {predicted}"
    );
    Ok(())
}

/// Like `values`, with channels innermost and the batch stride of a transpose from tokens.
fn from_tokens(tensor: &Tensor) -> Tensor {
    tensor.flatten(2, 3).transpose(1, 2).contiguous().transpose(1, 2).view_as(tensor)
}

#[test]
fn batch_norm_of_one_image_in_any_layout() {
    let replica = one_node("BatchNormalization", 5, vec![]);
    let shape = [1, 4, 3, 5];
    let (image, cotangent) = (values(&shape, 1), values(&shape, 2));
    let parameters: Vec<Tensor> = (3..7).map(|seed| values(&[4], seed).abs()).collect();
    let factor = &parameters[0] / (&parameters[3] + 1e-5).sqrt();
    let expected = flat(&(&cotangent * factor.reshape([1, 4, 1, 1])));
    for (x, w) in [
        (image.copy(), cotangent.copy()),
        (image.copy(), from_tokens(&cotangent)),
        (from_tokens(&image), cotangent.copy()),
        (from_tokens(&image), from_tokens(&cotangent)),
    ] {
        let x = x.set_requires_grad(true);
        let mut inputs = vec![x.shallow_clone()];
        inputs.extend(parameters.iter().map(Tensor::shallow_clone));
        let gradient = Tensor::run_backward(
            &[(run(&replica, &inputs) * w).sum(Kind::Double)],
            &[x],
            false,
            false,
        );
        assert_equal(&gradient[0], &shape, &expected).unwrap();
    }
}

/// Settings of a window that slides over two spatial axes.
#[derive(Debug, Clone)]
struct Window {
    size: [i64; 2],
    kernel: [i64; 2],
    stride: [i64; 2],
    dilation: [i64; 2],
    /// Top, left, bottom, right.
    pads: [i64; 4],
    ceil: bool,
}

fn window() -> impl Strategy<Value = Window> {
    let pair = |range: std::ops::Range<i64>| [range.clone(), range];
    let pads = [0..3i64, 0..3, 0..3, 0..3];
    let fits = |w: &Window| {
        (0..2).all(|i| w.free(i) >= 0 && w.pads[i] < w.kernel[i] && w.pads[i + 2] < w.kernel[i])
    };
    (pair(1..8), pair(1..4), pair(1..4), pair(1..3), pads, any::<bool>())
        .prop_map(|(size, kernel, stride, dilation, pads, ceil)| Window {
            size,
            kernel,
            stride,
            dilation,
            pads,
            ceil,
        })
        .prop_filter("the window fits, and more than padding", fits)
}

impl Window {
    /// The range of the window's position along an axis.
    fn free(&self, axis: usize) -> i64 {
        self.size[axis] + self.pads[axis] + self.pads[axis + 2]
            - (self.kernel[axis] - 1) * self.dilation[axis]
            - 1
    }

    /// The number of positions. With `ceil` a last one may overhang the end, if it starts before
    /// the padding there.
    fn places(&self, axis: usize, ceil: bool) -> i64 {
        let (free, stride) = (self.free(axis), self.stride[axis]);
        let up = free.div_euclid(stride) + 1;
        let overhangs =
            ceil && free % stride != 0 && up * stride < self.size[axis] + self.pads[axis];
        up + i64::from(overhangs)
    }

    /// The pixels under the window at `place`, as offsets into the kernel and coordinates, which
    /// may be outside the image.
    fn pixels(&self, place: [i64; 2]) -> Vec<([i64; 2], [i64; 2])> {
        let at = |axis: usize, k: i64| {
            place[axis] * self.stride[axis] - self.pads[axis] + k * self.dilation[axis]
        };
        let rows = (0..self.kernel[0]).flat_map(|i| (0..self.kernel[1]).map(move |j| [i, j]));
        rows.map(|k| (k, [at(0, k[0]), at(1, k[1])])).collect()
    }

    fn inside(&self, pixel: [i64; 2]) -> bool {
        (0..2).all(|axis| (0..self.size[axis]).contains(&pixel[axis]))
    }

    /// Whether the pixel is inside the image or its padding; an overhang is not.
    fn in_padding(&self, pixel: [i64; 2]) -> bool {
        (0..2).all(|axis| {
            (-self.pads[axis]..self.size[axis] + self.pads[axis + 2]).contains(&pixel[axis])
        })
    }

    fn attributes(&self) -> Vec<AttributeProto> {
        vec![
            ints("kernel_shape", &self.kernel),
            ints("strides", &self.stride),
            ints("dilations", &self.dilation),
            ints("pads", &self.pads),
        ]
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn convolution(w in window(), batch in 1..3i64, groups in 1..4i64, each in 1..3i64, outputs in 1..3i64, bias: bool) {
        let mut attributes = w.attributes();
        attributes.push(int("group", groups));
        let replica = one_node("Conv", if bias { 3 } else { 2 }, attributes);
        let (channels, made) = (groups * each, groups * outputs);
        let x = values(&[batch, channels, w.size[0], w.size[1]], 1);
        let weight = values(&[made, each, w.kernel[0], w.kernel[1]], 2);
        let shift = values(&[made], 3);
        let places = [w.places(0, false), w.places(1, false)];
        let mut expected = Vec::new();
        for n in 0..batch {
            for o in 0..made {
                for row in 0..places[0] {
                    for column in 0..places[1] {
                        let mut sum = if bias { shift.double_value(&[o]) } else { 0.0 };
                        for (k, p) in w.pixels([row, column]).into_iter().filter(|(_, p)| w.inside(*p)) {
                            for c in 0..each {
                                let channel = o / outputs * each + c;
                                sum += x.double_value(&[n, channel, p[0], p[1]]) * weight.double_value(&[o, c, k[0], k[1]]);
                            }
                        }
                        expected.push(sum);
                    }
                }
            }
        }
        let mut inputs = vec![x, weight];
        if bias {
            inputs.push(shift);
        }
        assert_equal(&run(&replica, &inputs), &[batch, made, places[0], places[1]], &expected)?;
        assert_gradient(&replica, &inputs)?;
    }

    #[test]
    fn pooling(w in window(), batch in 1..3i64, channels in 1..3i64, maximum: bool, include: bool) {
        let mut attributes = w.attributes();
        attributes.push(int("ceil_mode", w.ceil.into()));
        if !maximum {
            attributes.push(int("count_include_pad", include.into()));
        }
        let replica = one_node(if maximum { "MaxPool" } else { "AveragePool" }, 1, attributes);
        let x = values(&[batch, channels, w.size[0], w.size[1]], 1);
        let places = [w.places(0, w.ceil), w.places(1, w.ceil)];
        let mut expected = Vec::new();
        for n in 0..batch {
            for c in 0..channels {
                for row in 0..places[0] {
                    for column in 0..places[1] {
                        let pixels = w.pixels([row, column]);
                        let counted = pixels.iter().filter(|(_, p)| if include { w.in_padding(*p) } else { w.inside(*p) });
                        let found: Vec<f64> = pixels
                            .iter()
                            .filter(|(_, p)| w.inside(*p))
                            .map(|(_, p)| x.double_value(&[n, c, p[0], p[1]]))
                            .collect();
                        // A window that covers only padding has no defined value.
                        prop_assume!(!found.is_empty());
                        expected.push(match maximum {
                            true => found.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                            false => found.iter().sum::<f64>() / counted.count() as f64,
                        });
                    }
                }
            }
        }
        assert_equal(&run(&replica, std::slice::from_ref(&x)), &[batch, channels, places[0], places[1]], &expected)?;
        assert_gradient(&replica, &[x])?;
    }

    #[test]
    fn broadcasting(
        dims in prop::collection::vec((1..4i64, any::<bool>(), any::<bool>()), 1..5),
        cut in 0..4usize,
        op in prop::sample::select(vec!["Add", "Sub", "Mul", "Div", "Max", "Min"]),
    ) {
        let thin = |pick: fn(&(i64, bool, bool)) -> bool| -> Vec<i64> {
            dims.iter().map(|d| if pick(d) { 1 } else { d.0 }).collect()
        };
        let left = thin(|d| d.1 && !d.2);
        let right = thin(|d| d.2)[cut.min(dims.len() - 1)..].to_vec();
        let whole: Vec<i64> = (0..dims.len())
            .map(|i| left[i].max((i + right.len()).checked_sub(dims.len()).map_or(1, |j| right[j])))
            .collect();
        let (a, b) = (values(&left, 1), values(&right, 2));
        let replica = one_node(op, 2, vec![]);
        let mut expected = Vec::new();
        let mut index = vec![0i64; whole.len()];
        for _ in 0..whole.iter().product::<i64>() {
            let pick = |t: &Tensor, shape: &[i64]| {
                let tail = &index[index.len() - shape.len()..];
                let at: Vec<i64> = tail.iter().zip(shape).map(|(i, d)| if *d == 1 { 0 } else { *i }).collect();
                t.double_value(&at)
            };
            let (x, y) = (pick(&a, &left), pick(&b, &right));
            expected.push(match op {
                "Add" => x + y,
                "Sub" => x - y,
                "Mul" => x * y,
                "Div" => x / y,
                "Max" => x.max(y),
                _ => x.min(y),
            });
            for axis in (0..whole.len()).rev() {
                index[axis] += 1;
                if index[axis] < whole[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        let inputs = [a, b];
        assert_equal(&run(&replica, &inputs), &whole, &expected)?;
        // Two equal elements are a kink of the maximum.
        let ties = matches!(op, "Max" | "Min");
        if !ties {
            assert_gradient(&replica, &inputs)?;
        }
    }
}
