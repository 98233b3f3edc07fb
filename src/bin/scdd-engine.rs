//! `scdd-engine` does the work; users start it as `scdd`. Everything is in the library's [`scdd::cli`].

fn main() -> std::process::ExitCode {
    keep_freed_memory();
    scdd::cli::main()
}

/// libtorch asks for the same large buffers at every step. By default glibc gives each back to the system and gets it zeroed again: with a small
/// student a third of the processor's time.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn keep_freed_memory() {
    // SAFETY: mallopt only changes the allocator's settings, and no other thread exists yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
        libc::mallopt(libc::M_TOP_PAD, 64 << 20);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn keep_freed_memory() {}
