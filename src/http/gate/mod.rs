//! The public port: a thread that accepts connections and reads their first request.
//!
//! What it knows is one request, `GET /v1/ws/qr/{session_id}` as a browser sends it. That it answers itself, for a
//! fraction of what a general HTTP server takes, and without anything being kept for the connection. Every other
//! request, and every one of these that is to be refused, goes to hyper and the route table, together with the bytes
//! that have been read: refusals are written in one place.

mod head;

use std::collections::{HashMap, VecDeque};
use std::io::{self, Write as _};
use std::net::{self, IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures_util::FutureExt as _;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::App;
use super::problem::ApiError;
use super::server::{ACCEPT_RETRY_MILLIS, Accepted, Connections, MAX_HEAD_BYTES, is_of_one_connection};
use super::socket::Refused;
use super::upgrade::Handshake;
use crate::hub::{Channel, Connection, Registration};
use crate::limits::{Call, Full, Seat};
use crate::login;
use crate::metrics::Stopwatch;
use crate::session::{SessionId, SessionKey};
use crate::shutdown::Shutdown;
use crate::store::StoreError;
use head::{Head, Request};

const LISTENER: Token = Token(usize::MAX);
const WAKE: Token = Token(usize::MAX - 1);
const EVENTS: usize = 1024;
/// Deadlines that may lie about for nothing.
const FORGOTTEN_AT_ONCE: usize = 1024;
const ROUTE: &str = "/v1/ws/qr/{session_id}";
/// Browsers whose rows are read in one query, and such queries under way at once.
const MAX_BATCH: usize = 256;
const MAX_BATCHES: usize = 8;

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
    let gate = Gate {
        app,
        connections: connections.clone(),
        arrivals: Vec::new(),
        reading: TaskTracker::new(),
        reading_places: Arc::new(Semaphore::new(MAX_BATCHES)),
        runtime: Handle::current(),
        poll,
        listener,
        heads: Slab::new(),
        deadlines: VecDeque::new(),
        next_serial: 0,
        is_to_accept: false,
        is_out_of_sockets: false,
        shutdown: shutdown.clone(),
    };
    let reading = gate.reading.clone();
    let (gone, is_gone) = oneshot::channel();
    let run = move || {
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
    /// Browsers that have come since the last look.
    arrivals: Vec<Arrival>,
    /// Queries for rows that take a while.
    reading: TaskTracker,
    reading_places: Arc<Semaphore>,
    runtime: Handle,
    poll: Poll,
    listener: TcpListener,
    /// Connections whose first request has not arrived whole.
    heads: Slab<Head>,
    /// When their time is up, in order, by slot and serial number.
    deadlines: VecDeque<(Stopwatch, usize, u64)>,
    next_serial: u64,
    /// There may be somebody to accept.
    is_to_accept: bool,
    /// The system has no socket to give: ask again, but not at once.
    is_out_of_sockets: bool,
    shutdown: Shutdown,
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
            self.admit();
            self.time_out();
        }
    }

    fn patience(&mut self) -> Option<Duration> {
        if self.is_to_accept {
            let pause = if std::mem::take(&mut self.is_out_of_sockets) { ACCEPT_RETRY_MILLIS } else { 0 };
            return Some(Duration::from_millis(pause.into()));
        }
        let (since, ..) = self.deadlines.front()?;
        Some(self.header_time().saturating_sub(since.elapsed()) + Duration::from_millis(1))
    }

    fn header_time(&self) -> Duration {
        Duration::from_secs(self.app.header_seconds.into())
    }

    /// Accepts those who are there: up to as many as may be served in one go.
    fn accept(&mut self, accepted: &mut Vec<Head>) {
        self.is_to_accept = true;
        for _ in 0..MAX_BATCH {
            match self.listener.accept() {
                Ok((socket, peer)) => match self.seat(peer.ip()) {
                    Ok(seat) => {
                        self.next_serial += 1;
                        accepted.push(Head { socket, peer, bytes: Vec::new(), serial: self.next_serial, seat });
                    }
                    Err(full) => turn_away(socket, full),
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_to_accept = false;
                    return;
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    warn!(event = "accept failed", %error);
                    self.is_out_of_sockets = true;
                    return;
                }
            }
        }
    }

    /// Whoever has sent a request is served at once.
    fn begin(&mut self, mut head: Head, scratch: &mut [u8]) {
        match head.read(scratch, &self.app) {
            Request::Unfinished => self.wait_for(head),
            request => self.pass_on(head, request),
        }
    }

    fn wait_for(&mut self, mut head: Head) {
        let slot = self.heads.vacant_key();
        if self.poll.registry().register(&mut head.socket, Token(slot), Interest::READABLE).is_ok() {
            self.deadlines.push_back((Stopwatch::start(), slot, head.serial));
            self.heads.insert(head);
            self.forget_past_deadlines();
        }
    }

    /// Most requests come in time, and their deadlines are in nobody's way until there are more of them than of others.
    fn forget_past_deadlines(&mut self) {
        if self.deadlines.len() > 2 * self.heads.len() + FORGOTTEN_AT_ONCE {
            let heads = &self.heads;
            self.deadlines.retain(|(_, slot, serial)| heads.get(*slot).is_some_and(|head| head.serial == *serial));
            self.deadlines.shrink_to(2 * self.heads.len() + FORGOTTEN_AT_ONCE);
        }
    }

    fn read_on(&mut self, slot: usize, scratch: &mut [u8]) {
        let Some(head) = self.heads.get_mut(slot) else { return };
        match head.read(scratch, &self.app) {
            Request::Unfinished => {}
            request => {
                let mut head = self.heads.remove(slot);
                drop(self.poll.registry().deregister(&mut head.socket));
                self.pass_on(head, request);
            }
        }
    }

    fn pass_on(&mut self, head: Head, request: Request) {
        match request {
            Request::Upgrade { head_bytes, handshake, id, address } => {
                self.let_in(head, head_bytes, handshake, &id, address);
            }
            Request::Other | Request::Unfinished => self.hand_over(head, None),
            Request::None => {}
        }
    }

    fn let_in(&mut self, head: Head, head_bytes: usize, handshake: Handshake, id: &SessionId, address: IpAddr) {
        let since = Stopwatch::start();
        let key = id.key();
        // Whoever must wait for its own receipt, or comes while the server stops, is a matter for the long way.
        let registration = if self.app.hub.awaits_receipt(key) { None } else { self.app.hub.register(key).ok() };
        let Some(registration) = registration else { return self.hand_over(head, None) };
        match self.admit_browser(&head, address) {
            Ok(seat) => {
                let Head { socket, peer, bytes, seat: taken, .. } = head;
                let seat = taken.or(seat);
                let arrival = Arrival { socket, peer, bytes, head_bytes, handshake, registration, seat, since };
                self.arrivals.push(arrival);
            }
            Err(refused) => self.hand_over(head, Some(refused)),
        }
    }

    /// A place for a connection. A trusted proxy has any number; there the browsers behind it count.
    fn seat(&self, peer: IpAddr) -> Result<Option<Seat>, Full> {
        if self.app.proxies.trusts(peer) { Ok(None) } else { self.app.limits.seat(peer) }
    }

    /// Counts a browser that is about to wait: a place of its own, if the connection has none.
    fn admit_browser(&self, head: &Head, address: IpAddr) -> Result<Option<Seat>, Refused> {
        self.app.limits.admit(Call::WebSocket, address).map_err(Refused::Limited)?;
        if head.seat.is_some() {
            return Ok(None);
        }
        self.app.limits.seat(address).map_err(|full| match full {
            Full::Address(exceeded) => Refused::Limited(exceeded),
            Full::All => Refused::Full,
        })
    }

    /// Reads the rows of those who have arrived, many in one query, and lets them wait.
    fn admit(&mut self) {
        while !self.arrivals.is_empty() {
            let count = self.arrivals.len().min(MAX_BATCH);
            let batch: Vec<_> = self.arrivals.drain(..count).collect();
            let (app, connections) = (self.app.clone(), self.connections.clone());
            let mut reading = Box::pin(async move {
                let keys: Vec<_> = batch.iter().map(|arrival| arrival.registration.key()).collect();
                let read = app.logins.attach(&keys).await;
                for arrival in batch {
                    arrival.be_answered(&app, &connections, &read);
                }
            });
            // A store that need not be waited for has them answered here and now.
            if reading.as_mut().now_or_never().is_some() {
                continue;
            }
            // If it is slower than those who come, they wait in front of the door.
            if let Ok(place) = self.runtime.block_on(self.reading_places.clone().acquire_owned()) {
                let reading = async move {
                    reading.await;
                    drop(place);
                };
                self.reading.spawn_on(reading, &self.runtime);
            }
        }
    }

    fn hand_over(&self, head: Head, refused: Option<Refused>) {
        let Head { socket, peer, bytes, seat, .. } = head;
        self.connections.serve(Accepted { stream: socket.into(), peer, beginning: bytes, refused, seat });
    }

    /// Tells those whose request has not come in time.
    fn time_out(&mut self) {
        while let Some((since, slot, serial)) = self.deadlines.front().copied() {
            if since.elapsed() < self.header_time() {
                return;
            }
            self.deadlines.pop_front();
            if self.heads.get(slot).is_some_and(|head| head.serial == serial) {
                let mut head = self.heads.remove(slot);
                if !head.bytes.is_empty() {
                    drop(head.socket.write(&ApiError::RequestTimeout.as_last_answer()));
                }
            }
        }
    }
}

/// Somebody has too many connections already: says so, as far as that takes no time.
fn turn_away(mut socket: TcpStream, full: Full) {
    drop(socket.write(&ApiError::from(full).as_last_answer()));
    drop(socket.shutdown(net::Shutdown::Write));
}

type Rows = Result<HashMap<SessionKey, login::Arrival>, Arc<StoreError>>;

impl Arrival {
    fn be_answered(self, app: &App, connections: &Connections, rows: &Rows) {
        match rows {
            Ok(found) => match found.get(&self.registration.key()) {
                Some(found) => self.open(app, found),
                None => self.refuse(connections, Refused::NotFound),
            },
            Err(error) => self.refuse(connections, Refused::Unread(error.clone())),
        }
    }

    fn open(mut self, app: &App, found: &login::Arrival) {
        let mut answer = Vec::with_capacity(512);
        answer.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\n");
        for (name, value) in self.handshake.answer() {
            for part in [name, ": ", value, "\r\n"] {
                answer.extend_from_slice(part.as_bytes());
            }
        }
        answer.extend_from_slice(b"\r\n");
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
        });
    }
}
