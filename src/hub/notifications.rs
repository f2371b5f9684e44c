//! Changes at other nodes. A notification names a session that has changed. Changes whose notification was lost are
//! found in the store (`Store::undelivered`), which is asked every 1.5 seconds.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::info;

use super::Hub;
use super::socket::Socket;
use crate::cluster::bus::Listener;
use crate::cluster::node::Notification;
use crate::metrics::Stopwatch;
use crate::session::{Session, SessionKey};
use crate::store::{StoreError, Undelivered};
use crate::system::random;

/// Time between two queries for undelivered changes, in milliseconds. A lost notification delays a change by at most
/// two seconds, including the query and a busy moment. The first query comes after a random part of it, so that nodes
/// which start together do not ask together.
const SEARCH_MILLIS: u32 = 1500;
/// Maximum number of sessions read in one query.
const MAX_BATCH: usize = 500;
/// Maximum number of queries for undelivered changes in a row, if each returns further ones.
const MAX_SEARCHES: usize = 50;
/// Maximum number of sessions that wait to be read.
const MAX_QUEUED_READS: usize = 100_000;
/// Maximum number of delivered changes that wait to be reported to the store. Others are returned by the store again.
const MAX_DELIVERED: usize = 100_000;

/// The queues of this module.
#[derive(Default)]
pub(super) struct NotificationQueues {
    /// Sessions to be read from the store.
    queued_reads: Mutex<Vec<Notification>>,
    /// Notified when a session is added to `queued_reads`.
    queued: Notify,
    /// Changes that are delivered or concern no connection. The store may forget them.
    delivered: Mutex<Vec<Notification>>,
    /// Notified when the bus may have lost notifications.
    may_have_lost: Notify,
}

impl NotificationQueues {
    /// Notes changes that the store may forget.
    fn delivered(&self, notifications: impl IntoIterator<Item = Notification>) {
        let mut delivered = self.delivered.lock();
        delivered.extend(notifications);
        delivered.truncate(MAX_DELIVERED);
    }
}

impl<S: Socket + Send + 'static> Listener for Hub<S> {
    fn changed(self: Arc<Self>, session: &Arc<Session>, attachment: u32, since: Stopwatch) {
        // According to the store, the session's newest connection is at this node.
        if attachment > 0 {
            self.registry.for_each_mut(&session.key, |connection| connection.raise_attachment(attachment));
        }
        self.push(session, 0, since);
        if attachment > 0 {
            self.notifications.delivered([Notification { key: session.key, version: session.version, attachment }]);
        }
    }

    fn notified(self: Arc<Self>, notification: Notification) {
        self.metrics.notified();
        if self.concerns(&notification) {
            self.queue_read(notification);
        } else {
            self.notifications.delivered([notification]);
        }
    }

    fn may_have_lost(self: Arc<Self>) {
        self.notifications.may_have_lost.notify_one();
    }
}

impl<S: Socket + Send + 'static> Hub<S> {
    /// Closes connections that a newer one at another node supersedes. Returns whether a connection waits for a later
    /// version of the session.
    fn concerns(self: &Arc<Self>, notification: &Notification) -> bool {
        let mut slots = Vec::new();
        self.registry.for_each(&notification.key, |slot, _| slots.push(slot));
        let mut concerns = false;
        for slot in slots {
            self.act(slot, |connection, turn| concerns |= connection.notified(notification, turn));
        }
        concerns
    }

    /// Queues the session to be read and delivered. If the queue is full, the change stays in the store's list of
    /// undelivered changes, which is read every 1.5 seconds.
    fn queue_read(&self, notification: Notification) {
        let mut queued_reads = self.notifications.queued_reads.lock();
        if queued_reads.len() < MAX_QUEUED_READS {
            queued_reads.push(notification);
        }
        drop(queued_reads);
        self.notifications.queued.notify_one();
    }

    /// Reads the sessions that notifications have named, up to [`MAX_BATCH`] in one query, and delivers them. Never
    /// returns.
    pub(super) async fn handle_notifications(self: &Arc<Self>) {
        loop {
            self.notifications.queued.notified().await;
            let mut is_complete = true;
            for some in take(&self.notifications.queued_reads).chunks(MAX_BATCH) {
                let since = Stopwatch::start();
                let mut keys: Vec<SessionKey> = some.iter().map(|notification| notification.key).collect();
                keys.sort_unstable();
                keys.dedup();
                match self.store.read(&keys).await {
                    Ok(sessions) => {
                        for session in sessions {
                            self.push(&Arc::new(session), 0, since);
                        }
                        self.notifications.delivered(some.iter().copied());
                    }
                    Err(error) => {
                        self.logins.warn_of_store(&error);
                        let mut queued_reads = self.notifications.queued_reads.lock();
                        // As in `queue_read`, what is left out here stays undelivered in the store.
                        if queued_reads.len() < MAX_QUEUED_READS {
                            queued_reads.extend_from_slice(some);
                        }
                        is_complete = false;
                    }
                }
            }
            if !is_complete {
                self.clock.sleep_millis(SEARCH_MILLIS).await;
                self.notifications.queued.notify_one();
            }
        }
    }

    /// Asks the store for undelivered changes every 1.5 seconds, and at once when the bus may have lost notifications.
    /// Never returns.
    pub async fn search_undelivered(self: Arc<Self>) {
        let mut pause_millis = random::below(SEARCH_MILLIS);
        let mut is_answered = true;
        loop {
            tokio::select! {
                () = self.clock.sleep_millis(pause_millis) => {}
                () = self.notifications.may_have_lost.notified() => {}
            }
            pause_millis = SEARCH_MILLIS;
            let was_answered = is_answered;
            is_answered = match self.search_once().await {
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
    async fn search_once(self: &Arc<Self>) -> Result<(), StoreError> {
        let store = &self.store;
        let mut seen = HashSet::new();
        for _ in 0..MAX_SEARCHES {
            let delivered = take(&self.notifications.delivered);
            if !delivered.is_empty()
                && let Err(error) = store.mark_delivered(&furthest(&delivered)).await
            {
                self.notifications.delivered(delivered);
                return Err(error);
            }
            let since = Stopwatch::start();
            let mut is_new = false;
            for Undelivered { notification, session } in store.undelivered().await? {
                let is_first = seen.insert(notification.key);
                is_new |= is_first;
                let is_awaited = self.concerns(&notification);
                if is_awaited && is_first {
                    self.metrics.found_undelivered();
                }
                match session {
                    Some(session) if is_awaited => self.push(&Arc::new(session), notification.attachment, since),
                    // It is reported to the store when it has been read and delivered.
                    None if is_awaited => {
                        self.queue_read(notification);
                        continue;
                    }
                    _ => {}
                }
                self.notifications.delivered([notification]);
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
fn take(notifications: &Mutex<Vec<Notification>>) -> Vec<Notification> {
    std::mem::take(&mut *notifications.lock())
}

/// Returns one notification for each session, with the greatest version and attachment of its notifications.
fn furthest(notifications: &[Notification]) -> Vec<Notification> {
    let mut furthest: HashMap<SessionKey, Notification> = HashMap::new();
    for notification in notifications {
        let known = furthest.entry(notification.key).or_insert(*notification);
        known.version = known.version.max(notification.version);
        known.attachment = known.attachment.max(notification.attachment);
    }
    furthest.into_values().collect()
}
