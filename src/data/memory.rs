//! Checks that a data set fits into memory before it is allocated.

use std::path::Path;

use super::DataError;

/// Refuses to read `count` images of `bytes` each from `path` if the system reports too little free
/// memory.
pub(super) fn check(path: &Path, count: u64, bytes: u64) -> Result<(), DataError> {
    match available() {
        Some(free) if count.saturating_mul(bytes) > free => {
            Err(too_large(path, count, bytes, free))
        }
        _ => Ok(()),
    }
}

fn too_large(path: &Path, count: u64, bytes: u64, free: u64) -> DataError {
    let gigabytes = |bytes: u64| bytes as f64 / 1e9;
    let problem = format!(
        "its {count} images of {bytes} bytes each take {:.1} GB of memory, of which {:.1} GB are free",
        gigabytes(count.saturating_mul(bytes)),
        gigabytes(free)
    );
    DataError::invalid(
        path,
        problem,
        "take fewer classes with a `class_map`, smaller images, or a larger machine",
    )
}

/// Half of the bytes that can be allocated without swapping; no bound where the system does not
/// report them.
pub(super) fn half_of_free() -> u64 {
    available().map_or(u64::MAX, |free| free / 2)
}

/// Bytes that can be allocated without swapping, or `None` if the system does not report them.
fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_named() {
        let message = too_large(Path::new("big"), 1_281_167, 150_528, 20_000_000_000).to_string();
        assert!(
            message.contains("1281167 images of 150528 bytes each take 192.9 GB")
                && message.contains("20.0 GB are free")
        );
        check(Path::new("small"), 10, 3072).unwrap();
        if available().is_some() {
            check(Path::new("big"), u64::MAX, u64::MAX).unwrap_err();
        }
    }
}
