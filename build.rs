//! Lets programs find libtorch and ONNX Runtime: an rpath to the Python environment's torch, and
//! its site-packages as a compile-time hint for ONNX Runtime. Every crate that links libtorch uses
//! this script, so that its tests find it too.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=VIRTUAL_ENV");
    println!("cargo:rerun-if-env-changed=PATH");
    // `scdd` without the feature `torch` starts `scdd-worker`, wherever it was built.
    let is_light = std::env::var("CARGO_PKG_NAME").as_deref() == Ok("scdd")
        && std::env::var_os("CARGO_FEATURE_TORCH").is_none();
    if is_light {
        return;
    }
    // The interpreter that torch-sys also asks for libtorch.
    let python = if std::env::var_os("VIRTUAL_ENV").is_some() { "python" } else { "python3" };
    let script = "import sysconfig; print(sysconfig.get_paths()['purelib'])";
    let site = match Command::new(python).args(["-c", script]).output() {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        other => panic!(
            "cannot ask `{python}` where its packages are ({other:?}); run `make setup` first"
        ),
    };
    let torch = format!("{site}/torch/lib");
    if !std::path::Path::new(&torch).is_dir() {
        panic!(
            "`{python}` has no torch at {torch}; run `make setup` and build with `make`, or activate the environment first"
        );
    }
    let version = std::fs::read_to_string(format!("{site}/torch/version.py")).unwrap_or_default();
    let version = version
        .lines()
        .find_map(|l| l.strip_prefix("__version__ = '"))
        .unwrap_or("of unknown version'");
    println!("cargo:rustc-env=SCDD_TORCH={}", version.trim_end_matches('\''));
    println!("cargo:rustc-env=SCDD_SITE_PACKAGES={site}");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{torch}");
}
