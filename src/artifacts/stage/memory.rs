//! The peak of this process's memory, if the system reports it.

use std::fs;

/// Returns free memory to the system, so that it does not count as resident.
pub fn give_back() {
    // SAFETY: the function takes no pointers and may be called at any time.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Resets the peak for [`peak`].
pub fn reset_peak() {
    // If the system has no such file or refuses, the peak is the whole process's, which is still an
    // upper bound.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// Peak of resident memory in bytes since [`reset_peak`], without the accelerator's own memory;
/// `None` if the system does not report it.
pub fn peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_large_buffer_is_seen() {
        let before = peak().unwrap();
        let buffer = vec![1u8; 512 << 20];
        let with = peak().unwrap();
        assert!(std::hint::black_box(&buffer)[77] == 1 && with >= 512 << 20 && with >= before);
        drop(buffer);
        give_back();
        reset_peak();
        // Tests that run at the same time hold memory too, and a system that refuses the reset
        // keeps the old peak.
        let after = peak().unwrap();
        let refused = fs::write("/proc/self/clear_refs", "5").is_err();
        assert!(after + (256 << 20) < with || refused, "{after} {with}");
    }
}
