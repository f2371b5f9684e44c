//! The accept loop: from connections to requests.

use std::io;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;
use tracing::{debug, warn};

use super::client::Peer;
use crate::clock::Clock;
use crate::shutdown::Shutdown;

/// A request's head, in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// When the system has no sockets left to give, it is asked again after this long.
const ACCEPT_RETRY_MILLIS: i64 = 50;

/// Serves `routes` on `listener` until the shutdown's closing; then answers what is in flight, and returns.
/// Connections that became WebSockets are no longer its own.
pub async fn serve(listener: TcpListener, routes: Router, header_seconds: u32, clock: Clock, shutdown: Shutdown) {
    let connections = TaskTracker::new();
    loop {
        let (stream, peer) = tokio::select! {
            () = shutdown.closing() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => (stream, Peer(address)),
                Err(error) => {
                    if !is_of_one_connection(&error) {
                        warn!(event = "accept failed", %error);
                        clock.sleep_until(clock.now().plus_millis(ACCEPT_RETRY_MILLIS)).await;
                    }
                    continue;
                }
            },
        };
        // A push is one small write, which is not to wait for more.
        drop(stream.set_nodelay(true));
        let routes = routes.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            routes.clone().oneshot(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(header_seconds.into()))
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let shutdown = shutdown.clone();
        connections.spawn(async move {
            let mut connection = std::pin::pin!(connection);
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
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Errors that came with the connection that was accepted, and say nothing of the next.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionRefused | ConnectionAborted | ConnectionReset)
}
