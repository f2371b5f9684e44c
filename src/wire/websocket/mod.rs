//! WebSocket (RFC 6455), server side: the frames, and the messages of browsers that matter. No input or output.
//!
//! A general library keeps buffers for each connection, for messages that a waiting browser never sends. Between
//! messages, this implementation keeps no state for a connection.

mod codec;
mod messages;

pub use codec::{Decoder, Incoming, Kind, Opcode, Violation, close_payload, frame};
pub use messages::{Ear, Heard, accept_key};
