//! Components against their contracts: conformance suites of the traits `Store` and `Bus`, the layers of the settings,
//! the log, and the corpus of the fuzz targets.

mod bus;
mod fuzz_corpus;
mod log;
mod settings;
mod store;

fn main() -> std::process::ExitCode {
    qrlogin_testing::main()
}
