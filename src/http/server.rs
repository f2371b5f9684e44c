//! From connections to requests: hyper speaks HTTP on those that it is given.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;
use tracing::{debug, warn};

use super::client::Peer;
use super::limit::SeatOfConnection;
use super::park::park;
use super::rewound::Rewound;
use super::socket::Refused;
use crate::clock::Clock;
use crate::limits::Seat;
use crate::shutdown::Shutdown;

/// A request's head, in bytes.
pub(super) const MAX_HEAD_BYTES: usize = 16 * 1024;
/// When the system has no sockets left to give, it is asked again after this long.
pub(super) const ACCEPT_RETRY_MILLIS: u16 = 50;

/// The connections on which HTTP is spoken. Those that became WebSockets are no longer among them.
pub(super) struct Connections {
    routes: Router,
    header_seconds: u32,
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
    /// What is known of its first request.
    pub(super) refused: Option<Refused>,
    /// Where it counts among those of its address.
    pub(super) seat: Option<Seat>,
}

impl Connections {
    /// None yet. To be called within the runtime that is to serve them.
    pub(super) fn new(routes: Router, header_seconds: u32, clock: Clock, shutdown: Shutdown) -> Self {
        Self { routes, header_seconds, shutdown, tasks: TaskTracker::new(), runtime: Handle::current(), clock }
    }

    /// Serves this one, until its end or the shutdown's closing; then what is in flight is still answered.
    pub(super) fn serve(&self, accepted: Accepted) {
        let Accepted { stream, peer, beginning, refused, seat } = accepted;
        let Ok(stream) = TcpStream::from_std(stream) else { return };
        let stream = Rewound::new(stream, beginning);
        let (routes, clock, underneath) = (self.routes.clone(), self.clock.clone(), stream.stream());
        let (peer, refused, seat) = (Peer(peer), Mutex::new(refused), SeatOfConnection::new(seat));
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(seat.clone());
            if let Some(refused) = refused.lock().unwrap_or_else(PoisonError::into_inner).take() {
                request.extensions_mut().insert(refused);
            }
            let (answering, clock, underneath) = (routes.clone().oneshot(request), clock.clone(), underneath.clone());
            async move { answering.await.map(|answer| park(answer, &underneath, clock.now())) }
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(self.header_seconds.into()))
            .max_buf_size(MAX_HEAD_BYTES);
        let shutdown = self.shutdown.clone();
        let serving = async move {
            let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service).with_upgrades());
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = shutdown.closing() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                debug!(event = "connection failed", %error);
            }
        };
        self.tasks.spawn_on(serving, &self.runtime);
    }

    /// Waits until all have ended.
    pub(super) async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Serves the operator's `routes` on `listener` until the shutdown's closing; then answers what is in flight, and
/// returns.
pub async fn serve_ops(listener: TcpListener, routes: Router, header_seconds: u32, clock: Clock, shutdown: Shutdown) {
    let connections = Connections::new(routes, header_seconds, clock.clone(), shutdown.clone());
    loop {
        let accepted = tokio::select! {
            () = shutdown.closing() => break,
            accepted = listener.accept() => accepted.and_then(|(stream, peer)| Ok((stream.into_std()?, peer))),
        };
        match accepted {
            Ok((stream, peer)) => {
                connections.serve(Accepted { stream, peer, beginning: Vec::new(), refused: None, seat: None })
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                warn!(event = "accept failed", %error);
                clock.sleep_until(clock.now().plus_millis(ACCEPT_RETRY_MILLIS.into())).await;
            }
        }
    }
    drop(listener);
    connections.ended().await;
}

/// Errors that came with the connection that was accepted, and say nothing of the next.
pub(super) fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionRefused | ConnectionAborted | ConnectionReset | Interrupted)
}
