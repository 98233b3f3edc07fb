//! `scdd inspect`: what do the teachers' BN statistics hold?

use scdd_core::cli::{Global, Inspect, Outcome};

use super::data::{check_classes, check_fit, training_images};
use super::progress;
use crate::inspect::{inspect, table, write};
use crate::teacher::Bundle;

pub fn run(command: &Inspect, global: &Global) -> anyhow::Result<Outcome> {
    let bundles = command.bundles.iter().map(|dir| Bundle::load(dir)).collect::<Result<Vec<_>, _>>()?;
    let named = command.data.as_deref().zip(bundles.first());
    let data = named.map(|(data, first)| training_images(data, first)).transpose()?;
    let progress = progress::progress(global);
    let mut piece = progress.start("inspect", command.bundles.len() as u64, "bundle");
    let mut teachers = Vec::new();
    for bundle in &bundles {
        if let Some(set) = &data {
            check_fit(bundle, set)?;
            check_classes(bundle, set)?;
        }
        teachers.push(inspect(bundle, data.as_ref(), command.images)?);
        piece.at(teachers.len() as u64, bundle.name());
    }
    piece.finish("");
    let page = write(&teachers, &command.out)?;
    if global.json {
        println!("{}", serde_json::to_string_pretty(&teachers)?);
    } else {
        println!("{}\npage: {}", table(&teachers), page.display());
    }
    Ok(Outcome::Done)
}
