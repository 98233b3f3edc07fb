//! The compiled plan computes the same as the replica: for the shipped bundles, for the usual
//! shapes of networks, for random networks.

mod common;

use std::sync::Arc;

use common::net::{Net, Value, block, disturbed, ints, network};
use proptest::prelude::*;
use scdd::graph::{Graph, Node};
use scdd::kernels::Isa;
use scdd::replica::Replica;
use scdd::synthesis::{Distance, LayerTarget, Momentum, Objective, PlanOptions, SynthesisPlan};
use scdd::teacher::{Bundle, Network};
use tch::{Device, Kind, Tensor};

const LOSS: f64 = 1e-5;
const GRADIENT: f64 = 1e-4;

/// Aligns every BN's input with its running statistics.
fn objective(graph: &Graph) -> Objective {
    let layer = |(i, node): (usize, &Node)| {
        let part = |i: usize| {
            Tensor::from_slice(&graph.constants[&node.inputs[i].unwrap()].f32s().unwrap())
        };
        let multiplier = if i == 0 { 10.0 } else { 1.0 };
        let (mean, var) = (part(3), part(4));
        LayerTarget {
            tap: node.inputs[0].unwrap(),
            axis: 1,
            patches: 1,
            mean,
            var,
            weights: None,
            multiplier,
        }
    };
    Objective {
        layers: graph.batch_norms().enumerate().map(layer).collect(),
        r_bn: 0.1,
        distance: Distance::Norm,
        momentum: Momentum::default(),
    }
}

fn every_option() -> Vec<PlanOptions> {
    let kernels = Isa::available().into_iter().map(Some).chain([None]);
    kernels.map(|kernels| PlanOptions { kernels, ..PlanOptions::default() }).collect()
}

/// The largest change of the gradient if the input is disturbed.
fn kinks(
    graph: &Arc<Graph>,
    objective: &Objective,
    input: &Tensor,
    targets: Option<&Tensor>,
    wanted: &Tensor,
) -> f64 {
    let replica = Replica::new(graph.clone(), Device::Cpu).unwrap();
    let distance = |input: Tensor| {
        let found = replica.evaluate(&input, targets, objective).unwrap().gradient;
        f64::try_from((found - wanted).norm() / wanted.norm().clamp_min(1e-12)).unwrap()
    };
    disturbed(input).map(distance).fold(0.0, f64::max)
}

/// Evaluates twice with every option: the second evaluation reuses the first one's memory.
fn agree<'t>(
    graph: &Arc<Graph>,
    objective: &Objective,
    input: &Tensor,
    targets: impl Into<Option<&'t Tensor>>,
) {
    let targets = targets.into();
    let shape: [i64; 4] = input.size().try_into().unwrap();
    let wanted = Replica::new(graph.clone(), Device::Cpu)
        .unwrap()
        .evaluate(input, targets, objective)
        .unwrap();
    for options in every_option() {
        let mut plan = SynthesisPlan::compile(graph, objective, shape, options.clone()).unwrap();
        for _ in 0..2 {
            let found = plan.evaluate(input, targets).unwrap();
            let close = |a: f64, b: f64| (a - b).abs() <= LOSS * b.abs().max(1e-3);
            assert!(
                close(found.loss, wanted.loss),
                "{options:?}: loss {} {}",
                found.loss,
                wanted.loss
            );
            assert!(close(found.ce, wanted.ce), "{options:?}: ce {} {}", found.ce, wanted.ce);
            assert!(close(found.bn, wanted.bn), "{options:?}: bn {} {}", found.bn, wanted.bn);
            let apart = |a: &Tensor, b: &Tensor| {
                f64::try_from((a - b).norm() / b.norm().clamp_min(1e-12)).unwrap()
            };
            assert!(apart(&found.logits, &wanted.logits) < 1e-4, "{options:?}");
            assert_eq!(found.gradient.size(), shape);
            let error = apart(&found.gradient, &wanted.gradient);
            let allowed =
                || GRADIENT.max(2.0 * kinks(graph, objective, input, targets, &wanted.gradient));
            assert!(error < GRADIENT || error < allowed(), "{options:?}: gradient {error:e}");
        }
    }
}

fn check(graph: &Arc<Graph>, shape: [i64; 4]) {
    tch::manual_seed(7);
    let input = Tensor::randn(shape, (Kind::Float, Device::Cpu));
    let targets = Tensor::arange(shape[0], (Kind::Int64, Device::Cpu)).remainder(5);
    agree(graph, &objective(graph), &input, &targets);
}

#[test]
fn shipped_bundles() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx");
    let mut dirs: Vec<_> = std::fs::read_dir(root)
        .unwrap()
        .flat_map(|dataset| std::fs::read_dir(dataset.unwrap().path()).unwrap())
        .map(|bundle| bundle.unwrap().path())
        .filter(|path| path.join("manifest.yaml").is_file())
        .collect();
    dirs.sort();
    assert!(!dirs.is_empty());
    for dir in dirs {
        let bundle = Bundle::load(&dir).unwrap();
        let objective = bundle.objective(0.01, 10.0, Device::Cpu);
        let (images, targets) = bundle.probe().unwrap();
        agree(&bundle.graph, &objective, &images, targets.as_ref());
    }
}

#[test]
fn a_loss_without_cross_entropy() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/features-only");
    let bundle = Bundle::load(&dir).unwrap();
    let (images, _) = bundle.probe().unwrap();
    agree(&bundle.graph, &bundle.objective(0.01, 10.0, Device::Cpu), &images, None);
}

#[test]
fn residual_blocks_with_projections() {
    let (mut net, x) = Net::new(1);
    let x = net.conv(&x, 16, 3, 1, 1, false);
    let x = net.bn(&x);
    let x = net.relu(&x);
    let y = net.conv(&x, 32, 3, 2, 1, false);
    let y = net.bn(&y);
    let y = net.relu(&y);
    let y = net.conv(&y, 32, 3, 1, 1, false);
    let y = net.bn(&y);
    let short = net.conv(&x, 32, 1, 2, 1, false);
    let short = net.bn(&short);
    let sum = net.binary("Add", &y, &short);
    let x = net.relu(&sum);
    let y = net.conv(&x, 32, 3, 1, 1, true);
    let y = net.bn(&y);
    let sum = net.binary("Add", &x, &y);
    let x = net.relu(&sum);
    check(&net.finish(&x), [3, 3, 13, 10]);
}

#[test]
fn normalisation_before_convolution_and_concatenation() {
    let (mut net, x) = Net::new(2);
    let mut x = net.conv(&x, 16, 3, 1, 1, false);
    for _ in 0..3 {
        let y = net.bn(&x);
        let y = net.relu(&y);
        let y = net.conv(&y, 16, 3, 1, 1, false);
        x = net.concat(&[&x, &y]);
    }
    let y = net.bn(&x);
    let y = net.relu(&y);
    let y = net.conv(&y, 64, 1, 1, 1, false);
    let x = net.binary("Add", &x, &y);
    let x = net.pool("AveragePool", &x, 2, 2, 0);
    let x = net.bn(&x);
    let x = net.relu(&x);
    check(&net.finish(&x), [2, 3, 8, 8]);
}

#[test]
fn groups_strides_and_odd_paddings() {
    let (mut net, x) = Net::new(3);
    let x = net.conv_padded(&x, 16, 3, 2, 1, false, [0, 0, 1, 1]);
    let x = net.bn(&x);
    let x = net.clip(&x, 0.0, 6.0);
    let x = net.conv(&x, 16, 5, 2, 16, false);
    let x = net.bn(&x);
    let x = net.unary("HardSwish", &x);
    let x = net.conv(&x, 24, 3, 1, 4, true);
    let x = net.bn(&x);
    let x = net.unary("LeakyRelu", &x);
    let x = net.pool("MaxPool", &x, 3, 2, 1);
    let x = net.conv_padded(&x, 16, 3, 1, 1, true, [2, 1, 0, 1]);
    let x = net.bn(&x);
    check(&net.finish(&x), [2, 3, 21, 18]);
}

#[test]
fn gates_and_operators_without_a_way_back_of_their_own() {
    let (mut net, x) = Net::new(4);
    let x = net.conv(&x, 16, 3, 1, 1, false);
    let x = net.bn(&x);
    let gate = net.unary("Sigmoid", &x);
    let x = net.binary("Mul", &x, &gate);
    let pooled = net.unary("GlobalAveragePool", &x);
    let gate = net.conv(&pooled, 4, 1, 1, 1, true);
    let gate = net.relu(&gate);
    let gate = net.conv(&gate, 16, 1, 1, 1, true);
    let gate = net.unary("Sigmoid", &gate);
    let x = net.binary("Mul", &x, &gate);
    let x = net.conv(&x, 16, 1, 1, 1, false);
    let x = net.bn(&x);
    let x = net.unary("Softplus", &x);
    let x = net.binary("Add", &x, &x);
    check(&net.finish(&x), [2, 3, 9, 9]);
}

/// Channels that a BN scales to zero vanish from its output, but their statistics still count.
#[test]
fn channels_with_vanishing_scale() {
    let (mut net, x) = Net::new(5);
    let x = net.conv(&x, 16, 3, 1, 1, false);
    let x = net.bn(&x);
    let weight = net.initializers.iter_mut().find(|t| t.dims == [16]).unwrap();
    weight.float_data[3] = 0.0;
    weight.float_data[7] = 1e-30;
    let x = net.relu(&x);
    check(&net.finish(&x), [2, 3, 8, 8]);
}

/// Statistics of values that no BN reads: after an activation, of a sum, of the input itself.
#[test]
fn statistics_of_any_activation() {
    let (mut net, x) = Net::new(6);
    let a = net.conv(&x, 16, 3, 1, 1, true);
    let a = net.relu(&a);
    let b = net.conv(&a, 16, 3, 1, 1, true);
    let sum = net.binary("Add", &a, &b);
    let taps = [x.0, a.0, b.0, sum.0.clone()];
    let c = net.relu(&sum);
    let graph = net.finish(&c);
    let layer = |name: &String| {
        let tap = graph.value(name).unwrap();
        let channels = if name == "x" { 3 } else { 16 };
        let filled = |v: f64| Tensor::full([channels], v, (Kind::Float, Device::Cpu));
        let weights = Some((filled(1.3), filled(0.6)));
        LayerTarget {
            tap,
            axis: 1,
            patches: 1,
            mean: filled(0.1),
            var: filled(0.7),
            weights,
            multiplier: 2.0,
        }
    };
    let input = Tensor::randn([2, 3, 8, 8], (Kind::Float, Device::Cpu));
    for distance in [Distance::Norm, Distance::Squared] {
        // Two targets for each activation.
        let layers = taps.iter().chain(&taps).map(layer).collect();
        let objective = Objective { layers, r_bn: 0.5, distance, momentum: Momentum::default() };
        agree(&graph, &objective, &input, &Tensor::from_slice(&[1i64, 4]));
    }
}

/// Statistics of features along the last axis, like token features, and others of the same
/// activation.
#[test]
fn statistics_along_any_axis() {
    let (mut net, x) = Net::new(9);
    let a = net.conv(&x, 16, 3, 1, 1, true);
    let tokens = Value(net.node("Transpose", &[&a.0], vec![ints("perm", &[0, 2, 3, 1])]), 16);
    let b = net.unary("Softplus", &tokens);
    let back = Value(net.node("Transpose", &[&b.0], vec![ints("perm", &[0, 3, 1, 2])]), 16);
    let b = net.conv(&back, 16, 1, 1, 1, false);
    let taps = [(tokens.0, -1, 16), (a.0.clone(), 2, 8), (a.0, 1, 16), (back.0, -3, 16)];
    let graph = net.finish(&b);
    let layer = |(name, axis, channels): &(String, i64, i64)| {
        let filled = |v: f64| Tensor::full([*channels], v, (Kind::Float, Device::Cpu));
        let tap = graph.value(name).unwrap();
        LayerTarget {
            tap,
            axis: *axis,
            patches: 1,
            mean: filled(0.1),
            var: filled(0.7),
            weights: None,
            multiplier: 1.5,
        }
    };
    let objective = Objective {
        layers: taps.iter().map(layer).collect(),
        r_bn: 0.5,
        distance: Distance::Norm,
        momentum: Momentum::default(),
    };
    let input = Tensor::randn([2, 3, 8, 10], (Kind::Float, Device::Cpu));
    agree(&graph, &objective, &input, &Tensor::from_slice(&[1i64, 4]));
}

/// Statistics averaged over evaluations, with the gradients of each evaluation alone; a new
/// objective starts afresh.
#[test]
fn averaged_statistics_agree_step_by_step() {
    let (mut net, x) = Net::new(11);
    let y = net.conv(&x, 16, 3, 1, 1, false);
    let y = net.bn(&y);
    let graph = net.finish(&y);
    let averaged = |decay| Objective { momentum: Momentum::new(decay), ..objective(&graph) };
    let inputs: Vec<Tensor> =
        (0..3).map(|_| Tensor::randn([2, 3, 8, 8], (Kind::Float, Device::Cpu))).collect();
    let targets = Tensor::from_slice(&[1i64, 4]);
    let replica = Replica::new(graph.clone(), Device::Cpu).unwrap();
    let plain = averaged(0.0);
    for options in every_option() {
        let reference = averaged(0.8);
        let mut plan =
            SynthesisPlan::compile(&graph, &averaged(0.8), [2, 3, 8, 8], options.clone()).unwrap();
        for (step, input) in inputs.iter().enumerate() {
            let found = plan.evaluate(input, &targets).unwrap();
            let expected = replica.evaluate(input, &targets, &reference).unwrap();
            assert!(
                (found.bn - expected.bn).abs() < 1e-5 * expected.bn,
                "step {step}: {} {}",
                found.bn,
                expected.bn
            );
            let off = f64::try_from((&found.gradient - &expected.gradient).norm()).unwrap();
            let size = f64::try_from(expected.gradient.norm()).unwrap();
            assert!(off < 1e-5 * size, "step {step}: {off} of {size}");
            assert_ne!(replica.evaluate(input, &targets, &plain).unwrap().bn, expected.bn);
        }
        plan.retarget(&averaged(0.8)).unwrap();
        let first = plan.evaluate(&inputs[0], &targets).unwrap().bn;
        let again = replica.evaluate(&inputs[0], &targets, &averaged(0.8)).unwrap().bn;
        assert!((first - again).abs() < 1e-5 * again);
    }
}

#[test]
fn an_average_starts_at_zero_and_approaches_what_it_sees() {
    let (mean, var) = (Tensor::from_slice(&[2.0f64, -1.0]), Tensor::from_slice(&[3.0f64, 0.5]));
    let momentum = Momentum::new(0.8);
    for step in 1..=4 {
        let (of_mean, of_var) = momentum.blend(5, &mean, &var).unwrap().unwrap();
        let share = 1.0 - 0.8f64.powi(step);
        assert!((of_mean - &mean * share).abs().max().double_value(&[]) < 1e-12);
        assert!((of_var - &var * share).abs().max().double_value(&[]) < 1e-12);
    }
    // Each layer has its own average.
    let (of_mean, _) = momentum.blend(6, &mean, &var).unwrap().unwrap();
    assert!((of_mean.double_value(&[0]) - 0.4).abs() < 1e-12);
    assert!(Momentum::default().blend(0, &mean, &var).unwrap().is_none());
}

/// Another objective over the same activations can replace the first; one over other activations
/// can't.
#[test]
fn targets_can_be_exchanged() {
    let (mut net, x) = Net::new(10);
    let y = net.conv(&x, 16, 3, 1, 1, false);
    let y = net.bn(&y);
    let graph = net.finish(&y);
    let (first, mut second) = (objective(&graph), objective(&graph));
    second.layers[0].mean = Tensor::full([16], 0.4, (Kind::Float, Device::Cpu));
    second.r_bn = 0.3;
    let input = Tensor::randn([2, 3, 8, 8], (Kind::Float, Device::Cpu));
    let targets = Tensor::from_slice(&[1i64, 4]);
    let loss = |plan: &mut SynthesisPlan| plan.evaluate(&input, &targets).unwrap().loss;
    let compiled = |objective| {
        SynthesisPlan::compile(&graph, objective, [2, 3, 8, 8], PlanOptions::default()).unwrap()
    };
    let mut plan = compiled(&first);
    assert!(plan.retarget(&second).unwrap());
    assert_eq!(loss(&mut plan), loss(&mut compiled(&second)));
    assert_ne!(loss(&mut plan), loss(&mut compiled(&first)));
    second.layers[0].tap = graph.inputs[0].value;
    assert!(!plan.retarget(&second).unwrap());
    second.layers.clear();
    assert!(!plan.retarget(&second).unwrap());
}

#[test]
fn convolutions_in_bfloat16_change_the_gradient_by_their_rounding() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("onnx/fashion-mnist/resnet18-w16-supervised");
    let bundle = Bundle::load(&root).unwrap();
    let objective = bundle.objective(0.1, 10.0, Device::Cpu);
    tch::manual_seed(7);
    let input = Tensor::randn([10, 1, 28, 28], (Kind::Float, Device::Cpu));
    let targets = Tensor::arange(10, (Kind::Int64, Device::Cpu));
    let run = |bf16| {
        let options = PlanOptions { kernels: None, bf16, ..PlanOptions::default() };
        SynthesisPlan::compile(&bundle.graph, &objective, [10, 1, 28, 28], options)
            .unwrap()
            .evaluate(&input, &targets)
            .unwrap()
    };
    let (full, half) = (run(false), run(true));
    let apart =
        f64::try_from((&full.gradient - &half.gradient).norm() / full.gradient.norm()).unwrap();
    assert!((1e-4..0.1).contains(&apart), "{apart:e}");
    assert!((full.loss - half.loss).abs() < 0.02 * full.loss, "{} {}", full.loss, half.loss);
    assert_eq!(half.gradient.kind(), Kind::Float);
}

#[test]
fn another_shape_is_refused() {
    let (mut net, x) = Net::new(8);
    let x = net.conv(&x, 4, 3, 1, 1, false);
    let graph = net.finish(&x);
    let mut plan =
        SynthesisPlan::compile(&graph, &objective(&graph), [2, 3, 8, 8], PlanOptions::default())
            .unwrap();
    let input = Tensor::zeros([1, 3, 8, 8], (Kind::Float, Device::Cpu));
    let error = plan.evaluate(&input, &Tensor::from_slice(&[0i64])).err().unwrap().to_string();
    assert_eq!(error, "the plan was compiled for inputs of shape [2, 3, 8, 8], not [1, 3, 8, 8]");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn random_networks(seed: u64, blocks in prop::collection::vec(block(), 1..5), n in 1i64..4, h in 6i64..14, w in 6i64..14) {
        check(&network(seed, blocks, [h, w]), [n, 3, h, w]);
    }
}
