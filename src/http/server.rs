//! Serves HTTP/1.1 on accepted connections with hyper, and the operator's port.

use std::io::{self, Write as _};
use std::net::{self, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONNECTION, CONTENT_LENGTH, DATE, ORIGIN};
use axum::http::{HeaderValue, Uri};
use axum::response::Response;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;
use tracing::{debug, info, warn};

use super::grace::stopping_grace;
use super::layers::client::Peer;
use super::layers::limit::SharedPermit;
use super::outgoing;
use super::prefixed_stream::PrefixedStream;
use super::problem::{ApiError, Refused};
use super::waiting_response::take_over_connection;
use crate::metrics::Stopwatch;
use crate::session::Timestamp;
use crate::system::clock::Clock;
use crate::system::shutdown::Shutdown;
use crate::wire::http1::{Http1Response, http_date};

/// Maximum length of a request's head, in bytes.
pub(super) const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Pause after a failure to accept, as when the system has no file descriptors left, in milliseconds.
pub(super) const ACCEPT_RETRY_MILLIS: u16 = 50;
/// Minimum time between two warnings of failures to accept.
const ACCEPT_LOG_PAUSE: Duration = Duration::from_secs(30);
/// Time without a failure after which accepting works again.
const ACCEPT_CALM: Duration = Duration::from_secs(5);

/// The connections that hyper serves. A connection that the hub has taken is no longer one of them.
pub(super) struct Connections {
    routes: Router,
    header_time: Duration,
    shutdown: Shutdown,
    tasks: TaskTracker,
    runtime: Handle,
    clock: Clock,
}

/// An accepted connection that hyper is to serve.
pub(super) struct Accepted {
    pub(super) stream: std::net::TcpStream,
    pub(super) peer: SocketAddr,
    /// Bytes that the acceptor has read from the connection.
    pub(super) beginning: Vec<u8>,
    /// The reason for which the first request is refused, if it is.
    pub(super) refused: Option<ApiError>,
    /// The permit of the connection. Empty without limits, for a trusted proxy, and beyond a limit.
    pub(super) permit: SharedPermit,
    /// The permit of a connection beyond a limit, which is closed after one response.
    pub(super) surplus: Option<SurplusPermit>,
}

/// A permit of a connection beyond a limit. The number of permits bounds how many of them are answered at a time.
pub(super) type SurplusPermit = OwnedSemaphorePermit;

impl Connections {
    /// Creates an empty set. Must be called within the runtime that is to serve the connections.
    pub(super) fn new(routes: Router, header_seconds: u32, clock: Clock, shutdown: Shutdown) -> Self {
        let header_time = Duration::from_secs(header_seconds.into());
        Self { routes, header_time, shutdown, tasks: TaskTracker::new(), runtime: Handle::current(), clock }
    }

    /// Spawns a task that serves the connection until it ends or the server begins to close. A request that is being
    /// handled then is still answered.
    pub(super) fn serve(&self, accepted: Accepted) {
        let Accepted { stream, peer, beginning, refused, permit, surplus } = accepted;
        let Ok(stream) = TcpStream::from_std(stream) else { return };
        outgoing::limit(&stream, self.header_time);
        let stream = PrefixedStream::new(stream, beginning, outgoing::max_blocked(self.header_time));
        let (routes, clock, underneath) = (self.routes.clone(), self.clock.clone(), stream.stream());
        let (peer, refused, permit) = (Peer(peer), Mutex::new(refused), permit);
        let handling = Arc::new(Handling::default());
        let handled = handling.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(permit.clone());
            if let Some(refused) = refused.lock().take() {
                request.extensions_mut().insert(Refused(refused));
            }
            let (answering, clock, underneath) = (routes.clone().oneshot(request), clock.clone(), underneath.clone());
            let handled = handled.clone();
            async move {
                let _handled = handled.0.lock().await;
                let now = clock.wall();
                answering.await.map(|response| take_over_connection(dated(response, now), &underneath, now))
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

    /// Refuses a connection whose request has not arrived whole, and closes it. The route table makes the response, from
    /// a request of the bytes that have arrived ([`of_beginning`]).
    pub(super) fn refuse(
        &self,
        mut stream: std::net::TcpStream,
        peer: SocketAddr,
        beginning: &[u8],
        refused: ApiError,
    ) {
        let mut request = of_beginning(beginning);
        request.extensions_mut().insert(Peer(peer));
        request.extensions_mut().insert(Refused(refused));
        outgoing::limit(&stream, self.header_time);
        let (answering, now) = (self.routes.clone().oneshot(request), self.clock.wall());
        let refusing = async move {
            let Ok(response) = answering.await;
            let (parts, body) = response.into_parts();
            let Ok(body) = body.collect().await else { return };
            let mut response = Http1Response::new(parts.status, Some(now));
            for (name, value) in parts.headers.iter().filter(|(name, _)| *name != CONTENT_LENGTH) {
                response = response.field(name.as_str(), value.as_bytes());
            }
            let response = response.field(CONNECTION.as_str(), b"close").with_body(&body.to_bytes());
            // The socket does not block. Its send buffer is empty and larger than the response, so a part that is not
            // written at once is not worth waiting for.
            drop(stream.write(&response).and_then(|_| stream.shutdown(net::Shutdown::Write)));
        };
        self.tasks.spawn_on(refusing, &self.runtime);
    }

    /// Waits until all connections have ended.
    pub(super) async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Returns a request for the route table to refuse, from the part of a head that has arrived. It has the path if the
/// first line is complete, and `Origin` if that line is, which CORS needs.
fn of_beginning(beginning: &[u8]) -> Request {
    let mut lines = beginning.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    let path = lines.next().and_then(|line| line.split(|byte| *byte == b' ').nth(1));
    let mut request = Request::new(Body::empty());
    if let Some(uri) = path.and_then(|path| Uri::try_from(path).ok()) {
        *request.uri_mut() = uri;
    }
    let origin = lines.find_map(|line| {
        let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':')?);
        name.eq_ignore_ascii_case(ORIGIN.as_str().as_bytes()).then(|| value[1..].trim_ascii())
    });
    if let Some(origin) = origin.and_then(|origin| HeaderValue::from_bytes(origin).ok()) {
        request.headers_mut().insert(ORIGIN, origin);
    }
    request
}

/// Adds `Date` to a response. hyper would add a cached date, which it renews only once the wall clock has passed it.
/// After the clock was set back, that date would stand still.
fn dated(mut response: Response, now: Timestamp) -> Response {
    if let Ok(date) = HeaderValue::from_str(&http_date(now)) {
        response.headers_mut().entry(DATE).or_insert(date);
    }
    response
}

/// A lock that is held while a request of the connection is handled: from the arrival of its head until its response is
/// made.
#[derive(Default)]
struct Handling(tokio::sync::Mutex<()>);

impl Handling {
    /// Waits until no request is handled, before and after a pause of a second. What keeps the connection
    /// open then is a head that has not arrived whole, or a response that the client does not read.
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

/// Serves the operator's `routes` on `listener` until the server begins to close. Returns when the requests that are
/// being handled then have been answered.
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
                connections.serve(Accepted {
                    stream,
                    peer,
                    beginning,
                    refused: None,
                    permit: SharedPermit::default(),
                    surplus: None,
                });
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

/// Failures to accept a connection, as when no file descriptors are left. They occur many times a second, with
/// successes in between. The first is logged, their number at most every [`ACCEPT_LOG_PAUSE`], and their end after
/// [`ACCEPT_CALM`].
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

    /// Notes that a connection has been accepted, and logs the end of failures.
    pub(super) fn accepted(&mut self) {
        if self.last.is_some_and(|last| last.elapsed() >= ACCEPT_CALM) {
            info!(event = "accepting again", failures = self.count);
            *self = Self::default();
        }
    }
}

/// Returns whether an error of `accept` concerns one connection or call, so that the next call may succeed at once.
pub(super) fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionRefused | ConnectionAborted | ConnectionReset | Interrupted)
}
