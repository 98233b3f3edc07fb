//! The allocator's settings for programs that compute.

/// Lets freed memory stay with the process. libtorch asks for the same large buffers at every step;
/// by default glibc gives each back to the system and gets it zeroed again: with a small student a
/// third of the processor's time. All threads share what is freed, as evaluations go from thread to
/// thread.
///
/// # Safety
/// No other thread may exist yet.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub unsafe fn keep_freed() {
    // SAFETY: mallopt only changes the allocator's settings, and by the caller's promise nobody
    // else uses it.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
        libc::mallopt(libc::M_TOP_PAD, 64 << 20);
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Nothing to do where the allocator is another.
///
/// # Safety
/// As elsewhere.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub unsafe fn keep_freed() {}
