//! Which engine computes each convolution, in each direction: a fixed choice, or the fastest of those measured once at the start.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, TchError, Tensor};

use super::super::ReplicaError;
use super::PlanOptions;
use super::compile::Step;
use super::conv::{Convolution, Direction, Engine, Method, size};
use crate::kernels::Isa;

/// How one direction of one convolution is computed, and what was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    pub node: String,
    pub direction: Direction,
    pub method: Method,
    /// Milliseconds of every method that was tried, each with weights of its own; empty when the choice is fixed or was recorded.
    pub measured: Vec<(Method, f64)>,
}

/// Runs of each method, in turns, after one that warms up; the fastest counts.
const RUNS: usize = 4;

/// How much faster than the fixed choice another method must be: less is noise, and libtorch's own threads cost the kernels around it time.
const GAIN: f64 = 0.9;

/// Chooses and prepares the engines of all convolutions: as `recorded`, where that says something about them.
///
/// # Errors
/// When libtorch can't give a convolution's weights, or what is recorded is not possible here.
pub fn choose(steps: &mut [Step], options: PlanOptions, recorded: &[Choice]) -> Result<Vec<Choice>, ReplicaError> {
    let Some(isa) = options.kernels else { return Ok(Vec::new()) };
    let loss = |source| ReplicaError::Loss { source };
    let mut choices = Vec::new();
    let mut seen: HashMap<String, Vec<(Method, f64)>> = HashMap::new();
    for step in steps {
        let Step::Conv(step) = step else { continue };
        for direction in [Direction::Forward, Direction::Backward] {
            let methods = step.conv.methods(isa, direction);
            let known = recorded.iter().find(|c| c.node == step.name && c.direction == direction).map(|c| c.method);
            if let Some(method) = known.filter(|m| !methods.contains(m)) {
                return Err(ReplicaError::Choice { node: step.name.clone(), method: format!("{method:?}") });
            }
            let measured = if known.is_none() && options.autotune && methods.len() > 1 {
                seen.entry(signature(&step.conv, direction))
                    .or_insert_with(|| measure(&step.conv, isa, &methods, direction))
                    .clone()
            } else {
                Vec::new()
            };
            let method = known.or_else(|| fastest(&measured)).unwrap_or(methods[0]);
            match direction {
                Direction::Forward => step.forward = step.conv.engine(isa, method, direction).map_err(loss)?,
                Direction::Backward => {
                    let turned =
                        step.forward.turned(method).map_or_else(|| step.conv.engine(isa, method, direction), Ok);
                    step.backward = turned.map_err(loss)?;
                }
            }
            choices.push(Choice { node: step.name.clone(), direction, method, measured });
        }
        if !step.forward.is_torch() && !step.backward.is_torch() {
            step.conv.weight = Tensor::f_empty([0], (Kind::Float, Device::Cpu)).map_err(loss)?;
        }
    }
    Ok(choices)
}

/// Convolutions that take the same time.
fn signature(conv: &Convolution, direction: Direction) -> String {
    format!("{:?}", (conv.geometry, conv.pad_after, conv.groups, conv.channels, conv.from, conv.to, direction))
}

/// The first method that could be measured unless another is clearly faster.
fn fastest(measured: &[(Method, f64)]) -> Option<Method> {
    let (first, fixed) = *measured.first()?;
    let best = measured.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1));
    best.map(|(method, ms)| if ms < GAIN * fixed { method } else { first })
}

/// Milliseconds of one run of each method that does not fail.
fn measure(conv: &Convolution, isa: Isa, methods: &[Method], direction: Direction) -> Vec<(Method, f64)> {
    let engines: Vec<_> = methods.iter().map(|&method| conv.engine(isa, method, direction)).collect();
    let mut best = vec![f64::INFINITY; engines.len()];
    for round in 0..=RUNS {
        for (engine, best) in engines.iter().zip(&mut best) {
            let found = engine.as_ref().ok().and_then(|engine| run_once(conv, engine, direction).ok());
            if let Some(time) = found.filter(|_| round > 0) {
                *best = best.min(time.as_secs_f64() * 1e3);
            }
        }
    }
    methods.iter().copied().zip(best).filter(|(_, ms)| ms.is_finite()).collect()
}

fn run_once(conv: &Convolution, engine: &Engine, direction: Direction) -> Result<Duration, TchError> {
    let [(from, channels_from), (to, channels_to)] = conv.ends(direction);
    let x = vec![0.5; from.pixels() * channels_from];
    if engine.is_torch() {
        let [n, c, h, w] = size(from, channels_from);
        let x = Tensor::from_slice(&x).f_reshape([n, h, w, c])?.f_permute([0, 3, 1, 2])?;
        let start = Instant::now();
        let run = match direction {
            Direction::Forward => conv.forward_torch(&x),
            Direction::Backward => conv.backward_torch(&x),
        };
        return run.map(|_| start.elapsed());
    }
    // Touched, so that the first use of its pages is not measured.
    let mut y = vec![0.5; to.pixels() * channels_to];
    let start = Instant::now();
    engine.run((&x, from), (&mut y, to), None, &|_| {});
    Ok(start.elapsed())
}
