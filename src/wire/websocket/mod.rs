//! WebSocket (RFC 6455), server side: the frames, and the messages of browsers that matter. No input or output.
//!
//! A general library keeps buffers for each connection, for messages that a waiting browser never sends. Between
//! messages, this implementation keeps no state for a connection.

mod codec;
mod handshake;
mod messages;

pub use codec::{Decoder, Incoming, Kind, Opcode, Violation, close_payload, frame};
pub use handshake::{Handshake, HandshakeError, accept_key, offered_id};
pub use messages::{MessageDecoder, Received};

/// A ping without payload (§5.5.2).
pub const PING: &[u8] = &[0x89, 0];
/// The heartbeat that a page's script sees: an empty binary message.
pub const HEARTBEAT: &[u8] = &[0x82, 0];
/// A ping and a heartbeat, for a single write.
pub const PING_AND_HEARTBEAT: &[u8] = &[0x89, 0, 0x82, 0];
