//! Images that a command measures on, named on the command line.

use std::path::Path;

use anyhow::ensure;

use crate::data::{Dataset, Fit, Source, Split};
use crate::teacher::Bundle;

/// The training images of the data set that lies at the path `data` or else is called so, fitted to `bundle`. Remarks are told.
pub fn training_images(data: &str, bundle: &Bundle) -> anyhow::Result<Dataset> {
    let place = Path::new(data);
    let source = if place.exists() { Source::open(place)? } else { Source::find(data)? };
    let mut remarks = Vec::new();
    let set = source.load(Split::Train, Fit::To(bundle.image_shape()), &mut remarks)?;
    for remark in remarks {
        eprintln!("note: {remark}");
    }
    Ok(set)
}

/// The data's images are the bundle's, and the bundle knows their classes if it has a classifier.
pub fn check_fit(bundle: &Bundle, set: &Dataset) -> anyhow::Result<()> {
    let (found, wanted) = ([set.channels, set.height, set.width], bundle.image_shape());
    ensure!(
        found == wanted,
        "the images of {} are {found:?} (channels, height, width), `{}` takes {wanted:?}",
        set.name,
        bundle.name()
    );
    let (classes, known) = (set.classes.len(), bundle.manifest.classes.len());
    let fits = classes <= known || bundle.manifest.is_features_only();
    ensure!(fits, "{} has {classes} classes, `{}` knows {known}", set.name, bundle.name());
    Ok(())
}
