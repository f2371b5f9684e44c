//! A turn: one operation on a connection's record, with what it may use and the effects that it leaves to be done.

use mio::net::TcpStream;

use super::deadlines::{Lag, Tick};
use super::registry::Slot;
use super::socket::Socket;
use crate::session::SessionKey;
use crate::system::clock::Clock;

/// The effects of one turn. The turn sets them, and the hub performs all of them. A caller of a turn cannot
/// leave one out.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Effects {
    /// The connection has ended. Its record is dropped.
    pub(super) ends: bool,
    /// The socket may hold more bytes than the turn's share. Another turn reads on.
    pub(super) reads_more: bool,
    /// A deadline has come. The session's row is read.
    pub(super) reads_session: bool,
    /// A rotation period has begun. Its code is sent.
    pub(super) shows_code_of: Option<(SessionKey, u16)>,
    /// The browser has acknowledged the token of this session. The acknowledgement is stored.
    pub(super) stores_ack_of: Option<SessionKey>,
}

/// The other connections of the same session during a turn.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Others {
    /// Registration number of the newest open connection at this node.
    pub(super) newest: Option<u32>,
    /// Greatest attachment of the connections at this node.
    pub(super) attachment: u32,
    /// Whether a newer connection is known to wait at another node.
    pub(super) is_newer_elsewhere: bool,
    /// Whether one of them has been given the token, and its acknowledgement may be on its way.
    pub(super) awaits_ack: bool,
}

/// One turn: what it may use, and the effects that it sets.
pub(super) struct Turn<'a, S: Socket = TcpStream> {
    pub(super) slot: Slot,
    /// The tick from which a new duration is counted.
    pub(super) now: Tick,
    /// The difference of steady time and session time.
    pub(super) lag: Lag,
    pub(super) heartbeat_seconds: u32,
    pub(super) rotate_seconds: u32,
    pub(super) poll: &'a S::Poll,
    pub(super) clock: &'a Clock,
    /// The other connections of the session. Only set in turns that deliver a session's state.
    pub(super) others: Others,
    pub(super) effects: Effects,
}
