//! Measures a teacher's accuracy on real test images and compares it with its manifest. Soft labels
//! hide a wrong class order or wrong preprocessing, so nothing else would reveal them.

use serde::{Deserialize, Serialize};

use super::Manifest;

/// A difference is significant from this many standard deviations on.
pub(super) const SIGNIFICANT: f64 = 4.0;
/// The tolerated loss of accuracy: another decoder or resizing method can cost so much.
const TOLERATED: f64 = 0.05;
/// The number of images used of larger test sets, with at least [`OF_CLASS`] of each class.
const IMAGES: usize = 2_000;
const OF_CLASS: usize = 2;
/// The number of classes that a message lists.
const SHOWN: usize = 4;

/// A teacher's accuracy on images with the data set's labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    pub images: usize,
    /// The number of images whose class has the largest logit.
    pub top1: usize,
    /// The class order that fits the outputs best: for each class of the data, the teacher's class.
    pub order: Vec<u32>,
    /// Images that the best order gets right and the given order gets wrong. The order is chosen on
    /// one half of the images and applied to the other.
    pub gained: usize,
    /// Images that the given order gets right and the best order gets wrong.
    pub lost: usize,
}

impl Measured {
    /// The number of images to measure, at most, of a test set of `images` in `classes` classes.
    pub fn images_of(images: usize, classes: usize) -> usize {
        images.min(IMAGES.max(OF_CLASS * classes))
    }

    /// Top-1 accuracy, 0..=1.
    pub fn accuracy(&self) -> f64 {
        self.top1 as f64 / self.images.max(1) as f64
    }

    /// Whether another class order is right for significantly more images.
    pub fn is_misordered(&self) -> bool {
        let (gained, lost) = (self.gained as f64, self.lost as f64);
        gained - lost > SIGNIFICANT * (gained + lost).sqrt()
    }

    /// Compares the measured accuracy with the teacher's `manifest`, on the data set called `data`
    /// with these `classes`. Returns a remark for the user.
    ///
    /// # Errors
    /// When the classes are in another order, or accuracy is less than half as far above chance as
    /// recorded in the manifest.
    pub fn judge(
        &self,
        manifest: &Manifest,
        data: &str,
        classes: &[String],
    ) -> Result<Option<String>, String> {
        let found = format!(
            "is right for {} of {} test images of {data}",
            percent(self.accuracy()),
            self.images
        );
        let recorded = manifest.accuracy.as_ref();
        let says = recorded.map(|a| {
            format!("its manifest says {} of {} ({})", percent(a.top1), a.images, a.split)
        });
        if self.is_misordered() {
            let gain = (self.gained as f64 - self.lost as f64) / self.images.max(1) as f64;
            let better = percent(self.accuracy() + gain);
            let says = says.map_or(String::new(), |says| format!(", {says}"));
            return Err(format!(
                "{found}{says}; in another order of classes it would be for about {better}: {}. Give the data the bundle's order of classes, by a \
                 `data.class_map` (image folder) or a `classes.txt` (IDX files), or correct `classes` in the bundle's export",
                self.told(&manifest.classes, classes)
            ));
        }
        let chance = 1.0 / classes.len().max(1) as f64;
        let Some((recorded, says)) = recorded.zip(says) else {
            let by_chance = self.is_below(chance, SIGNIFICANT * deviation(chance, self.images));
            return Ok(by_chance.then(|| {
                format!(
                    "{found}, not clearly more than by chance ({}): its labels may tell students little",
                    percent(chance)
                )
            }));
        };
        let half = chance + (recorded.top1 - chance) / 2.0;
        if recorded.top1 > chance
            && self.is_below(half, -SIGNIFICANT * deviation(half, self.images))
        {
            return Err(format!(
                "{found}, {says}: the likeliest cause is other preprocessing than in training (`preprocessing` in its manifest: mean, std, size, order of \
                 channels), or that the images are of another data set than it was trained for"
            ));
        }
        let pooled = (self.top1 as f64 + recorded.top1 * recorded.images as f64)
            / (self.images + recorded.images).max(1) as f64;
        let noise = deviation(pooled, self.images).hypot(deviation(pooled, recorded.images));
        let is_lower = self.is_below(recorded.top1 - TOLERATED, 0.0)
            && self.is_below(recorded.top1, -SIGNIFICANT * noise);
        Ok(is_lower.then(|| {
            format!(
                "{found}, {says}: its preprocessing or the data may differ from those at its export"
            )
        }))
    }

    fn is_below(&self, level: f64, slack: f64) -> bool {
        self.accuracy() < level + slack
    }

    /// Describes classes in another order: ``images of the data's class 0 (`ant`) are the bundle's
    /// class 3 (`dog`)``.
    fn told(&self, own: &[String], data: &[String]) -> String {
        let name = |names: &[String], index: usize| names.get(index).cloned().unwrap_or_default();
        let moved: Vec<(usize, usize)> = self
            .order
            .iter()
            .map(|&place| place as usize)
            .enumerate()
            .filter(|(class, place)| class != place)
            .collect();
        let tell = |&(class, place): &(usize, usize)| {
            format!(
                "images of the data's class {class} (`{}`) are the bundle's class {place} (`{}`)",
                name(data, class),
                name(own, place)
            )
        };
        let shown: Vec<String> = moved.iter().take(SHOWN).map(tell).collect();
        let more = moved.len().saturating_sub(SHOWN);
        if more == 0 { shown.join(", ") } else { format!("{}, and {more} more", shown.join(", ")) }
    }
}

/// The standard deviation of a proportion with mean `share` among `count` samples.
pub(super) fn deviation(share: f64, count: usize) -> f64 {
    (share * (1.0 - share) / count.max(1) as f64).max(0.0).sqrt()
}

/// Formats a share as `91.2 %`.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::manifest::RecordedAccuracy;

    fn manifest(top1: Option<f64>) -> Manifest {
        let path = crate::in_repository("onnx/fashion-mnist/resnet18-w16-supervised/manifest.yaml");
        let manifest: Manifest =
            serde_yaml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        Manifest {
            accuracy: top1.map(|top1| RecordedAccuracy {
                top1,
                split: "test".into(),
                images: 10_000,
            }),
            ..manifest
        }
    }

    fn judged(top1: usize, images: usize, recorded: Option<f64>) -> Result<Option<String>, String> {
        let manifest = manifest(recorded);
        let found = Measured { images, top1, order: (0..10).collect(), gained: 0, lost: 0 };
        found.judge(&manifest, "toy", &manifest.classes)
    }

    #[test]
    fn accuracy_is_compared_with_the_manifest() {
        assert_eq!(judged(1_820, 2_000, Some(0.915)), Ok(None));
        // Chance alone explains this difference.
        assert_eq!(judged(16, 20, Some(0.915)), Ok(None));
        let lower = judged(1_500, 2_000, Some(0.915)).unwrap().unwrap();
        assert!(
            lower.contains(
                "75.0 % of 2000 test images of toy, its manifest says 91.5 % of 10000 (test)"
            ),
            "{lower}"
        );
        let far = judged(600, 2_000, Some(0.915)).unwrap_err();
        assert!(
            far.contains("30.0 %") && far.contains("91.5 %") && far.contains("preprocessing"),
            "{far}"
        );
        judged(1, 20, Some(0.915)).unwrap_err();
    }

    #[test]
    fn of_large_sets_a_part_is_looked_at() {
        let looked_at =
            [(50, 10), (50_000, 1_000), (50_000, 5_000)].map(|(n, k)| Measured::images_of(n, k));
        assert_eq!(looked_at, [50, 2_000, 10_000]);
    }

    #[test]
    fn without_a_recorded_accuracy_chance_is_the_measure() {
        assert_eq!(judged(600, 2_000, None), Ok(None));
        let chance = judged(205, 2_000, None).unwrap().unwrap();
        assert!(
            chance.contains("10.2 % of 2000") && chance.contains("by chance (10.0 %)"),
            "{chance}"
        );
    }

    #[test]
    fn another_order_of_classes_is_named() {
        let manifest = manifest(Some(0.9));
        let mut order: Vec<u32> = (0..10).collect();
        order.swap(2, 7);
        let found = Measured { images: 2_000, top1: 1_440, order, gained: 360, lost: 20 };
        let message = found.judge(&manifest, "toy", &manifest.classes).unwrap_err();
        for part in [
            "72.0 % of 2000",
            "its manifest says 90.0 %",
            "about 89.0 %",
            "the data's class 2 (`Pullover`) are the bundle's class 7 (`Sneaker`)",
            "class_map",
        ] {
            assert!(message.contains(part), "{message:?} lacks {part:?}");
        }
        // If the gain on one half is noise, the other half loses about as much.
        assert!(!Measured { gained: 30, lost: 20, ..found }.is_misordered());
    }
}
