//! The `scdd` program; everything is in the library's [`scdd::cli`].

fn main() -> std::process::ExitCode {
    scdd::cli::main()
}
