//! Conformance suites of the traits `Store` and `Bus`: what every implementation must do. Also the corpus of the fuzz targets.

mod bus_conformance;
mod fuzz_corpus;
mod store_conformance;

fn main() -> std::process::ExitCode {
    qrlogin_testing::main()
}
