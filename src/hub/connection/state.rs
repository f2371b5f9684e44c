//! The parts of a connection's state: its phase, and what is seldom needed.

use std::sync::Arc;

use crate::hub::deadlines::Tick;
use crate::metrics::Stopwatch;
use crate::session::Session;
use crate::wire::websocket::MessageDecoder;

/// State that most connections need seldom and briefly.
#[derive(Default)]
pub(super) struct RareState {
    /// Change that was announced before the connection was open.
    pub(super) kept_change: Option<(Arc<Session>, Stopwatch)>,
    /// Greatest attachment of the session that was announced before the connection was open.
    pub(super) newest_attachment: u32,
    /// State of the decoder within a frame or message of the browser.
    pub(super) decoder: Option<MessageDecoder>,
    /// Bytes that the system has not accepted yet.
    pub(super) unsent: Vec<u8>,
    /// Number of unsent bytes up to the end of the token, or 0 if no token is among them.
    pub(super) unsent_token_bytes: usize,
    /// Time at which the connection is closed if bytes are still unsent.
    pub(super) write_deadline: Option<Tick>,
    /// Measures the time from a session change until it has been written whole.
    pub(super) pushing: Option<Stopwatch>,
    /// Number of bytes that are still read and discarded after the browser broke the protocol.
    pub(super) linger_bytes: usize,
    /// Number of unread bytes that were received before the token was written. They contain no acknowledgement of it.
    pub(super) early_bytes: usize,
}

/// Whether a token is held back while the acknowledgement of another connection may be on its way. A connection holds
/// it back once at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HoldBack {
    /// The token has not been held back.
    NotYet,
    /// The token is held back until the end of the phase. Then the session is read again.
    Now,
    /// The token has been held back and is delivered from now on.
    Over,
}

/// The phases of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The session's row is being read, and the handshake is not answered yet.
    Opening,
    /// The connection is open and waits for the end of its session.
    Waiting,
    /// The token has been written. The message `ack` is the acknowledgement.
    AwaitingAckMessage,
    /// The token and the server's Close have been written. The browser's Close 1000 is the acknowledgement.
    AwaitingClose,
    /// The acknowledgement is being stored. Then the server closes if `then_close`, and otherwise the connection ends.
    StoringAck { then_close: bool },
    /// The server's Close has been written. The browser's Close is awaited.
    Closing,
    /// The browser broke the protocol and has been sent a Close. Bytes that it still sends are discarded.
    Lingering,
    /// The connection has ended. The record is dropped after this turn.
    Ended,
}
