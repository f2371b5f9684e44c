//! Hands the connections of event streams and long polls to the hub. hyper and the route table handle the request up to
//! the head of its response. Then the connection is taken from hyper and opened in the hub, where it costs the same as
//! a WebSocket.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE};
use axum::response::{IntoResponse as _, Response};
use parking_lot::Mutex;
use tokio::net::TcpStream;

use super::outgoing;
use super::prefixed_stream::Stream;
use crate::hub::{NewConnection, Registration, Transport};
use crate::limits::ConnectionPermit;
use crate::login::AttachedSession;
use crate::session::Timestamp;
use crate::wire::http1::{self, Http1Response};

/// Response extension that carries a [`WaitingResponse`] through the layers, which add their header fields to the
/// response.
#[derive(Clone)]
pub(super) struct Carried(Arc<Mutex<Option<WaitingResponse>>>);

/// A connection that is to be opened in the hub.
pub(super) struct WaitingResponse {
    pub(super) registration: Registration,
    pub(super) found: AttachedSession,
    pub(super) permit: Option<ConnectionPermit>,
    pub(super) kind: WaitKind,
}

/// The kind of a connection that is to be opened in the hub.
pub(super) enum WaitKind {
    /// An event stream of a browser that has received the version `delivered_version`, or 0.
    Stream { delivered_version: u32, silent_seconds: u32 },
    /// A long poll, answered once the version is not `version`, or after `wait_seconds`.
    Poll { version: u32, wait_seconds: u32 },
}

impl WaitingResponse {
    /// Returns a response for the layers to add header fields to. [`take_over_connection`] takes it out again.
    pub(super) fn into_response(self) -> Response {
        let mut response = StatusCode::OK.into_response();
        response.extensions_mut().insert(Carried(Arc::new(Mutex::new(Some(self)))));
        response
    }
}

/// Takes the connection from hyper and opens it in the hub, if `response` carries a [`WaitingResponse`]. Returns the
/// response that hyper is to write. Its bytes are discarded, because hyper no longer has the connection
/// ([`super::prefixed_stream`]).
pub(super) fn take_over_connection(mut response: Response, stream: &Stream, now: Timestamp) -> Response {
    let Some(carried) = response.extensions_mut().remove::<Carried>() else { return response };
    let waiting = carried.0.lock().take();
    let (Some(waiting), Some(stream)) = (waiting, stream.take()) else { return response };
    open(waiting, stream, &response, now);
    StatusCode::OK.into_response()
}

fn open(waiting: WaitingResponse, stream: TcpStream, response: &Response, now: Timestamp) {
    let WaitingResponse { registration, found, permit, kind } = waiting;
    let Ok(stream) = stream.into_std() else { return };
    let fields = fields_of(response);
    let (response, transport) = match kind {
        WaitKind::Stream { delivered_version, silent_seconds } => {
            outgoing::notice_silence(&stream, Duration::from_secs(silent_seconds.into()));
            (stream_head(&fields, now), Transport::EventStream { delivered_version })
        }
        WaitKind::Poll { version, wait_seconds } => (Vec::new(), Transport::Poll { version, wait_seconds, fields }),
    };
    let socket = mio::net::TcpStream::from_std(stream);
    registration.open(NewConnection { socket, response, early: Vec::new(), transport, permit }, &found);
}

/// Returns the head of an event stream. It has no length, and chunks would need state, so the stream ends with the
/// connection.
fn stream_head(fields: &[u8], now: Timestamp) -> Vec<u8> {
    let head = Http1Response::new(StatusCode::OK, Some(now)).field("content-type", b"text/event-stream").fields(fields);
    head.open().to_vec()
}

/// Returns the header fields of `response` as bytes, without those that depend on the body. The connection is closed
/// after the response.
fn fields_of(response: &Response) -> Vec<u8> {
    let mut fields = Vec::new();
    http1::field(&mut fields, CONNECTION.as_str(), b"close");
    for (name, value) in response.headers() {
        if ![CONTENT_TYPE, CONTENT_LENGTH, CONNECTION, DATE].contains(name) {
            http1::field(&mut fields, name.as_str(), value.as_bytes());
        }
    }
    fields
}
