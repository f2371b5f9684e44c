//! The acceptor: the thread that accepts connections on the public port and reads their first request.
//!
//! The acceptor answers one kind of request itself, a valid request for the WebSocket. This takes a fraction of the
//! time and memory of a general HTTP server. Every other request goes to hyper and the route table, together with the
//! bytes that have been read. So does a request for the WebSocket that is refused, so that all refusals are written in
//! one place.

pub(super) mod request_head;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use futures_util::FutureExt as _;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::App;
use super::refused::Refused;
use super::server::{ACCEPT_RETRY_MILLIS, AcceptFailures, Accepted, Connections, MAX_HEAD_BYTES, is_of_one_connection};
use crate::hub::{NewConnection, Registration, Transport};
use crate::limits::{Call, ConnectionPermit, QuotaExceeded};
use crate::login;
use crate::metrics::Stopwatch;
use crate::session::{SessionId, SessionKey};
use crate::store::StoreError;
use crate::system::shutdown::Shutdown;
use crate::wire::http1::Answer;
use crate::wire::websocket::Handshake;
use request_head::{FirstRequest, Head};

const LISTENER: Token = Token(usize::MAX);
const WAKE: Token = Token(usize::MAX - 1);
/// Maximum number of readiness events of one poll.
const EVENTS: usize = 1024;
/// Number of stale deadlines from which on the queue is compacted, in addition to one for each open head.
const FORGOTTEN_AT_ONCE: usize = 1024;
/// The route in metrics and log lines.
const ROUTE: &str = "/v1/ws/qr/{session_id}";
/// Maximum number of sessions whose rows are read in one query. It is also the maximum number of connections accepted
/// before their requests are read.
const MAX_BATCH: usize = 256;
/// Maximum number of such queries at a time.
const MAX_BATCHES: usize = 8;
/// Maximum number of connections that wait for a query. One more is refused with 503.
const MAX_ARRIVALS: usize = 4096;
/// Time after which a connection that waits for a query is refused with 503, in seconds.
const ARRIVAL_SECONDS: u64 = 5;
/// Maximum number of connections beyond a limit whose requests are read, at a time. More are refused without reading.
const MAX_SURPLUS: usize = 256;
/// Time in which the request of a connection beyond a limit must arrive.
const SURPLUS_TIME: Duration = Duration::from_secs(1);

/// Starts the acceptor, which serves `routes` on `listener` until the server begins to close. The returned future ends
/// when the requests that are being handled then have been answered. Must be called within the runtime that is to serve
/// them.
///
/// # Errors
/// Returns an error if the thread or the epoll instance cannot be created, or the listener cannot be set up.
pub fn serve_public(
    listener: std::net::TcpListener,
    routes: Router,
    app: Arc<App>,
    shutdown: Shutdown,
) -> io::Result<impl Future<Output = ()> + Send> {
    let connections =
        Arc::new(Connections::new(routes, app.header_seconds, app.logins.clock.clone(), shutdown.clone()));
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), WAKE)?;
    listener.set_nonblocking(true)?;
    // Accepted sockets inherit the option. A frame is one small write, which must not wait for more bytes.
    socket2::SockRef::from(&listener).set_tcp_nodelay(true)?;
    let mut listener = TcpListener::from_std(listener);
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let header_time = Duration::from_secs(app.header_seconds.into());
    let gate = Acceptor {
        arrivals: Arc::new(UpgradeQueue {
            app: app.clone(),
            connections: connections.clone(),
            queue: Mutex::default(),
            reading: TaskTracker::new(),
        }),
        app,
        connections: connections.clone(),
        runtime: Handle::current(),
        poll,
        listener,
        heads: Slab::new(),
        deadlines: HeadDeadlines::after(header_time),
        surplus_deadlines: HeadDeadlines::after(SURPLUS_TIME.min(header_time)),
        next_serial: 0,
        is_to_accept: false,
        is_out_of_sockets: false,
        failures: AcceptFailures::default(),
        surplus_places: Arc::new(Semaphore::new(MAX_SURPLUS)),
        shutdown: shutdown.clone(),
    };
    let reading = gate.arrivals.reading.clone();
    let (gone, is_gone) = oneshot::channel();
    let vital = gate.shutdown.vital("gate");
    let run = move || {
        let _vital = vital;
        gate.run();
        let _ = gone.send(());
    };
    std::thread::Builder::new().name("qrlogin-gate".to_owned()).spawn(run)?;
    Ok(async move {
        shutdown.closing().await;
        drop(waker.wake());
        drop(is_gone.await);
        reading.close();
        reading.wait().await;
        connections.ended().await;
    })
}

/// The acceptor's state.
struct Acceptor {
    app: Arc<App>,
    connections: Arc<Connections>,
    arrivals: Arc<UpgradeQueue>,
    runtime: Handle,
    poll: Poll,
    listener: TcpListener,
    /// Connections whose first request has not arrived whole.
    heads: Slab<Head>,
    deadlines: HeadDeadlines,
    /// Deadlines of the heads of connections beyond a limit.
    surplus_deadlines: HeadDeadlines,
    next_serial: u64,
    /// The listener was reported readable and has not returned `WouldBlock` since.
    is_to_accept: bool,
    /// Accepting has failed, as when no file descriptors are left. The next attempt comes after a pause, or with the
    /// next event.
    is_out_of_sockets: bool,
    failures: AcceptFailures,
    surplus_places: Arc<Semaphore>,
    shutdown: Shutdown,
}

/// The queue of connections whose rows are to be read, and the tasks that read them, many in one query. The acceptor
/// does not wait for the store.
struct UpgradeQueue {
    app: Arc<App>,
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
struct PendingUpgrade {
    socket: TcpStream,
    peer: SocketAddr,
    /// All bytes that have been read.
    bytes: Vec<u8>,
    /// Length of the head, with which `bytes` begin.
    head_bytes: usize,
    handshake: Handshake,
    registration: Registration,
    permit: Option<ConnectionPermit>,
    since: Stopwatch,
}

impl Acceptor {
    fn run(mut self) {
        let runtime = self.runtime.clone();
        let _within = runtime.enter();
        let mut events = Events::with_capacity(EVENTS);
        let mut scratch = vec![0; MAX_HEAD_BYTES];
        let mut accepted = Vec::new();
        while !self.shutdown.is_closing() {
            // A poll that is interrupted leaves no events.
            let patience = self.patience();
            drop(self.poll.poll(&mut events, patience));
            self.is_to_accept |= events.iter().any(|event| event.token() == LISTENER);
            if self.is_to_accept {
                self.accept(&mut accepted);
            }
            for event in events.iter().filter(|event| event.token() != LISTENER && event.token() != WAKE) {
                self.read_on(event.token().0, &mut scratch);
            }
            // In the order of acceptance: the first connections have had the most time for their request to arrive.
            for head in accepted.drain(..) {
                self.begin(head, &mut scratch);
            }
            self.arrivals.read(&self.runtime);
            self.time_out();
        }
    }

    fn patience(&mut self) -> Option<Duration> {
        if self.is_to_accept {
            let pause = if std::mem::take(&mut self.is_out_of_sockets) { ACCEPT_RETRY_MILLIS } else { 0 };
            return Some(Duration::from_millis(pause.into()));
        }
        let left = [&self.deadlines, &self.surplus_deadlines].into_iter().filter_map(HeadDeadlines::left).min()?;
        Some(left + Duration::from_millis(1))
    }

    /// Accepts pending connections, at most [`MAX_BATCH`].
    fn accept(&mut self, accepted: &mut Vec<Head>) {
        self.is_to_accept = true;
        for _ in 0..MAX_BATCH {
            match self.listener.accept() {
                Ok((socket, peer)) => {
                    self.failures.accepted();
                    accepted.extend(self.head(socket, peer));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_to_accept = false;
                    return;
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    self.failures.note(&error);
                    self.is_out_of_sockets = true;
                    return;
                }
            }
        }
    }

    /// Counts an accepted connection, and returns it if its request is to be read. The request of a connection beyond a
    /// limit is read too, so that the page can read the refusal. At most [`MAX_SURPLUS`] such connections exist at a
    /// time, and more are refused at once.
    fn head(&mut self, socket: TcpStream, peer: SocketAddr) -> Option<Head> {
        let (permit, surplus) = match self.permit(peer.ip()) {
            Ok(permit) => (permit, None),
            Err(full) => match self.surplus_places.clone().try_acquire_owned() {
                Ok(place) => (None, Some((full.into(), place))),
                Err(_) => {
                    self.connections.refuse(socket.into(), peer, &[], full.into());
                    return None;
                }
            },
        };
        self.next_serial += 1;
        Some(Head { socket, peer, bytes: Vec::new(), serial: self.next_serial, permit, surplus })
    }

    /// Reads a request that may have arrived already, before the socket is registered for readiness.
    fn begin(&mut self, mut head: Head, scratch: &mut [u8]) {
        match head.read(scratch, &self.app) {
            FirstRequest::Incomplete => self.wait_for(head),
            request => self.pass_on(head, request),
        }
    }

    fn wait_for(&mut self, mut head: Head) {
        let slot = self.heads.vacant_key();
        if self.poll.registry().register(&mut head.socket, Token(slot), Interest::READABLE).is_ok() {
            let deadlines = if head.surplus.is_some() { &mut self.surplus_deadlines } else { &mut self.deadlines };
            deadlines.add(slot, head.serial);
            self.heads.insert(head);
            self.deadlines.forget_past(&self.heads);
            self.surplus_deadlines.forget_past(&self.heads);
        }
    }

    fn read_on(&mut self, slot: usize, scratch: &mut [u8]) {
        let Some(head) = self.heads.get_mut(slot) else { return };
        match head.read(scratch, &self.app) {
            FirstRequest::Incomplete => {}
            request => {
                let mut head = self.heads.remove(slot);
                drop(self.poll.registry().deregister(&mut head.socket));
                self.pass_on(head, request);
            }
        }
    }

    fn pass_on(&mut self, head: Head, request: FirstRequest) {
        match request {
            FirstRequest::Closed => {}
            _ if head.surplus.is_some() => self.hand_over(head, None),
            FirstRequest::Upgrade { head_bytes, handshake, id, address } => {
                self.accept_upgrade(head, head_bytes, handshake, &id, address);
            }
            FirstRequest::Other | FirstRequest::Incomplete => self.hand_over(head, None),
        }
    }

    fn accept_upgrade(&mut self, head: Head, head_bytes: usize, handshake: Handshake, id: &SessionId, address: IpAddr) {
        let since = Stopwatch::start();
        let key = id.key();
        match self.admit_browser(&head, address, key) {
            Ok((permit, registration)) => {
                let Head { socket, peer, bytes, permit: taken, .. } = head;
                let permit = taken.or(permit);
                let arrival =
                    PendingUpgrade { socket, peer, bytes, head_bytes, handshake, registration, permit, since };
                self.arrivals.add(arrival);
            }
            Err(refused) => self.hand_over(head, Some(refused)),
        }
    }

    /// Counts a connection, unless it is of a trusted proxy. The requests through a proxy are counted by their clients.
    fn permit(&self, peer: IpAddr) -> Result<Option<ConnectionPermit>, QuotaExceeded> {
        if self.app.proxies.trusts(peer) { Ok(None) } else { self.app.limits.permit(peer) }
    }

    /// Does the first three steps of [`super::arrive::arrive`]: counts the call, counts the connection of a client
    /// behind a proxy, and registers it. The row is read later, with those of other connections.
    fn admit_browser(
        &self,
        head: &Head,
        address: IpAddr,
        key: SessionKey,
    ) -> Result<(Option<ConnectionPermit>, Registration), Refused> {
        self.app.limits.admit(Call::WebSocket, address).map_err(Refused::Limited)?;
        let permit = if head.permit.is_some() { None } else { self.app.limits.permit(address)? };
        let registration = self.app.hub.register(key).map_err(|_| Refused::Stopping)?;
        Ok((permit, registration))
    }

    fn hand_over(&self, head: Head, refused: Option<Refused>) {
        let Head { socket, peer, bytes, permit, surplus, .. } = head;
        let (refused, surplus) = match surplus {
            Some((full, place)) => (Some(full), Some(place)),
            None => (refused, None),
        };
        self.connections.serve(Accepted { stream: socket.into(), peer, beginning: bytes, refused, permit, surplus });
    }

    /// Refuses connections whose request has not arrived in time. A connection within the limits that has sent nothing
    /// is closed without an answer.
    fn time_out(&mut self) {
        for deadlines in [&mut self.deadlines, &mut self.surplus_deadlines] {
            while let Some((slot, serial)) = deadlines.take_past() {
                if self.heads.get(slot).is_none_or(|head| head.serial != serial) {
                    continue;
                }
                let mut head = self.heads.remove(slot);
                drop(self.poll.registry().deregister(&mut head.socket));
                let Head { socket, peer, bytes, surplus, .. } = head;
                let refused = match surplus {
                    Some((full, _)) => full,
                    // A client that has sent nothing expects no answer.
                    None if bytes.is_empty() => continue,
                    None => Refused::Late,
                };
                self.connections.refuse(socket.into(), peer, &bytes, refused);
            }
        }
    }
}

/// A queue of deadlines of heads, in order. A serial number tells a head from an earlier one in the same slot.
struct HeadDeadlines {
    time: Duration,
    queue: VecDeque<(Stopwatch, usize, u64)>,
}

impl HeadDeadlines {
    fn after(time: Duration) -> Self {
        Self { time, queue: VecDeque::new() }
    }

    fn add(&mut self, slot: usize, serial: u64) {
        self.queue.push_back((Stopwatch::start(), slot, serial));
    }

    /// Returns the time until the first deadline.
    fn left(&self) -> Option<Duration> {
        self.queue.front().map(|(since, ..)| self.time.saturating_sub(since.elapsed()))
    }

    fn take_past(&mut self) -> Option<(usize, u64)> {
        self.left().filter(Duration::is_zero)?;
        self.queue.pop_front().map(|(_, slot, serial)| (slot, serial))
    }

    /// Compacts the queue. Most requests arrive in time, and leave a stale deadline.
    fn forget_past(&mut self, heads: &Slab<Head>) {
        if self.queue.len() > 2 * heads.len() + FORGOTTEN_AT_ONCE {
            self.queue.retain(|(_, slot, serial)| heads.get(*slot).is_some_and(|head| head.serial == *serial));
            self.queue.shrink_to(2 * heads.len() + FORGOTTEN_AT_ONCE);
        }
    }
}

impl UpgradeQueue {
    fn add(&self, arrival: PendingUpgrade) {
        let mut queue = self.lock();
        if queue.waiting.len() < MAX_ARRIVALS {
            queue.waiting.push_back(arrival);
            return;
        }
        drop(queue);
        arrival.refuse(&self.connections, Refused::TooManyHandshakes);
    }

    /// Ensures that a task reads the rows of the connections in the queue. Spawns one if all others wait for the store
    /// and fewer than [`MAX_BATCHES`] run.
    fn read(self: &Arc<Self>, runtime: &Handle) {
        let mut queue = self.lock();
        if !queue.waiting.is_empty() && queue.tasks == queue.asking && queue.tasks < MAX_BATCHES {
            queue.tasks += 1;
            drop(queue);
            self.reading.spawn_on(self.clone().read_on(), runtime);
        }
    }

    /// Reads the rows of `keys`. While this task waits for the store, another task reads those of later connections.
    async fn attach(self: &Arc<Self>, keys: &[SessionKey]) -> Rows {
        let mut attaching = std::pin::pin!(self.app.logins.attach(keys));
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
                let mut queue = self.lock();
                if queue.waiting.is_empty() {
                    // Ends under the lock, so that `read` spawns a task for the next connection.
                    return task.end(&mut queue);
                }
                let count = queue.waiting.len().min(MAX_BATCH);
                queue.waiting.drain(..count).collect()
            };
            let (batch, late): (Vec<_>, Vec<_>) =
                batch.into_iter().partition(|arrival| arrival.since.elapsed().as_secs() < ARRIVAL_SECONDS);
            for arrival in late {
                arrival.refuse(&self.connections, Refused::TooManyHandshakes);
            }
            let keys: Vec<_> = batch.iter().map(|arrival| arrival.registration.key()).collect();
            let rows = if keys.is_empty() { HashMap::new() } else { self.attach(&keys).await };
            // In reverse order, so that older connections of a session find the newest one open, and are superseded.
            for arrival in batch.into_iter().rev() {
                arrival.be_answered(&self.app, &self.connections, &rows);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.0.lock().tasks -= 1;
        if let Ok(runtime) = Handle::try_current() {
            self.0.read(&runtime);
        }
    }
}

/// Counts a task that waits for the store, until the value is dropped.
struct Asking<'a>(&'a UpgradeQueue);

impl<'a> Asking<'a> {
    fn begin(arrivals: &'a Arc<UpgradeQueue>) -> Self {
        arrivals.lock().asking += 1;
        // The queue must not wait for the answer to this task.
        arrivals.read(&Handle::current());
        Self(arrivals)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.lock().asking -= 1;
    }
}

type Rows = HashMap<SessionKey, Result<login::AttachedSession, Arc<StoreError>>>;

impl PendingUpgrade {
    fn be_answered(self, app: &App, connections: &Connections, rows: &Rows) {
        match rows.get(&self.registration.key()) {
            Some(Ok(found)) => self.open(app, found),
            Some(Err(error)) => {
                let error = error.clone();
                self.refuse(connections, Refused::Unread(error));
            }
            None => self.refuse(connections, Refused::NotFound),
        }
    }

    fn open(mut self, app: &App, found: &login::AttachedSession) {
        let mut answer = Answer::new(StatusCode::SWITCHING_PROTOCOLS, None);
        for (name, value) in self.handshake.answer() {
            answer = answer.field(name, value.as_bytes());
        }
        let answer = answer.open().to_vec();
        let early = self.bytes.split_off(self.head_bytes);
        let transport = Transport::WebSocket { acknowledges: self.handshake.acknowledges };
        let connection = NewConnection { socket: self.socket, answer, early, transport, permit: self.permit };
        self.registration.open(connection, found);
        app.metrics.answered("GET", ROUTE, 101, self.since);
        debug!(
            event = "answered",
            method = "GET",
            route = ROUTE,
            status = 101,
            micros = self.since.elapsed().as_micros()
        );
    }

    fn refuse(self, connections: &Connections, refused: Refused) {
        drop(self.registration);
        connections.serve(Accepted {
            stream: self.socket.into(),
            peer: self.peer,
            beginning: self.bytes,
            refused: Some(refused),
            permit: self.permit,
            surplus: None,
        });
    }
}
