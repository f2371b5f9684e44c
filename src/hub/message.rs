//! Session states as bytes of the wire.

use zeroize::Zeroizing;

use crate::login::Logins;
use crate::metrics::CloseReason;
use crate::session::{Session, Timestamp};
use crate::token::MintError;
use crate::wire::event_stream;
use crate::wire::types::{CodeView, Confirmed, EXPIRED_EVENT_ID, Frame, SessionView, close_code};
use crate::wire::websocket::{Opcode, close_payload, frame};

/// Upper bound of the bytes of a text frame's head and a whole Close frame with a code and no reason.
const MAX_FRAMING_BYTES: usize = 32;

/// What becomes of a connection after a message has been delivered to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AfterDelivery {
    /// The connection waits on.
    Waits,
    /// The message carries the token. The browser's acknowledgement ends the connection.
    AwaitsAck,
    /// The connection is closed with this reason.
    Closes(CloseReason),
}

impl AfterDelivery {
    const fn of(frame: &Frame) -> Self {
        match frame {
            Frame::Pending { .. } | Frame::Scanned { .. } | Frame::Rotated(_) => Self::Waits,
            Frame::Confirmed(Confirmed::Token { .. }) => Self::AwaitsAck,
            Frame::Confirmed(Confirmed::Collect { .. } | Confirmed::Claimed { .. }) | Frame::Rejected { .. } => {
                Self::Closes(CloseReason::Decided)
            }
            Frame::Cancelled { .. } => Self::Closes(CloseReason::Cancelled),
            Frame::Expired { .. } => Self::Closes(CloseReason::Expired),
        }
    }
}

/// A text as WebSocket frames: a text frame, followed by the Close that may end the connection.
pub(super) struct Frames {
    frames: Zeroizing<Vec<u8>>,
    text_bytes: usize,
    frame_bytes: usize,
}

impl Frames {
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
    pub(super) then: AfterDelivery,
    /// The frame.
    pub(super) frames: Frames,
    /// The whole view of the session as JSON, if a long poll is among the recipients.
    pub(super) view: Option<Zeroizing<Vec<u8>>>,
}

impl Message {
    /// Returns the session's state as of `as_of`, with the whole view if `wants_view`. Fails if the token cannot be
    /// minted.
    pub(super) fn of(
        logins: &Logins,
        session: &Session,
        as_of: Timestamp,
        wants_view: bool,
    ) -> Result<Self, MintError> {
        let frame = logins.frame(session, as_of)?;
        if wants_view {
            return Ok(Self::with_view(session.version, &logins.view(frame, session, as_of)));
        }
        Ok(Self::new(session.version, &frame))
    }

    /// Returns the message that the session has expired.
    pub(super) fn expired() -> Self {
        Self::new(u32::MAX, &Frame::expired())
    }

    /// Returns the message that the session has expired, with the whole view.
    pub(super) fn expired_view(logins: &Logins, session: &Session, as_of: Timestamp) -> Self {
        Self::with_view(u32::MAX, &logins.view(Frame::expired(), session, as_of))
    }

    /// Returns the message of a frame.
    pub(super) fn new(version: u32, frame: &Frame) -> Self {
        Self { version, status: frame.status(), then: AfterDelivery::of(frame), frames: Frames::of(frame), view: None }
    }

    /// Returns the state as an event. Its id is the version, or says that the session has expired, which has none.
    pub(super) fn event(&self) -> Zeroizing<Vec<u8>> {
        let version = self.version.to_string();
        let id = if self.status == "expired" { EXPIRED_EVENT_ID } else { &version };
        event_stream::event(id, self.frames.json())
    }

    fn with_view(version: u32, view: &SessionView) -> Self {
        let json = Zeroizing::new(serde_json::to_vec(view).unwrap_or_default());
        Self { view: Some(json), ..Self::new(version, &view.frame) }
    }
}

/// Returns the frame that carries the browser's next code.
pub(super) fn rotated(code: CodeView) -> Frames {
    Frames::of(&Frame::Rotated(code))
}
