//! WebSocket (RFC 6455), server side: the frames, and a socket that speaks them.
//!
//! The one protocol that we write ourselves: a waiting browser must cost next to nothing, and a general library keeps
//! buffers for what a browser that waits never sends.

mod codec;
mod socket;

pub use codec::{Decoder, Incoming, Kind, Opcode, Violation, close_payload, frame};
pub use socket::{Failure, Heard, Socket, accept_key};
