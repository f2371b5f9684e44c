//! The hub: all waiting connections of this node, and delivery of session changes to them.
//!
//! A waiting connection is a small record in the registry (`registry.rs`) without a task of its own. One thread, the
//! poller (`poller.rs`), waits for readiness of all sockets. The next deadline of each connection is an entry in one
//! queue (`deadlines.rs`). A session change is written to the socket by the thread that announces it (`push.rs`).
//! `connection/` holds the record and its state machine.
//!
//! The store is not read for a connection between its opening and its deadline, unless a change is reported. At the
//! deadline, the rows of all due sessions are read together (`due_sessions.rs`). An undecided session is delivered as expired
//! only after a reading that is ordered with the decisions (`Store::read_settled`).

mod act;
mod connection;
mod deadlines;
mod due_sessions;
#[cfg(test)]
mod history;
mod message;
mod notifications;
mod opening;
mod poller;
mod push;
mod registration;
mod registry;
#[cfg(test)]
mod registry_test;
mod shared_state;
mod socket;
mod transport;
mod turn;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use mio::net::TcpStream;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tracing::warn;

use crate::limits::ConnectionQuota;
use crate::login::{Codes, Logins};
use crate::metrics::{CloseReason, Metrics};
use crate::session::SessionKey;
use crate::store::Store;
use crate::system::clock::Clock;
use crate::system::random;
use crate::system::shutdown::Vital;
use crate::wire::types::{RETRY_AFTER, close_code};
use connection::Connection;
use deadlines::{Deadlines, Epoch};
use due_sessions::DueQueue;
use notifications::NotificationQueues;
use poller::PollerHandle;
use registry::{Registry, Slot};
use shared_state::SharedStates;
use socket::Socket;

pub use opening::NewConnection;
pub use registration::Registration;
pub use registry::Closing;
pub use transport::Transport;

/// Lock types of the registry. `tests/registry_model.rs` compiles the registry with those of `loom` instead.
mod sync {
    pub(super) use std::sync::{Mutex, MutexGuard};
}

/// Bound of the random delay after which a client is asked to reconnect to another node, in milliseconds.
const RECONNECT_SPREAD_MILLIS: u32 = 3000;
/// Minimum number of connections closed per batch while draining: 10,000 a second.
const DRAIN_BATCH: usize = 500;
/// Pause between two batches while draining, in milliseconds.
const DRAIN_PAUSE_MILLIS: u32 = 50;
/// Maximum number of batches while draining, which bounds the drain to 20 seconds. With more connections the batches
/// are larger.
const MAX_DRAIN_BATCHES: usize = 400;
/// Maximum time that a request waits for the acknowledgement of an earlier connection of its session, in milliseconds.
/// The acknowledgement may already be in the socket's receive buffer.
const ACK_WAIT_MILLIS: u32 = 250;
/// Maximum number of due connections handled before yielding to other tasks.
const TURNS_PER_YIELD: usize = 64;

/// All waiting connections of this node. The module documentation describes it.
pub struct Hub<S: Socket = TcpStream> {
    clock: Clock,
    logins: Arc<Logins>,
    store: Arc<dyn Store>,
    codes: Arc<Codes>,
    metrics: Arc<Metrics>,
    heartbeat_seconds: u32,
    shared_states: SharedStates,
    registry: Registry<Connection<S>>,
    deadlines: Mutex<Deadlines>,
    epoch: Epoch,
    /// Held while the due connections of one tick are handled.
    ticking: tokio::sync::Mutex<()>,
    /// Connections whose session must be read from the store.
    due_queue: DueQueue,
    /// Notified when an entry is queued that is due before all others.
    earlier: Notify,
    /// Notified when a connection has ended.
    ended: Notify,
    /// Number of the next connection in the order of registration.
    next_number: AtomicU32,
    is_closing: AtomicBool,
    poll: S::Poll,
    poller: PollerHandle,
    is_stopped: AtomicBool,
    /// Sessions to be read after notifications, and delivered changes to be reported to the store.
    notifications: NotificationQueues,
    /// Runtime on which acknowledgements are stored.
    runtime: Handle,
}

/// The parts from which a hub is assembled.
pub struct HubParts {
    /// The use cases of a login.
    pub logins: Arc<Logins>,
    /// Store of sessions, which has the undelivered changes.
    pub store: Arc<dyn Store>,
    /// Codes of sessions, which rotate while the browser waits.
    pub codes: Arc<Codes>,
    /// Source of time.
    pub clock: Clock,
    /// Metrics of connections.
    pub metrics: Arc<Metrics>,
    /// Time between two heartbeats on a connection, in seconds.
    pub heartbeat_seconds: u32,
    /// Quota to which a connection that ends is returned, if connections are limited.
    pub quota: Option<Arc<ConnectionQuota>>,
}

impl Hub {
    /// Creates an empty hub and starts its poller thread. Must be called within the runtime that the hub is to use.
    ///
    /// # Errors
    /// Returns an error if the thread or the epoll instance cannot be created.
    pub fn start(parts: HubParts, vital: Vital) -> io::Result<Arc<Self>> {
        let (poll, poller) = PollerHandle::prepare()?;
        let hub = Arc::new(Self::new(parts, poll.registry().try_clone()?, poller));
        poller::spawn(hub.clone(), poll, vital)?;
        Ok(hub)
    }
}

impl<S: Socket + Send + 'static> Hub<S> {
    fn new(parts: HubParts, poll: S::Poll, poller: PollerHandle) -> Self {
        let HubParts { logins, store, codes, clock, metrics, heartbeat_seconds, quota } = parts;
        Self {
            shared_states: SharedStates::new(metrics.clone(), quota),
            registry: Registry::default(),
            deadlines: Mutex::default(),
            epoch: Epoch::at(clock.reading()),
            ticking: tokio::sync::Mutex::default(),
            due_queue: DueQueue::default(),
            earlier: Notify::new(),
            ended: Notify::new(),
            // The numbers wrap around early, so that tests see it.
            next_number: AtomicU32::new(u32::MAX - 2),
            notifications: NotificationQueues::default(),
            is_closing: AtomicBool::new(false),
            poll,
            poller,
            is_stopped: AtomicBool::new(false),
            runtime: Handle::current(),
            clock,
            logins,
            store,
            codes,
            metrics,
            heartbeat_seconds,
        }
    }

    /// Returns whether a connection of this session has been given the token, and its acknowledgement may already be
    /// received or is being stored.
    #[must_use]
    pub fn may_have_received_ack(&self, key: SessionKey) -> bool {
        let mut awaits = false;
        self.registry.for_each(&key, |_, connection| awaits |= connection.may_have_received_ack());
        awaits
    }

    /// Waits until no connection of this session awaits an acknowledgement, for at most a quarter of a second. A
    /// browser may send its acknowledgement and at once a request on another connection. The acknowledgement is then
    /// handled first.
    pub async fn wait_for_ack(&self, key: SessionKey) {
        let settled = self.until(|| !self.may_have_received_ack(key));
        tokio::select! {
            biased;
            () = settled => {}
            () = self.clock.sleep_millis(ACK_WAIT_MILLIS) => {}
        }
    }

    /// Stops accepting connections and closes the existing ones with code 1012 (Service Restart), in batches, so that
    /// the other nodes do not receive all reconnects at once. A connection that is not closed yet still receives
    /// session changes.
    pub async fn close(self: &Arc<Self>) {
        self.is_closing.store(true, Ordering::SeqCst);
        let slots = self.registry.close();
        let batch = DRAIN_BATCH.max(slots.len().div_ceil(MAX_DRAIN_BATCHES));
        for (index, some) in slots.chunks(batch).enumerate() {
            if index > 0 {
                self.clock.sleep_millis(DRAIN_PAUSE_MILLIS).await;
            }
            for slot in some {
                self.close_to_drain(*slot);
            }
        }
    }

    /// Waits until no connection is left in the registry.
    pub async fn emptied(&self) {
        self.until(|| self.registry.is_empty()).await;
    }

    /// Stops the poller thread.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
        self.poller.wake();
    }

    /// Runs the hub's tasks: deadlines, readings of the store, notifications, and steps of session time. Never returns.
    pub async fn run(self: Arc<Self>) {
        tokio::join!(self.run_deadlines(), self.settle(), self.handle_notifications(), self.follow_steps());
    }

    /// Handles deadlines as they come due. Never returns.
    async fn run_deadlines(self: &Arc<Self>) {
        loop {
            let earlier = self.earlier.notified();
            let next = self.deadlines.lock().next().map(|tick| self.epoch.instant_of(tick));
            tokio::select! {
                () = earlier => continue,
                () = sleep_until(&self.clock, next) => {}
            }
            let now = self.epoch.tick_by(self.clock.steady());
            loop {
                let Some((tick, slots)) = self.deadlines.lock().take_due(now) else { break };
                let ticking = self.ticking.lock().await;
                for some in slots.chunks(TURNS_PER_YIELD) {
                    for slot in some {
                        self.act(*slot, |connection, turn| connection.due(tick, turn));
                    }
                    tokio::task::yield_now().await;
                }
                drop(ticking);
            }
        }
    }

    /// Brings deadlines forward each time that session time has been stepped. Never returns.
    async fn follow_steps(self: &Arc<Self>) {
        loop {
            self.clock.stepped().await;
            warn!(event = "session_time_stepped", "the clock of the shared store was set");
            for some in self.registry.slots().chunks(TURNS_PER_YIELD) {
                for slot in some {
                    self.act(*slot, |connection, turn| connection.session_time_stepped(turn));
                }
                tokio::task::yield_now().await;
            }
        }
    }

    fn close_to_drain(self: &Arc<Self>, slot: Slot) {
        let why = format!("{}{}", RETRY_AFTER, random::below(RECONNECT_SPREAD_MILLIS));
        self.act(slot, |connection, turn| {
            connection.close_if_waiting(close_code::RESTARTING, &why, CloseReason::Shutdown, turn)
        });
    }

    /// Waits until `is_so` returns true. `is_so` is called again each time that a connection has ended.
    async fn until(&self, is_so: impl Fn() -> bool) {
        loop {
            let mut ended = std::pin::pin!(self.ended.notified());
            ended.as_mut().enable();
            if is_so() {
                return;
            }
            ended.await;
        }
    }
}

/// Sleeps until this instant, or for ever if there is none.
async fn sleep_until(clock: &Clock, instant: Option<Duration>) {
    match instant {
        Some(instant) => clock.sleep_until_steady(instant).await,
        None => std::future::pending().await,
    }
}
