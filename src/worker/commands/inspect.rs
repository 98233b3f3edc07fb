//! `scdd inspect`: measures the information in teachers' BN statistics.

use anyhow::bail;
use scdd_cli::{CommandOutcome, Global, Inspect};

use super::data::{check_classes, check_fit, training_images};
use super::progress;
use scdd_data::place::printable;
use scdd_distill::inspect::{check, inspect, table, write};
use scdd_distill::teacher::Bundle;

pub fn run(command: &Inspect, global: &Global) -> anyhow::Result<CommandOutcome> {
    let bundles =
        command.bundles.iter().map(|dir| Bundle::load(dir)).collect::<Result<Vec<_>, _>>()?;
    for (place, bundle) in bundles.iter().enumerate() {
        if let Some(first) = bundles[..place].iter().find(|first| first.hash == bundle.hash) {
            bail!(
                "{} is the bundle that {} is: name it once",
                bundle.dir.display(),
                first.dir.display()
            );
        }
    }
    check(&command.out)?;
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
        let mut found = inspect(bundle, data.as_ref(), command.images, command.seed)?;
        if bundles.iter().filter(|other| other.name() == bundle.name()).count() > 1 {
            found.bundle = printable(&bundle.dir.display().to_string());
        }
        teachers.push(found);
        piece.at(teachers.len() as u64, bundle.name());
    }
    piece.finish("");
    let page = write(&teachers, &command.out)?;
    if global.json {
        println!("{}", serde_json::to_string_pretty(&teachers)?);
    } else {
        println!("{}", table(&teachers));
        if let Some(set) = &data {
            let count = set.len().min(command.images as usize);
            println!(
                "{}: {count} training images, drawn with seed {}, equally many of each class as far as it has them",
                set.name, command.seed
            );
        }
        println!("page: {}", page.display());
    }
    Ok(CommandOutcome::Done)
}
