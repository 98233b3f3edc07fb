//! Data sets that are named on the command line for a measurement.

use std::path::Path;

use anyhow::{anyhow, ensure};

use scdd_data::place::printable;
use scdd_data::{Dataset, Fit, Source, Split};
use scdd_distill::teacher::Bundle;
use scdd_distill::teacher::classes::{self, Sides};

/// The remedy for differing class names.
pub const CLASS_REMEDY: &str = "give the data the bundle's names in the bundle's order (directories of classes count in the order of names)";

/// The training images of the data set at the path `data`, or of that name, fitted to `bundle`.
/// Prints remarks.
pub fn training_images(data: &str, bundle: &Bundle) -> anyhow::Result<Dataset> {
    images(data, Split::Train, bundle)
}

/// The test images of the same, which must have the bundle's image size.
pub fn test_images(data: &str, bundle: &Bundle) -> anyhow::Result<Dataset> {
    let set = images(data, Split::Test, bundle)?;
    check_size(bundle, &set)?;
    Ok(set)
}

fn images(data: &str, split: Split, bundle: &Bundle) -> anyhow::Result<Dataset> {
    let place = Path::new(data);
    let source = if place.exists() { Source::open(place)? } else { Source::find(data)? };
    let mut remarks = Vec::new();
    let set = source.load(split, Fit::To(bundle.image_shape()), &mut remarks)?;
    for remark in remarks {
        eprintln!("note: {}", printable(&remark));
    }
    Ok(set)
}

/// Checks that the data's images have the bundle's size, and that the bundle knows their classes if
/// it has a classifier.
pub fn check_fit(bundle: &Bundle, set: &Dataset) -> anyhow::Result<()> {
    check_size(bundle, set)?;
    let (classes, known) = (set.classes.len(), bundle.manifest.classes.len());
    let fits = classes <= known || bundle.manifest.is_features_only();
    ensure!(fits, "{} has {classes} classes, `{}` knows {known}", set.name, bundle.name());
    Ok(())
}

/// Checks that the data's classes are the bundle's, if it has a classifier. Prints a remark if the
/// names don't decide it.
pub fn check_classes(bundle: &Bundle, set: &Dataset) -> anyhow::Result<()> {
    if bundle.manifest.is_features_only() {
        return Ok(());
    }
    let sides = Sides { network: "the bundle", other: &set.name, remedy: CLASS_REMEDY };
    let found = classes::check(&bundle.manifest.classes, &set.classes, &sides);
    if let Some(remark) = found.map_err(|problem| anyhow!("{}: {problem}", bundle.dir.display()))? {
        eprintln!("note: {}: {}", bundle.dir.display(), printable(&remark));
    }
    Ok(())
}

fn check_size(bundle: &Bundle, set: &Dataset) -> anyhow::Result<()> {
    let (found, wanted) = ([set.channels, set.height, set.width], bundle.image_shape());
    ensure!(
        found == wanted,
        "the images of {} are {found:?} (channels, height, width), `{}` takes {wanted:?}",
        set.name,
        bundle.name()
    );
    Ok(())
}
