//! What rows of real images are called, where those of distilled ones have the name of their
//! method.

/// Random images of each class.
pub const RANDOM_REAL: &str = "random_real";
/// The images that lie nearest to their class's mean.
pub const NEAREST_MEAN: &str = "nearest_mean";
/// Crops that a teacher recognises.
pub const RDED_CROPS: &str = "rded_crops";
/// The whole training set.
pub const WHOLE_REAL: &str = "whole_real";
/// No method may be called so.
pub(super) const ALL: [&str; 4] = [RANDOM_REAL, NEAREST_MEAN, RDED_CROPS, WHOLE_REAL];
