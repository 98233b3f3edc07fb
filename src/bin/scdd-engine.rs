//! `scdd-engine` does the work; users start it as `scdd`. Everything is in the library's [`scdd::cli`].

fn main() -> std::process::ExitCode {
    die_of_broken_pipes();
    keep_freed_memory();
    scdd::cli::main()
}

/// Rust ignores SIGPIPE and panics in `println!` once the reader (`| head`) has gone; other programs end quietly, and so does this one.
#[cfg(unix)]
fn die_of_broken_pipes() {
    // SAFETY: restores the system's own handling of one signal, and no other thread exists yet.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

#[cfg(not(unix))]
fn die_of_broken_pipes() {}

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
