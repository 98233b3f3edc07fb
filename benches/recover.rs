//! A worker of `benches/peers.py`. It evaluates the synthesis loss of an ONNX model and its
//! gradient once per line on standard input, and prints the milliseconds of each evaluation. The
//! objective's targets are the model's own running statistics.
//!
//! `recover <plan|torch|replica> <model.onnx> <N,C,H,W> <images>`, the images as little-endian
//! float32. The first output line is JSON and describes the worker.

mod worker;

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use scdd::graph::{Graph, Node};
use scdd::replica::Replica;
use scdd::synthesis::{Distance, LayerTarget, Momentum, Objective, PlanOptions, SynthesisPlan};
use tch::{Device, Kind, Tensor};

fn main() -> Result<()> {
    // SAFETY: main has just begun and has started no thread.
    unsafe { scdd::worker::memory::keep_freed() };
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [mode, model, shape, images] = args.as_slice() else {
        println!("recover: a worker of benches/peers.py; nothing to do by itself");
        return Ok(());
    };
    let shape: Vec<i64> =
        shape.split(',').map(str::parse).collect::<Result<_, _>>().context("the shape")?;
    let shape: [i64; 4] = shape.try_into().ok().context("the shape has four numbers")?;
    let graph = Arc::new(Graph::load(&std::fs::read(model).with_context(|| model.clone())?)?);
    let objective = objective(&graph)?;
    let images = std::fs::read(images).with_context(|| images.clone())?;
    let input = Tensor::f_from_data_size(&images, &shape, Kind::Float)?;
    let targets = Tensor::arange(shape[0], (Kind::Int64, Device::Cpu)).remainder(10);
    let start = Instant::now();
    let options = PlanOptions::default();
    let mut evaluate: Box<dyn FnMut() -> Result<(f64, Tensor)>> = match mode.as_str() {
        "replica" => {
            let replica = Replica::new(graph, Device::Cpu)?;
            Box::new(move || {
                let found = replica.evaluate(&input, &targets, &objective)?;
                Ok((found.loss, found.gradient))
            })
        }
        "plan" | "torch" => {
            let kernels = options.kernels.filter(|_| mode == "plan");
            let mut plan = SynthesisPlan::compile(
                &graph,
                &objective,
                shape,
                PlanOptions { kernels, ..options.clone() },
            )?;
            Box::new(move || {
                let found = plan.evaluate(&input, &targets)?;
                Ok((found.loss, found.gradient))
            })
        }
        other => bail!("unknown mode {other}"),
    };
    let compiled = start.elapsed().as_secs_f64() * 1e3;
    let (loss, gradient) = evaluate()?;
    let norm = f64::try_from(gradient.norm())?;
    let about = serde_json::json!({ "mode": mode, "compile_ms": compiled, "loss": loss, "gradient_norm": norm });
    worker::serve(&about, || evaluate().map(drop))
}

/// The objective whose targets are the running statistics of every `BatchNormalization`.
fn objective(graph: &Graph) -> Result<Objective> {
    let layer = |(i, node): (usize, &Node)| -> Option<LayerTarget> {
        let part = |i: usize| {
            graph.constants.get(&node.inputs[i]?)?.f32s().map(|v| Tensor::from_slice(&v))
        };
        let multiplier = if i == 0 { 10.0 } else { 1.0 };
        let (tap, mean, var) = (node.inputs[0]?, part(3)?, part(4)?);
        Some(LayerTarget { tap, axis: 1, patches: 1, mean, var, weights: None, multiplier })
    };
    let layers = graph.batch_norms().enumerate().map(layer).collect::<Option<Vec<_>>>();
    Ok(Objective {
        layers: layers.context("a BatchNormalization without constants")?,
        r_bn: 0.01,
        distance: Distance::Norm,
        momentum: Momentum::default(),
    })
}
