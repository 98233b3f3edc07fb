//! Names of rows of real images; rows of distilled images have the name of their method.

/// Random images of each class.
pub const RANDOM_REAL: &str = "random_real";
/// The images nearest to their class's mean.
pub const NEAREST_MEAN: &str = "nearest_mean";
/// Crops of real images that a teacher scores best.
pub const RDED_CROPS: &str = "rded_crops";
/// The whole training set.
pub const WHOLE_REAL: &str = "whole_real";
/// Whether rows of this method are a baseline of real images. Compared reports may have the
/// experiment's name behind the method's, in brackets.
pub fn is_baseline(method: &str) -> bool {
    ALL.contains(&without_experiment(method))
}

/// Whether rows of this method hold whole real images.
pub fn is_whole_images(method: &str) -> bool {
    is_baseline(method) && without_experiment(method) != RDED_CROPS
}

fn without_experiment(method: &str) -> &str {
    method.split_once(" (").map_or(method, |(method, _)| method)
}

/// Names that no method may have.
pub(super) const ALL: [&str; 4] = [RANDOM_REAL, NEAREST_MEAN, RDED_CROPS, WHOLE_REAL];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn baselines_are_told_from_finished_sets() {
        for (method, kinds) in [
            ("random_real", (true, true)),
            ("whole_real (other)", (true, true)),
            ("rded_crops", (true, false)),
            ("rded_crops (other)", (true, false)),
            ("theirs", (false, false)),
        ] {
            assert_eq!((is_baseline(method), is_whole_images(method)), kinds, "{method}");
        }
    }
}
