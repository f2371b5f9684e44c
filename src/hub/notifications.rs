//! Changes at other nodes. A notification names a session that has changed. Changes whose notification was lost are
//! found in the store (`Store::untold`), which is asked every 1.5 seconds.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tracing::info;

use super::Hub;
use super::socket::Socket;
use crate::cluster::bus::Listener;
use crate::cluster::node::Hint;
use crate::metrics::Stopwatch;
use crate::session::{Session, SessionKey};
use crate::store::{StoreError, Untold};
use crate::system::random;

/// Time between two queries for undelivered changes, in milliseconds. A lost notification delays a change by at most
/// two seconds, including the query and a busy moment. The first query comes after a random part of it, so that nodes
/// which start together do not ask together.
const LOOK_MILLIS: u32 = 1500;
/// Maximum number of sessions read in one query.
const MAX_BATCH: usize = 500;
/// Maximum number of queries for undelivered changes in a row, if each returns further ones.
const MAX_PORTIONS: usize = 50;
/// Maximum number of sessions that wait to be read.
const MAX_TO_LOOK_AT: usize = 100_000;
/// Maximum number of delivered changes that wait to be reported to the store. Others are returned by the store again.
const MAX_TOLD: usize = 100_000;

/// The queues of this module.
#[derive(Default)]
pub(super) struct Hints {
    /// Sessions to be read from the store.
    to_look_at: Mutex<Vec<Hint>>,
    /// Notified when a session is added to `to_look_at`.
    came: Notify,
    /// Changes that are delivered or concern no connection. The store may forget them.
    told: Mutex<Vec<Hint>>,
    /// Notified when the bus may have lost notifications.
    may_have_missed: Notify,
}

impl Hints {
    /// Notes changes that the store may forget.
    fn told(&self, hints: impl IntoIterator<Item = Hint>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.extend(hints);
        told.truncate(MAX_TOLD);
    }
}

impl<S: Socket + Send + 'static> Listener for Hub<S> {
    fn changed(self: Arc<Self>, session: &Arc<Session>, attachment: u32, since: Stopwatch) {
        // According to the store, the session's newest connection is at this node.
        if attachment > 0 {
            self.registry.each_of_mut(&session.key, |waiting| waiting.adopt(attachment));
        }
        self.tell_here(session, 0, since);
        if attachment > 0 {
            self.hints.told([Hint { key: session.key, version: session.version, attachment }]);
        }
    }

    fn hinted(self: Arc<Self>, hint: Hint) {
        self.logins.metrics.hinted();
        if self.concerns(&hint) {
            self.look_at(hint);
        } else {
            self.hints.told([hint]);
        }
    }

    fn may_have_missed(self: Arc<Self>) {
        self.hints.may_have_missed.notify_one();
    }
}

impl<S: Socket + Send + 'static> Hub<S> {
    /// Closes connections that a newer one at another node supersedes. Returns whether a connection waits for a later
    /// version of the session.
    fn concerns(self: &Arc<Self>, hint: &Hint) -> bool {
        let mut places = Vec::new();
        self.registry.each_of(&hint.key, |place, _| places.push(place));
        let mut concerns = false;
        for place in places {
            self.act(place, |waiting, turn| concerns |= waiting.hinted(hint, turn));
        }
        concerns
    }

    /// Queues the session to be read and delivered. If the queue is full, the change stays in the store's list of
    /// undelivered changes, which is read every 1.5 seconds.
    fn look_at(&self, hint: Hint) {
        let mut to_look_at = self.hints.to_look_at.lock().unwrap_or_else(PoisonError::into_inner);
        if to_look_at.len() < MAX_TO_LOOK_AT {
            to_look_at.push(hint);
        }
        drop(to_look_at);
        self.hints.came.notify_one();
    }

    /// Reads the sessions that notifications have named, up to [`MAX_BATCH`] in one query, and delivers them. Never
    /// returns.
    pub(super) async fn look_where_hinted(self: &Arc<Self>) {
        loop {
            self.hints.came.notified().await;
            let mut is_complete = true;
            for some in take(&self.hints.to_look_at).chunks(MAX_BATCH) {
                let since = Stopwatch::start();
                let mut keys: Vec<SessionKey> = some.iter().map(|hint| hint.key).collect();
                keys.sort_unstable();
                keys.dedup();
                match self.logins.store.read(&keys).await {
                    Ok(sessions) => {
                        for session in sessions {
                            self.tell_here(&Arc::new(session), 0, since);
                        }
                        self.hints.told(some.iter().copied());
                    }
                    Err(error) => {
                        self.logins.warn_of_store(&error);
                        let mut to_look_at = self.hints.to_look_at.lock().unwrap_or_else(PoisonError::into_inner);
                        // As in `look_at`, what is left out here stays undelivered in the store.
                        if to_look_at.len() < MAX_TO_LOOK_AT {
                            to_look_at.extend_from_slice(some);
                        }
                        is_complete = false;
                    }
                }
            }
            if !is_complete {
                self.clock.sleep_millis(LOOK_MILLIS).await;
                self.hints.came.notify_one();
            }
        }
    }

    /// Asks the store for undelivered changes every 1.5 seconds, and at once when the bus may have lost notifications.
    /// Never returns.
    pub async fn look_for_untold(self: Arc<Self>) {
        let mut pause_millis = random::below(LOOK_MILLIS);
        let mut is_answered = true;
        loop {
            tokio::select! {
                () = self.clock.sleep_millis(pause_millis) => {}
                () = self.hints.may_have_missed.notified() => {}
            }
            pause_millis = LOOK_MILLIS;
            let was_answered = is_answered;
            is_answered = match self.look_once().await {
                Ok(()) => true,
                Err(error) => {
                    self.logins.warn_of_store(&error);
                    false
                }
            };
            if is_answered && !was_answered {
                info!(event = "store answers again");
            }
        }
    }

    /// Reports delivered changes to the store and handles undelivered ones, until a query returns no further one.
    async fn look_once(self: &Arc<Self>) -> Result<(), StoreError> {
        let store = &self.logins.store;
        let mut seen = HashSet::new();
        for _ in 0..MAX_PORTIONS {
            let told = take(&self.hints.told);
            if !told.is_empty()
                && let Err(error) = store.told(&furthest(&told)).await
            {
                self.hints.told(told);
                return Err(error);
            }
            let since = Stopwatch::start();
            let mut is_new = false;
            for Untold { hint, session } in store.untold().await? {
                let is_first = seen.insert(hint.key);
                is_new |= is_first;
                let is_awaited = self.concerns(&hint);
                if is_awaited && is_first {
                    self.logins.metrics.found_untold();
                }
                match session {
                    Some(session) if is_awaited => self.tell_here(&Arc::new(session), hint.attachment, since),
                    // It is reported to the store when it has been read and delivered.
                    None if is_awaited => {
                        self.look_at(hint);
                        continue;
                    }
                    _ => {}
                }
                self.hints.told([hint]);
            }
            // A row that another transaction has locked cannot be removed and is returned again. Ask for it only after
            // a pause.
            if !is_new {
                break;
            }
        }
        Ok(())
    }
}

/// Takes all entries of a queue.
fn take(hints: &Mutex<Vec<Hint>>) -> Vec<Hint> {
    std::mem::take(&mut *hints.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Returns one hint for each session, with the greatest version and attachment of its hints.
fn furthest(hints: &[Hint]) -> Vec<Hint> {
    let mut furthest: HashMap<SessionKey, Hint> = HashMap::new();
    for hint in hints {
        let known = furthest.entry(hint.key).or_insert(*hint);
        known.version = known.version.max(hint.version);
        known.attachment = known.attachment.max(hint.attachment);
    }
    furthest.into_values().collect()
}
