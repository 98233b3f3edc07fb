//! `scdd inspect`: what do the teachers' BN statistics hold?

use std::path::PathBuf;

use super::data::{check_fit, training_images};
use super::{Global, Outcome};
use crate::inspect::{inspect, table, write};
use crate::teacher::Bundle;

/// Compare teachers by their BN statistics (quantiles, entropy, effective rank) and by the gradients that these and cross entropy give
#[derive(clap::Args)]
pub struct Inspect {
    /// Bundle directories
    #[arg(required = true, value_name = "BUNDLE")]
    bundles: Vec<PathBuf>,
    /// Also measure gradients at training images of this data set: a name (fashion-mnist, mnist, cifar-10, cifar-100) or an image folder
    #[arg(long, value_name = "NAME|DIR")]
    data: Option<String>,
    /// How many images gradients are measured at, all in one batch
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    images: u32,
    /// Where inspect.html, inspect.csv and inspect.json go
    #[arg(long, value_name = "DIR", default_value = "runs/inspect")]
    out: PathBuf,
}

impl Inspect {
    pub fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let bundles = self.bundles.iter().map(|dir| Bundle::load(dir)).collect::<Result<Vec<_>, _>>()?;
        let named = self.data.as_deref().zip(bundles.first());
        let data = named.map(|(data, first)| training_images(data, first)).transpose()?;
        let progress = global.progress();
        progress.start("inspect", self.bundles.len() as u64, "bundle");
        let mut teachers = Vec::new();
        for bundle in &bundles {
            if let Some(set) = &data {
                check_fit(bundle, set)?;
            }
            teachers.push(inspect(bundle, data.as_ref(), self.images)?);
            progress.at(teachers.len() as u64, bundle.name());
        }
        progress.finish("");
        let page = write(&teachers, &self.out)?;
        if global.json {
            println!("{}", serde_json::to_string_pretty(&teachers)?);
        } else {
            println!("{}\npage: {}", table(&teachers), page.display());
        }
        Ok(Outcome::Done)
    }
}
