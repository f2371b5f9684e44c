//! The `qrlogin` program; see the library.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    qrlogin::cli::main()
}
