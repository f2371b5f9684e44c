//! The fuzz targets. Each module has a function `run`, which takes any bytes and panics if a property does not hold.
//!
//! `fuzz_targets/` passes the inputs of the fuzzer to these functions. `tests/conformance/fuzz_corpus.rs` passes the
//! inputs of `corpus/` to them, with the stable compiler.

pub mod code;
pub mod codec;
pub mod configuration;
pub mod forwarded;
pub mod oauth;
pub mod request_head;

/// Maximum number of pieces whose lengths an input begins with.
const MAX_PIECES: usize = 4;

/// Splits an input into the lengths of pieces and the bytes that arrive in them. The first byte is the number of
/// lengths, and each length is one byte.
fn lengths_and_bytes(data: &[u8]) -> (&[u8], &[u8]) {
    let Some((count, rest)) = data.split_first() else { return (&[], &[]) };
    rest.split_at((usize::from(*count) % (MAX_PIECES + 1)).min(rest.len()))
}

/// Returns the bytes in pieces of these lengths. The lengths are repeated until the end of the bytes. Without lengths,
/// there is one piece.
fn pieces<'a>(lengths: &[u8], bytes: &'a [u8]) -> Vec<&'a [u8]> {
    let mut lengths = lengths.iter().map(|length| usize::from(*length).max(1)).cycle();
    let mut rest = bytes;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let (piece, later) = rest.split_at(lengths.next().unwrap_or(rest.len()).min(rest.len()));
        pieces.push(piece);
        rest = later;
    }
    pieces
}
