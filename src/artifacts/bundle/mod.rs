//! Pretrained networks on disk: the bundle, checked as far as possible without running it.

pub mod classes;
mod error;
pub mod files;
mod kind;
pub mod manifest;
mod measured;
mod recognised;

pub use error::BundleError;
pub use files::{Bundle, ClassStatistics, Golden, InputGradient, LayerStatistics, PatchStatistics};
pub use manifest::{Manifest, Role, StatisticsKind};
pub use measured::{Measured, percent};
pub use recognised::{Recognised, RecognisedClass};
