//! GPUs: what the program says of drivers that are not there, too old, broken, or that libtorch
//! can't use, and what it loads. A stub stands in for NVIDIA's driver.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{bundle, small_data, tiny_experiment};
use predicates::prelude::*;
use predicates::str::contains;
use tempfile::TempDir;

/// The functions of the CUDA driver API and of NVML that the program asks for. libtorch asks for
/// more.
const STUB: &str = r#"
#include <stddef.h>
#include <string.h>
int cuInit(unsigned flags) { return INIT; }
int cuDriverGetVersion(int *version) { *version = VERSION; return 0; }
int cuDeviceGetCount(int *count) { *count = CARDS; return 0; }
int cuDeviceGet(int *device, int number) { *device = number; return 0; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "Stub 9000", length); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)8 << 30; return 0; }
int cuGetErrorString(int code, const char **text) { *text = "no such luck"; return 0; }
int nvmlInit_v2(void) { return 0; }
int nvmlSystemGetDriverVersion(char *text, unsigned length) { strncpy(text, "580.95.05", length); return 0; }
"#;

/// A directory with a driver that starts with the code `init`, supports this `version` of CUDA
/// (13000 is 13.0) and has `cards` GPUs.
fn driver(init: u32, version: u32, cards: u32) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("stub.c");
    fs::write(&source, STUB).unwrap();
    let defines = [("INIT", init), ("VERSION", version), ("CARDS", cards)];
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(directory.path().join("libcuda.so.1"))
        .args(defines.map(|(name, value)| format!("-D{name}={value}")))
        .arg(&source)
        .status();
    assert!(status.unwrap().success());
    let library = |name: &str| directory.path().join(name);
    fs::copy(library("libcuda.so.1"), library("libnvidia-ml.so.1")).unwrap();
    directory
}

fn doctor(driver: &Path) -> String {
    let mut command = common::scdd();
    let out = command.arg("doctor").env("LD_LIBRARY_PATH", driver).output().unwrap();
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn doctor_tells_driver_library_and_gpu_apart() {
    let torch = scdd::cuda::TORCH;
    let cases = [
        (
            driver(999, 13000, 1),
            "-- NVIDIA driver          the NVIDIA driver does not work: no such luck: see what"
                .to_owned(),
        ),
        (
            driver(100, 13000, 1),
            "-- NVIDIA driver          the NVIDIA driver shows no GPU: see `nvidia-smi`".to_owned(),
        ),
        (
            driver(0, 13000, 0),
            "-- NVIDIA driver          the NVIDIA driver shows no GPU: see `nvidia-smi`".to_owned(),
        ),
        (
            driver(0, 13000, 2),
            "ok NVIDIA driver          580.95.05, up to CUDA 13.0; Stub 9000 (8 GiB), Stub 9000 (8 GiB)\n"
                .to_owned(),
        ),
        (
            driver(0, 9020, 1),
            format!("the NVIDIA driver supports CUDA 9.2, but libtorch {torch} needs "),
        ),
        // The stub lacks what libtorch needs of a driver. Before libtorch can find that out, its
        // CUDA library must have been loaded.
        (
            driver(0, 99990, 1),
            format!(
                "-- libtorch, CUDA         libtorch {torch} can't use the Stub 9000 that the NVIDIA driver shows"
            ),
        ),
    ];
    for (driver, expected) in cases {
        let found = doctor(driver.path());
        assert!(found.contains(&expected), "{expected}\n{found}");
    }
    if !Path::new("/proc/driver/nvidia/version").exists() {
        let found = doctor(Path::new(""));
        let expected =
            "-- NVIDIA driver          there is no NVIDIA driver (no libcuda.so.1): install it";
        assert!(found.contains(expected), "{found}");
    }
}

#[test]
fn a_run_says_why_the_cpu_computes_although_a_driver_is_there() {
    let (data, dir, driver) =
        (small_data(50, 20), tempfile::tempdir().unwrap(), driver(0, 99990, 1));
    let teacher = bundle("resnet18-w16-moco-v2");
    let file = tiny_experiment(dir.path(), &teacher, "baselines: []\n");
    let recover = |device: &str| {
        let mut command = common::scdd();
        command.env("SCDD_DATA", data.path()).env("LD_LIBRARY_PATH", driver.path());
        command.arg("recover").arg(&file).args(["--set", device, "--output"]);
        command.arg(dir.path().join("runs")).assert()
    };
    let why = "can't use the Stub 9000 that the NVIDIA driver shows; see what `nvidia-smi` says";
    recover("device=auto")
        .success()
        .stderr(contains("computing on cpu: libtorch ").and(contains(why)));
    recover("device=cuda")
        .code(2)
        .stderr(contains("CUDA was asked for (`device: cuda`), but libtorch "));
}

/// What a part of a test does that runs in a process of its own.
const PART: &str = "SCDD_TEST_PART";

/// Runs the part `part` of the test `test` in a process of its own, with a stub of a driver.
fn alone(test: &str, part: &str) {
    let stub = driver(0, 99990, 1);
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env(PART, part)
        .env("LD_LIBRARY_PATH", stub.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && told.contains("1 passed"), "{part}: {told}");
}

fn is_loaded(library: &str) -> bool {
    fs::read_to_string("/proc/self/maps").unwrap().contains(library)
}

/// libtorch looks for its CUDA library at the first question about CUDA, and never again.
#[test]
fn libtorch_computes_with_the_library_that_was_loaded_before_the_first_question() {
    const NAME: &str =
        "libtorch_computes_with_the_library_that_was_loaded_before_the_first_question";
    match std::env::var(PART).as_deref() {
        Err(_) => ["in time", "late"].iter().for_each(|part| alone(NAME, part)),
        Ok("in time") => {
            assert!(!is_loaded("libtorch_cuda.so"), "it costs time and memory");
            let refused = scdd::cuda::load().unwrap_err();
            assert!(matches!(refused, scdd::cuda::NoCuda::Refused(_)), "{refused}");
            assert!(is_loaded("libtorch_cuda.so") && tch::utils::has_cudart());
        }
        Ok(_) => {
            assert!(!tch::utils::has_cudart());
            assert_eq!(scdd::cuda::load().unwrap_err(), scdd::cuda::NoCuda::Late);
            assert!(is_loaded("libtorch_cuda.so") && !tch::utils::has_cudart());
        }
    }
}

#[test]
fn the_cuda_library_is_loaded_only_where_a_device_is_wanted() {
    let (data, dir, driver) =
        (small_data(50, 20), tempfile::tempdir().unwrap(), driver(0, 99990, 1));
    let teacher = bundle("resnet18-w16-moco-v2");
    let file = tiny_experiment(dir.path(), &teacher, "baselines: []\n");
    let loads = |goal: &str, settings: &[&str]| {
        let logs = tempfile::tempdir().unwrap();
        let mut command = common::scdd();
        command.env("SCDD_DATA", data.path()).env("LD_LIBRARY_PATH", driver.path());
        // The system's loader writes there what it opens.
        command.env("LD_DEBUG", "files").env("LD_DEBUG_OUTPUT", logs.path().join("log"));
        command.arg(goal).arg(&file).arg("--output").arg(dir.path().join("runs"));
        settings.iter().for_each(|setting| {
            command.args(["--set", setting]);
        });
        command.assert().success();
        let logs: Vec<String> = fs::read_dir(logs.path())
            .unwrap()
            .map(|log| {
                String::from_utf8_lossy(&fs::read(log.unwrap().path()).unwrap()).into_owned()
            })
            .collect();
        assert!(logs.iter().any(|log| log.contains("libtorch_cpu.so")), "nothing was logged");
        logs.iter().any(|log| log.contains("libtorch_cuda.so"))
    };
    let (cpu, labels_on_cpu) = ("device=cpu", "relabel.provider=cpu");
    assert!(!loads("recover", &[cpu]));
    assert!(!loads("relabel", &[cpu, labels_on_cpu]));
    // ONNX Runtime takes the libraries of CUDA from it.
    assert!(loads("relabel", &[cpu, "relabel.provider=auto", "relabel.epochs=2"]));
    assert!(loads("recover", &["device=auto", "seeds=[4]"]));
}
