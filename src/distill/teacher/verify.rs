//! Verifies that a bundle's graph computes the same in three executors: the source of its golden
//! probe (PyTorch, or ONNX's reference evaluator), ONNX Runtime, and the replica in libtorch.
//!
//! It compares the output (logits, or features without a classifier) and the input of every
//! statistics layer on the golden probe and on fresh random images, and the synthesis loss and its
//! input gradient on the golden probe. If something differs, it names the first diverging node.
//!
//! Deep networks amplify float32's rounding errors, until a ReLU takes the other branch. So a check
//! that fails in float32 is repeated in float64. There the probe must agree within the same limits,
//! and ONNX Runtime, which stays in float32, must be about as accurate as the float32 replica.

mod on_device;

use std::cell::OnceCell;
use std::collections::BTreeMap;

use ndarray::{Array4, ArrayD};
use rand_distr::{Distribution, StandardNormal};
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use super::error::NetworkError;
use super::network::Network;
use super::runtime::{Provider, Runtime, SessionOptions};
use super::{Bundle, InputGradient, LayerStatistics};
pub use on_device::verify_plan;
use scdd_compute::replica::{Mode, Replica, ReplicaError, to_array, to_tensor};
use scdd_compute::synthesis::channel_statistics;
use scdd_compute::threads::Threads;
use scdd_data::rng;
use scdd_graph::{Node, ValueId};

/// Largest relative difference of outputs and statistics.
const VALUES: f64 = 1e-4;
/// Largest relative difference of the loss and of its gradient (in the L2 norm).
const GRADIENT: f64 = 1e-3;
/// Smallest cosine between gradients.
const COSINE: f64 = 0.9999;
/// ONNX Runtime's error against the float64 values may be this many times that of the float32
/// replica, and at most [`MOST_ROUNDING`].
const ROUNDING_SLACK: f64 = 10.0;
const MOST_ROUNDING: f64 = 1e-2;
/// Batch sizes of the fresh random images.
const RANDOM_BATCHES: [usize; 2] = [1, 3];

/// One comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    pub name: String,
    /// The measured difference; for cosine similarity, 1 − cosine.
    pub error: f64,
    pub limit: f64,
    pub passed: bool,
}

/// The result of verifying a bundle.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verification {
    pub bundle: String,
    /// The bundle's identity: SHA-256 of its manifest.
    pub hash: String,
    pub checks: Vec<Check>,
    /// The first diverging node with both values, if a check failed.
    pub divergence: Option<String>,
    pub warnings: Vec<String>,
}

impl Verification {
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|c| c.passed)
    }
}

/// Runs every check on `bundle`; ONNX Runtime computes on `threads`. Calls `say` with the progress
/// of the search for the diverging node.
///
/// # Errors
/// When the graph can't be run. A difference is not an error but a failed check.
pub fn verify(
    bundle: &Bundle,
    runtime: &Runtime,
    threads: &Threads,
    say: &dyn Fn(&str),
) -> Result<Verification, NetworkError> {
    let probe = bundle.probe().map_err(|source| torch(bundle, source))?;
    let verifier = Verifier {
        bundle,
        runtime,
        threads,
        say,
        probe,
        replica: bundle.replica(Device::Cpu)?,
        exact: OnceCell::new(),
    };
    let mut checks = verifier.golden()?;
    let mut divergence =
        if all_passed(&checks) { None } else { verifier.first_difference_from_golden()? };
    for batch in RANDOM_BATCHES {
        let images = random_images(bundle, batch);
        let found = verifier.against_onnx_runtime(&images)?;
        if divergence.is_none() && !all_passed(&found) {
            divergence = verifier.first_difference_from_onnx_runtime(&images)?;
        }
        checks.extend(found);
    }
    Ok(Verification {
        bundle: bundle.name().into(),
        hash: bundle.hash.clone(),
        checks,
        divergence,
        warnings: bundle.graph.warnings.clone(),
    })
}

fn all_passed(checks: &[Check]) -> bool {
    checks.iter().all(|c| c.passed)
}

fn check(name: impl Into<String>, error: f64, limit: f64) -> Check {
    // With NaN the comparison is false: a failed check.
    Check { name: name.into(), error, limit, passed: error <= limit }
}

/// max |a − b| over max |b|.
fn relative(a: &ArrayD<f32>, b: &ArrayD<f32>) -> f64 {
    if a.shape() != b.shape() {
        return f64::INFINITY;
    }
    let largest = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, larger);
    let difference = largest(&mut a.iter().zip(b).map(|(x, y)| f64::from((x - y).abs())));
    difference / largest(&mut b.iter().map(|y| f64::from(y.abs()))).max(1e-6)
}

/// Relative L2 difference, and 1 − cosine.
fn gradient_errors(a: &ArrayD<f32>, b: &ArrayD<f32>) -> (f64, f64) {
    let dot = |x: &ArrayD<f32>, y: &ArrayD<f32>| {
        x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>()
    };
    let difference: f64 = a.iter().zip(b).map(|(x, y)| f64::from(x - y).powi(2)).sum();
    let norm = dot(b, b).sqrt().max(f64::MIN_POSITIVE);
    (difference.sqrt() / norm, 1.0 - dot(a, b) / (norm * dot(a, a).sqrt().max(f64::MIN_POSITIVE)))
}

/// `gradient` `[N, C, H, W]` in the form that the probe stores.
fn in_form_of(golden: &InputGradient, gradient: &Tensor) -> Result<Tensor, tch::TchError> {
    let InputGradient::Along { directions, .. } = golden else {
        return Ok(gradient.shallow_clone());
    };
    let shape = [directions.shape()[0] as i64, -1];
    let signs: Vec<i8> = directions.iter().copied().collect();
    let rows = Tensor::f_from_slice(&signs)?.f_reshape(shape)?.f_to_kind(Kind::Double)?;
    rows.f_mv(&gradient.f_to_kind(Kind::Double)?.f_flatten(0, -1)?)
}

fn values_of(golden: &InputGradient) -> &ArrayD<f32> {
    match golden {
        InputGradient::Whole(gradient) => gradient,
        InputGradient::Along { slopes, .. } => slopes,
    }
}

fn gradient_name(golden: &InputGradient) -> String {
    match golden {
        InputGradient::Whole(_) => "input gradient".into(),
        InputGradient::Along { slopes, .. } => {
            format!("input gradient in {} directions", slopes.len())
        }
    }
}

fn random_images(bundle: &Bundle, batch: usize) -> Array4<f32> {
    let [c, h, w] = bundle.image_shape();
    let mut stream = rng::stream(0, "verify", batch as u64);
    Array4::from_shape_simple_fn((batch, c, h, w), || StandardNormal.sample(&mut stream))
}

fn torch(bundle: &Bundle, source: tch::TchError) -> NetworkError {
    NetworkError::Torch { bundle: bundle.name().into(), source }
}

struct Verifier<'a> {
    bundle: &'a Bundle,
    runtime: &'a Runtime,
    threads: &'a Threads,
    say: &'a dyn Fn(&str),
    /// The golden probe's images and targets.
    probe: (Tensor, Option<Tensor>),
    replica: Replica,
    exact: OnceCell<Replica>,
}

/// The limit of ONNX Runtime's error, given the rounding error of the float32 replica.
fn limit_by(rounding: f64) -> f64 {
    (ROUNDING_SLACK * rounding).clamp(VALUES, MOST_ROUNDING)
}

/// A layer's `(mean, variance)`.
type Pair = (ArrayD<f32>, ArrayD<f32>);

/// The results of one executor on some images.
struct Observed {
    output: ArrayD<f32>,
    layers: Vec<Pair>,
}

impl Observed {
    /// The largest relative difference of outputs, and of layer statistics.
    fn difference(&self, expected: &Self) -> (f64, f64) {
        let layers = self.layers.iter().zip(&expected.layers).map(|(a, b)| pair_error(a, b));
        (relative(&self.output, &expected.output), layers.fold(0.0, larger))
    }
}

/// The larger of the relative differences of mean and variance.
fn pair_error(found: &Pair, expected: &Pair) -> f64 {
    larger(relative(&found.0, &expected.0), relative(&found.1, &expected.1))
}

/// The larger number, NaN if either is.
fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

impl Verifier<'_> {
    fn torch(&self, source: tch::TchError) -> NetworkError {
        torch(self.bundle, source)
    }

    fn replica_error(&self, source: ReplicaError) -> NetworkError {
        NetworkError::Replica { bundle: self.bundle.name().into(), source }
    }

    /// The replica in float64.
    fn exact(&self) -> Result<&Replica, NetworkError> {
        if self.exact.get().is_none() {
            let replica = self
                .bundle
                .replica(Device::Cpu)?
                .to_kind(Kind::Double)
                .map_err(|e| self.replica_error(e))?;
            let _ = self.exact.set(replica);
        }
        Ok(self.exact.get().unwrap_or(&self.replica))
    }

    fn array(&self, tensor: &Tensor) -> Result<ArrayD<f32>, NetworkError> {
        to_array(tensor).map_err(|e| self.torch(e))
    }

    fn statistics_of(&self, tap: &Tensor, layer: &LayerStatistics) -> Result<Pair, NetworkError> {
        let (mean, var) = channel_statistics(tap, layer.axis).map_err(|e| self.torch(e))?;
        Ok((self.array(&mean)?, self.array(&var)?))
    }

    /// The output and the inputs of the statistics layers, computed by the replica.
    fn run_replica(
        &self,
        replica: &Replica,
        images: &Tensor,
        taps: &[ValueId],
    ) -> Result<(ArrayD<f32>, Vec<Tensor>), NetworkError> {
        let run = tch::no_grad(|| replica.run(std::slice::from_ref(images), taps, Mode::Eval));
        let run = run.map_err(|e| self.replica_error(e))?;
        Ok((self.array(&run.outputs[0])?, run.taps))
    }

    /// The same, computed by ONNX Runtime.
    fn run_onnx(
        &self,
        images: &Array4<f32>,
        taps: &[ValueId],
        optimize: bool,
    ) -> Result<(ArrayD<f32>, Vec<ArrayD<f32>>), NetworkError> {
        let graph = &self.bundle.graph;
        let names: Vec<String> = taps.iter().map(|&id| graph.values[id].clone()).collect();
        let options =
            SessionOptions { provider: Provider::Cpu, optimize, threads: self.threads.count() };
        let mut session =
            self.runtime.session(self.bundle.name(), &self.bundle.model, &names, options)?;
        let mut outputs = session.run(images)?;
        let taps = outputs.split_off(graph.outputs.len());
        Ok((outputs.swap_remove(0), taps))
    }

    /// The output's name: `logits`, or `features` without a classifier.
    fn output_name(&self) -> &'static str {
        if self.bundle.manifest.is_features_only() { "features" } else { "logits" }
    }

    fn taps(&self) -> Vec<ValueId> {
        self.bundle.layers.iter().map(|l| l.tap).collect()
    }

    fn golden(&self) -> Result<Vec<Check>, NetworkError> {
        let golden = &self.bundle.golden;
        let (mut checks, output) = self.golden_by(&self.replica, "")?;
        let mut limit = VALUES;
        if !all_passed(&checks) {
            checks = self.golden_by(self.exact()?, ", float64")?.0;
            limit = limit_by(relative(&output, &golden.output));
        }
        let (by_onnx, _) = self.run_onnx(&golden.input, &[], true)?;
        let name = format!("golden: {}, ONNX Runtime", self.output_name());
        checks.insert(1, check(name, relative(&by_onnx, &golden.output), limit));
        Ok(checks)
    }

    /// The checks of `replica` against the golden probe, and its output.
    fn golden_by(
        &self,
        replica: &Replica,
        precision: &str,
    ) -> Result<(Vec<Check>, ArrayD<f32>), NetworkError> {
        let golden = &self.bundle.golden;
        let weights = self.bundle.manifest.golden;
        let objective =
            self.bundle.objective(weights.r_bn, weights.first_bn_multiplier, Device::Cpu);
        let (images, targets) = &self.probe;
        let found = replica
            .evaluate(images, targets.as_ref(), &objective)
            .map_err(|e| self.replica_error(e))?;
        let output = self.array(&found.logits)?;
        let gradient =
            in_form_of(&golden.input_grad, &found.gradient).map_err(|e| self.torch(e))?;
        let (gradient, cosine) =
            gradient_errors(&self.array(&gradient)?, values_of(&golden.input_grad));
        let of = gradient_name(&golden.input_grad);
        let statistics = self.golden_statistics(replica)?.into_iter().fold(0.0, larger);
        let loss = (found.loss - golden.loss).abs() / golden.loss.abs().max(1e-6);
        let one = |what: &str, error: f64, limit: f64| {
            check(format!("golden: {what}{precision}"), error, limit)
        };
        let checks = vec![
            one(&format!("{}, tch", self.output_name()), relative(&output, &golden.output), VALUES),
            one("layer statistics, tch", statistics, VALUES),
            one("synthesis loss", loss, GRADIENT),
            one(&of, gradient, GRADIENT),
            one(&format!("{of}, 1 - cosine"), cosine, 1.0 - COSINE),
        ];
        Ok((checks, output))
    }

    /// Per layer, the larger relative difference of its input's mean and variance from the golden
    /// values.
    fn golden_statistics(&self, replica: &Replica) -> Result<Vec<f64>, NetworkError> {
        let (_, taps) = self.run_replica(replica, &self.probe.0, &self.taps())?;
        let error = |((tap, layer), expected): ((&Tensor, &LayerStatistics), &Pair)| {
            Ok(pair_error(&self.statistics_of(tap, layer)?, expected))
        };
        taps.iter()
            .zip(&self.bundle.layers)
            .zip(&self.bundle.golden.statistics)
            .map(error)
            .collect()
    }

    fn first_difference_from_golden(&self) -> Result<Option<String>, NetworkError> {
        let graph = &self.bundle.graph;
        let producer = |id: ValueId| {
            graph
                .producer(id)
                .map_or_else(|| graph.values[id].clone(), |n| format!("{} ({})", n.name, n.op_type))
        };
        let errors = self.golden_statistics(self.exact()?)?;
        // A NaN counts as different.
        if let Some(i) = errors.iter().position(|e| e.is_nan() || *e > VALUES) {
            let layer = &self.bundle.layers[i];
            let (_, taps) = self.run_replica(self.exact()?, &self.probe.0, &[layer.tap])?;
            let found = self.statistics_of(&taps[0], layer)?.0;
            let (channel, a, b) = worst(&found, &self.bundle.golden.statistics[i].0);
            return Ok(Some(format!(
                "first diverging node: {}, the input of layer `{}`: mean of channel {channel} is {a:e}, the golden probe says {b:e}",
                producer(layer.tap),
                layer.key
            )));
        }
        let (output, _) = self.run_replica(self.exact()?, &self.probe.0, &[])?;
        let (index, a, b) = worst(&output, &self.bundle.golden.output);
        let after =
            self.bundle.layers.last().map_or("the input".into(), |l| format!("layer `{}`", l.key));
        Ok(Some(format!(
            "diverges after {after}, at the latest at node {}: {} {index} is {a:e}, the golden probe says {b:e}",
            producer(graph.outputs[0]),
            self.output_name().trim_end_matches('s')
        )))
    }

    fn against_onnx_runtime(&self, images: &Array4<f32>) -> Result<Vec<Check>, NetworkError> {
        let onnx = self.observed_by_onnx(images)?;
        let found = self.observed_by(&self.replica, images)?;
        let (mut output, mut statistics) = found.difference(&onnx);
        let (mut limits, mut precision) = ((VALUES, VALUES), "");
        if output.is_nan() || statistics.is_nan() || output.max(statistics) > VALUES {
            let exact = self.observed_by(self.exact()?, images)?;
            let rounding = found.difference(&exact);
            limits = (limit_by(rounding.0), limit_by(rounding.1));
            (output, statistics) = onnx.difference(&exact);
            precision = ", float64";
        }
        let of = format!("random images, batch {}", images.shape()[0]);
        Ok(vec![
            check(
                format!("{of}: {}, tch against ONNX Runtime{precision}", self.output_name()),
                output,
                limits.0,
            ),
            check(
                format!("{of}: layer statistics, tch against ONNX Runtime{precision}"),
                statistics,
                limits.1,
            ),
        ])
    }

    fn observed_by(
        &self,
        replica: &Replica,
        images: &Array4<f32>,
    ) -> Result<Observed, NetworkError> {
        let input = to_tensor(images.view()).map_err(|e| self.torch(e))?;
        let (output, taps) = self.run_replica(replica, &input, &self.taps())?;
        self.observed(output, &taps)
    }

    fn observed_by_onnx(&self, images: &Array4<f32>) -> Result<Observed, NetworkError> {
        let (output, taps) = self.run_onnx(images, &self.taps(), false)?;
        let taps = taps.iter().map(|tap| to_tensor(tap.view()).map_err(|e| self.torch(e)));
        self.observed(output, &taps.collect::<Result<Vec<_>, _>>()?)
    }

    fn observed(&self, output: ArrayD<f32>, taps: &[Tensor]) -> Result<Observed, NetworkError> {
        let layers =
            taps.iter().zip(&self.bundle.layers).map(|(tap, layer)| self.statistics_of(tap, layer));
        Ok(Observed { output, layers: layers.collect::<Result<_, _>>()? })
    }

    /// Finds the first diverging node: first among the layers, then between two of them.
    fn first_difference_from_onnx_runtime(
        &self,
        images: &Array4<f32>,
    ) -> Result<Option<String>, NetworkError> {
        let graph = &self.bundle.graph;
        let input = to_tensor(images.view()).map_err(|e| self.torch(e))?;
        let makers: BTreeMap<ValueId, usize> = graph
            .nodes
            .iter()
            .enumerate()
            .filter_map(|(i, n)| Some((n.outputs.first().copied()??, i)))
            .collect();
        let mut marks: Vec<usize> =
            self.bundle.layers.iter().filter_map(|l| makers.get(&l.tap).copied()).collect();
        marks.extend(graph.outputs.first().and_then(|id| makers.get(id)));
        marks.sort_unstable();
        let above = |node: usize| -> Vec<usize> {
            graph.nodes[node]
                .inputs
                .iter()
                .flatten()
                .filter_map(|id| makers.get(id).copied())
                .collect()
        };
        let say = |left: usize| {
            (self.say)(&format!(
                "{}: {left} nodes left that may be the first to diverge",
                self.bundle.name()
            ));
        };
        first_to_diverge(&marks, above, say, |nodes| self.differences(&input, images, nodes))
    }

    /// For each of the `nodes`, how its first output differs; `None` if it agrees or has no floats
    /// to compare.
    fn differences(
        &self,
        input: &Tensor,
        images: &Array4<f32>,
        nodes: &[usize],
    ) -> Result<Vec<Option<String>>, NetworkError> {
        let graph = &self.bundle.graph;
        let taps: Vec<ValueId> =
            nodes.iter().filter_map(|&i| graph.nodes[i].outputs.first().copied()?).collect();
        let (_, found) = self.run_replica(&self.replica, input, &taps)?;
        let floats: Vec<ValueId> = taps
            .iter()
            .zip(&found)
            .filter(|(_, tensor)| tensor.is_floating_point())
            .map(|(&id, _)| id)
            .collect();
        let (_, by_onnx) = self.run_onnx(images, &floats, false)?;
        let mut by_onnx = by_onnx.into_iter();
        let mut differences = Vec::with_capacity(nodes.len());
        for (&index, found) in nodes.iter().zip(&found) {
            let theirs = if found.is_floating_point() { by_onnx.next() } else { None };
            differences.push(match theirs {
                Some(theirs) => difference(&graph.nodes[index], &self.array(found)?, &theirs),
                None => None,
            });
        }
        Ok(differences)
    }
}

/// Finds the first diverging node of a graph and says how it differs. The search tests the nodes
/// `marks` (ascending), then bisects between the last mark that agrees and the first that differs.
/// `differences` says for each of some nodes how it differs, if it does; every call opens a
/// session.
///
/// A node on another branch than the culprit may agree, so bisection can end at a later node. From
/// there the search moves up through the nodes' inputs (`above`), to a node that differs although
/// all its inputs agree.
fn first_to_diverge<E>(
    marks: &[usize],
    above: impl Fn(usize) -> Vec<usize>,
    say: impl Fn(usize),
    mut differences: impl FnMut(&[usize]) -> Result<Vec<Option<String>>, E>,
) -> Result<Option<String>, E> {
    let mut first = |nodes: &[usize]| -> Result<Option<(usize, String)>, E> {
        let found = differences(nodes)?.into_iter().enumerate();
        Ok(found.filter_map(|(place, how)| Some((place, how?))).next())
    };
    let Some((place, mut how)) = first(marks)? else { return Ok(None) };
    let (mut agrees, mut differs) =
        (place.checked_sub(1).map(|before| marks[before]), marks[place]);
    while let Some(middle) = between(agrees, differs) {
        say(differs - agrees.map_or(0, |i| i + 1));
        match first(&[middle])? {
            Some((_, found)) => (differs, how) = (middle, found),
            None => agrees = Some(middle),
        }
    }
    loop {
        let read = above(differs);
        let found = if read.is_empty() { None } else { first(&read)? };
        match found {
            Some((place, found)) => (differs, how) = (read[place], found),
            None => return Ok(Some(how)),
        }
    }
}

/// The middle of the nodes after `agrees` and before `differs`.
fn between(agrees: Option<usize>, differs: usize) -> Option<usize> {
    let low = agrees.map_or(0, |i| i + 1);
    (low < differs).then(|| low + (differs - low) / 2)
}

/// How the output of `node` in tch differs from that in ONNX Runtime, if it does.
fn difference(node: &Node, found: &ArrayD<f32>, by_onnx: &ArrayD<f32>) -> Option<String> {
    if relative(found, by_onnx) <= VALUES {
        return None;
    }
    let (index, a, b) = worst(found, by_onnx);
    let what = match (a.is_nan(), b.is_nan()) {
        (false, true) => format!("ONNX Runtime computes NaN at element {index}, tch {a:e}"),
        (true, false) => format!("tch computes NaN at element {index}, ONNX Runtime {b:e}"),
        (true, true) => format!("both compute NaN at element {index}"),
        (false, false) => format!("element {index} is {a:e} in tch, {b:e} in ONNX Runtime"),
    };
    Some(format!("first diverging node: {} ({}): {what}", node.name, node.op_type))
}

/// The flat index at which two arrays differ most, and both values there.
fn worst(a: &ArrayD<f32>, b: &ArrayD<f32>) -> (usize, f32, f32) {
    let pairs = a.iter().zip(b).enumerate();
    let key = |x: &f32, y: &f32| if (x - y).is_nan() { f32::INFINITY } else { (x - y).abs() };
    let found = pairs.max_by(|(_, (a, b)), (_, (c, d))| key(a, b).total_cmp(&key(c, d)));
    found.map_or((0, f32::NAN, f32::NAN), |(i, (a, b))| (i, *a, *b))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::convert::Infallible;
    use std::sync::Arc;

    use prost::Message;

    use super::*;
    use scdd_graph::Constant;
    use scdd_graph::proto::ModelProto;

    /// The node that the search finds, and its number of sessions. `reads` are the inputs of each
    /// node; nodes that depend on `culprit` differ.
    fn search(reads: &[Vec<usize>], marks: &[usize], culprit: usize) -> (Option<String>, usize) {
        let mut differs = vec![false; reads.len()];
        for node in 0..reads.len() {
            differs[node] = node == culprit || reads[node].iter().any(|&input| differs[input]);
        }
        let mut sessions = 0;
        let found = first_to_diverge(
            marks,
            |node| reads[node].clone(),
            |left| assert!(left > 0 && left < reads.len()),
            |nodes| {
                sessions += 1;
                Ok::<_, Infallible>(
                    nodes.iter().map(|&node| differs[node].then(|| node.to_string())).collect(),
                )
            },
        );
        (found.unwrap(), sessions)
    }

    #[test]
    fn any_node_of_a_chain_is_found_in_few_sessions() {
        let chain: Vec<Vec<usize>> =
            (0..493).map(|node: usize| node.checked_sub(1).into_iter().collect()).collect();
        for culprit in 0..493 {
            // One session for the marks, nine for bisecting 493 nodes, one for the inputs above.
            let (found, sessions) = search(&chain, &[492], culprit);
            assert_eq!(found, Some(culprit.to_string()));
            assert!(sessions <= 1 + 9 + 1, "{sessions} sessions for node {culprit}");
            let (found, sessions) = search(&chain, &[99, 199, 299, 399, 492], culprit);
            assert_eq!(found, Some(culprit.to_string()));
            assert!(sessions <= 1 + 7 + 1, "{sessions} sessions for node {culprit}");
        }
        assert_eq!(search(&chain, &[492], 493), (None, 1));
    }

    #[test]
    fn a_node_on_another_branch_than_the_one_halved_is_found() {
        // Two interleaved chains from one root to one sum: each node reads the node two before it.
        let mut reads: Vec<Vec<usize>> =
            (0..200).map(|node: usize| vec![node.saturating_sub(2)]).collect();
        reads[0] = Vec::new();
        reads.push(vec![198, 199]);
        for culprit in 0..=200 {
            let (found, sessions) = search(&reads, &[200], culprit);
            assert_eq!(found, Some(culprit.to_string()));
            assert!(sessions <= 1 + 8 + 101, "{sessions} sessions for node {culprit}");
        }
    }

    #[test]
    fn one_nan_among_numbers_is_a_difference() {
        let of = |values: [f32; 3]| ndarray::arr1(&values).into_dyn();
        let plain = of([1.0, 2.0, 3.0]);
        assert_eq!(relative(&plain, &plain), 0.0);
        for place in 0..3 {
            let mut values = [1.0, 2.0, 3.0];
            values[place] = f32::NAN;
            assert!(
                relative(&of(values), &plain).is_nan() && relative(&plain, &of(values)).is_nan(),
                "{place}"
            );
        }
    }

    fn teacher() -> Bundle {
        Bundle::load(&crate::in_repository("onnx/fashion-mnist/resnet18-w16-supervised")).unwrap()
    }

    /// The reported first difference of `bundle` at random images, and the number of progress
    /// reports.
    fn said(bundle: &Bundle) -> (String, usize) {
        let told = RefCell::new(Vec::new());
        let say = |what: &str| told.borrow_mut().push(what.to_string());
        let verifier = Verifier {
            bundle,
            runtime: &Runtime::open(None).unwrap(),
            threads: &Threads::all(),
            say: &say,
            probe: bundle.probe().unwrap(),
            replica: bundle.replica(Device::Cpu).unwrap(),
            exact: OnceCell::new(),
        };
        let found = verifier
            .first_difference_from_onnx_runtime(&random_images(bundle, 1))
            .unwrap()
            .unwrap();
        let told = told.into_inner();
        assert!(told.iter().all(|what| what.starts_with("resnet18-w16-supervised: ")), "{told:?}");
        (found, told.len())
    }

    /// `bundle` with the constant `name` changed in the replica, but not in the model file.
    fn with_constant(name: &str, change: impl Fn(f32) -> f32) -> Bundle {
        let mut bundle = teacher();
        let mut graph = (*bundle.graph).clone();
        let id = graph.values.iter().position(|value| value == name).unwrap();
        let known = &graph.constants[&id];
        let values: Vec<f32> =
            known.bytes.as_chunks().0.iter().map(|b| change(f32::from_le_bytes(*b))).collect();
        let changed = Constant::from_f32s(&known.dims, &values);
        graph.constants.insert(id, changed);
        bundle.graph = Arc::new(graph);
        bundle
    }

    #[test]
    fn the_node_that_differs_from_onnx_runtime_is_named() {
        for (name, node) in [
            ("conv1.weight", "conv1 (Conv)"),
            ("layer2.0.bn2.weight", "layer2.0.bn2 (BatchNormalization)"),
            ("layer3.0.downsample.0.weight", "layer3.0.downsample.0 (Conv)"),
            ("fc.weight", "fc (Gemm)"),
        ] {
            let (found, steps) = said(&with_constant(name, |value| value + 0.25));
            assert!(
                found.starts_with(&format!("first diverging node: {node}: element ")),
                "{name}: {found}"
            );
            assert!(steps <= 4, "{name}: {steps} steps");
        }
    }

    #[test]
    fn what_computes_nan_is_named() {
        let (found, _) = said(&with_constant("fc.bias", |_| f32::NAN));
        assert!(
            found.starts_with("first diverging node: fc (Gemm): tch computes NaN at element "),
            "{found}"
        );

        let mut bundle = teacher();
        let mut model = ModelProto::decode(bundle.model.as_slice()).unwrap();
        let tensors = &mut model.graph.as_mut().unwrap().initializer;
        let bias =
            tensors.iter_mut().find(|tensor| tensor.name.as_deref() == Some("fc.bias")).unwrap();
        bias.raw_data.as_mut().unwrap()[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        bundle.model = model.encode_to_vec();
        let (found, _) = said(&bundle);
        assert!(
            found.starts_with(
                "first diverging node: fc (Gemm): ONNX Runtime computes NaN at element 0, tch "
            ),
            "{found}"
        );
    }
}
