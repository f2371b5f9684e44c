//! The effects of a turn, performed after the registry's lock is released.

use crate::session::SessionKey;

/// The effects of one turn. The turn sets them, and [`super::Hub::act`] performs all of them. A caller of a turn cannot
/// leave one out.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Effects {
    /// The connection has ended. Its record is dropped.
    pub(super) ends: bool,
    /// The socket may hold more bytes than the turn's share. Another turn reads on.
    pub(super) reads_on: bool,
    /// A deadline has come. The session's row is read.
    pub(super) asks_store: bool,
    /// A rotation period has begun. Its code is sent.
    pub(super) shows_code_of: Option<(SessionKey, u16)>,
    /// The browser has acknowledged the token of this session. The acknowledgement is stored.
    pub(super) stores_receipt_of: Option<SessionKey>,
}
