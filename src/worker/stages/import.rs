//! Writes the images of a finished set as an image set, and its labels beside.

use std::path::Path;

use crate::WorkerError;
use scdd_artifacts::files::{FOLDER, LABELS, SOFT_LABELS, write_images};
use scdd_artifacts::labels::LabelStore;
use scdd_artifacts::records::Item;
use scdd_artifacts::stage::WorkDir;
use scdd_experiment::run::Failure;
use scdd_experiment::run::finished::SetLabels;
use scdd_experiment::run::stages::import::ImportTask;

pub fn make(task: &ImportTask, work: &WorkDir) -> Result<(), Failure> {
    let set = task.images.images()?;
    let shape = [set.channels, set.height, set.width];
    let items = items(&set.labels, set.classes.len());
    write_images(work, Path::new(FOLDER), &set.classes, &items, &set.all_pixels()?, shape)?;
    let labels = match task.labels {
        None => return Ok(()),
        Some(SetLabels::Own(labels)) => {
            work.write(SOFT_LABELS, &labels.encode()?)?;
            return Ok(());
        }
        Some(SetLabels::Store(labels)) => labels,
    };
    let store = LabelStore::open(&labels.file)?;
    store.check()?;
    if store.identity() != labels.hash {
        return Err(WorkerError::Changed { path: labels.file.clone() }.into());
    }
    work.write(LABELS, store.bytes())?;
    Ok(())
}

/// The place of each image in its class.
fn items(labels: &[u32], classes: usize) -> Vec<Item> {
    let mut next = vec![0; classes];
    let item = |&class: &u32| {
        let place = &mut next[class as usize];
        *place += 1;
        Item { class, number: *place - 1 }
    };
    labels.iter().map(item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_numbered_within_their_class() {
        let found: Vec<_> =
            items(&[0, 0, 2, 1, 2], 3).iter().map(|item| (item.class, item.number)).collect();
        assert_eq!(found, [(0, 0), (0, 1), (2, 0), (1, 0), (2, 1)]);
    }
}
