//! WebSocket upgrades that the acceptor has let arrive, and the tasks that read the rows of their sessions.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use axum::http::StatusCode;
use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use super::request_head::Head;
use crate::http::arrive::Arrivals;
use crate::http::layers::limit::BorrowedPermit;
use crate::http::layers::observe::Observer;
use crate::http::problem::ApiError;
use crate::http::server::{Accepted, Connections};
use crate::hub::{NewConnection, Registration, Transport};
use crate::login::{AttachedSession, LoginError};
use crate::metrics::Stopwatch;
use crate::session::SessionKey;
use crate::store::StoreError;
use crate::wire::http1::Http1Response;
use crate::wire::websocket::Handshake;

/// The route in metrics and log lines.
const ROUTE: &str = "/v1/ws/qr/{session_id}";
/// Maximum number of sessions whose rows are read in one query.
const MAX_BATCH: usize = 256;
/// Maximum number of such queries at a time.
const MAX_BATCHES: usize = 8;
/// Maximum number of connections that wait for a query. One more is refused with 503.
const MAX_PENDING: usize = 4096;
/// Time after which a connection that waits for a query is refused with 503, in seconds.
const PENDING_SECONDS: u64 = 5;

/// The queue of connections whose rows are to be read, and the tasks that read them, many in one query. The acceptor
/// does not wait for the store.
pub(super) struct UpgradeQueue {
    arrivals: Arc<Arrivals>,
    observer: Arc<Observer>,
    connections: Arc<Connections>,
    queue: Mutex<Queue>,
    /// Tracks the tasks that read rows.
    reading: TaskTracker,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<PendingUpgrade>,
    tasks: usize,
    /// Number of tasks that wait for the store. The others are about to look into the queue.
    asking: usize,
}

/// A connection with a valid handshake, whose session's row is to be read.
pub(super) struct PendingUpgrade {
    /// The connection, with all bytes that have been read.
    pub(super) head: Head,
    /// Length of the request's head, with which the bytes begin.
    pub(super) head_bytes: usize,
    pub(super) handshake: Handshake,
    pub(super) registration: Registration,
    pub(super) permit: BorrowedPermit,
    pub(super) since: Stopwatch,
}

impl UpgradeQueue {
    pub(super) fn new(arrivals: Arc<Arrivals>, observer: Arc<Observer>, connections: Arc<Connections>) -> Arc<Self> {
        Arc::new(Self { arrivals, observer, connections, queue: Mutex::default(), reading: TaskTracker::new() })
    }

    /// Waits until all upgrades have been answered. None may be added afterwards.
    pub(super) async fn ended(&self) {
        self.reading.close();
        self.reading.wait().await;
    }

    /// Adds an upgrade, or refuses it if too many wait.
    pub(super) fn add(&self, upgrade: PendingUpgrade) {
        let mut queue = self.queue.lock();
        if queue.waiting.len() < MAX_PENDING {
            queue.waiting.push_back(upgrade);
            return;
        }
        drop(queue);
        upgrade.refuse(&self.connections, ApiError::TooManyHandshakes);
    }

    /// Ensures that a task reads the rows of the connections in the queue. Spawns one if all others wait for the store
    /// and fewer than [`MAX_BATCHES`] run.
    pub(super) fn read(self: &Arc<Self>, runtime: &Handle) {
        let mut queue = self.queue.lock();
        if !queue.waiting.is_empty() && queue.tasks == queue.asking && queue.tasks < MAX_BATCHES {
            queue.tasks += 1;
            drop(queue);
            self.reading.spawn_on(self.clone().read_on(), runtime);
        }
    }

    /// Reads the rows of `keys`. While this task waits for the store, another task reads those of later connections.
    async fn attach(self: &Arc<Self>, keys: &[SessionKey]) -> Rows {
        let mut attaching = std::pin::pin!(self.arrivals.logins.attach(keys));
        if let Some(rows) = attaching.as_mut().now_or_never() {
            return rows;
        }
        let asking = Asking::begin(self);
        let rows = attaching.await;
        drop(asking);
        rows
    }

    /// Reads rows and opens connections until the queue is empty.
    async fn read_on(self: Arc<Self>) {
        let task = Task(&self);
        loop {
            let batch: Vec<_> = {
                let mut queue = self.queue.lock();
                if queue.waiting.is_empty() {
                    // Ends under the lock, so that `read` spawns a task for the next connection.
                    return task.end(&mut queue);
                }
                let count = queue.waiting.len().min(MAX_BATCH);
                queue.waiting.drain(..count).collect()
            };
            let is_in_time = |upgrade: &PendingUpgrade| upgrade.since.elapsed().as_secs() < PENDING_SECONDS;
            let (batch, late): (Vec<_>, Vec<_>) = batch.into_iter().partition(is_in_time);
            for upgrade in late {
                upgrade.refuse(&self.connections, ApiError::TooManyHandshakes);
            }
            let keys: Vec<_> = batch.iter().map(|upgrade| upgrade.registration.key()).collect();
            let rows = if keys.is_empty() { HashMap::new() } else { self.attach(&keys).await };
            // In reverse order, so that older connections of a session find the newest one open, and are superseded.
            for upgrade in batch.into_iter().rev() {
                match rows.get(&upgrade.registration.key()) {
                    Some(Ok(found)) => upgrade.open(&self.observer, found),
                    Some(Err(error)) => upgrade.refuse(&self.connections, LoginError::Read(error.clone()).into()),
                    None => upgrade.refuse(&self.connections, LoginError::NotFound.into()),
                }
            }
        }
    }
}

/// One of the tasks that read rows, which is counted until it ends or panics. After a panic, another task is spawned
/// for the rest of the queue.
struct Task<'a>(&'a Arc<UpgradeQueue>);

impl Task<'_> {
    fn end(self, queue: &mut Queue) {
        queue.tasks -= 1;
        std::mem::forget(self);
    }
}

impl Drop for Task<'_> {
    fn drop(&mut self) {
        self.0.queue.lock().tasks -= 1;
        if let Ok(runtime) = Handle::try_current() {
            self.0.read(&runtime);
        }
    }
}

/// Counts a task that waits for the store, until the value is dropped.
struct Asking<'a>(&'a UpgradeQueue);

impl<'a> Asking<'a> {
    fn begin(upgrades: &'a Arc<UpgradeQueue>) -> Self {
        upgrades.queue.lock().asking += 1;
        // The queue must not wait for the answer to this task.
        upgrades.read(&Handle::current());
        Self(upgrades)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.queue.lock().asking -= 1;
    }
}

type Rows = HashMap<SessionKey, Result<AttachedSession, Arc<StoreError>>>;

impl PendingUpgrade {
    /// Completes the handshake and opens the connection.
    fn open(self, observer: &Observer, found: &AttachedSession) {
        let Head { socket, mut bytes, .. } = self.head;
        let mut response = Http1Response::new(StatusCode::SWITCHING_PROTOCOLS, None);
        for (name, value) in self.handshake.response_fields() {
            response = response.field(name, value.as_bytes());
        }
        let response = response.open().to_vec();
        let early = bytes.split_off(self.head_bytes);
        let transport = Transport::WebSocket { acknowledges: self.handshake.acknowledges };
        let connection = NewConnection { socket, response, early, transport, permit: self.permit.keep() };
        self.registration.open(connection, found);
        observer.record_response("GET", ROUTE, StatusCode::SWITCHING_PROTOCOLS, self.since);
    }

    /// Hands the connection to hyper and the route table, which refuse the request.
    fn refuse(self, connections: &Connections, refused: ApiError) {
        // The connection is not in the hub, and its permit belongs to the TCP connection, before the response is made.
        drop((self.registration, self.permit));
        let Head { socket, peer, bytes, permit, .. } = self.head;
        connections.serve(Accepted {
            stream: socket.into(),
            peer,
            beginning: bytes,
            refused: Some(refused),
            permit,
            surplus: None,
        });
    }
}
