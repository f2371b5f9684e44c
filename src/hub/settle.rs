//! At a deadline: what the store says became of the sessions that are due.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tracing::warn;

use super::message::Message;
use super::registry::{Fate, Keyed as _, Place};
use super::socket::Socket;
use super::waiting::Waiting;
use super::{Hearer, Hub};
use crate::metrics::Stopwatch;
use crate::session::{Session, SessionKey, Status, Timestamp};

/// The connections whose rows are to be read.
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

/// A connection whose deadline has come.
struct Due {
    hearer: Hearer,
    key: SessionKey,
    is_to_be_answered: bool,
}

impl<S: Socket + Send + 'static> Hub<S> {
    /// Reads the rows of all whose deadline has come since the last look, in one query, and tells what the store says.
    pub(super) async fn settle(self: &Arc<Self>) {
        loop {
            self.overdue.came.notified().await;
            // A tick that is under way is waited for: its rows are read together.
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
                warn!(event = "store unavailable", waiting = read.failed.len(), %error, "deadlines wait for the store");
            }
            let failed: HashSet<_> = read.failed.into_iter().map(|(key, _)| key).collect();
            let (unread, read_here): (Vec<_>, Vec<_>) = due.into_iter().partition(|due| failed.contains(&due.key));
            // The other connections ask again by themselves.
            for Due { hearer, .. } in unread.iter().filter(|due| due.is_to_be_answered) {
                self.act(hearer.place, Waiting::unavailable);
            }
            self.tell_settled(&read_here, read.found);
        }
    }

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
                    // The store's clock is behind ours, or session time has passed slower than steady time.
                    let expiry = self.epoch.session_tick_at(session.expires_at);
                    self.act(place, |waiting, turn| waiting.put_off(expiry, turn));
                }
                Some((now, session)) if !session.is_undecided() => {
                    self.tell(&[*hearer], session, *now, Some(Stopwatch::start()));
                }
                // Undecided and out of time ...
                Some((now, session)) if hearer.wants_view => {
                    let expired = Message::expired_view(&self.logins, session, *now);
                    self.deliver(place, |waiting, turn| waiting.tell(&expired, None, turn));
                }
                // ... or swept, which is long past it.
                Some(_) | None => self.deliver(place, |waiting, turn| waiting.tell(&expired, None, turn)),
            }
        }
    }

    /// It has waited as long as it wanted to.
    fn answer_poll(self: &Arc<Self>, place: Place, session: &Session, now: Timestamp) {
        let message = self.message(session, now, true);
        self.act(place, |waiting, turn| match &message {
            Some(message) => waiting.answer_poll(message, turn),
            None => waiting.token_not_made(turn),
        });
    }
}
