//! Readings of the store at the deadlines of connections.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::connection::Waiting;
use super::message::Message;
use super::registry::{Fate, Keyed as _, Place};
use super::socket::Socket;
use super::{Hearer, Hub};
use crate::metrics::Stopwatch;
use crate::session::{Session, SessionKey, Status, Timestamp};

/// Connections whose rows must be read.
#[derive(Default)]
pub(super) struct Overdue {
    places: Mutex<Vec<Place>>,
    came: Notify,
}

impl Overdue {
    pub(super) fn add(&self, place: Place) {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).push(place);
        self.came.notify_one();
    }

    fn take(&self) -> Vec<Place> {
        std::mem::take(&mut *self.places.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A connection whose deadline has come and that still waits.
struct Due {
    hearer: Hearer,
    key: SessionKey,
    is_to_be_answered: bool,
}

impl<S: Socket + Send + 'static> Hub<S> {
    /// Reads the rows of all connections whose deadline has come since the last reading, in one query, and delivers the
    /// result. Never returns.
    pub(super) async fn settle(self: &Arc<Self>) {
        loop {
            self.overdue.came.notified().await;
            // Wait for the end of the current tick, so that all of its rows are read together.
            let ticking = self.ticking.lock().await;
            let places = self.overdue.take();
            drop(ticking);
            let due: Vec<_> = places.into_iter().filter_map(|place| self.due_at(place)).collect();
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
            for Due { hearer, .. } in unread.iter().filter(|due| due.is_to_be_answered) {
                self.act(hearer.place, Waiting::unavailable);
            }
            self.tell_settled(&read_here, read.found);
        }
    }

    /// Returns what is needed of the connection in this slot, or `None` if it does not wait any more.
    fn due_at(&self, place: Place) -> Option<Due> {
        let mut due = None;
        self.registry.at(place, |waiting| {
            due = waiting.is_waiting().then(|| Due {
                hearer: Hearer { place, wants_view: waiting.wants_view() },
                key: *waiting.key(),
                is_to_be_answered: waiting.is_to_be_answered(),
            });
            Fate::Stays
        });
        due
    }

    /// Delivers what the store has returned. A session that it does not have any more is delivered as expired.
    fn tell_settled(self: &Arc<Self>, due: &[Due], sessions: Vec<(Timestamp, Session)>) {
        let found: HashMap<_, _> = sessions.into_iter().map(|(now, session)| (session.key, (now, session))).collect();
        let expired = Message::expired();
        for Due { hearer, key, is_to_be_answered } in due {
            let place = hearer.place;
            match found.get(key) {
                Some((now, session)) if matches!(session.status(*now), Status::Pending | Status::Scanned) => {
                    if *is_to_be_answered {
                        self.answer_poll(place, session, *now);
                        continue;
                    }
                    // The store's clock is behind this node's, or session time has passed more slowly than steady time.
                    let expiry = self.epoch.session_tick_at(session.expires_at);
                    self.act(place, |waiting, turn| waiting.put_off(expiry, turn));
                }
                Some((now, session)) if !session.is_undecided() => {
                    self.tell(&[*hearer], session, *now, Some(Stopwatch::start()));
                }
                // The session is undecided and has expired.
                Some((now, session)) if hearer.wants_view => {
                    let expired = Message::expired_view(&self.logins, session, *now);
                    self.deliver(place, |waiting, turn| waiting.tell(&expired, None, turn));
                }
                // The session is undecided and has expired, or its row has been deleted, which happens long after.
                Some(_) | None => self.deliver(place, |waiting, turn| waiting.tell(&expired, None, turn)),
            }
        }
    }

    /// Answers a poll whose time is up with the session as it is.
    fn answer_poll(self: &Arc<Self>, place: Place, session: &Session, now: Timestamp) {
        let message = self.message(session, now, true);
        self.act(place, |waiting, turn| match &message {
            Some(message) => waiting.answer_poll(message, turn),
            None => waiting.token_not_made(turn),
        });
    }
}
