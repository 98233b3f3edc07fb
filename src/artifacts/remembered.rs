//! What was found out about files once, for later runs of the program. Everything here can be found
//! out anew, so nothing fails for want of it.
//!
//! It lies in the directory that the environment variable `SCDD_CACHE` names, else in `scdd` of the
//! user's cache directory (`XDG_CACHE_HOME`, by default `~/.cache`).

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::atomic;

/// What is remembered under `name`.
pub fn read<T: DeserializeOwned>(name: &str) -> Option<T> {
    serde_json::from_slice(&fs::read(file(name)?).ok()?).ok()
}

/// Remembers `what` under `name`, in place of what was there.
pub fn write(name: &str, what: &impl Serialize) {
    let Some(file) = file(name) else { return };
    let written = fs::create_dir_all(atomic::parent(&file))
        .and_then(|()| atomic::write(&file, &serde_json::to_vec(what)?));
    if let Err(error) = written {
        tracing::debug!("{} can't be written: {error}", file.display());
    }
}

/// Forgets what is remembered under `name`.
pub fn forget(name: &str) {
    if let Some(file) = file(name) {
        // What is not there is forgotten.
        let _ = fs::remove_file(file);
    }
}

fn file(name: &str) -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let users = || {
        let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
        Some(cache.or_else(|| Some(Path::new(&variable("HOME")?).join(".cache")))?.join("scdd"))
    };
    let directory = variable("SCDD_CACHE").map(PathBuf::from).or_else(users)?;
    Some(directory.join(format!("{name}.json")))
}
