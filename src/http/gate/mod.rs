//! The public port: a thread that accepts connections and reads their first request.
//!
//! What it knows is one request, `GET /v1/ws/qr/{session_id}` as a browser sends it. That it answers itself, for a
//! fraction of what a general HTTP server takes, and without anything being kept for the connection. Every other
//! request, and every one of these that is to be refused, goes to hyper and the route table, together with the bytes
//! that have been read: refusals are written in one place.

pub(super) mod head;

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
use super::upgrade::Handshake;
use crate::http1::Answer;
use crate::hub::{Channel, Connection, Registration};
use crate::limits::{Call, Full, Seat};
use crate::login;
use crate::metrics::Stopwatch;
use crate::session::{SessionId, SessionKey};
use crate::shutdown::Shutdown;
use crate::store::StoreError;
use head::{Beginning, Head};

const LISTENER: Token = Token(usize::MAX);
const WAKE: Token = Token(usize::MAX - 1);
const EVENTS: usize = 1024;
/// Deadlines that may lie about for nothing.
const FORGOTTEN_AT_ONCE: usize = 1024;
const ROUTE: &str = "/v1/ws/qr/{session_id}";
/// Maximum number of browsers whose rows are read in one query, and of such queries at a time.
const MAX_BATCH: usize = 256;
const MAX_BATCHES: usize = 8;
/// Maximum number of browsers that wait for a query. One beyond it is refused with 503.
const MAX_ARRIVALS: usize = 4096;
/// Time that a browser waits for a query to begin, in seconds. Then it is refused with 503.
const ARRIVAL_SECONDS: u64 = 5;
/// Connections beyond a limit that are answered at a time, as far as their request is.
const MAX_SURPLUS: usize = 256;
/// How long their request is waited for.
const SURPLUS_TIME: Duration = Duration::from_secs(1);

/// Serves `routes` on `listener` until the shutdown's closing; the future ends when what was in flight then has been
/// answered. To be called within the runtime that is to serve.
///
/// # Errors
/// The system gives us no thread, or nothing to watch sockets with.
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
    // Inherited by the connections: a push is one small write, which is not to wait for more.
    socket2::SockRef::from(&listener).set_tcp_nodelay(true)?;
    let mut listener = TcpListener::from_std(listener);
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let header_time = Duration::from_secs(app.header_seconds.into());
    let gate = Gate {
        arrivals: Arc::new(Arrivals {
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
        deadlines: Deadlines::after(header_time),
        surplus_deadlines: Deadlines::after(SURPLUS_TIME.min(header_time)),
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

struct Gate {
    app: Arc<App>,
    connections: Arc<Connections>,
    arrivals: Arc<Arrivals>,
    runtime: Handle,
    poll: Poll,
    listener: TcpListener,
    /// Connections whose first request has not arrived whole.
    heads: Slab<Head>,
    deadlines: Deadlines,
    /// Those of connections that are one too many.
    surplus_deadlines: Deadlines,
    next_serial: u64,
    /// There may be somebody to accept.
    is_to_accept: bool,
    /// The system has no socket to give: ask again, but not at once.
    is_out_of_sockets: bool,
    failures: AcceptFailures,
    surplus_places: Arc<Semaphore>,
    shutdown: Shutdown,
}

/// Browsers whose handshakes are in order and whose rows are to be read: many in one query, by tasks of the runtime. The
/// thread that accepts connections does not wait for the store.
struct Arrivals {
    app: Arc<App>,
    connections: Arc<Connections>,
    queue: Mutex<Queue>,
    /// The tasks that read.
    reading: TaskTracker,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Arrival>,
    tasks: usize,
    /// Number of the tasks that wait for the store. The others look into the queue again.
    asking: usize,
}

/// A browser whose handshake is in order, and whose row is to be read.
struct Arrival {
    socket: TcpStream,
    peer: SocketAddr,
    /// All that has been read, of which the head is this much.
    bytes: Vec<u8>,
    head_bytes: usize,
    handshake: Handshake,
    registration: Registration,
    seat: Option<Seat>,
    since: Stopwatch,
}

impl Gate {
    fn run(mut self) {
        let runtime = self.runtime.clone();
        let _within = runtime.enter();
        let mut events = Events::with_capacity(EVENTS);
        let mut scratch = vec![0; MAX_HEAD_BYTES];
        let mut accepted = Vec::new();
        while !self.shutdown.is_closing() {
            // An interrupted poll comes with no events.
            let patience = self.patience();
            drop(self.poll.poll(&mut events, patience));
            self.is_to_accept |= events.iter().any(|event| event.token() == LISTENER);
            if self.is_to_accept {
                self.accept(&mut accepted);
            }
            for event in events.iter().filter(|event| event.token() != LISTENER && event.token() != WAKE) {
                self.read_on(event.token().0, &mut scratch);
            }
            // Those who came first have had the most time to send their request.
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
        let left = [&self.deadlines, &self.surplus_deadlines].into_iter().filter_map(Deadlines::left).min()?;
        Some(left + Duration::from_millis(1))
    }

    /// Accepts those who are there: up to as many as may be served in one go.
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

    /// A connection, whose request is to be read. Of one too many, too, so that its page can read why; but only of some at
    /// a time, beyond which they are turned away at once.
    fn head(&mut self, socket: TcpStream, peer: SocketAddr) -> Option<Head> {
        let (seat, surplus) = match self.seat(peer.ip()) {
            Ok(seat) => (seat, None),
            Err(full) => match self.surplus_places.clone().try_acquire_owned() {
                Ok(place) => (None, Some((full.into(), place))),
                Err(_) => {
                    self.connections.refuse(socket.into(), peer, &[], full.into());
                    return None;
                }
            },
        };
        self.next_serial += 1;
        Some(Head { socket, peer, bytes: Vec::new(), serial: self.next_serial, seat, surplus })
    }

    /// Whoever has sent a request is served at once.
    fn begin(&mut self, mut head: Head, scratch: &mut [u8]) {
        match head.read(scratch, &self.app) {
            Beginning::Unfinished => self.wait_for(head),
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
            Beginning::Unfinished => {}
            request => {
                let mut head = self.heads.remove(slot);
                drop(self.poll.registry().deregister(&mut head.socket));
                self.pass_on(head, request);
            }
        }
    }

    fn pass_on(&mut self, head: Head, request: Beginning) {
        match request {
            Beginning::None => {}
            _ if head.surplus.is_some() => self.hand_over(head, None),
            Beginning::Upgrade { head_bytes, handshake, id, address } => {
                self.let_in(head, head_bytes, handshake, &id, address);
            }
            Beginning::Other | Beginning::Unfinished => self.hand_over(head, None),
        }
    }

    fn let_in(&mut self, head: Head, head_bytes: usize, handshake: Handshake, id: &SessionId, address: IpAddr) {
        let since = Stopwatch::start();
        let key = id.key();
        match self.admit_browser(&head, address, key) {
            Ok((seat, registration)) => {
                let Head { socket, peer, bytes, seat: taken, .. } = head;
                let seat = taken.or(seat);
                let arrival = Arrival { socket, peer, bytes, head_bytes, handshake, registration, seat, since };
                self.arrivals.add(arrival);
            }
            Err(refused) => self.hand_over(head, Some(refused)),
        }
    }

    /// A place for a connection. A trusted proxy has any number; there the browsers behind it count.
    fn seat(&self, peer: IpAddr) -> Result<Option<Seat>, Full> {
        if self.app.proxies.trusts(peer) { Ok(None) } else { self.app.limits.seat(peer) }
    }

    /// As [`super::arrive::arrive`], but for the reading, which is done for many at once: counts a browser that is about
    /// to wait, gives it a place of its own if its connection has none, and registers it.
    fn admit_browser(
        &self,
        head: &Head,
        address: IpAddr,
        key: SessionKey,
    ) -> Result<(Option<Seat>, Registration), Refused> {
        self.app.limits.admit(Call::WebSocket, address).map_err(Refused::Limited)?;
        let seat = if head.seat.is_some() { None } else { self.app.limits.seat(address)? };
        let registration = self.app.hub.register(key).map_err(|_| Refused::Stopping)?;
        Ok((seat, registration))
    }

    fn hand_over(&self, head: Head, refused: Option<Refused>) {
        let Head { socket, peer, bytes, seat, surplus, .. } = head;
        let (refused, surplus) = match surplus {
            Some((full, place)) => (Some(full), Some(place)),
            None => (refused, None),
        };
        self.connections.serve(Accepted { stream: socket.into(), peer, beginning: bytes, refused, seat, surplus });
    }

    /// Tells those whose request has not come in time.
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
                    // Nothing has been asked, and nothing is answered.
                    None if bytes.is_empty() => continue,
                    None => Refused::Late,
                };
                self.connections.refuse(socket.into(), peer, &bytes, refused);
            }
        }
    }
}

/// When the time of connections is up, in order, by slot and serial number.
struct Deadlines {
    time: Duration,
    queue: VecDeque<(Stopwatch, usize, u64)>,
}

impl Deadlines {
    fn after(time: Duration) -> Self {
        Self { time, queue: VecDeque::new() }
    }

    fn add(&mut self, slot: usize, serial: u64) {
        self.queue.push_back((Stopwatch::start(), slot, serial));
    }

    /// Until the first.
    fn left(&self) -> Option<Duration> {
        self.queue.front().map(|(since, ..)| self.time.saturating_sub(since.elapsed()))
    }

    fn take_past(&mut self) -> Option<(usize, u64)> {
        self.left().filter(Duration::is_zero)?;
        self.queue.pop_front().map(|(_, slot, serial)| (slot, serial))
    }

    /// Most requests come in time; the deadlines of those are removed when there are more of them than of others.
    fn forget_past(&mut self, heads: &Slab<Head>) {
        if self.queue.len() > 2 * heads.len() + FORGOTTEN_AT_ONCE {
            self.queue.retain(|(_, slot, serial)| heads.get(*slot).is_some_and(|head| head.serial == *serial));
            self.queue.shrink_to(2 * heads.len() + FORGOTTEN_AT_ONCE);
        }
    }
}

impl Arrivals {
    fn add(&self, arrival: Arrival) {
        let mut queue = self.lock();
        if queue.waiting.len() < MAX_ARRIVALS {
            queue.waiting.push_back(arrival);
            return;
        }
        drop(queue);
        arrival.refuse(&self.connections, Refused::Unread(Arc::new(too_many())));
    }

    /// Has the rows of all browsers in the queue read: by a task that is about to look into it, or by a new one.
    fn read(self: &Arc<Self>, runtime: &Handle) {
        let mut queue = self.lock();
        if !queue.waiting.is_empty() && queue.tasks == queue.asking && queue.tasks < MAX_BATCHES {
            queue.tasks += 1;
            drop(queue);
            self.reading.spawn_on(self.clone().read_on(), runtime);
        }
    }

    /// Reads these rows. While the store has not answered, another task reads those of the browsers that arrive.
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

    /// Reads until no browser waits.
    async fn read_on(self: Arc<Self>) {
        let task = Task(&self);
        loop {
            let batch: Vec<_> = {
                let mut queue = self.lock();
                if queue.waiting.is_empty() {
                    // Under the lock: a browser that comes next finds that this task has ended.
                    return task.end(&mut queue);
                }
                let count = queue.waiting.len().min(MAX_BATCH);
                queue.waiting.drain(..count).collect()
            };
            let (batch, late): (Vec<_>, Vec<_>) =
                batch.into_iter().partition(|arrival| arrival.since.elapsed().as_secs() < ARRIVAL_SECONDS);
            for arrival in late {
                arrival.refuse(&self.connections, Refused::Unread(Arc::new(too_many())));
            }
            let keys: Vec<_> = batch.iter().map(|arrival| arrival.registration.key()).collect();
            let rows = if keys.is_empty() { HashMap::new() } else { self.attach(&keys).await };
            // The newest of several connections of a session is opened first, and the others find it open.
            for arrival in batch.into_iter().rev() {
                arrival.be_answered(&self.app, &self.connections, &rows);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the tasks that read. It counts as one until it ends or panics. After a panic another one goes on.
struct Task<'a>(&'a Arc<Arrivals>);

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

/// A task that waits for the store, until this is dropped.
struct Asking<'a>(&'a Arrivals);

impl<'a> Asking<'a> {
    fn begin(arrivals: &'a Arc<Arrivals>) -> Self {
        arrivals.lock().asking += 1;
        // What is in the queue does not wait for this answer.
        arrivals.read(&Handle::current());
        Self(arrivals)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.lock().asking -= 1;
    }
}

fn too_many() -> StoreError {
    StoreError::Unavailable("too many browsers wait for it".into())
}

type Rows = HashMap<SessionKey, Result<login::Arrival, Arc<StoreError>>>;

impl Arrival {
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

    fn open(mut self, app: &App, found: &login::Arrival) {
        let mut answer = Answer::new(StatusCode::SWITCHING_PROTOCOLS, None);
        for (name, value) in self.handshake.answer() {
            answer = answer.field(name, value.as_bytes());
        }
        let answer = answer.open().to_vec();
        let early = self.bytes.split_off(self.head_bytes);
        let channel = Channel::WebSocket { acknowledges: self.handshake.acknowledges };
        let connection = Connection { socket: self.socket, answer, early, channel, seat: self.seat };
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
            seat: self.seat,
            surplus: None,
        });
    }
}
