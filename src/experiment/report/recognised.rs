//! What labelling teachers see in finished sets, which proves the order of their classes.

use serde::{Deserialize, Serialize};

use super::text::{aligned, images};
use scdd_artifacts::bundle::RecognisedClass;

/// The images of a finished set that a labelling teacher puts into their class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recognition {
    /// The set's name, as the method of its rows.
    pub method: String,
    /// Images per class.
    pub ipc: u32,
    /// The teacher.
    pub teacher: String,
    /// The number of images.
    pub images: usize,
    /// The number of images whose class has the largest logit.
    pub top1: usize,
    /// Each class, in label order.
    pub classes: Vec<NamedRecognition>,
}

/// The images of one class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NamedRecognition {
    /// The class's name.
    pub class: String,
    #[serde(flatten)]
    pub seen: RecognisedClass,
}

/// Per set and teacher: the set, images per class, the teacher, the number of images, top-1 in
/// percent, and each class with its top-1 in percent, the lowest first.
pub(super) fn cells(found: &Recognition) -> [String; 6] {
    let percent = |top1: usize, images: usize| 100.0 * top1 as f64 / images.max(1) as f64;
    let share = |one: &NamedRecognition| percent(one.seen.top1, one.seen.images);
    let mut classes: Vec<&NamedRecognition> = found.classes.iter().collect();
    classes.sort_by(|a, b| share(a).total_cmp(&share(b)));
    let classes = classes.iter().map(|one| format!("{} {:.0}", one.class, share(one)));
    [
        images(&found.method, None),
        found.ipc.to_string(),
        found.teacher.clone(),
        found.images.to_string(),
        format!("{:.1}", percent(found.top1, found.images)),
        classes.collect::<Vec<_>>().join(", "),
    ]
}

/// The most characters of a list of classes in the terminal.
const WIDTH: usize = 60;

/// The terminal's table; empty without finished sets.
pub(super) fn table(all: &[Recognition]) -> String {
    if all.is_empty() {
        return String::new();
    }
    let headings = ["set", "per class", "teacher", "images", "top-1", "by class, lowest first"];
    let mut lines = vec![headings.map(str::to_string)];
    lines.extend(all.iter().map(cells).map(|mut cells| {
        if cells[5].chars().count() > WIDTH {
            cells[5] = cells[5].chars().take(WIDTH).chain(" …".chars()).collect();
        }
        cells
    }));
    format!(
        "finished sets: images that a labelling teacher puts into their class, in %\n{}",
        aligned(&lines)
    )
}
