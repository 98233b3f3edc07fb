//! Pretrained networks on disk: the bundle, checked in everything that can be checked without running it.

pub mod bundle;
pub mod classes;
mod error;
mod kind;
pub mod manifest;
mod measured;

pub use bundle::{Bundle, ClassStatistics, Golden, InputGradient, LayerStatistics, PatchStatistics};
pub use error::BundleError;
pub use manifest::{Manifest, Role, StatisticsKind};
pub use measured::{Measured, percent};
