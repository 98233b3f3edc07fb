//! Pretrained networks on disk: the bundle, its verification, and ONNX Runtime sessions on it.

mod bundle;
mod calibrate;
mod error;
pub mod manifest;
mod network;
mod runtime;
mod verify;

pub use bundle::{Bundle, ClassStatistics, Golden, InputGradient, LayerStatistics, PatchStatistics};
pub use calibrate::{Calibrator, Detail};
pub use error::{BundleError, NetworkError, RuntimeError};
pub use manifest::{Manifest, Role, StatisticsKind};
pub use network::Network;
pub use runtime::{Provider, Runtime, Session, SessionOptions};
pub use verify::{Check, Verification, verify};
