//! `scdd doctor`: what the program found on this machine.

use scdd_core::cli::{Global, Outcome};
use serde::Serialize;

use super::open_runtime;
use crate::data::{Source, registry};
use crate::teacher::Provider;

#[derive(Serialize)]
struct Finding {
    what: &'static str,
    found: bool,
    detail: String,
}

impl Finding {
    fn new<T: ToString, E: ToString>(what: &'static str, result: Result<T, E>) -> Self {
        match result {
            Ok(detail) => Self { what, found: true, detail: detail.to_string() },
            Err(reason) => Self { what, found: false, detail: reason.to_string() },
        }
    }
}

/// Without these nothing can be distilled; CUDA and further data sets are optional.
const NEEDED: [&str; 2] = ["libtorch", "ONNX Runtime"];

pub fn run(global: &Global) -> anyhow::Result<Outcome> {
    let findings = look(global);
    if global.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        println!("scdd {}", env!("CARGO_PKG_VERSION"));
        for finding in &findings {
            println!("{} {:<22} {}", if finding.found { "ok" } else { "--" }, finding.what, finding.detail);
        }
    }
    let missing = findings.iter().any(|f| !f.found && NEEDED.contains(&f.what));
    Ok(if missing { Outcome::CheckFailed } else { Outcome::Done })
}

fn look(global: &Global) -> Vec<Finding> {
    let runtime = open_runtime(global);
    let mut findings = vec![
        Finding::new("processor", Ok::<_, String>(processor())),
        Finding::new(
            "libtorch",
            Ok::<_, String>(format!("{}, {} threads", env!("SCDD_TORCH"), tch::get_num_threads())),
        ),
        Finding::new("libtorch, CUDA", torch_cuda()),
        Finding::new("ONNX Runtime", runtime.as_ref().map(|r| format!("{} ({})", r.path().display(), r.build_info()))),
    ];
    if let Ok(runtime) = &runtime {
        findings.push(Finding::new("ONNX Runtime, CUDA", runtime.has(Provider::Cuda).map(|()| "available")));
    }
    for name in registry::names() {
        let source = Source::find(name).map(|source| format!("{name} in {}", source.directory().display()));
        findings.push(Finding::new("data set", source.map_err(|_| format!("{name} is not here"))));
    }
    findings
}

fn processor() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{cores} cores, {}", vector_extensions())
}

#[cfg(target_arch = "x86_64")]
fn vector_extensions() -> &'static str {
    if std::arch::is_x86_feature_detected!("avx512f") {
        "AVX-512"
    } else if std::arch::is_x86_feature_detected!("avx2") {
        "AVX2"
    } else {
        "neither AVX2 nor AVX-512"
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn vector_extensions() -> &'static str {
    std::env::consts::ARCH
}

fn torch_cuda() -> Result<String, String> {
    match tch::Cuda::device_count() {
        0 if tch::Cuda::is_available() => Err("libtorch has CUDA, but sees no device".into()),
        0 => Err("no CUDA device, no driver, or a libtorch without CUDA".into()),
        count => Ok(format!("{count} device{}", if count == 1 { "" } else { "s" })),
    }
}
