//! Benchmarks of the code that runs for each message, change and decision. `cargo bench` measures; `cargo test
//! --benches` runs each benchmark once.

mod codec;
mod hub;
mod session;
mod store;

use criterion::{criterion_group, criterion_main};

criterion_group!(benches, codec::benchmarks, session::benchmarks, hub::benchmarks, store::benchmarks);
criterion_main!(benches);
