//! ONNX Runtime: finds its library, and opens sessions on a bundle's graph.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use ndarray::{Array2, Array4, ArrayD, IxDyn};
use ort::LoadDynamicError;
use ort::ep::{self, cuda::ConvAlgorithmSearch};
use ort::session::Session as OrtSession;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::value::TensorRef;

use super::error::RuntimeError;
use scdd_compute::cuda;
use scdd_graph::with_outputs;

/// The device of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    Cpu,
    /// The first GPU, in TensorFloat-32 or in float32.
    Cuda {
        tf32: bool,
    },
}

/// The loaded library. A process has one: the first that is opened.
#[derive(Debug, Clone)]
pub struct Runtime {
    environment: ort::environment::Environment,
    path: PathBuf,
}

static OPENED: OnceLock<Runtime> = OnceLock::new();
static OPENING: Mutex<()> = Mutex::new(());

impl Runtime {
    /// Opens ONNX Runtime from the first of these places that is given or exists: `flag`,
    /// `ORT_DYLIB_PATH`, the checkout's Python environment (`.venv`), the environment that the
    /// program was built with.
    ///
    /// # Errors
    /// When none exists (the message lists the places), or the library can't be loaded.
    pub fn open(flag: Option<&Path>) -> Result<Self, RuntimeError> {
        let _one_at_a_time = OPENING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(runtime) = OPENED.get() {
            return Ok(runtime.clone());
        }
        let path = find_library(flag)?;
        let load = |what: String| RuntimeError::Load { path: path.clone(), what };
        let environment = ort::init_from(&path)
            .map_err(|e| load(why_not_loaded(&e)))?
            .with_name("scdd")
            .with_telemetry(false)
            .build()
            .map_err(|e| load(e.to_string()))?;
        tracing::debug!("loaded {}: {}", path.display(), ort::info());
        let runtime = Self { environment, path };
        Ok(OPENED.get_or_init(|| runtime).clone())
    }

    /// The library's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name of the library's file, which ends with its version.
    pub fn file_name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The library's version and build.
    pub fn build_info(&self) -> &'static str {
        ort::info()
    }

    /// Whether sessions can use `provider`.
    ///
    /// # Errors
    /// With ONNX Runtime's reason if they can't.
    pub fn has(&self, provider: Provider) -> Result<(), RuntimeError> {
        let builder = OrtSession::builder(&self.environment);
        let builder = builder
            .map_err(|e| RuntimeError::Load { path: self.path.clone(), what: e.to_string() })?;
        with_provider(builder, provider).map(|_| ())
    }

    /// A session on the ONNX bytes `model`; `name` is for error messages. `taps` become outputs
    /// after the model's own.
    ///
    /// # Errors
    /// When ONNX Runtime refuses the model, or `provider` is not available.
    pub fn session(
        &self,
        name: &str,
        model: &[u8],
        taps: &[String],
        options: SessionOptions,
    ) -> Result<Session, RuntimeError> {
        let fail = |what: String| RuntimeError::Session { model: name.into(), what };
        let plain = |e: ort::Error<SessionBuilder>| fail(e.to_string());
        let builder = OrtSession::builder(&self.environment)
            .map_err(|e| fail(e.to_string()))?
            .with_optimization_level(options.level())
            .map_err(plain)?
            .with_intra_threads(options.threads)
            .map_err(plain)?
            // Threads that spin while waiting would take the cores from other sessions (of an
            // ensemble) and other programs.
            .with_intra_op_spinning(false)
            .map_err(plain)?;
        let mut builder = with_provider(builder, options.provider)?;
        let bytes = if taps.is_empty() { model.to_vec() } else { with_outputs(model, taps) };
        let session = builder.commit_from_memory(&bytes).map_err(|e| fail(e.to_string()))?;
        Ok(Session { session, name: name.into() })
    }
}

/// The system's reason why the library can't be loaded, and the remedy.
fn why_not_loaded(error: &LoadDynamicError) -> String {
    match error {
        LoadDynamicError::Dlopen { error, .. } => {
            let reason = std::error::Error::source(error)
                .map_or_else(|| error.to_string(), ToString::to_string);
            format!(
                "the system can't load it: {reason}; name ONNX Runtime's library for this system, or run `make setup`"
            )
        }
        LoadDynamicError::BadVersion { version_str, .. } => {
            format!(
                "it is version {version_str}, at least 1.{} is needed: run `make setup`, or name a newer one",
                ort::MINOR_VERSION
            )
        }
        LoadDynamicError::MissingApi { .. } | LoadDynamicError::InvalidVersionString => {
            "it is another library, not ONNX Runtime: name `libonnxruntime.so`, or run `make setup`"
                .into()
        }
    }
}

fn with_provider(
    builder: SessionBuilder,
    provider: Provider,
) -> Result<SessionBuilder, RuntimeError> {
    match provider {
        Provider::Cpu => Ok(builder),
        Provider::Cuda { tf32 } => {
            let no_cuda = |what: String| RuntimeError::NoCuda { what };
            cuda::first_card().map_err(|why| no_cuda(format!("{why}: {}", why.remedy())))?;
            // Its CUDA libraries are those of libtorch, which must be in the process already. Where
            // libtorch has none, the system's own may do.
            let _ = cuda::load();
            let builder = builder
                .with_deterministic_compute(true)
                .map_err(|e| no_cuda(format!("ONNX Runtime says: {e}")))?;
            let cuda = ep::CUDA::default()
                .with_tf32(tf32)
                // Algorithms are chosen by rules, not by timing, which would differ between runs.
                .with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic)
                .build()
                .error_on_failure();
            builder.with_execution_providers([cuda]).map_err(|e| {
                let what = e.to_string();
                let what = what.trim_end_matches(['.', '\n', ' ']);
                no_cuda(format!(
                    "ONNX Runtime says: {what}; `make setup GPU=1` installs the one for CUDA"
                ))
            })
        }
    }
}

/// The settings of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionOptions {
    pub provider: Provider,
    /// Whether ONNX Runtime may optimise the graph. Without it, results are bit-stable and every
    /// value keeps its meaning; with it, runs are fast.
    pub optimize: bool,
    /// Number of threads; 0: all cores of the machine.
    pub threads: usize,
}

impl SessionOptions {
    fn level(self) -> GraphOptimizationLevel {
        if self.optimize { GraphOptimizationLevel::All } else { GraphOptimizationLevel::Disable }
    }
}

/// A network that is ready to run.
#[derive(Debug)]
pub struct Session {
    pub(super) session: OrtSession,
    pub(super) name: String,
}

impl Session {
    fn error(&self, what: impl ToString) -> RuntimeError {
        RuntimeError::Run { model: self.name.clone(), what: what.to_string() }
    }

    /// All outputs for images `[N, C, H, W]`: the model's outputs, then the taps.
    ///
    /// # Errors
    /// When ONNX Runtime fails, or an output is not float32.
    pub fn run(&mut self, images: &Array4<f32>) -> Result<Vec<ArrayD<f32>>, RuntimeError> {
        let name = self.name.clone();
        let error = |what: String| RuntimeError::Run { model: name.clone(), what };
        let input = TensorRef::from_array_view(images).map_err(|e| error(e.to_string()))?;
        let outputs = self.session.run(ort::inputs![input]).map_err(|e| error(e.to_string()))?;
        let read = |i: usize| -> Result<ArrayD<f32>, RuntimeError> {
            let (shape, data) =
                outputs[i].try_extract_tensor::<f32>().map_err(|e| error(e.to_string()))?;
            let dims: Vec<usize> = shape.iter().map(|&d| usize::try_from(d).unwrap_or(0)).collect();
            ArrayD::from_shape_vec(IxDyn(&dims), data.to_vec()).map_err(|e| error(e.to_string()))
        };
        (0..outputs.len()).map(read).collect()
    }

    /// The first output `[N, K]` for images `[N, C, H, W]`.
    ///
    /// # Errors
    /// As [`run`](Self::run), or when the output is not a matrix.
    pub fn logits(&mut self, images: &Array4<f32>) -> Result<Array2<f32>, RuntimeError> {
        let first = self.run(images)?.swap_remove(0);
        first.into_dimensionality().map_err(|e| self.error(e))
    }
}

fn find_library(flag: Option<&Path>) -> Result<PathBuf, RuntimeError> {
    let named =
        flag.map(PathBuf::from).or_else(|| std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from));
    if let Some(path) = named {
        // The loader would resolve relative paths against the program's directory.
        let path = std::path::absolute(&path).unwrap_or(path);
        return if path.is_file() { Ok(path) } else { Err(RuntimeError::NotFound(vec![path])) };
    }
    let places = library_places();
    places.iter().find_map(|place| library_in(place)).ok_or(RuntimeError::NotFound(places))
}

/// Directories that may hold `libonnxruntime.so*`: of the checkout's environment, in the current
/// directory or above, then of the environment that the program was built with.
fn library_places() -> Vec<PathBuf> {
    let built_with = Path::new(env!("SCDD_SITE_PACKAGES"));
    // `lib/python3.x/site-packages`, the same path in every environment.
    let tail: PathBuf =
        built_with.components().rev().take(3).collect::<Vec<_>>().iter().rev().collect();
    let here = std::env::current_dir().unwrap_or_default();
    let checkouts = here.ancestors().map(|dir| dir.join(".venv").join(&tail));
    checkouts
        .filter(|site| site.is_dir())
        .chain([built_with.to_path_buf()])
        .map(|site| site.join("onnxruntime/capi"))
        .collect()
}

fn library_in(dir: &Path) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
        .ok()?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|p| {
            p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("libonnxruntime.so"))
        })
        .collect();
    found.sort();
    found.pop()
}
