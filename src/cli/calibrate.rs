//! `scdd calibrate`: statistics for a network without BatchNorm, and those of classes and patches for any network.

use std::path::PathBuf;

use anyhow::ensure;

use super::data::{check_fit, training_images};
use super::{Global, Outcome};
use crate::data::Normalization;
use crate::teacher::{Bundle, Calibrator, Detail, verify};

/// How many images are run at once.
const BATCH: usize = 64;

/// Measure the statistics of a network without BatchNorm (or with BatchNorm folded away) on images, or of any network class by class (--per-class) or patch by patch (--patches), and write them as a new bundle
#[derive(clap::Args)]
pub struct Calibrate {
    /// The bundle's directory
    bundle: PathBuf,
    /// The data set whose training images are measured: a name (fashion-mnist, mnist, cifar-10, cifar-100) or an image folder
    #[arg(long, value_name = "NAME|DIR")]
    data: String,
    /// How many images, spread evenly over the classes
    #[arg(long, default_value_t = 1000)]
    images: usize,
    /// Keep every class's statistics too, for `recover.class_share`
    #[arg(long)]
    per_class: bool,
    /// Keep the statistics of patches too, this many per side, for `recover.r_patch`
    #[arg(long, value_name = "N", value_parser = side)]
    patches: Option<usize>,
    /// Measure at these nodes; by default at all layer normalisations (their inputs), or else at all convolutions (their outputs)
    #[arg(long = "node", value_name = "NAME")]
    nodes: Vec<String>,
    /// The new bundle's directory, which gives it its name; by default the old one's with `-calibrated` added
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Calibrate {
    pub fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let bundle = Bundle::load(&self.bundle)?;
        let verdict = verify(&bundle, &global.runtime()?)?;
        ensure!(verdict.passed(), "bundle `{}` does not verify; see `scdd verify`", bundle.name());
        let out = self.out.unwrap_or_else(|| {
            let name = self.bundle.file_name().unwrap_or(bundle.name().as_ref());
            self.bundle.with_file_name(format!("{}-calibrated", name.to_string_lossy()))
        });
        let set = training_images(&self.data, &bundle)?;
        check_fit(&bundle, &set)?;

        let p = &bundle.manifest.preprocessing;
        let normalization = Normalization::new(p.mean.clone(), p.std.clone())?;
        let mut calibrator =
            Calibrator::new(&bundle, &self.nodes, Detail { per_class: self.per_class, patches: self.patches })?;
        let classes = set.classes.len();
        let (mut measured, each) = (0, self.images.div_ceil(classes));
        for class in 0..classes {
            let of_class = |i: &usize| set.labels[*i] as usize == class;
            let count = each.min(self.images - measured);
            let indices: Vec<usize> = (0..set.len()).filter(of_class).take(count).collect();
            for batch in indices.chunks(BATCH) {
                calibrator.add(class, &normalization.batch(&set, batch)?)?;
            }
            measured += indices.len();
        }
        calibrator.write(&out, &set.name)?;
        let written = Bundle::load(&out)?;
        let layers = written.layers.len();
        if global.json {
            println!("{}", serde_json::json!({"bundle": out, "layers": layers, "images": measured}));
        } else {
            println!("{}: statistics of {layers} activations, measured on {measured} images", out.display());
        }
        Ok(Outcome::Done)
    }
}

fn side(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| (2..=64).contains(n)).ok_or_else(|| "a whole number from 2 to 64".into())
}
