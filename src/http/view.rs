//! From what the login says to what goes over the wire.

use super::problem::ApiError;
use crate::hub::wire_frame;
use crate::login::Told;
use crate::protocol::{CodeView, SessionView};
use crate::qr::Picture;
use crate::session::{Code, Session, Timestamp};

/// The whole of a session, for a browser that asks.
pub(super) fn session(told: Told, session: &Session, now: Timestamp, code: Option<CodeView>) -> SessionView {
    let has_version = matches!(told, Told::Pending { .. } | Told::Scanned { .. });
    let has_expiry = matches!(told, Told::Pending { .. } | Told::Confirmed { .. });
    let left_seconds = if code.is_some() { session.expires_at.seconds_since(now) } else { 0 };
    SessionView {
        frame: wire_frame(told),
        version: (!has_version).then_some(session.version),
        expires_in: (!has_expiry).then_some(left_seconds),
        code,
    }
}

/// A code, its URL and its picture.
pub(super) fn code(public_base: &str, code: &Code) -> Result<CodeView, ApiError> {
    let qr_url = format!("{public_base}/q/{code}");
    let picture = Picture::of(&qr_url)
        .map_err(|_| ApiError::InvalidRequest("public_url is too long for a QR code".to_owned()))?;
    Ok(CodeView { code: code.to_string(), qr_image: picture.data_url(), qr_url })
}
