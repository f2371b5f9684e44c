//! The messages and shared state that all runs use.

use std::collections::BTreeMap;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::{DECIDED, EXPIRED, PENDING, SCANNED};
use crate::hub::message::{Frames, Message, rotated};
use crate::hub::shared_state::SharedStates;
use crate::metrics::Metrics;
use crate::session::{Cancellation, Timestamp};
use crate::system::clock::Clock;
use crate::wire::types::{CodeView, Confirmed, Frame};

/// The message of each status.
pub(super) struct StatusMessages(BTreeMap<&'static str, Message>);

impl StatusMessages {
    fn new() -> Self {
        let web_token = Zeroizing::new("t".to_owned());
        let token = Confirmed::Token { web_token, token_type: "Bearer", expires_in: 60, user: None };
        let all = [
            (PENDING, Frame::Pending { version: PENDING, expires_in: 300 }),
            (SCANNED, Frame::Scanned { version: SCANNED, user: None, number: None }),
            (DECIDED, Frame::Confirmed(token)),
            (DECIDED, Frame::rejected()),
            (DECIDED, Frame::cancelled(Cancellation::Browser)),
            (EXPIRED, Frame::expired()),
        ];
        Self(all.into_iter().map(|(version, frame)| (frame.status(), Message::new(version, &frame))).collect())
    }
}

/// State that all runs share.
pub(super) struct Fixture {
    pub(super) messages: StatusMessages,
    pub(super) shared_states: SharedStates,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Clock,
    pub(super) code: Frames,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let metrics = Arc::new(Metrics::new());
        let code = CodeView { code: "c".to_owned(), qr_url: "u".to_owned(), qr_image: "i".to_owned() };
        Self {
            messages: StatusMessages::new(),
            shared_states: SharedStates::new(metrics.clone(), None),
            metrics,
            clock: Clock::manual(Timestamp::from_millis(0)).0,
            code: rotated(code),
        }
    }

    pub(super) fn message(&self, status: &'static str) -> &Message {
        &self.messages.0[status]
    }
}
