//! `scdd-engine` does the work; users start it as `scdd`. Everything is in the library's [`scdd::cli`].

fn main() -> std::process::ExitCode {
    // SAFETY: main has begun, and has started no thread.
    unsafe { scdd::memory::keep_freed() };
    scdd::cli::main()
}
