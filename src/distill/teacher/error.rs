//! The errors of a bundle's network.

use std::path::PathBuf;

use super::BundleError;
use scdd_compute::replica::ReplicaError;

/// Why a bundle's network can't be run, verified or calibrated.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error("bundle `{bundle}`: {source}")]
    Replica { bundle: String, source: ReplicaError },
    #[error("bundle `{bundle}`: libtorch: {}", .source.to_string().lines().next().unwrap_or_default())]
    Torch { bundle: String, source: tch::TchError },
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// The errors of ONNX Runtime.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error(
        "ONNX Runtime was not found; looked at: {}. Run `make setup`, or name the library with --onnxruntime or ORT_DYLIB_PATH",
        list(.0)
    )]
    NotFound(Vec<PathBuf>),
    #[error("ONNX Runtime at {}: {what}", path.display())]
    Load { path: PathBuf, what: String },
    #[error("ONNX Runtime could not load `{model}`: {what}")]
    Session { model: String, what: String },
    #[error("ONNX Runtime failed to run `{model}`: {what}")]
    Run { model: String, what: String },
    #[error("a batch of images in memory: {what}")]
    Memory { what: String },
    #[error("CUDA was asked for, but {what}; or set `provider: cpu` (or `fallback: cpu`)")]
    NoCuda { what: String },
}

fn list(paths: &[PathBuf]) -> String {
    if paths.is_empty() {
        return "nowhere".into();
    }
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}
