//! What computes a stage.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The device and libraries that compute a stage. Equal work on another device gives about the same
/// numbers, but other bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComputedOn {
    /// `cpu`, or the GPU's number and name.
    pub device: String,
    /// The arithmetic of convolutions: `float32`, `TF32`, `bfloat16`.
    pub precision: String,
    /// The libraries and their versions.
    pub libraries: String,
}

impl ComputedOn {
    /// Whether a stage that was begun on `self` can go on on `other`.
    pub fn goes_on(&self, other: &Self) -> bool {
        (&self.device, &self.precision) == (&other.device, &other.precision)
    }
}

impl fmt::Display for ComputedOn {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} in {}", self.device, self.precision)
    }
}
