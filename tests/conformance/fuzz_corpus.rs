//! Runs the fuzz targets on the committed corpus. `scripts/fuzz` runs them on inputs that the fuzzer makes.

#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::fs;
use std::path::Path;

use qrlogin_testing::test;

/// Runs a target on each input of its corpus.
fn replay(target: &str, run: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let inputs: Vec<_> = fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!inputs.is_empty());
    for input in inputs {
        // A failed test shows the output, and so the input that made it fail.
        println!("{}", input.display());
        run(&fs::read(input).unwrap());
    }
}

#[test]
fn code_target_passes_on_its_corpus() {
    replay("code", targets::code::run);
}

#[test]
fn codec_target_passes_on_its_corpus() {
    replay("codec", targets::codec::run);
}

#[test]
fn configuration_target_passes_on_its_corpus() {
    replay("configuration", targets::configuration::run);
}

#[test]
fn forwarded_target_passes_on_its_corpus() {
    replay("forwarded", targets::forwarded::run);
}

#[test]
fn oauth_target_passes_on_its_corpus() {
    replay("oauth", targets::oauth::run);
}

#[test]
fn request_head_target_passes_on_its_corpus() {
    replay("request_head", targets::request_head::run);
}
