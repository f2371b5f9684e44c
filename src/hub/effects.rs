//! What a turn of a connection leaves to be done, once the registry's lock is released.

use crate::session::SessionKey;

/// The effects of one turn. A turn fills it, and [`super::Hub::act`] performs all of it: no caller of a turn can drop
/// one.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Effects {
    /// The connection has ended: drop its record.
    pub(super) ends: bool,
    /// The socket may hold more than the turn's share: read on in another turn.
    pub(super) reads_on: bool,
    /// A deadline has come: read the session's row.
    pub(super) asks_store: bool,
    /// A period has begun: push its code.
    pub(super) shows_code_of: Option<(SessionKey, u16)>,
    /// The browser has acknowledged the token of this session: store the receipt.
    pub(super) stores_receipt_of: Option<SessionKey>,
}
