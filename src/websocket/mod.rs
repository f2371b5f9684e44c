//! WebSocket (RFC 6455), server side: the frames, and what is heard of them. No input or output.
//!
//! The one protocol that we write ourselves: a waiting browser must cost next to nothing, and a general library keeps
//! buffers for what a browser that waits never sends.

mod codec;
mod ear;

pub use codec::{Decoder, Incoming, Kind, Opcode, Violation, close_payload, frame};
pub use ear::{Ear, Heard, accept_key};
