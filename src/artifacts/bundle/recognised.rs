//! What a teacher sees in a finished set of others. Their class order shows nowhere else.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::measured::{Measured, SIGNIFICANT, deviation, percent};

/// Sets with one image per class leave no second half on which a class order could be tried. There
/// an order must be right for this share of the images, ...
const NEARLY_ALL: f64 = 0.95;
/// ... and the given one for less than this share.
const FEW: f64 = 0.5;
/// The number of classes that a message lists.
const SHOWN: usize = 10;

/// A teacher's answers on all images of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recognised {
    #[serde(flatten)]
    pub measured: Measured,
    /// The number of images for which the best order is right.
    pub best: usize,
    /// Each class of the set, in label order.
    pub classes: Vec<RecognisedClass>,
}

/// A teacher's answers on the images of one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecognisedClass {
    pub images: usize,
    /// The number of images that the teacher puts into the class.
    pub top1: usize,
    /// The class into which it puts most of them.
    pub most: u32,
}

impl Recognised {
    /// Whether another class order fits far better. A weak set, whose images no order explains, is
    /// not misordered.
    ///
    /// Images of one class resemble each other, so a teacher may put all of them into one class by
    /// mistake, and the best order would repeat that. Mistakes put several classes into one,
    /// though, and another order puts each into its own.
    pub fn is_misordered(&self) -> bool {
        let images = self.measured.images as f64;
        if self.classes.iter().all(|class| class.images <= 1) {
            return self.best as f64 >= NEARLY_ALL * images
                && (self.measured.top1 as f64) < FEW * images;
        }
        let seen: BTreeSet<u32> = self.classes.iter().map(|class| class.most).collect();
        self.measured.is_misordered() && seen.len() as f64 >= by_design(self.classes.len() as f64)
    }

    /// Judges the finished set `set` with these `classes` by the answers of `teacher`. Returns a
    /// remark for the user. The order of a set that `is_mapped` by a class map is believed.
    ///
    /// # Errors
    /// When the classes are in another order.
    pub fn judge(
        &self,
        (set, is_mapped): (&str, bool),
        teacher: &str,
        classes: &[String],
    ) -> Result<String, String> {
        let share = self.measured.accuracy();
        let found = format!(
            "`{teacher}` puts {} of the {} images of `{set}` into their class",
            percent(share),
            self.measured.images
        );
        if self.is_misordered() {
            let best = self.best as f64 / self.measured.images.max(1) as f64;
            let (best, told) = (percent(best), self.told(classes));
            let found = format!("{found}, but {best} in another order of classes: {told}");
            return match is_mapped {
                true => Ok(format!("{found}; the class map is believed")),
                false => Err(format!(
                    "{found}; set `finished.{set}.class_map` to a YAML file with a line `its name: class` for each directory or label, which is believed"
                )),
            };
        }
        let chance = 1.0 / classes.len().max(1) as f64;
        let by_chance = share < chance + SIGNIFICANT * deviation(chance, self.measured.images);
        let doubt = if by_chance {
            format!(", not clearly more than by chance ({})", percent(chance))
        } else {
            String::new()
        };
        Ok(format!("{found}{doubt}{}", self.worst(classes)))
    }

    /// Names the class with the fewest right images, if not all images are right.
    fn worst(&self, classes: &[String]) -> String {
        let share = |class: &RecognisedClass| class.top1 as f64 / class.images.max(1) as f64;
        let worst =
            self.classes.iter().zip(classes).min_by(|(a, _), (b, _)| share(a).total_cmp(&share(b)));
        match worst.filter(|_| self.measured.top1 < self.measured.images) {
            Some((class, name)) => {
                format!("; the fewest of `{name}`, {} of {}", class.top1, class.images)
            }
            None => String::new(),
        }
    }

    /// The classes that the best order moves.
    fn told(&self, classes: &[String]) -> String {
        let name = |class: usize| classes.get(class).map_or("", String::as_str);
        let order = self.measured.order.iter().map(|&place| place as usize).enumerate();
        let moved: Vec<String> = order
            .filter(|(class, place)| class != place)
            .map(|(class, place)| format!("its `{}` looks like `{}`", name(class), name(place)))
            .collect();
        let more = moved.len().saturating_sub(SHOWN);
        let shown = moved[..moved.len() - more].join(", ");
        if more == 0 { shown } else { format!("{shown}, and {more} more") }
    }
}

/// The number of distinct classes among `count` answers from which on they are not drawn by chance
/// from `count` classes: four standard deviations above chance, or half way from chance to all.
fn by_design(count: f64) -> f64 {
    let (one, two) = ((1.0 - 1.0 / count).powf(count), (1.0 - 2.0 / count).powf(count));
    let mean = count * (1.0 - one);
    let variance = count * (count - 1.0) * two + count * one - (count * one).powi(2);
    (mean + 4.0 * variance.max(0.0).sqrt()).min((mean + count) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against 400,000 draws by NumPy: means 6.513 and 63.392, deviations 0.996 and 3.127.
    #[test]
    fn chance_is_known() {
        assert!((by_design(10.0) - (6.513 + 10.0) / 2.0).abs() < 2e-3, "{}", by_design(10.0));
        assert!((by_design(100.0) - (63.392 + 4.0 * 3.127)).abs() < 0.05, "{}", by_design(100.0));
    }
}
