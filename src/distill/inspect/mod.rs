//! Compares the information in teachers' BN statistics. SC-DD (arXiv 2404.07976) explains by this
//! analysis why self-supervised teachers recover better images: it claims that their statistics
//! have higher entropy, H(Θ_ssl) > H(Θ_sl).
//!
//! The raw scale alone would decide such a comparison, so every figure is given twice: raw, and
//! scale-free (each layer's statistics divided by their RMS). The report also gives the gradients
//! of the alignment term and of the cross entropy, at noise and at real images. Definitions:
//! `docs/inspect.md`.

pub mod estimators;
mod page;
mod table;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde::Serialize;
use tch::Device;

use crate::recover::RecoverError;
use crate::recover::balance::{Balance, Terms, noise};
use crate::teacher::{Bundle, LayerStatistics, Network};
use scdd_artifacts::own;
use scdd_data::{DataError, Dataset, sample};
use scdd_experiment::report::ReportError;

use estimators::{effective_rank, entropy, gaussian_entropy, quantiles, rms};
pub use table::table;

/// The published starting point: normal noise of standard deviation 1, the first BN layer weighted
/// ten times.
pub const START_STD: f64 = 1.0;
pub const FIRST_MULTIPLIER: f64 = 10.0;

/// Why a bundle could not be inspected.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    #[error(transparent)]
    Recover(#[from] RecoverError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Report(#[from] ReportError),
    #[error("bundle `{bundle}` has no statistics to inspect: {why}")]
    NoStatistics { bundle: String, why: String },
    /// The output directory can't be used.
    #[error("{0}")]
    Out(String),
}

/// The measures of a list of statistics.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Informativeness {
    /// Values at the levels of [`estimators::QUANTILES`].
    pub quantiles: [f64; 7],
    /// Differential entropy in nats, estimated by histogram.
    pub entropy: Option<f64>,
    /// Differential entropy in nats of a normal distribution with the same variance.
    pub gaussian_entropy: Option<f64>,
    /// Effective rank, from 1 to the number of channels.
    pub effective_rank: Option<f64>,
}

impl Informativeness {
    fn of(values: &[f64]) -> Self {
        Self {
            quantiles: quantiles(values),
            entropy: entropy(values),
            gaussian_entropy: gaussian_entropy(values),
            effective_rank: effective_rank(values),
        }
    }
}

/// The running means, or the running variances, of one layer or of all layers together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ValueSpread {
    pub rms: f64,
    pub raw: Informativeness,
    /// Measures of the values divided by their layer's RMS.
    pub scale_free: Informativeness,
}

impl ValueSpread {
    /// The measures of these layers' values, in one list.
    fn of(layers: &[&[f32]]) -> Self {
        let wide = |layer: &&[f32]| layer.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
        let raw: Vec<Vec<f64>> = layers.iter().map(wide).collect();
        let free = raw.iter().flat_map(|layer| {
            let scale = rms(layer);
            layer.iter().map(move |v| if scale > 0.0 { v / scale } else { 0.0 })
        });
        let (free, all): (Vec<f64>, Vec<f64>) = (free.collect(), raw.concat());
        Self {
            rms: rms(&all),
            raw: Informativeness::of(&all),
            scale_free: Informativeness::of(&free),
        }
    }
}

/// One layer's statistics.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerContent {
    pub key: String,
    pub channels: usize,
    pub mean: ValueSpread,
    pub var: ValueSpread,
}

impl LayerContent {
    fn of(layer: &LayerStatistics) -> Self {
        let (mean, var) = (ValueSpread::of(&[&layer.mean]), ValueSpread::of(&[&layer.var]));
        Self { key: layer.key.clone(), channels: layer.mean.len(), mean, var }
    }
}

/// The loss terms and their gradients at a set of images.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Gradients {
    /// `noise` or the data set's name.
    pub at: String,
    pub images: usize,
    #[serde(flatten)]
    pub terms: Terms,
    /// The `r_bn` at which both gradients have the same norm. At noise this is the value of
    /// `r_bn: auto`.
    pub balance: Option<f64>,
}

impl Gradients {
    fn new(at: &str, images: usize, terms: Terms) -> Self {
        Self { at: at.into(), images, balance: terms.balance(), terms }
    }
}

/// The inspection of one teacher.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    pub bundle: String,
    /// The pretraining method, if the manifest names it.
    pub scheme: Option<String>,
    /// The number of channels of all layers.
    pub channels: usize,
    /// The channels of all layers as one list.
    pub mean: ValueSpread,
    pub var: ValueSpread,
    /// The layers, in execution order.
    pub layers: Vec<LayerContent>,
    pub gradients: Vec<Gradients>,
}

/// Inspects `bundle`. Gradients are computed at `images` noise images and, if `data` is given, at
/// as many of its images, drawn with `seed` and evenly over the classes.
///
/// # Errors
/// When the bundle has no statistics, can't be run, or does not accept the data's images.
pub fn inspect(
    bundle: &Bundle,
    data: Option<&Dataset>,
    images: u32,
    seed: u64,
) -> Result<Inspection, InspectError> {
    if let Some(why) = bundle.without_statistics() {
        return Err(InspectError::NoStatistics { bundle: bundle.name().into(), why });
    }
    let balance = Balance::new(bundle, Device::Cpu)?;
    let objective = bundle.objective(1.0, FIRST_MULTIPLIER, Device::Cpu);
    let (start, targets) = noise(bundle, images, START_STD);
    let mut gradients =
        vec![Gradients::new("noise", images as usize, balance.at(&start, &targets, &objective)?)];
    if let Some(set) = data {
        let chosen = sample::even(&set.labels, set.classes.len(), images as usize, seed);
        let batch = bundle.normalization()?.batch(set, &chosen)?;
        let targets: Vec<u32> = chosen.iter().map(|&i| set.labels[i]).collect();
        let terms = balance.at(&batch, &targets, &objective)?;
        gradients.push(Gradients::new(&set.name, chosen.len(), terms));
    }
    let all = |of: fn(&LayerStatistics) -> &Vec<f32>| {
        ValueSpread::of(&bundle.layers.iter().map(|layer| of(layer).as_slice()).collect::<Vec<_>>())
    };
    Ok(Inspection {
        bundle: bundle.name().into(),
        scheme: bundle.manifest.pretraining.as_ref().map(|p| p.scheme.clone()),
        channels: bundle.layers.iter().map(|layer| layer.mean.len()).sum(),
        mean: all(|layer| &layer.mean),
        var: all(|layer| &layer.var),
        layers: bundle.layers.iter().map(LayerContent::of).collect(),
        gradients,
    })
}

const FILES: [&str; 3] = ["inspect.json", "inspect.csv", "inspect.html"];

/// Checks that [`write()`] may write into `directory`, before anything is computed.
///
/// # Errors
/// When part of the path is a file, or a file of one of these names there is not ours.
pub fn check(directory: &Path) -> Result<(), InspectError> {
    if let Some(file) = directory.ancestors().find(|part| part.is_file()) {
        let what = format!("{} is a file; --out wants a directory", file.display());
        return Err(InspectError::Out(what));
    }
    FILES
        .iter()
        .try_for_each(|file| Ok(own::check(&directory.join(file)).map_err(ReportError::from)?))
}

/// Writes `inspect.html`, `inspect.csv` (one line per layer) and `inspect.json` into `directory`;
/// each file is written whole or not at all. Returns the page's path.
///
/// # Errors
/// When a file can't be written.
pub fn write(teachers: &[Inspection], directory: &Path) -> Result<PathBuf, InspectError> {
    let put =
        |file: &str, text: &str| own::write(&directory.join(file), text).map_err(ReportError::from);
    let [json, csv, html] = FILES;
    put(json, &scdd_experiment::report::json_file(&serde_json::json!({"teachers": teachers}))?)?;
    put(csv, &table::csv(teachers)?)?;
    put(html, &page::page(teachers)?)?;
    Ok(directory.join(html))
}
