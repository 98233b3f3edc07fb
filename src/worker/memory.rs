//! The memory allocator's settings for computing.

/// Keeps freed memory in the process. libtorch allocates the same large buffers at every step. By
/// default glibc returns each to the system, which zeroes it again: with a small student that takes
/// a third of the processor's time. All threads share one arena, because evaluations move between
/// threads.
///
/// # Safety
/// No other thread may exist yet.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub unsafe fn keep_freed() {
    // SAFETY: mallopt only changes the allocator's settings, and the caller guarantees that no
    // other thread uses it.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
        libc::mallopt(libc::M_TOP_PAD, 64 << 20);
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Does nothing: the allocator is not glibc's.
///
/// # Safety
/// As on glibc: no other thread may exist yet.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub unsafe fn keep_freed() {}
