//! Readings of the store at the deadlines of connections.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Hub;
use super::connection::Connection;
use super::message::Message;
use super::push::Recipient;
use super::registry::{Keyed as _, Retain, Slot};
use super::socket::Socket;
use crate::metrics::Stopwatch;
use crate::session::{Session, SessionKey, Status, Timestamp};

/// Connections whose rows must be read.
#[derive(Default)]
pub(super) struct DueQueue {
    slots: Mutex<Vec<Slot>>,
    queued: Notify,
}

impl DueQueue {
    pub(super) fn add(&self, slot: Slot) {
        self.slots.lock().push(slot);
        self.queued.notify_one();
    }

    fn take(&self) -> Vec<Slot> {
        std::mem::take(&mut *self.slots.lock())
    }
}

/// A connection whose deadline has come and that still waits.
struct DueConnection {
    recipient: Recipient,
    key: SessionKey,
    is_poll_due: bool,
}

impl<S: Socket + Send + 'static> Hub<S> {
    /// Reads the rows of all connections whose deadline has come since the last reading, in one query, and delivers the
    /// result. Never returns.
    pub(super) async fn settle(self: &Arc<Self>) {
        loop {
            self.due_queue.queued.notified().await;
            // Wait for the end of the current tick, so that all of its rows are read together.
            let ticking = self.ticking.lock().await;
            let slots = self.due_queue.take();
            drop(ticking);
            let due: Vec<_> = slots.into_iter().filter_map(|slot| self.due_at(slot)).collect();
            if due.is_empty() {
                continue;
            }
            let keys: Vec<_> = due.iter().map(|due| due.key).collect();
            let read = self.logins.read_settled(&keys).await;
            if let Some((_, error)) = read.failed.first() {
                self.logins.warn_of_store(error);
            }
            let failed: HashSet<_> = read.failed.into_iter().map(|(key, _)| key).collect();
            let (unread, read_here): (Vec<_>, Vec<_>) = due.into_iter().partition(|due| failed.contains(&due.key));
            // The other connections set a deadline for another attempt themselves.
            for DueConnection { recipient, .. } in unread.iter().filter(|due| due.is_poll_due) {
                self.act(recipient.slot, Connection::unavailable);
            }
            self.deliver_settled(&read_here, read.found);
        }
    }

    /// Returns what is needed of the connection in this slot, or `None` if it does not wait any more.
    fn due_at(&self, slot: Slot) -> Option<DueConnection> {
        let mut due = None;
        self.registry.update(slot, |connection| {
            due = connection.is_waiting().then(|| DueConnection {
                recipient: Recipient { slot, wants_view: connection.wants_view() },
                key: *connection.key(),
                is_poll_due: connection.is_poll_due(),
            });
            Retain::Yes
        });
        due
    }

    /// Delivers what the store has returned. A session that it does not have any more is delivered as expired.
    fn deliver_settled(self: &Arc<Self>, due: &[DueConnection], sessions: Vec<(Timestamp, Session)>) {
        let found: HashMap<_, _> = sessions.into_iter().map(|(now, session)| (session.key, (now, session))).collect();
        let expired = Message::expired();
        for DueConnection { recipient, key, is_poll_due } in due {
            let slot = recipient.slot;
            match found.get(key) {
                Some((now, session)) if matches!(session.status(*now), Status::Pending | Status::Scanned) => {
                    if *is_poll_due {
                        self.answer_poll(slot, session, *now);
                        continue;
                    }
                    // The store's clock is behind this node's, or session time has passed more slowly than steady time.
                    let expiry = self.epoch.session_tick_at(session.expires_at);
                    self.act(slot, |connection, turn| connection.postpone(expiry, turn));
                }
                Some((now, session)) if !session.is_undecided() => {
                    self.deliver(&[*recipient], session, *now, Some(Stopwatch::start()));
                }
                // The session is undecided and has expired.
                Some((now, session)) if recipient.wants_view => {
                    let expired = Message::expired_view(&self.logins, session, *now);
                    self.act_with_others(slot, |connection, turn| connection.deliver(&expired, None, turn));
                }
                // The session is undecided and has expired, or its row has been deleted, which happens long after.
                Some(_) | None => {
                    self.act_with_others(slot, |connection, turn| connection.deliver(&expired, None, turn))
                }
            }
        }
    }

    /// Answers a poll whose time is up with the session as it is.
    fn answer_poll(self: &Arc<Self>, slot: Slot, session: &Session, now: Timestamp) {
        let message = self.message(session, now, true);
        self.act(slot, |connection, turn| match &message {
            Some(message) => connection.answer_poll(message, turn),
            None => connection.token_not_minted(turn),
        });
    }
}
