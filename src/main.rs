//! The `qrlogin` program; see the library.

fn main() -> std::process::ExitCode {
    qrlogin::cli::main()
}
