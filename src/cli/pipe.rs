//! Handles a closed output pipe (`| head`).

/// Rust ignores SIGPIPE, so `println!` panics. Other programs end quietly on SIGPIPE, and this
/// restores that.
#[cfg(unix)]
pub fn die_of_broken_pipes() {
    // SAFETY: restores the system's default handler of one signal, and no other thread exists yet.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

#[cfg(not(unix))]
pub fn die_of_broken_pipes() {}
