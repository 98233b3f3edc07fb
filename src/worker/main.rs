//! `scdd-worker` does the work; users start it as `scdd`. Everything is in the library's
//! [`scdd_worker::commands`].

fn main() -> std::process::ExitCode {
    // SAFETY: main has begun, and has started no thread.
    unsafe { scdd_worker::memory::keep_freed() };
    scdd_worker::commands::main()
}
