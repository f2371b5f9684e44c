//! What is needed to open a connection.

use std::sync::Arc;

use mio::net::TcpStream;

use super::deadlines::SessionTick;
use super::shared_state::SharedState;
use super::transport::Transport;
use crate::limits::ConnectionPermit;

/// A connection that is ready to be opened.
pub struct NewConnection<S = TcpStream> {
    /// The socket, which nothing else reads or writes any more.
    pub socket: S,
    /// Beginning of the response to the request. Empty if it has been written.
    pub response: Vec<u8>,
    /// Bytes that arrived after the request.
    pub early: Vec<u8>,
    /// How the browser waits: WebSocket, event stream or long poll.
    pub transport: Transport,
    /// Permit that counts the connection in the quota of its client, if connections are limited.
    pub permit: Option<ConnectionPermit>,
}

/// The state with which a connection is opened, as the hub has computed it from the session's row.
pub(super) struct Start {
    pub(super) attachment: u32,
    /// Whether a connection of the session at another node may have been given the token a moment ago.
    pub(super) may_await_ack_elsewhere: bool,
    pub(super) expiry: SessionTick,
    /// Time from the opening to the first heartbeat, in milliseconds.
    pub(super) first_heartbeat_millis: u64,
    pub(super) period: u16,
    pub(super) next_rotation: SessionTick,
    pub(super) shared: Arc<SharedState>,
}
