//! Pretrained networks on disk: the bundle, its verification, and ONNX Runtime sessions on it.

mod bundle;
mod error;
pub mod manifest;
mod runtime;
mod verify;

pub use bundle::{Bundle, Golden, LayerStatistics};
pub use error::{BundleError, RuntimeError};
pub use manifest::{Manifest, Role, StatisticsKind};
pub use runtime::{Provider, Runtime, Session, SessionOptions};
pub use verify::{Check, Verification, verify};
