//! Random bytes and numbers.

pub use qrlogin::internals::system::random::{below, bytes};
