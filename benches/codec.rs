//! Decoding and encoding of WebSocket frames.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput};
use qrlogin::websocket::{Decoder, Opcode, close_payload, frame};

/// Length of a pushed frame's payload with a token, in bytes.
const PUSHED_BYTES: usize = 700;
/// Length of a long message, in bytes.
const LONG_BYTES: usize = 4096;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Returns a frame as a browser sends it.
fn masked(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame(&mut bytes, opcode, payload);
    let payload_at = bytes.len() - payload.len();
    bytes[1] |= 0x80;
    for (byte, mask) in bytes[payload_at..].iter_mut().zip(MASK.iter().cycle()) {
        *byte ^= mask;
    }
    bytes.splice(payload_at..payload_at, MASK);
    bytes
}

/// Decodes all frames in the bytes.
fn decode(bytes: &mut [u8]) {
    let (mut decoder, mut input) = (Decoder::new(64 * 1024), bytes);
    while let Some(incoming) = decoder.decode(&mut input).expect("valid frames") {
        black_box(incoming);
    }
}

pub fn benchmarks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    let short = [masked(Opcode::Text, b"ack"), masked(Opcode::Close, &close_payload(1000, ""))].concat();
    for (name, bytes) in
        [("decode_ack_and_close", short), ("decode_long_text", masked(Opcode::Text, &[b'a'; LONG_BYTES]))]
    {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(|| bytes.clone(), |bytes| decode(bytes), BatchSize::SmallInput);
        });
    }
    group.throughput(Throughput::Bytes(PUSHED_BYTES as u64));
    group.bench_function("encode_text_and_close", |bencher| {
        let mut out = Vec::with_capacity(2 * PUSHED_BYTES);
        bencher.iter(|| {
            out.clear();
            frame(&mut out, Opcode::Text, black_box(&[b'a'; PUSHED_BYTES]));
            frame(&mut out, Opcode::Close, &close_payload(1000, ""));
            black_box(out.len())
        });
    });
    group.finish();
}
