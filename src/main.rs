//! The `scdd` program: parses the command line and, for what needs libtorch, becomes `scdd-engine`. Everything is in the library's [`scdd::cli`].

fn main() -> std::process::ExitCode {
    scdd::cli::main()
}
