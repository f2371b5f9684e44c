//! Session states as bytes of the wire.

use zeroize::Zeroizing;

use crate::login::{Logins, Told};
use crate::metrics::CloseReason;
use crate::session::{Cancellation, Session, Timestamp};
use crate::token::MintError;
use crate::wire::types::{CodeView, Confirmed, Frame, SessionView, UserView, close_code};
use crate::wire::websocket::{Opcode, close_payload, frame};

/// Upper bound of the bytes of a text frame's head and a whole Close frame with a code and no reason.
const MAX_FRAMING_BYTES: usize = 32;

/// What becomes of a connection after a message has been delivered to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The connection waits on.
    Goes,
    /// The message carries the token. The browser's acknowledgement ends the connection.
    Token,
    /// The connection is closed with this reason.
    Closed(CloseReason),
}

/// A text as WebSocket frames: a text frame, followed by the Close that may end the connection.
pub(super) struct Text {
    frames: Zeroizing<Vec<u8>>,
    text_bytes: usize,
    frame_bytes: usize,
}

impl Text {
    fn of(frame_of_wire: &Frame) -> Self {
        let text = Zeroizing::new(serde_json::to_vec(frame_of_wire).unwrap_or_default());
        // Reserve all of the capacity: growing the buffer would leave a copy of the token in freed memory.
        let mut frames = Zeroizing::new(Vec::with_capacity(text.len() + MAX_FRAMING_BYTES));
        frame(&mut frames, Opcode::Text, &text);
        let frame_bytes = frames.len();
        frame(&mut frames, Opcode::Close, &close_payload(close_code::DONE, ""));
        Self { frames, text_bytes: text.len(), frame_bytes }
    }

    /// Returns the text as JSON, without a frame.
    pub(super) fn json(&self) -> &[u8] {
        &self.frames[self.frame_bytes - self.text_bytes..self.frame_bytes]
    }

    /// Returns the text frame without the Close.
    pub(super) fn frame(&self) -> &[u8] {
        &self.frames[..self.frame_bytes]
    }

    /// Returns the text frame and the Close, for a single write.
    pub(super) fn frame_and_close(&self) -> &[u8] {
        &self.frames
    }
}

/// A session's state, ready to be written. It is made before a lock is taken because minting a token is slow. It has no
/// `Debug` because it may hold a token.
pub(super) struct Message {
    /// Version of the session. The message is not delivered after this version or a later one.
    pub(super) version: u32,
    /// Status of the session, for the log.
    pub(super) status: &'static str,
    /// What becomes of the connection.
    pub(super) ending: Ending,
    /// The frame.
    pub(super) text: Text,
    /// The whole view of the session as JSON, if a long poll is among the recipients.
    pub(super) view: Option<Zeroizing<Vec<u8>>>,
}

impl Message {
    /// Returns the session's state as of `as_of`, with the whole view if `is_asked_for`. Fails if the token cannot be
    /// minted.
    pub(super) fn of(
        logins: &Logins,
        session: &Session,
        as_of: Timestamp,
        is_asked_for: bool,
    ) -> Result<Self, MintError> {
        let told = logins.tell(session, as_of)?;
        let asked_by = is_asked_for.then_some((logins, session, as_of));
        Ok(Self::new(told, session.version, asked_by))
    }

    /// Returns the message that the session has expired.
    pub(super) fn expired() -> Self {
        Self::new(Told::Expired, u32::MAX, None)
    }

    /// Returns the message that the session has expired, with the whole view.
    pub(super) fn expired_view(logins: &Logins, session: &Session, as_of: Timestamp) -> Self {
        Self::new(Told::Expired, u32::MAX, Some((logins, session, as_of)))
    }

    /// Returns the message for a state. `asked_by` holds what the whole view is made of, if it is wanted.
    pub(super) fn new(told: Told, version: u32, asked_by: Option<(&Logins, &Session, Timestamp)>) -> Self {
        let (status, ending) = match &told {
            Told::Pending { .. } => ("pending", Ending::Goes),
            Told::Scanned { .. } => ("scanned", Ending::Goes),
            Told::Confirmed { .. } => ("confirmed", Ending::Token),
            Told::Claimed => ("confirmed", Ending::Closed(CloseReason::Decided)),
            Told::Rejected => ("rejected", Ending::Closed(CloseReason::Decided)),
            Told::Cancelled(_) => ("cancelled", Ending::Closed(CloseReason::Cancelled)),
            Told::Expired => ("expired", Ending::Closed(CloseReason::Expired)),
        };
        let (text, view) = match asked_by {
            Some((logins, session, as_of)) => {
                let view = wire_view(told, logins, session, as_of);
                (Text::of(&view.frame), Some(Zeroizing::new(serde_json::to_vec(&view).unwrap_or_default())))
            }
            None => (Text::of(&wire_frame(told)), None),
        };
        Self { version, status, ending, text, view }
    }
}

/// Returns the frame that carries the browser's next code.
pub(super) fn rotated(code: CodeView) -> Text {
    Text::of(&Frame::Rotated(code))
}

/// Returns the whole view of a session: the frame, and what status and long polls add to it.
#[must_use]
pub fn wire_view(told: Told, logins: &Logins, session: &Session, as_of: Timestamp) -> SessionView {
    let has_version = matches!(told, Told::Pending { .. } | Told::Scanned { .. });
    let has_expiry = matches!(told, Told::Pending { .. } | Told::Confirmed { .. });
    // `shown` fails if `public_url` is too long for a QR code. No session can be created then.
    let code = if has_version { logins.codes.shown(session, as_of).ok() } else { None };
    let left_seconds = if has_version { session.expires_at.seconds_since(as_of) } else { 0 };
    SessionView {
        frame: wire_frame(told),
        version: (!has_version).then_some(session.version),
        expires_in: (!has_expiry).then_some(left_seconds),
        code: code.as_ref().map(|code| code.code.clone()),
        qr_url: code.as_ref().map(|code| code.qr_url.clone()),
        qr_image: code.map(|code| code.qr_image),
        heartbeat_seconds: has_version.then_some(logins.policy.heartbeat_seconds),
    }
}

/// Returns the frame for this state.
#[must_use]
pub fn wire_frame(told: Told) -> Frame {
    match told {
        Told::Pending { version, expires_in_seconds } => Frame::Pending { version, expires_in: expires_in_seconds },
        Told::Scanned { version, user, number } => Frame::Scanned { version, user: UserView::of(user), number },
        Told::Confirmed { web_token, expires_in_seconds, user } => Frame::Confirmed(Confirmed::Token {
            web_token,
            token_type: "Bearer",
            expires_in: expires_in_seconds,
            user: UserView::of(user),
        }),
        Told::Claimed => Frame::Confirmed(Confirmed::Claimed { claimed: true }),
        Told::Rejected => Frame::Rejected { message: "Login rejected by user" },
        Told::Expired => Frame::Expired { message: "QR code expired" },
        Told::Cancelled(Cancellation::Browser) => Frame::Cancelled { reason: None },
        Told::Cancelled(Cancellation::Overload) => Frame::Cancelled { reason: Some("overload") },
    }
}
