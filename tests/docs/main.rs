//! Checks that the documents agree with the code.

mod architecture;
mod conformance;
mod cycles;
mod map;

fn main() -> std::process::ExitCode {
    qrlogin_testing::main()
}
