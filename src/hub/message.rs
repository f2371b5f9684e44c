//! What a browser is told, as the bytes that tell it.

use zeroize::Zeroizing;

use crate::login::{Logins, Told};
use crate::metrics::CloseReason;
use crate::protocol::{CodeView, Confirmed, Frame, SessionView, UserView, close_code};
use crate::session::{Cancellation, Session, Timestamp};
use crate::token::MintError;
use crate::websocket::{Opcode, close_payload, frame};

/// What two frames without a payload of their own take at most, and a Close's code.
const MAX_FRAMING_BYTES: usize = 32;

/// What follows from having been told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Nothing: the browser waits on.
    Goes,
    /// The browser has its token, once it says so.
    Token,
    /// The end, under this reason.
    Closed(CloseReason),
}

/// A text, as the frames of a WebSocket: it, and the Close that may follow.
pub(super) struct Text {
    frames: Zeroizing<Vec<u8>>,
    text_bytes: usize,
    frame_bytes: usize,
}

impl Text {
    fn of(frame_of_wire: &Frame) -> Self {
        let text = Zeroizing::new(serde_json::to_vec(frame_of_wire).unwrap_or_default());
        // As much as it takes: what grows leaves copies behind.
        let mut frames = Zeroizing::new(Vec::with_capacity(text.len() + MAX_FRAMING_BYTES));
        frame(&mut frames, Opcode::Text, &text);
        let frame_bytes = frames.len();
        frame(&mut frames, Opcode::Close, &close_payload(close_code::DONE, ""));
        Self { frames, text_bytes: text.len(), frame_bytes }
    }

    /// The text itself.
    pub(super) fn json(&self) -> &[u8] {
        &self.frames[self.frame_bytes - self.text_bytes..self.frame_bytes]
    }

    pub(super) fn frame(&self) -> &[u8] {
        &self.frames[..self.frame_bytes]
    }

    /// To leave in one write.
    pub(super) fn frame_and_close(&self) -> &[u8] {
        &self.frames
    }
}

/// Made before any lock is taken: minting a token takes a while. Not to be printed: it may hold one.
pub(super) struct Message {
    /// Whoever has been told this version, or a later one, need not hear it.
    pub(super) version: u32,
    /// For the log.
    pub(super) status: &'static str,
    pub(super) ending: Ending,
    pub(super) text: Text,
    /// The whole of the session, for those who asked for it.
    pub(super) view: Option<Zeroizing<Vec<u8>>>,
}

impl Message {
    /// How this session stood at `as_of`; the whole of it, too, if that `is_asked_for`.
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

    /// That the session is out of time.
    pub(super) fn expired() -> Self {
        Self::new(Told::Expired, u32::MAX, None)
    }

    /// As the last, for who asked for the whole of the session.
    pub(super) fn expired_view(logins: &Logins, session: &Session, as_of: Timestamp) -> Self {
        Self::new(Told::Expired, u32::MAX, Some((logins, session, as_of)))
    }

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

/// What shows a browser its next code.
pub(super) fn rotated(code: CodeView) -> Text {
    Text::of(&Frame::Rotated(code))
}

/// The whole of a session, for a browser that asks.
#[must_use]
pub fn wire_view(told: Told, logins: &Logins, session: &Session, as_of: Timestamp) -> SessionView {
    let has_version = matches!(told, Told::Pending { .. } | Told::Scanned { .. });
    let has_expiry = matches!(told, Told::Pending { .. } | Told::Confirmed { .. });
    // (Of a public_url that is too long for a picture there would be no session.)
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

/// The frame that tells a browser this.
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
