//! Names of rows of real images; rows of distilled images have the name of their method.

/// Random images of each class.
pub const RANDOM_REAL: &str = "random_real";
/// The images nearest to their class's mean.
pub const NEAREST_MEAN: &str = "nearest_mean";
/// Crops of real images that a teacher scores best.
pub const RDED_CROPS: &str = "rded_crops";
/// The whole training set.
pub const WHOLE_REAL: &str = "whole_real";
/// Names that no method may have.
pub(super) const ALL: [&str; 4] = [RANDOM_REAL, NEAREST_MEAN, RDED_CROPS, WHOLE_REAL];
