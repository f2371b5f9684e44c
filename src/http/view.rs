//! From what the login says to what goes over the wire.

use super::problem::ApiError;
use crate::login::Told;
use crate::protocol::{CodeView, Confirmed, Frame, SessionView, UserView};
use crate::qr::Picture;
use crate::session::{Code, Session, Timestamp};

/// The frame that tells a browser this.
pub(super) fn frame(told: Told) -> Frame {
    match told {
        Told::Pending { version, expires_in_seconds } => Frame::Pending { version, expires_in: expires_in_seconds },
        Told::Scanned { version, user } => Frame::Scanned { version, user: UserView::of(user) },
        Told::Confirmed { web_token, expires_in_seconds, user } => Frame::Confirmed(Confirmed::Token {
            web_token,
            token_type: "Bearer",
            expires_in: expires_in_seconds,
            user: UserView::of(user),
        }),
        Told::Claimed => Frame::Confirmed(Confirmed::Claimed { claimed: true }),
        Told::Rejected => Frame::Rejected { message: "Login rejected by user" },
        Told::Expired => Frame::Expired { message: "QR code expired" },
        Told::Cancelled => Frame::Cancelled {},
    }
}

/// The whole of a session, for a browser that asks.
pub(super) fn session(told: Told, session: &Session, now: Timestamp, code: Option<CodeView>) -> SessionView {
    let has_version = matches!(told, Told::Pending { .. } | Told::Scanned { .. });
    let has_expiry = matches!(told, Told::Pending { .. } | Told::Confirmed { .. });
    let left_seconds = if code.is_some() { session.expires_at.seconds_since(now) } else { 0 };
    SessionView {
        frame: frame(told),
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
