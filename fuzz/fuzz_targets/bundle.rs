//! A good bundle with one file replaced: the first byte of the input says which, the rest is the
//! file. It loads or is refused.
//!
//! Sizes and hashes in the manifest are made to agree, or nothing but the hash check would be
//! tried.

#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use scdd::teacher::{Bundle, Network};
use sha2::{Digest, Sha256};
use tch::Device;
use tempfile::TempDir;

const FILES: [&str; 4] = ["manifest.yaml", "bn_stats.safetensors", "golden.safetensors", "model.onnx"];

static SEED: LazyLock<[Vec<u8>; 4]> = LazyLock::new(|| FILES.map(|name| read(&seed().join(name))));
static COPY: LazyLock<TempDir> = LazyLock::new(|| {
    let copy = tempfile::tempdir().expect("a temporary directory");
    FILES.iter().zip(SEED.iter()).for_each(|(name, bytes)| write(&copy.path().join(name), bytes));
    copy
});

fn seed() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/seeds/bundle"))
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).expect("the seed bundle is readable")
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("the temporary directory is writable");
}

/// What the manifest says of a file.
fn entry(bytes: &[u8]) -> String {
    let hash: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{{sha256: {hash}, bytes: {}}}", bytes.len())
}

fuzz_target!(|input: &[u8]| {
    let Some((&which, bytes)) = input.split_first() else { return };
    let which = usize::from(which - b'0'.min(which)) % FILES.len();
    let dir = COPY.path();
    let manifest = String::from_utf8_lossy(&SEED[0]).replace(&entry(&SEED[which]), &entry(bytes));
    write(&dir.join(FILES[0]), manifest.as_bytes());
    write(&dir.join(FILES[which]), bytes);
    if let Ok(bundle) = Bundle::load(dir) {
        let _ = bundle.without_statistics();
        let _ = bundle.objective(0.01, 10.0, Device::Cpu);
    }
    write(&dir.join(FILES[which]), &SEED[which]);
});
