//! What happens when the reader of our output (`| head`) has gone.

/// Rust ignores SIGPIPE and panics in `println!`; other programs end quietly, and so does this one.
#[cfg(unix)]
pub fn die_of_broken_pipes() {
    // SAFETY: restores the system's own handling of one signal, and no other thread exists yet.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

#[cfg(not(unix))]
pub fn die_of_broken_pipes() {}
