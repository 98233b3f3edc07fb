//! Arguments of the commands that need networks; the worker runs them.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use scdd_data::registry;
use scdd_experiment::config::{Device, Precision};

/// Report the environment: versions, ONNX Runtime and its execution providers, CUDA or why it is
/// missing, data sets
#[derive(clap::Args)]
pub struct Doctor {}

/// Check bundles: hashes, operators, side tensors, and tch against ONNX Runtime and the golden
/// probe, forward and backward
#[derive(clap::Args)]
pub struct Verify {
    /// Bundle directories
    #[arg(required = true, value_name = "BUNDLE")]
    pub bundles: Vec<PathBuf>,
    /// Also compare class names with this data set's and measure accuracy on its test images, at
    /// most 2000 or two of each class: a name, or a path to images
    #[arg(long, value_name = "NAME|PATH")]
    pub data: Option<String>,
    /// Also prove what recovers images on this device: the golden probe through the compiled plan
    #[arg(long, value_enum)]
    pub device: Option<Device>,
    /// The arithmetic of the plan's convolutions, if that device is a GPU
    #[arg(long, value_enum, default_value = "tf32", requires = "device")]
    pub precision: Precision,
}

/// Measure the statistics of a network without BatchNorm (or with BatchNorm folded away) on images,
/// or of any network class by class (--per-class) or patch by patch (--patches), and write them as
/// a new bundle
#[derive(clap::Args)]
pub struct Calibrate {
    /// The bundle's directory
    pub bundle: PathBuf,
    #[arg(long, value_name = "NAME|DIR", help = of_data("The data set whose training images are measured"))]
    pub data: String,
    /// The number of images, drawn at random with equally many of each class
    #[arg(long, default_value_t = NonZeroUsize::new(1000).unwrap_or(NonZeroUsize::MIN))]
    pub images: NonZeroUsize,
    /// Also keep statistics per class, for `recover.class_share`
    #[arg(long)]
    pub per_class: bool,
    /// Also keep statistics per patch, with this many patches per side, for `recover.r_patch`
    #[arg(long, value_name = "N", value_parser = side)]
    pub patches: Option<usize>,
    /// The nodes to measure; by default the inputs of all layer normalisations, or else the outputs
    /// of all convolutions
    #[arg(long = "node", value_name = "NAME")]
    pub nodes: Vec<String>,
    /// The new bundle's directory, whose name becomes the bundle's; by default the old one's with
    /// `-calibrated` added
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Compare teachers by their BN statistics (quantiles, entropy, effective rank) and by the
/// gradients of the BN statistics term and of cross entropy
#[derive(clap::Args)]
pub struct Inspect {
    /// Bundle directories
    #[arg(required = true, value_name = "BUNDLE")]
    pub bundles: Vec<PathBuf>,
    #[arg(long, value_name = "NAME|DIR", help = of_data("Also measure gradients at training images of this data set"))]
    pub data: Option<String>,
    /// The number of images at which gradients are measured, all in one batch
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub images: u32,
    /// The seed that draws the images, equally many of each class
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// The output directory of inspect.html, inspect.csv and inspect.json
    #[arg(long, value_name = "DIR", default_value = "runs/inspect")]
    pub out: PathBuf,
}

/// The help of an option that names a data set.
fn of_data(what: &str) -> String {
    format!("{what}: a name ({}) or an image folder", registry::names().join(", "))
}

fn side(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|n| (2..=64).contains(n))
        .ok_or_else(|| "a whole number from 2 to 64".into())
}
