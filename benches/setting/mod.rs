//! What the workers of relabelling and of training students work on.

use std::path::Path;

use anyhow::{Context, Result};
use rand::RngExt;
use scdd::config::{Experiment, Protocol};
use scdd::data::Dataset;
use scdd::rng;
use scdd::teacher::Bundle;

/// The default protocol, one epoch long, with these further keys of `relabel`.
pub fn protocol(relabel: &str) -> Result<Protocol> {
    let text = format!(
        "name: bench\ndata: fashion-mnist\nteachers: t\nstudents: s\nipc: 1\nrelabel: {{epochs: 1, {relabel}}}\n"
    );
    let experiment = Experiment::from_yaml(&text, Path::new("bench.yaml"), &[])?;
    experiment.protocols.into_values().next().context("the experiment has no protocol")
}

/// `count` images of noise that fit `bundle`, their classes in turn.
pub fn noise(bundle: &Bundle, count: usize, seed: u64) -> Dataset {
    let [channels, height, width] = bundle.image_shape();
    let mut stream = rng::stream(seed, "bench/noise", 0);
    let classes = bundle.manifest.classes.clone();
    Dataset {
        name: "noise".into(),
        images: (0..count * channels * height * width)
            .map(|_| stream.random())
            .collect::<Vec<u8>>()
            .into(),
        labels: (0..count as u32).map(|i| i % classes.len() as u32).collect(),
        channels,
        height,
        width,
        classes,
    }
}
