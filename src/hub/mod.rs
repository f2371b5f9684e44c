//! Who is waiting, and what they must hear.
//!
//! A browser that waits has a [`Registration`]: an entry under its session's key, gone when the guard is dropped,
//! whatever dropped it. What the browser must hear arrives in its [`Inbox`]; putting it there never waits.
//!
//! Nothing asks the store while a browser waits. At its deadline, the rows of all sessions that are due are read
//! again, in one query, before anybody is told `expired`.

mod deadlines;
mod registry;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc};
use tracing::{info, warn};

use crate::bus::Listener;
use crate::clock::Clock;
use crate::metrics::{CloseReason, Metrics, Stopwatch};
use crate::random;
use crate::session::{Session, SessionKey, Status, Timestamp};
use crate::store::Store;
use deadlines::{Deadlines, Due};
use registry::{ConnectionId, Registry};

/// A session causes four changes at most, and heartbeats stop being queued while half of it is taken; a browser whose
/// inbox is full all the same is stuck in a write, and is disconnected for that.
const INBOX_CAPACITY: usize = 8;
/// While the store does not answer, what is due is asked for again after this long ...
const RETRY_MILLIS: i64 = 1000;
/// ... for this long past its deadline; then the browser is sent away, to come back later.
const PATIENCE_SECONDS: u32 = 60;
/// Browsers that are sent away by a restart come back spread over this long.
const RECONNECT_SPREAD_MILLIS: u32 = 3000;

/// How long a browser that comes back waits for the receipt of its own earlier connection, which may be in our socket's
/// buffer already.
const RECEIPT_GRACE_MILLIS: i64 = 250;

/// What a waiting browser must hear or do.
#[derive(Debug, Clone)]
pub enum Event {
    /// The session has changed; measured since the change was stored.
    Changed(Arc<Session>, Stopwatch),
    /// The session expired, undecided; the store said so.
    Expired,
    /// Time for a ping.
    Heartbeat,
    /// A newer connection of the same session took over.
    Replaced,
    /// This server is stopping; come back after this long.
    Restarting {
        /// A random delay, so that not all come back at once.
        retry_after_millis: u32,
    },
    /// The store does not say what became of the session.
    Unavailable,
}

/// Where a browser's events arrive.
pub type Inbox = mpsc::Receiver<Event>;

/// See the module.
pub struct Hub {
    clock: Clock,
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    heartbeat_seconds: u32,
    registry: Registry,
    deadlines: Mutex<Deadlines>,
    /// A deadline has come that is earlier than all before.
    earlier: Notify,
    /// A connection that awaited a receipt has ended.
    receipt_settled: Notify,
    next_id: AtomicU64,
    closing: AtomicBool,
}

/// The server is stopping and takes no new browsers.
#[derive(Debug)]
pub struct Closing;

impl Hub {
    /// A hub in which nobody waits.
    #[must_use]
    pub fn new(clock: Clock, store: Arc<dyn Store>, metrics: Arc<Metrics>, heartbeat_seconds: u32) -> Arc<Self> {
        Arc::new(Self {
            clock,
            store,
            metrics,
            heartbeat_seconds,
            registry: Registry::default(),
            deadlines: Mutex::default(),
            earlier: Notify::new(),
            receipt_settled: Notify::new(),
            next_id: AtomicU64::new(0),
            closing: AtomicBool::new(false),
        })
    }

    /// Enters a browser under its session's key, before its row is read: a change that comes between the two is in
    /// the inbox.
    ///
    /// # Errors
    /// The server is stopping.
    pub fn register(self: &Arc<Self>, key: SessionKey) -> Result<(Registration, Inbox), Closing> {
        let id = ConnectionId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let (sender, inbox) = mpsc::channel(INBOX_CAPACITY);
        self.registry.insert(key, id, sender);
        let registration = Registration { hub: self.clone(), key, id, active: false, reason: CloseReason::Network };
        // Read after the entry is in: whoever closes all either finds the entry, or is seen here.
        if self.closing.load(Ordering::SeqCst) { Err(Closing) } else { Ok((registration, inbox)) }
    }

    /// Waits until no connection of this session awaits a receipt, for a moment at most. A browser that has sent its
    /// receipt and asks at once again, on another connection, is not to overtake itself.
    pub async fn receipt_settled(&self, key: SessionKey) {
        let settled = async {
            loop {
                let mut ended = std::pin::pin!(self.receipt_settled.notified());
                ended.as_mut().enable();
                if !self.registry.awaits_receipt(key) {
                    return;
                }
                ended.await;
            }
        };
        tokio::select! {
            biased;
            () = settled => {}
            () = self.clock.sleep_until(self.clock.now().plus_millis(RECEIPT_GRACE_MILLIS)) => {}
        }
    }

    /// Sends every browser away, with 1012, and takes no more.
    pub fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.registry.for_each(|sender| {
            deliver(sender, Event::Restarting { retry_after_millis: random::below(RECONNECT_SPREAD_MILLIS) })
        });
    }

    /// Watches the deadlines, for as long as the program runs.
    pub async fn run(self: Arc<Self>) {
        let (expiring, expired) = mpsc::unbounded_channel();
        tokio::join!(self.watch_deadlines(expiring), self.settle(expired));
    }

    async fn watch_deadlines(&self, expiring: mpsc::UnboundedSender<Due>) {
        loop {
            let earlier = self.earlier.notified();
            let next = self.deadlines().next();
            tokio::select! {
                () = earlier => continue,
                () = sleep_until(&self.clock, next) => {}
            }
            let now = self.clock.now();
            let due = self.deadlines().take_due(now);
            for due in due {
                match due {
                    Due::Heartbeat(key, id) => self.beat(key, id, now),
                    Due::Expiry { .. } => drop(expiring.send(due)),
                }
            }
        }
    }

    fn beat(&self, key: SessionKey, id: ConnectionId, now: Timestamp) {
        let Some(sender) = self.registry.find(key, id) else { return };
        if sender.capacity() > INBOX_CAPACITY / 2 {
            deliver(&sender, Event::Heartbeat);
        }
        self.arm(now.plus_seconds(self.heartbeat_seconds), Due::Heartbeat(key, id));
    }

    /// Reads what is due, in one query for all that have become due since the last, and tells what the store says.
    async fn settle(&self, mut expiring: mpsc::UnboundedReceiver<Due>) {
        let mut batch = Vec::new();
        while expiring.recv_many(&mut batch, usize::MAX).await > 0 {
            let due: Vec<_> = batch
                .drain(..)
                .filter_map(|due| match due {
                    Due::Expiry { key, id, at } => self.registry.find(key, id).map(|sender| (key, id, at, sender)),
                    Due::Heartbeat(..) => None,
                })
                .collect();
            let keys: Vec<_> = due.iter().map(|(key, ..)| *key).collect();
            match self.store.read_settled(&keys).await {
                Ok((now, sessions)) => {
                    let found: HashMap<_, _> =
                        sessions.into_iter().map(|session| (session.key, Arc::new(session))).collect();
                    for (key, id, at, sender) in due {
                        self.tell_settled(found.get(&key), now, Due::Expiry { key, id, at }, &sender);
                    }
                }
                Err(error) => {
                    warn!(event = "store unavailable", waiting = due.len(), %error, "deadlines wait for the store");
                    let now = self.clock.now();
                    for (key, id, at, sender) in due {
                        if now < at.plus_seconds(PATIENCE_SECONDS) {
                            self.arm(now.plus_millis(RETRY_MILLIS), Due::Expiry { key, id, at });
                        } else {
                            deliver(&sender, Event::Unavailable);
                        }
                    }
                }
            }
        }
    }

    fn tell_settled(&self, session: Option<&Arc<Session>>, now: Timestamp, due: Due, sender: &mpsc::Sender<Event>) {
        match session {
            // Only if the clock was set back meanwhile.
            Some(session) if matches!(session.status(now), Status::Pending | Status::Scanned) => {
                self.arm(session.expires_at, due);
            }
            Some(session) if !session.is_undecided() => {
                deliver(sender, Event::Changed(session.clone(), Stopwatch::start()))
            }
            // Undecided and out of time; or swept, which is long past it.
            Some(_) | None => deliver(sender, Event::Expired),
        }
    }

    fn arm(&self, at: Timestamp, due: Due) {
        if self.deadlines().arm(at, due) {
            self.earlier.notify_one();
        }
    }

    fn deadlines(&self) -> MutexGuard<'_, Deadlines> {
        self.deadlines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener for Hub {
    fn changed(&self, session: &Arc<Session>, since: Stopwatch) {
        self.registry.for_each_of(session.key, |sender| deliver(sender, Event::Changed(session.clone(), since)));
    }
}

/// Never waits. A full inbox belongs to a browser that is about to be disconnected; a closed one to one that is gone.
fn deliver(sender: &mpsc::Sender<Event>, event: Event) {
    drop(sender.try_send(event));
}

async fn sleep_until(clock: &Clock, instant: Option<Timestamp>) {
    match instant {
        Some(instant) => clock.sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// A browser's place in the hub. Dropping it removes exactly this entry, counts the connection as closed (if it was
/// ever open) under the reason last given, and says so in the log.
pub struct Registration {
    hub: Arc<Hub>,
    key: SessionKey,
    id: ConnectionId,
    active: bool,
    reason: CloseReason,
}

impl Registration {
    /// The socket is up: from here on the connection counts, its deadlines run, and older ones of the same session
    /// are closed.
    pub fn activate(&mut self, expires_at: Timestamp) {
        self.active = true;
        self.hub.metrics.connection_opened();
        info!(event = "connected", session = %self.key, active = self.hub.metrics.active_connections());
        for replaced in self.hub.registry.activate(self.key, self.id) {
            deliver(&replaced, Event::Replaced);
        }
        let first_beat = self.hub.clock.now().plus_seconds(self.hub.heartbeat_seconds);
        self.hub.arm(first_beat, Due::Heartbeat(self.key, self.id));
        self.hub.arm(expires_at, Due::Expiry { key: self.key, id: self.id, at: expires_at });
    }

    /// The token is being written; what the browser says next may be its receipt.
    pub fn await_receipt(&self) {
        self.hub.registry.await_receipt(self.key, self.id);
    }

    /// Why the connection is about to end. Until this is called, the network is to blame.
    pub fn set_reason(&mut self, reason: CloseReason) {
        self.reason = reason;
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.hub.registry.remove(self.key, self.id);
        self.hub.receipt_settled.notify_waiters();
        if self.active {
            self.hub.metrics.connection_closed(self.reason);
            let active = self.hub.metrics.active_connections();
            info!(event = "disconnected", session = %self.key, reason = self.reason.as_str(), active);
        }
    }
}
