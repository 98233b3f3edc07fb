//! The most memory that this process held during a piece of work, as far as the system tells.

use std::fs;

/// Gives memory that is free back to the system, so that it does not count.
pub fn give_back() {
    // SAFETY: it takes no pointers and may be called at any time.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Forgets the peak so far, so that [`peak`] tells of what comes after.
pub fn reset_peak() {
    // Where the system has no such file or refuses, the peak is that of the whole process, which is
    // still an upper bound.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// Peak of resident memory in bytes since [`reset_peak`], the accelerator's own memory not
/// included; `None` where the system does not say.
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
        // Tests beside this one hold memory too, and a system that refuses the reset still knows
        // the old peak.
        let after = peak().unwrap();
        let refused = fs::write("/proc/self/clear_refs", "5").is_err();
        assert!(after + (256 << 20) < with || refused, "{after} {with}");
    }
}
