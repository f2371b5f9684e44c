//! What a browser is told, as the bytes that tell it.

use zeroize::Zeroizing;

use crate::login::{Logins, Told};
use crate::metrics::CloseReason;
use crate::protocol::{CodeView, Confirmed, Frame, UserView, close_code};
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

/// Made before any lock is taken: minting a token takes a while. Not to be printed: it may hold one.
pub(super) struct Message {
    /// Whoever has been told this version, or a later one, need not hear it.
    pub(super) version: u32,
    /// For the log.
    pub(super) status: &'static str,
    ending: Ending,
    frames: Zeroizing<Vec<u8>>,
    text_bytes: usize,
}

impl Message {
    /// How this session stood at `as_of`.
    pub(super) fn of(logins: &Logins, session: &Session, as_of: Timestamp) -> Result<Self, MintError> {
        Ok(Self::new(logins.tell(session, as_of)?, session.version))
    }

    /// That the session is out of time.
    pub(super) fn expired() -> Self {
        Self::new(Told::Expired, u32::MAX)
    }

    fn new(told: Told, version: u32) -> Self {
        let (status, ending) = match &told {
            Told::Pending { .. } => ("pending", Ending::Goes),
            Told::Scanned { .. } => ("scanned", Ending::Goes),
            Told::Confirmed { .. } => ("confirmed", Ending::Token),
            Told::Claimed => ("confirmed", Ending::Closed(CloseReason::Decided)),
            Told::Rejected => ("rejected", Ending::Closed(CloseReason::Decided)),
            Told::Cancelled(_) => ("cancelled", Ending::Closed(CloseReason::Cancelled)),
            Told::Expired => ("expired", Ending::Closed(CloseReason::Expired)),
        };
        let text = Zeroizing::new(serde_json::to_vec(&wire_frame(told)).unwrap_or_default());
        // As much as it takes: what grows leaves copies behind.
        let mut frames = Zeroizing::new(Vec::with_capacity(text.len() + MAX_FRAMING_BYTES));
        frame(&mut frames, Opcode::Text, &text);
        let text_bytes = frames.len();
        frame(&mut frames, Opcode::Close, &close_payload(close_code::DONE, ""));
        Self { version, status, ending, frames, text_bytes }
    }

    pub(super) const fn ending(&self) -> Ending {
        self.ending
    }

    pub(super) fn text(&self) -> &[u8] {
        &self.frames[..self.text_bytes]
    }

    /// To leave in one write.
    pub(super) fn text_and_close(&self) -> &[u8] {
        &self.frames
    }
}

/// The text frame that shows a browser its next code.
pub(super) fn rotated(code: CodeView) -> Vec<u8> {
    let mut text = Vec::new();
    frame(&mut text, Opcode::Text, &serde_json::to_vec(&Frame::Rotated(code)).unwrap_or_default());
    text
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
