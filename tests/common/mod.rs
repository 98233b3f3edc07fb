//! Shared by the integration tests: the program, a small part of the real data, bundles to damage.

#![allow(dead_code, reason = "each test target uses its own part")]

pub mod browser;
pub mod net;
pub mod slurm;

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use scdd::data::{Dataset, Source, Split};
use sha2::{Digest, Sha256};

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn bundle(name: &str) -> PathBuf {
    root().join("onnx/fashion-mnist").join(name)
}

/// A backbone without classifier, as the exporter writes it (`goldens/make_features.py`).
pub fn features_only() -> PathBuf {
    root().join("tests/goldens/features-only")
}

/// What the program remembers of data during tests.
pub const CACHE: (&str, &str) = ("SCDD_CACHE", concat!(env!("CARGO_TARGET_TMPDIR"), "/cache"));

/// The command `scdd` in the repository's root. It sees no GPU, but a driver where there is one.
pub fn scdd() -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("scdd"));
    command.current_dir(root()).timeout(std::time::Duration::from_secs(300));
    command.env(CACHE.0, CACHE.1).env("CUDA_VISIBLE_DEVICES", "");
    command
}

/// A directory for `SCDD_DATA` with the first `train` and `test` images of Fashion-MNIST.
pub fn small_data(train: usize, test: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("fashion-mnist");
    fs::create_dir(&target).unwrap();
    let source =
        Source::find("fashion-mnist").expect("the tests need Fashion-MNIST: run `make data`");
    for (split, prefix, count) in [(Split::Train, "train", train), (Split::Test, "t10k", test)] {
        let set = Dataset::load(&source, split).unwrap();
        let sizes = [count, set.height, set.width].map(|n| (n as u32).to_be_bytes()).concat();
        let images = [
            &[0, 0, 8, 3][..],
            &sizes,
            &set.all_pixels().unwrap()[..count * set.height * set.width],
        ]
        .concat();
        let labels: Vec<u8> = set.labels[..count].iter().map(|&label| label as u8).collect();
        let labels = [&[0, 0, 8, 1][..], &sizes[..4], &labels].concat();
        fs::write(target.join(format!("{prefix}-images-idx3-ubyte")), images).unwrap();
        fs::write(target.join(format!("{prefix}-labels-idx1-ubyte")), labels).unwrap();
    }
    dir
}

/// A copy of a shipped bundle in its own directory.
pub struct Copied {
    pub dir: tempfile::TempDir,
    pub path: PathBuf,
}

pub fn copy_bundle(name: &str) -> Copied {
    copy_of(&bundle(name))
}

/// A copy of the bundle in `source`.
pub fn copy_of(source: &Path) -> Copied {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(source.file_name().unwrap());
    fs::create_dir(&path).unwrap();
    for entry in fs::read_dir(source).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), path.join(entry.file_name())).unwrap();
    }
    Copied { dir, path }
}

impl Copied {
    pub fn read(&self, file: &str) -> Vec<u8> {
        fs::read(self.path.join(file)).unwrap()
    }

    /// Replaces `file` and updates the manifest to match.
    pub fn replace(&self, file: &str, bytes: &[u8]) {
        fs::write(self.path.join(file), bytes).unwrap();
        self.edit_manifest(|manifest| {
            let hash: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
            manifest["files"][file]["sha256"] = hash.into();
            manifest["files"][file]["bytes"] = bytes.len().into();
        });
    }

    pub fn edit_manifest(&self, edit: impl FnOnce(&mut serde_yaml::Value)) {
        let path = self.path.join("manifest.yaml");
        let mut manifest: serde_yaml::Value =
            serde_yaml::from_slice(&fs::read(&path).unwrap()).unwrap();
        edit(&mut manifest);
        fs::write(path, serde_yaml::to_string(&manifest).unwrap()).unwrap();
    }
}

/// An experiment that takes seconds, on `teacher`, with `more` lines of YAML.
pub fn tiny_experiment(dir: &Path, teacher: &Path, more: &str) -> PathBuf {
    let path = dir.join("tiny.yaml");
    let text = format!(
        "name: tiny\ndata: fashion-mnist\nteachers: {}\nstudents: {}\nipc: 2\nseeds: [3]\n\
         recover: {{iterations: 3, batch_size: 8, jitter: 2, flip: true, crop: {{scale: [0.5, 1]}}}}\n\
         relabel: {{epochs: 4, batch_size: 8}}\nvalidate: {{evaluate_every: 2}}\n{more}",
        teacher.display(),
        bundle("resnet18-w16").display()
    );
    fs::write(&path, text).unwrap();
    path
}

/// Every file below `dir` with its bytes, except locks and files with times.
pub fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name == ".locks" || name == ".scdd-lock" {
                continue;
            }
            if path.is_dir() {
                open.push(path);
            } else if name != "timing.json" && name != "report.html" {
                found.push((
                    path.strip_prefix(dir).unwrap().to_path_buf(),
                    fs::read(&path).unwrap(),
                ));
            }
        }
    }
    found.sort();
    found
}

/// Checks that both directories hold the same files.
pub fn assert_same(found: &Path, expected: &Path) {
    let (found, expected) = (contents(found), contents(expected));
    let names =
        |files: &[(PathBuf, Vec<u8>)]| files.iter().map(|f| f.0.clone()).collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected));
    for ((name, a), (_, b)) in found.iter().zip(&expected) {
        assert!(a == b, "{} differs", name.display());
    }
}
