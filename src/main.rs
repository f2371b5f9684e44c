//! The `qrlogin` program. It only calls [`qrlogin::cli::main`].

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    qrlogin::cli::main()
}
