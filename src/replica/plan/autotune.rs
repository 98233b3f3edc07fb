//! Which engine computes each convolution, in each direction: a fixed choice, or the fastest of those measured once at the start.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use tch::{Device, Kind, TchError, Tensor};

use super::PlanOptions;
use super::compile::Step;
use super::conv::{Convolution, Direction, Engine, Method, size};
use super::value::{Fresh, Pool};
use crate::kernels::Isa;

/// How one direction of one convolution is computed, and what was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Choice {
    pub node: String,
    pub direction: Direction,
    pub method: Method,
    /// Milliseconds of every method that was tried; empty when the choice is fixed.
    pub measured: Vec<(Method, f64)>,
}

/// Runs of each method, after one that warms up; the fastest counts.
const RUNS: usize = 3;

/// Chooses and prepares the engines of all convolutions.
///
/// # Errors
/// When libtorch can't give a convolution's weights.
pub fn choose(steps: &mut [Step], options: PlanOptions) -> Result<Vec<Choice>, TchError> {
    let Some(isa) = options.kernels else { return Ok(Vec::new()) };
    let mut choices = Vec::new();
    let mut seen: HashMap<String, Vec<(Method, f64)>> = HashMap::new();
    for step in steps {
        let Step::Conv(step) = step else { continue };
        for direction in [Direction::Forward, Direction::Backward] {
            let methods = step.conv.methods(isa, direction);
            let measured = if options.autotune && methods.len() > 1 {
                seen.entry(signature(&step.conv, direction))
                    .or_insert_with(|| methods.iter().map(|&m| (m, measure(&step.conv, isa, m, direction))).collect())
                    .clone()
            } else {
                Vec::new()
            };
            let fastest = measured.iter().min_by(|a, b| a.1.total_cmp(&b.1));
            let method = fastest.map_or(methods[0], |(method, _)| *method);
            let engine = step.conv.engine(isa, method, direction)?;
            match direction {
                Direction::Forward => step.forward = engine,
                Direction::Backward => step.backward = engine,
            }
            choices.push(Choice { node: step.name.clone(), direction, method, measured });
        }
        if !step.forward.is_torch() && !step.backward.is_torch() {
            step.conv.weight = Tensor::f_empty([0], (Kind::Float, Device::Cpu))?;
        }
    }
    Ok(choices)
}

/// Convolutions that take the same time.
fn signature(conv: &Convolution, direction: Direction) -> String {
    format!("{:?}", (conv.geometry, conv.pad_after, conv.groups, conv.channels, conv.from, conv.to, direction))
}

/// Milliseconds of one run; a method that fails takes forever.
fn measure(conv: &Convolution, isa: Isa, method: Method, direction: Direction) -> f64 {
    let pool = std::sync::Arc::new(Pool::default());
    let Ok(engine) = conv.engine(isa, method, direction) else { return f64::INFINITY };
    let [(from, channels_from), (to, channels_to)] = conv.ends(direction);
    // Halves: neither zero nor so small that arithmetic slows down.
    let filled = |len: usize| -> Fresh {
        let mut memory = pool.take(len);
        memory.fill(0.5);
        memory
    };
    let Ok(x) = filled(from.pixels() * channels_from).finish(size(from, channels_from)) else { return f64::INFINITY };
    let mut y = filled(to.pixels() * channels_to);
    let mut best = Duration::MAX;
    for _ in 0..=RUNS {
        let start = Instant::now();
        let done = match &engine {
            Engine::Torch => match direction {
                Direction::Forward => conv.forward_torch(x.tensor()),
                Direction::Backward => conv.backward_torch(x.tensor()),
            }
            .map(drop),
            engine => x.pixels().map(|pixels| {
                engine.run((pixels, from), (&mut y, to), None, &|_| {});
            }),
        };
        if done.is_err() {
            return f64::INFINITY;
        }
        best = best.min(start.elapsed());
    }
    best.as_secs_f64() * 1e3
}
