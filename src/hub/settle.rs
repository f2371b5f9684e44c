//! At a deadline: what the store says became of the sessions that are due.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::warn;

use super::Hub;
use super::message::Message;
use super::registry::{Fate, Keyed as _, Place};
use crate::metrics::Stopwatch;
use crate::session::{Session, SessionKey, Status, Timestamp};

impl Hub {
    /// Reads what is due, in one query for all that have become due since the last, and tells what the store says.
    pub(super) async fn settle(self: &Arc<Self>, mut asked: mpsc::UnboundedReceiver<Vec<Place>>) {
        let mut batch = Vec::new();
        while asked.recv_many(&mut batch, usize::MAX).await > 0 {
            let due: Vec<_> =
                batch.drain(..).flatten().filter_map(|place| Some((place, self.waits_at(place)?))).collect();
            if due.is_empty() {
                continue;
            }
            let keys: Vec<_> = due.iter().map(|(_, key)| *key).collect();
            match self.logins.store.read_settled(&keys).await {
                Ok((now, sessions)) => self.tell_settled(&due, sessions, now),
                // Each asks again by itself.
                Err(error) => {
                    warn!(event = "store unavailable", waiting = due.len(), %error, "deadlines wait for the store");
                }
            }
        }
    }

    fn waits_at(&self, place: Place) -> Option<SessionKey> {
        let mut key = None;
        self.registry.at(place, |waiting| {
            key = waiting.is_waiting().then_some(*waiting.key());
            Fate::Stays
        });
        key
    }

    fn tell_settled(self: &Arc<Self>, due: &[(Place, SessionKey)], sessions: Vec<Session>, now: Timestamp) {
        let found: HashMap<_, _> = sessions.into_iter().map(|session| (session.key, session)).collect();
        let expired = Message::expired();
        for (place, key) in due {
            match found.get(key) {
                // The store's clock is a moment behind ours.
                Some(session) if matches!(session.status(now), Status::Pending | Status::Scanned) => {
                    let expiry = self.epoch.tick_at(session.expires_at);
                    self.act(*place, |waiting, turn| waiting.put_off(expiry, turn));
                }
                Some(session) if !session.is_undecided() => {
                    self.tell(&[*place], session, now, Some(Stopwatch::start()));
                }
                // Undecided and out of time; or swept, which is long past it.
                Some(_) | None => drop(self.act(*place, |waiting, turn| waiting.tell(&expired, None, turn))),
            }
        }
    }
}
