//! `scdd-worker` does the computing; users start it through `scdd`. All code is in
//! [`scdd_worker::commands`].

fn main() -> std::process::ExitCode {
    // SAFETY: main has just begun and has started no thread.
    unsafe { scdd_worker::memory::keep_freed() };
    scdd_worker::commands::main()
}
