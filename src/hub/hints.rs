//! What other nodes do. A hint says that a session is to be looked at; whatever no hint came of is found by looking
//! into the store every few seconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tracing::{info, warn};

use super::Hub;
use super::socket::Socket;
use crate::bus::Listener;
use crate::metrics::Stopwatch;
use crate::node::Hint;
use crate::random;
use crate::session::{Session, SessionKey};
use crate::store::{StoreError, Untold};

/// How often the store is asked what is untold here: a lost hint delays nothing by more than two seconds, the answer and
/// a busy moment included. Nodes that start together do not ask together.
const LOOK_MILLIS: u32 = 1500;
/// Sessions read in one query.
const MAX_BATCH: usize = 500;
/// Portions read in one look, if each brings something new.
const MAX_PORTIONS: usize = 50;
/// Maximum number of sessions that wait to be read again because the store did not answer.
const MAX_TO_LOOK_AT: usize = 100_000;
/// What has been told and not yet said to the store, at most; beyond, it is found once more.
const MAX_TOLD: usize = 100_000;

#[derive(Default)]
pub(super) struct Hints {
    /// Sessions that are to be looked at.
    to_look_at: Mutex<Vec<Hint>>,
    came: Notify,
    /// What the store need not keep any more.
    told: Mutex<Vec<Hint>>,
    may_have_missed: Notify,
}

impl Hints {
    fn told(&self, hints: impl IntoIterator<Item = Hint>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.extend(hints);
        told.truncate(MAX_TOLD);
    }
}

impl<S: Socket + Send + 'static> Listener for Hub<S> {
    fn changed(self: Arc<Self>, session: &Arc<Session>, attachment: u32, since: Stopwatch) {
        // The store says that the session's newest connection is at this node.
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
    /// Closes connections that others took over from; whether the session is to be looked at for somebody who waits.
    fn concerns(self: &Arc<Self>, hint: &Hint) -> bool {
        let mut places = Vec::new();
        self.registry.each_of(&hint.key, |place, _| places.push(place));
        let mut concerns = false;
        for place in places {
            self.act(place, |waiting, turn| concerns |= waiting.hinted(hint, turn));
        }
        concerns
    }

    /// Has the session's row read, and its browser told.
    fn look_at(&self, hint: Hint) {
        self.hints.to_look_at.lock().unwrap_or_else(PoisonError::into_inner).push(hint);
        self.hints.came.notify_one();
    }

    /// Reads the sessions that were hinted at, all that have come meanwhile in one query, and tells their browsers.
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
                        warn!(event = "store unavailable", %error, "changes wait for the store");
                        let mut to_look_at = self.hints.to_look_at.lock().unwrap_or_else(PoisonError::into_inner);
                        // Hints beyond this belong to sessions whose change the deadline finds.
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

    /// Every few seconds, asks the store for what is untold here, for as long as the program runs.
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
                    if was_answered {
                        warn!(event = "store unavailable", %error, "changes at other nodes wait for the store");
                    }
                    false
                }
            };
            if is_answered && !was_answered {
                info!(event = "store answers again");
            }
        }
    }

    async fn look_once(self: &Arc<Self>) -> Result<(), StoreError> {
        let store = &self.logins.store;
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
                if self.concerns(&hint) {
                    is_new = true;
                    self.logins.metrics.found_untold();
                    match session {
                        Some(session) => self.tell_here(&Arc::new(session), hint.attachment, since),
                        None => self.look_at(hint),
                    }
                }
                self.hints.told([hint]);
            }
            // What somebody keeps locked is found again and again: not to be asked for without a pause.
            if !is_new {
                break;
            }
        }
        Ok(())
    }
}

fn take(hints: &Mutex<Vec<Hint>>) -> Vec<Hint> {
    std::mem::take(&mut *hints.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Of several hints at one session, only how far they go together.
fn furthest(hints: &[Hint]) -> Vec<Hint> {
    let mut furthest: HashMap<SessionKey, Hint> = HashMap::new();
    for hint in hints {
        let known = furthest.entry(hint.key).or_insert(*hint);
        known.version = known.version.max(hint.version);
        known.attachment = known.attachment.max(hint.attachment);
    }
    furthest.into_values().collect()
}
