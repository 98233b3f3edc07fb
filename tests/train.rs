//! The training plan computes the same as the replica under autograd: logits, gradients of every
//! parameter, running statistics.

mod common;

use std::cell::LazyCell;
use std::sync::Arc;

use common::net::{block, disturbed, network};
use proptest::prelude::*;
use scdd::graph::Graph;
use scdd::graph::Op;
use scdd::graph::ops::Norm;
use scdd::kernels::Isa;
use scdd::replica::{Mode, Replica};
use scdd::teacher::Bundle;
use scdd::threads::Threads;
use scdd::training::TrainingPlan;
use tch::{Device, Kind, Tensor};

/// Weights and biases of convolutions, linear layers and normalisations; the running statistics.
fn parameters(graph: &Graph) -> (Vec<String>, Vec<String>) {
    let (mut trained, mut running) = (Vec::new(), Vec::new());
    for node in &graph.nodes {
        let constants = node.inputs.iter().enumerate().filter_map(|(i, id)| {
            let id = (*id)?;
            graph
                .constants
                .get(&id)
                .filter(|c| c.dtype.is_float())
                .map(|_| (i, graph.values[id].clone()))
        });
        for (place, name) in constants {
            let trains = match node.op {
                Op::Norm(Norm::Batch { .. }) if place > 2 => false,
                Op::Norm(_) | Op::Conv(_) | Op::Linear(_) => true,
                _ => continue,
            };
            let list = if trains { &mut trained } else { &mut running };
            if !list.contains(&name) {
                list.push(name);
            }
        }
    }
    (trained, running)
}

fn apart(found: &Tensor, wanted: &Tensor) -> f64 {
    let (found, wanted) = (found.to_kind(Kind::Double), wanted.to_kind(Kind::Double));
    f64::try_from((&found - &wanted).norm() / wanted.norm().clamp_min(1e-12)).unwrap()
}

/// The results of one training step and one evaluation.
struct Found {
    logits: Tensor,
    gradients: Vec<Tensor>,
    running: Vec<Tensor>,
    tested: Tensor,
}

fn by_autograd(graph: &Arc<Graph>, kind: Kind, input: &Tensor, weight: &Tensor) -> Found {
    let replica = Replica::new(graph.clone(), Device::Cpu).unwrap().to_kind(kind).unwrap();
    let (trained, running) = parameters(graph);
    let tensors: Vec<Tensor> = trained
        .iter()
        .map(|name| replica.constant(name).unwrap().set_requires_grad(true))
        .collect();
    let inputs = [input.to_kind(kind)];
    let logits = replica.run(&inputs, &[], Mode::Train).unwrap().outputs.remove(0);
    let loss = (&logits * weight.to_kind(kind)).sum(kind);
    let gradients = Tensor::run_backward(&[loss], &tensors, false, false);
    let running = running.iter().map(|name| replica.constant(name).unwrap()).collect();
    let tested = tch::no_grad(|| replica.run(&inputs, &[], Mode::Eval).unwrap().outputs.remove(0));
    Found { logits: logits.detach(), gradients, running, tested }
}

fn by_plan(graph: &Arc<Graph>, isa: Isa, input: &Tensor, weight: &Tensor) -> Option<Found> {
    let replica = Replica::new(graph.clone(), Device::Cpu).unwrap();
    let (trained, running) = parameters(graph);
    let mut plan =
        TrainingPlan::compile_for(isa, &replica, &trained, &input.size(), &Threads::all())
            .unwrap()?;
    plan.load().unwrap();
    let (logits, tape) = plan.forward(input, Mode::Train).unwrap();
    let gradients = plan.backward(tape, weight.shallow_clone()).unwrap();
    plan.load().unwrap();
    let tested = plan.forward(input, Mode::Eval).unwrap().0;
    let running = running.iter().map(|name| replica.constant(name).unwrap()).collect();
    Some(Found { logits, gradients, running, tested })
}

/// The largest change of each gradient if the input is disturbed.
fn kinks(graph: &Arc<Graph>, input: &Tensor, weight: &Tensor, exact: &Found) -> Vec<f64> {
    let disturbed: Vec<Found> =
        disturbed(input).map(|input| by_autograd(graph, Kind::Double, &input, weight)).collect();
    let change = |i: usize| {
        let of = |found: &Found| apart(&found.gradients[i], &exact.gradients[i]);
        disturbed.iter().map(of).fold(0.0, f64::max)
    };
    (0..exact.gradients.len()).map(change).collect()
}

/// The plan's error in double precision must be within `factor` times the error of single-precision
/// autograd, or within a bound.
fn check(graph: &Arc<Graph>, shape: [i64; 4]) {
    tch::manual_seed(3);
    let input = Tensor::randn(shape, (Kind::Float, Device::Cpu));
    let classes = by_autograd(graph, Kind::Float, &input, &Tensor::from(1.0f32)).logits.size()[1];
    let weight = Tensor::randn([shape[0], classes], (Kind::Float, Device::Cpu));
    let [exact, single] =
        [Kind::Double, Kind::Float].map(|kind| by_autograd(graph, kind, &input, &weight));
    let names = parameters(graph).0;
    let largest =
        exact.gradients.iter().map(|g| f64::try_from(g.norm()).unwrap()).fold(0.0, f64::max);
    let of_kinks = LazyCell::new(|| kinks(graph, &input, &weight, &exact));
    for isa in Isa::available() {
        let Some(found) = by_plan(graph, isa, &input, &weight) else {
            assert_eq!(isa, Isa::Portable);
            continue;
        };
        let close = |what: &str,
                     found: &Tensor,
                     exact: &Tensor,
                     single: &Tensor,
                     kink: &dyn Fn() -> f64| {
            assert_eq!(found.size(), exact.size(), "{isa:?}: {what}");
            let (error, allowed) = (apart(found, exact), 1e-5 + 10.0 * apart(single, exact));
            // Gradients that are zero except for rounding, such as those of a bias before a
            // normalisation, are compared with the largest gradient.
            let absolute = f64::try_from((found.to_kind(Kind::Double) - exact).norm()).unwrap();
            assert!(
                error < allowed || absolute < 1e-6 * largest || error < 2.0 * kink(),
                "{isa:?}: {what}: {error:e}, allowed {allowed:e}"
            );
        };
        let smooth = || 0.0;
        close("logits", &found.logits, &exact.logits, &single.logits, &smooth);
        close("logits in evaluation", &found.tested, &exact.tested, &single.tested, &smooth);
        for (i, name) in names.iter().enumerate() {
            let kink = || of_kinks[i];
            close(name, &found.gradients[i], &exact.gradients[i], &single.gradients[i], &kink);
        }
        for ((found, exact), single) in
            found.running.iter().zip(&exact.running).zip(&single.running)
        {
            close("running statistics", found, exact, single, &smooth);
        }
    }
}

#[test]
fn shipped_students() {
    for (name, batch) in
        [("convnet3-w128", 5), ("convnet3-w128", 1), ("convnet3-w128-in", 3), ("resnet18-w16", 4)]
    {
        let graph = Bundle::load(&common::bundle(name)).unwrap().graph;
        check(&graph, [batch, 1, 28, 28]);
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let graph = Bundle::load(&common::bundle("convnet3-w128")).unwrap().graph;
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        // Tensors must not cross threads; numbers may.
        pool.install(|| {
            let input =
                Tensor::arange(50 * 784, (Kind::Float, Device::Cpu)).sin().reshape([50, 1, 28, 28]);
            let weight = Tensor::arange(500, (Kind::Float, Device::Cpu)).cos().reshape([50, 10]);
            let found = by_plan(&graph, Isa::best(), &input, &weight)?;
            let numbers = |t: &Tensor| Vec::<f32>::try_from(t.reshape([-1])).unwrap();
            Some(found.gradients.iter().map(numbers).collect::<Vec<_>>())
        })
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn another_shape_is_refused() {
    let graph = Bundle::load(&common::bundle("convnet3-w128")).unwrap().graph;
    let replica = Replica::new(graph.clone(), Device::Cpu).unwrap();
    let Some(mut plan) =
        TrainingPlan::compile(&replica, &parameters(&graph).0, &[2, 1, 28, 28], &Threads::all())
            .unwrap()
    else {
        return;
    };
    let error = plan
        .forward(&Tensor::zeros([3, 1, 28, 28], (Kind::Float, Device::Cpu)), Mode::Eval)
        .err()
        .unwrap();
    assert_eq!(
        error.to_string(),
        "the plan was compiled for inputs of shape [2, 1, 28, 28], not [3, 1, 28, 28]"
    );
    let unknown =
        TrainingPlan::compile(&replica, &["nothing".into()], &[2, 1, 28, 28], &Threads::all())
            .err()
            .unwrap();
    assert_eq!(unknown.to_string(), "value `nothing` was never computed");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn random_networks(seed: u64, blocks in prop::collection::vec(block(), 1..5), n in 2i64..5, h in 6i64..14, w in 6i64..14) {
        check(&network(seed, blocks, [h, w]), [n, 3, h, w]);
    }
}
