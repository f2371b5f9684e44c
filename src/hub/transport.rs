//! The three ways in which a browser waits.

/// How a browser waits.
#[derive(Debug, Clone)]
pub enum Transport {
    /// A WebSocket.
    WebSocket {
        /// Whether the browser acknowledges the token with the message `ack` (subprotocol `qrlogin.ack`).
        acknowledges: bool,
    },
    /// A stream of events.
    EventStream {
        /// Version that was delivered on an earlier connection (`Last-Event-ID`), or 0.
        delivered_version: u32,
    },
    /// A long poll, which ends with one response.
    Poll {
        /// Version of the session that the browser knows.
        version: u32,
        /// Time after which the poll is answered without a change, in seconds.
        wait_seconds: u32,
        /// Header fields of the response that do not depend on its body.
        fields: Vec<u8>,
    },
}

/// The kind of a [`Transport`], without its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TransportKind {
    WebSocket,
    EventStream,
    Poll,
}
