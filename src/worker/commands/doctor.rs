//! `scdd doctor`: reports the libraries, devices and data sets found on this machine.

use scdd_cli::doctor::{Finding, print};
use scdd_cli::{CommandOutcome, Global};

use super::open_runtime;
use scdd_compute::cuda::{self, Card, NoCuda, TORCH};
use scdd_data::{Source, registry};
use scdd_distill::teacher::{Provider, RuntimeError};

pub fn run(global: &Global) -> anyhow::Result<CommandOutcome> {
    print(global, &look(global))
}

fn look(global: &Global) -> Vec<Finding> {
    let runtime = open_runtime(global);
    let mut findings = vec![
        Finding::new("processor", Ok::<_, String>(processor())),
        Finding::new(
            "libtorch",
            Ok::<_, String>(format!("{TORCH}, {} threads", tch::get_num_threads())),
        ),
        Finding::new("NVIDIA driver", nvidia_driver()),
        Finding::new("libtorch, CUDA", cuda::load().map(|_| usable()).map_err(advised)),
        Finding::new(
            "ONNX Runtime",
            runtime.as_ref().map(|r| format!("{} ({})", r.path().display(), r.build_info())),
        ),
    ];
    if let Ok(runtime) = &runtime {
        findings.push(Finding::new(
            "ONNX Runtime, CUDA",
            runtime.has(Provider::Cuda { tf32: true }).map(|()| "available").map_err(|e| match e {
                RuntimeError::NoCuda { what } => what,
                other => other.to_string(),
            }),
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

/// What libtorch has for a GPU.
fn usable() -> String {
    let cudnn = cuda::cudnn_version().map_or("no cuDNN".into(), |v| format!("cuDNN {v}"));
    format!("its library is loaded, and sees the GPU; {cudnn}")
}

/// The driver's version and newest CUDA, and its GPUs with their memory.
fn nvidia_driver() -> Result<String, String> {
    let driver = cuda::driver().map_err(advised)?;
    let (major, minor) = driver.cuda;
    let card = |card: &Card| format!("{} ({} GiB)", card.name, card.memory >> 30);
    match &driver.cards[..] {
        [] => Err(advised(NoCuda::NoCard)),
        cards => {
            let cards: Vec<String> = cards.iter().map(card).collect();
            let version = cuda::driver_version().map_or(String::new(), |v| format!("{v}, "));
            Ok(format!("{version}up to CUDA {major}.{minor}; {}", cards.join(", ")))
        }
    }
}

fn advised(why: NoCuda) -> String {
    format!("{why}: {}", why.remedy())
}
