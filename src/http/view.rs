//! From what the login says to what goes over the wire.

use crate::hub::wire_frame;
use crate::login::Told;
use crate::protocol::{CodeView, SessionView};
use crate::session::{Session, Timestamp};

/// The whole of a session, for a browser that asks.
pub(super) fn session(told: Told, session: &Session, now: Timestamp, code: Option<CodeView>) -> SessionView {
    let has_version = matches!(told, Told::Pending { .. } | Told::Scanned { .. });
    let has_expiry = matches!(told, Told::Pending { .. } | Told::Confirmed { .. });
    let left_seconds = if code.is_some() { session.expires_at.seconds_since(now) } else { 0 };
    SessionView {
        frame: wire_frame(told),
        version: (!has_version).then_some(session.version),
        expires_in: (!has_expiry).then_some(left_seconds),
        code: code.as_ref().map(|code| code.code.clone()),
        qr_url: code.as_ref().map(|code| code.qr_url.clone()),
        qr_image: code.map(|code| code.qr_image),
    }
}
