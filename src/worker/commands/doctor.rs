//! `scdd doctor`: reports the libraries, devices and data sets found on this machine.

use scdd_cli::doctor::{Finding, print};
use scdd_cli::{CommandOutcome, Global};

use super::open_runtime;
use crate::why_no_cuda;
use scdd_data::{Source, registry};
use scdd_distill::teacher::Provider;

pub fn run(global: &Global) -> anyhow::Result<CommandOutcome> {
    print(global, &look(global))
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
        Finding::new(
            "ONNX Runtime",
            runtime.as_ref().map(|r| format!("{} ({})", r.path().display(), r.build_info())),
        ),
    ];
    if let Ok(runtime) = &runtime {
        findings.push(Finding::new(
            "ONNX Runtime, CUDA",
            runtime.has(Provider::Cuda).map(|()| "available"),
        ));
    }
    for name in registry::names() {
        let source =
            Source::find(name).map(|source| format!("{name} in {}", source.directory().display()));
        findings
            .push(Finding::new("data set", source.map_err(|_| format!("{name} was not found"))));
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
        0 => Err(why_no_cuda()),
        count => Ok(format!("{count} device{}", if count == 1 { "" } else { "s" })),
    }
}
