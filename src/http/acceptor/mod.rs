//! The acceptor: the thread that accepts connections on the public port and reads their first request.
//!
//! The acceptor answers one kind of request itself, a valid request for the WebSocket. This takes a fraction of the
//! time and memory of a general HTTP server. Every other request goes to hyper and the route table, together with the
//! bytes that have been read. So does a request for the WebSocket that is refused, so that all refusals are written in
//! one place.

mod deadlines;
pub(super) mod request_head;
mod upgrades;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};

use super::arrive::{Arrivals, Arriving};
use super::layers::RequestChecks;
use super::layers::limit::SharedPermit;
use super::problem::ApiError;
use super::server::{ACCEPT_RETRY_MILLIS, AcceptFailures, Accepted, Connections, MAX_HEAD_BYTES, is_of_one_connection};
use super::state::AppState;
use crate::limits::{Call, ConnectionPermit, QuotaExceeded};
use crate::metrics::Stopwatch;
use crate::system::clock::Clock;
use crate::system::shutdown::Shutdown;
use deadlines::HeadDeadlines;
use request_head::{FirstRequest, Head, Upgrade};
use upgrades::{PendingUpgrade, UpgradeQueue};

const LISTENER: Token = Token(usize::MAX);
const WAKE: Token = Token(usize::MAX - 1);
/// Maximum number of readiness events of one poll.
const EVENTS: usize = 1024;
/// Maximum number of connections accepted before their requests are read.
const MAX_ACCEPTED: usize = 256;
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
    state: &AppState,
    header_seconds: u32,
    clock: Clock,
    shutdown: Shutdown,
) -> io::Result<impl Future<Output = ()> + Send + use<>> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), WAKE)?;
    listener.set_nonblocking(true)?;
    // Accepted sockets inherit the option. A frame is one small write, which must not wait for more bytes.
    socket2::SockRef::from(&listener).set_tcp_nodelay(true)?;
    let mut listener = TcpListener::from_std(listener);
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let connections = Arc::new(Connections::new(routes, header_seconds, clock, shutdown.clone()));
    let upgrades = UpgradeQueue::new(state.arrivals.clone(), state.observer.clone(), connections.clone());
    let header_time = Duration::from_secs(header_seconds.into());
    let acceptor = Acceptor {
        checks: state.checks.clone(),
        arrivals: state.arrivals.clone(),
        upgrades: upgrades.clone(),
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
        surplus_permits: Arc::new(Semaphore::new(MAX_SURPLUS)),
        shutdown: shutdown.clone(),
    };
    let (gone, is_gone) = oneshot::channel();
    let vital = acceptor.shutdown.vital("acceptor");
    let run = move || {
        let _vital = vital;
        acceptor.run();
        let _ = gone.send(());
    };
    std::thread::Builder::new().name("qrlogin-acceptor".to_owned()).spawn(run)?;
    Ok(async move {
        shutdown.closing().await;
        drop(waker.wake());
        drop(is_gone.await);
        upgrades.ended().await;
        connections.ended().await;
    })
}

/// The acceptor's state.
struct Acceptor {
    checks: Arc<RequestChecks>,
    arrivals: Arc<Arrivals>,
    upgrades: Arc<UpgradeQueue>,
    connections: Arc<Connections>,
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
    surplus_permits: Arc<Semaphore>,
    shutdown: Shutdown,
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
            let timeout = self.poll_timeout();
            drop(self.poll.poll(&mut events, timeout));
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
            self.upgrades.read(&self.runtime);
            self.time_out();
        }
    }

    /// Returns the time until the next deadline or attempt to accept.
    fn poll_timeout(&mut self) -> Option<Duration> {
        if self.is_to_accept {
            let pause = if std::mem::take(&mut self.is_out_of_sockets) { ACCEPT_RETRY_MILLIS } else { 0 };
            return Some(Duration::from_millis(pause.into()));
        }
        let left = [&self.deadlines, &self.surplus_deadlines].into_iter().filter_map(HeadDeadlines::left).min()?;
        Some(left + Duration::from_millis(1))
    }

    /// Accepts pending connections, at most [`MAX_ACCEPTED`].
    fn accept(&mut self, accepted: &mut Vec<Head>) {
        self.is_to_accept = true;
        for _ in 0..MAX_ACCEPTED {
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
            Err(exceeded) => match self.surplus_permits.clone().try_acquire_owned() {
                Ok(permit) => (None, Some((exceeded.into(), permit))),
                Err(_) => {
                    self.connections.refuse(socket.into(), peer, &[], exceeded.into());
                    return None;
                }
            },
        };
        self.next_serial += 1;
        let permit = SharedPermit::new(permit);
        Some(Head { socket, peer, bytes: Vec::new(), serial: self.next_serial, permit, surplus })
    }

    /// Reads a request that may have arrived already, before the socket is registered for readiness.
    fn begin(&mut self, mut head: Head, scratch: &mut [u8]) {
        match head.read(scratch, &self.checks) {
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
            self.deadlines.compact(&self.heads);
            self.surplus_deadlines.compact(&self.heads);
        }
    }

    fn read_on(&mut self, slot: usize, scratch: &mut [u8]) {
        let Some(head) = self.heads.get_mut(slot) else { return };
        match head.read(scratch, &self.checks) {
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
            FirstRequest::Upgrade(upgrade) => self.accept_upgrade(head, upgrade),
            FirstRequest::Other | FirstRequest::Incomplete => self.hand_over(head, None),
        }
    }

    /// Lets the connection of an upgrade arrive. Its row is read later, with those of other connections.
    fn accept_upgrade(&self, head: Head, upgrade: Upgrade) {
        let since = Stopwatch::start();
        let Upgrade { head_bytes, handshake, id, address } = upgrade;
        let call = Some(Call::WebSocket);
        match self.arrivals.register(Arriving { key: id.key(), address, call, permit: &head.permit }) {
            Ok((registration, permit)) => {
                self.upgrades.add(PendingUpgrade { head, head_bytes, handshake, registration, permit, since });
            }
            Err(refused) => self.hand_over(head, Some(refused)),
        }
    }

    /// Counts a connection, unless it is of a trusted proxy. The requests through a proxy are counted by their clients.
    fn permit(&self, peer: IpAddr) -> Result<Option<ConnectionPermit>, QuotaExceeded> {
        if self.checks.proxies.trusts(peer) { Ok(None) } else { self.checks.limits.permit(peer) }
    }

    fn hand_over(&self, head: Head, refused: Option<ApiError>) {
        let Head { socket, peer, bytes, permit, surplus, .. } = head;
        let (refused, surplus) = match surplus {
            Some((exceeded, permit)) => (Some(exceeded), Some(permit)),
            None => (refused, None),
        };
        self.connections.serve(Accepted { stream: socket.into(), peer, beginning: bytes, refused, permit, surplus });
    }

    /// Refuses connections whose request has not arrived in time. A connection within the limits that has sent nothing
    /// is closed without a response.
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
                    Some((exceeded, _)) => exceeded,
                    // A client that has sent nothing expects no response.
                    None if bytes.is_empty() => continue,
                    None => ApiError::RequestTimeout,
                };
                self.connections.refuse(socket.into(), peer, &bytes, refused);
            }
        }
    }
}
