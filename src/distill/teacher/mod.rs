//! Pretrained networks: the bundle on disk, its network in libtorch, its verification, and ONNX
//! Runtime sessions on it.

mod bound;
mod calibrate;
mod error;
mod measure;
mod network;
mod runtime;
mod verify;

pub use bound::{BoundSession, ImageMemory};
pub use calibrate::{Calibrator, Detail};
pub use error::{NetworkError, RuntimeError};
pub use measure::{measure, recognise};
pub use network::Network;
pub use runtime::{Provider, Runtime, Session, SessionOptions};
pub use scdd_artifacts::bundle::{
    Bundle, BundleError, ClassStatistics, Golden, InputGradient, LayerStatistics, Manifest,
    Measured, PatchStatistics, Recognised, RecognisedClass, Role, StatisticsKind, classes, files,
    manifest, percent,
};
pub use verify::{Check, Verification, verify, verify_plan};
