//! Lists the data sets of `datasets/`, so that a new data set needs only a new file.

use std::path::Path;
use std::{env, fs};

// A failure ends the build, and cargo shows its reason.
fn main() {
    // Cargo sets CARGO_MANIFEST_DIR and OUT_DIR for every build script.
    let folder =
        Path::new(&env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../../datasets");
    println!("cargo:rerun-if-changed={}", folder.display());
    println!("cargo:rerun-if-changed=build.rs");
    let entries = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("cannot list {}: {error}", folder.display()));
    let mut files: Vec<_> = entries
        .filter_map(|entry| entry.ok()?.path().canonicalize().ok())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    let (mut names, mut texts) = (String::new(), String::new());
    for file in &files {
        names += &format!("{:?}, ", file.file_stem().unwrap_or_default().to_string_lossy());
        texts += &format!("include_str!({:?}), ", file.to_string_lossy());
    }
    let count = files.len();
    let list = format!(
        "pub static NAMES: [&str; {count}] = [{names}];\nstatic TEXTS: [&str; {count}] = [{texts}];\n"
    );
    // Cargo creates this directory for build scripts.
    let out = env::var("OUT_DIR").expect("cargo sets it");
    fs::write(Path::new(&out).join("datasets.rs"), list)
        .expect("cargo's output directory can be written");
}
