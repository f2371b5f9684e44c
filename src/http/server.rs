//! From connections to requests: hyper speaks HTTP on those that it is given.

use std::io::{self, Write as _};
use std::net::{self, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::http::header::{CONNECTION, CONTENT_LENGTH, DATE};
use axum::response::Response;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;
use tracing::{debug, info, warn};

use super::client::Peer;
use super::gate::head;
use super::limit::SeatOfConnection;
use super::outgoing;
use super::park::park;
use super::refused::Refused;
use super::rewound::Rewound;
use crate::clock::Clock;
use crate::http1::{Answer, http_date};
use crate::limits::Seat;
use crate::metrics::Stopwatch;
use crate::session::Timestamp;
use crate::shutdown::Shutdown;

/// A request's head, in bytes.
pub(super) const MAX_HEAD_BYTES: usize = 16 * 1024;
/// When the system has no sockets left to give, it is asked again after this long.
pub(super) const ACCEPT_RETRY_MILLIS: u16 = 50;
/// Once the server stops, time for what a client has begun to send to arrive whole, and for an answer to be taken.
const STOPPING_GRACE: Duration = Duration::from_secs(1);
const ACCEPT_LOG_PAUSE: Duration = Duration::from_secs(30);
/// Without a failure for so long, they are over.
const ACCEPT_CALM: Duration = Duration::from_secs(5);

/// The connections on which HTTP is spoken. Those that became WebSockets are no longer among them.
pub(super) struct Connections {
    routes: Router,
    header_time: Duration,
    shutdown: Shutdown,
    tasks: TaskTracker,
    runtime: Handle,
    clock: Clock,
}

/// A connection that was accepted.
pub(super) struct Accepted {
    pub(super) stream: std::net::TcpStream,
    pub(super) peer: SocketAddr,
    /// What has been read of it.
    pub(super) beginning: Vec<u8>,
    /// Why its first request is refused, if that is known.
    pub(super) refused: Option<Refused>,
    /// Where it counts among those of its address.
    pub(super) seat: Option<Seat>,
    /// Of a connection that is one too many: it is closed after its answer.
    pub(super) surplus: Option<Surplus>,
}

/// A place among the connections that are one too many and are answered all the same.
pub(super) type Surplus = OwnedSemaphorePermit;

impl Connections {
    /// None yet. To be called within the runtime that is to serve them.
    pub(super) fn new(routes: Router, header_seconds: u32, clock: Clock, shutdown: Shutdown) -> Self {
        let header_time = Duration::from_secs(header_seconds.into());
        Self { routes, header_time, shutdown, tasks: TaskTracker::new(), runtime: Handle::current(), clock }
    }

    /// Serves this one, until its end or the shutdown's closing; then a request that is being handled is still answered.
    pub(super) fn serve(&self, accepted: Accepted) {
        let Accepted { stream, peer, beginning, refused, seat, surplus } = accepted;
        let Ok(stream) = TcpStream::from_std(stream) else { return };
        outgoing::limit(&stream, self.header_time);
        let stream = Rewound::new(stream, beginning, outgoing::max_blocked(self.header_time));
        let (routes, clock, underneath) = (self.routes.clone(), self.clock.clone(), stream.stream());
        let (peer, refused, seat) = (Peer(peer), Mutex::new(refused), SeatOfConnection::new(seat));
        let handling = Arc::new(Handling::default());
        let handled = handling.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(seat.clone());
            if let Some(refused) = refused.lock().unwrap_or_else(PoisonError::into_inner).take() {
                request.extensions_mut().insert(refused);
            }
            let (answering, clock, underneath) = (routes.clone().oneshot(request), clock.clone(), underneath.clone());
            let handled = handled.clone();
            async move {
                let _handled = handled.0.lock().await;
                let now = clock.wall();
                answering.await.map(|answer| park(dated(answer, now), &underneath, now))
            }
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(self.header_time)
            .max_buf_size(MAX_HEAD_BYTES)
            .keep_alive(surplus.is_none());
        let shutdown = self.shutdown.clone();
        let serving = async move {
            let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service).with_upgrades());
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = shutdown.closing() => {
                    connection.as_mut().graceful_shutdown();
                    tokio::select! {
                        biased;
                        ended = connection.as_mut() => ended,
                        () = handling.over() => Ok(()),
                    }
                }
            };
            if let Err(error) = ended {
                debug!(event = "connection failed", %error);
            }
            drop(surplus);
        };
        self.tasks.spawn_on(serving, &self.runtime);
    }

    /// Answers a connection whose request has not arrived, or not whole, with what the route table says of a request that
    /// is refused for this reason; and closes it.
    pub(super) fn refuse(&self, mut stream: std::net::TcpStream, peer: SocketAddr, beginning: &[u8], refused: Refused) {
        let mut request = head::of_beginning(beginning);
        request.extensions_mut().insert(Peer(peer));
        request.extensions_mut().insert(refused);
        outgoing::limit(&stream, self.header_time);
        let (answering, now) = (self.routes.clone().oneshot(request), self.clock.wall());
        let refusing = async move {
            let Ok(response) = answering.await;
            let (parts, body) = response.into_parts();
            let Ok(body) = body.collect().await else { return };
            let mut answer = Answer::new(parts.status, Some(now));
            for (name, value) in parts.headers.iter().filter(|(name, _)| *name != CONTENT_LENGTH) {
                answer = answer.field(name.as_str(), value.as_bytes());
            }
            let answer = answer.field(CONNECTION.as_str(), b"close").with_body(&body.to_bytes());
            // (It does not block.) Small enough for any socket on which nothing has been sent: one that does not take it is
            // not waited for.
            drop(stream.write(&answer).and_then(|_| stream.shutdown(net::Shutdown::Write)));
        };
        self.tasks.spawn_on(refusing, &self.runtime);
    }

    /// Waits until all have ended.
    pub(super) async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Adds `Date`. hyper would add one that it keeps until the wall clock has passed it: after that is set back, the date
/// would stand still.
fn dated(mut answer: Response, now: Timestamp) -> Response {
    if let Ok(date) = HeaderValue::from_str(&http_date(now)) {
        answer.headers_mut().entry(DATE).or_insert(date);
    }
    answer
}

/// Whether a connection's request is being handled: locked from the arrival of its head until its answer is known.
#[derive(Default)]
struct Handling(tokio::sync::Mutex<()>);

impl Handling {
    /// Waits until no request has been handled for [`STOPPING_GRACE`]. What the connection still has then is a head that
    /// has not arrived whole, or an answer that its client does not take.
    async fn over(&self) {
        loop {
            drop(self.0.lock().await);
            stopping_grace().await;
            if self.0.try_lock().is_ok() {
                return;
            }
        }
    }
}

/// Waits until the server has been closing for [`STOPPING_GRACE`]: a body that has not arrived whole by then is refused.
pub(super) async fn closed_for_grace(shutdown: &Shutdown) {
    shutdown.closing().await;
    stopping_grace().await;
}

#[expect(clippy::disallowed_methods, reason = "what the network may take is on the machine's own time")]
async fn stopping_grace() {
    tokio::time::sleep(STOPPING_GRACE).await;
}

/// Serves the operator's `routes` on `listener` until the shutdown's closing; then answers what is in flight, and
/// returns.
pub async fn serve_ops(listener: TcpListener, routes: Router, header_seconds: u32, clock: Clock, shutdown: Shutdown) {
    let connections = Connections::new(routes, header_seconds, clock.clone(), shutdown.clone());
    let mut failures = AcceptFailures::default();
    loop {
        let accepted = tokio::select! {
            () = shutdown.closing() => break,
            accepted = listener.accept() => accepted.and_then(|(stream, peer)| Ok((stream.into_std()?, peer))),
        };
        match accepted {
            Ok((stream, peer)) => {
                failures.accepted();
                let beginning = Vec::new();
                connections.serve(Accepted { stream, peer, beginning, refused: None, seat: None, surplus: None });
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                failures.note(&error);
                clock.sleep_millis(ACCEPT_RETRY_MILLIS.into()).await;
            }
        }
    }
    drop(listener);
    connections.ended().await;
}

/// Failures to accept a connection, as when there are no files left. They come many times a second, with successes between
/// them: the first is logged, then how many there have been, every half minute, and that there are no more.
#[derive(Default)]
pub(super) struct AcceptFailures {
    count: u64,
    logged: Option<Stopwatch>,
    last: Option<Stopwatch>,
}

impl AcceptFailures {
    pub(super) fn note(&mut self, error: &io::Error) {
        self.count += 1;
        self.last = Some(Stopwatch::start());
        if self.logged.is_none_or(|logged| logged.elapsed() >= ACCEPT_LOG_PAUSE) {
            warn!(event = "accept failed", count = self.count, %error);
            self.logged = self.last;
        }
    }

    /// A connection has been accepted.
    pub(super) fn accepted(&mut self) {
        if self.last.is_some_and(|last| last.elapsed() >= ACCEPT_CALM) {
            info!(event = "accepting again", failures = self.count);
            *self = Self::default();
        }
    }
}

/// Errors that came with the connection that was accepted, and say nothing of the next.
pub(super) fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionRefused | ConnectionAborted | ConnectionReset | Interrupted)
}
