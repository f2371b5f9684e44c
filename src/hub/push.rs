//! The push of a session change to the connections of its session at this node: a change becomes a message, and the
//! message is delivered to each connection.

use std::sync::Arc;

use super::Hub;
use super::message::Message;
use super::registry::Slot;
use super::socket::Socket;
use crate::cluster::node::Notification;
use crate::metrics::Stopwatch;
use crate::session::{Session, Timestamp};

/// A connection to which a message is delivered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recipient {
    pub(super) slot: Slot,
    /// Whether the connection is sent the whole view of the session instead of the frame only.
    pub(super) wants_view: bool,
}

impl<S: Socket + Send + 'static> Hub<S> {
    /// Delivers a session's state, as it has just been read or written, to its connections at this node. A connection
    /// with a smaller attachment than `attachment` is closed because a newer one waits at another node.
    pub(super) fn push(self: &Arc<Self>, session: &Arc<Session>, attachment: u32, since: Stopwatch) {
        let mut slots = Vec::new();
        self.registry.for_each(&session.key, |slot, _| slots.push(slot));
        let mut recipients = Vec::new();
        let newest = Notification { key: session.key, version: session.version, attachment };
        for slot in slots {
            self.act(slot, |connection, turn| {
                // A connection that is still opening keeps the change, and `Registration::open` delivers it.
                let is_opening = connection.keep_if_opening(session, since);
                if connection.notified(&newest, turn) && !is_opening {
                    recipients.push(Recipient { slot, wants_view: connection.wants_view() });
                }
            });
        }
        if !recipients.is_empty() {
            self.deliver(&recipients, session, self.delivery_time(session), Some(since));
        }
    }

    /// Delivers the session's state as of `as_of` to these connections. `since` runs from the change on.
    pub(super) fn deliver(
        self: &Arc<Self>,
        recipients: &[Recipient],
        session: &Session,
        as_of: Timestamp,
        since: Option<Stopwatch>,
    ) {
        let message = self.message(session, as_of, recipients.iter().any(|recipient| recipient.wants_view));
        for Recipient { slot, .. } in recipients {
            self.act_with_others(*slot, |connection, turn| match &message {
                Some(message) => connection.deliver(message, since, turn),
                None => connection.token_not_minted(turn),
            });
        }
    }

    /// Returns the time as of which a changed session is delivered. For an undecided session it is before the expiry,
    /// because a decision may be about to commit. Only the read of the store at the deadline shows whether the session
    /// has expired.
    pub(super) fn delivery_time(&self, session: &Session) -> Timestamp {
        let now = self.clock.now();
        if session.is_undecided() { now.min(session.expires_at.plus_millis(-1)) } else { now }
    }

    /// Returns the message for the session's state, or `None` if the token cannot be minted.
    pub(super) fn message(&self, session: &Session, as_of: Timestamp, wants_view: bool) -> Option<Message> {
        let message = Message::of(&self.logins, session, as_of, wants_view);
        message.map_err(|error| self.logins.warn_of(&error.into())).ok()
    }
}
