//! Requests whose answer waits: a stream of events, a long poll. hyper and the route table see to everything up to the
//! answer's head; then the connection is taken away from hyper and goes to the hub, where such a browser costs what one
//! with a WebSocket costs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use axum::http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE};
use axum::response::{IntoResponse as _, Response};
use tokio::net::TcpStream;

use super::outgoing;
use super::rewound::Stream;
use crate::http1::{self, Answer};
use crate::hub::{Channel, Connection, Registration};
use crate::limits::Seat;
use crate::login::Arrival;
use crate::session::Timestamp;

/// An answer that waits, on its way through the layers that add their fields to it.
#[derive(Clone)]
pub(super) struct Parked(Arc<Mutex<Option<Parking>>>);

/// Who waits for it.
pub(super) struct Parking {
    pub(super) registration: Registration,
    pub(super) found: Arrival,
    pub(super) seat: Option<Seat>,
    pub(super) patience: Patience,
}

/// How it is waited for.
pub(super) enum Patience {
    /// For events, this version's having been told.
    Stream { told_version: u32, silent_seconds: u32 },
    /// For an answer, when this version has changed or after so long.
    Poll { version: u32, wait_seconds: u32 },
}

impl Parking {
    /// The beginning of the answer.
    pub(super) fn into_response(self) -> Response {
        let mut response = StatusCode::OK.into_response();
        response.extensions_mut().insert(Parked(Arc::new(Mutex::new(Some(self)))));
        response
    }
}

/// If this answer is one that waits, it goes to the hub, together with its connection; hyper is given one that is
/// heard by nobody.
pub(super) fn park(mut response: Response, stream: &Stream, now: Timestamp) -> Response {
    let Some(parked) = response.extensions_mut().remove::<Parked>() else { return response };
    let parking = parked.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    let (Some(parking), Some(stream)) = (parking, stream.take()) else { return response };
    open(parking, stream, &response, now);
    StatusCode::OK.into_response()
}

fn open(parking: Parking, stream: TcpStream, response: &Response, now: Timestamp) {
    let Parking { registration, found, seat, patience } = parking;
    let Ok(stream) = stream.into_std() else { return };
    let fields = fields_of(response);
    let (answer, channel) = match patience {
        Patience::Stream { told_version, silent_seconds } => {
            outgoing::notice_silence(&stream, Duration::from_secs(silent_seconds.into()));
            (stream_head(&fields, now), Channel::EventStream { told_version })
        }
        Patience::Poll { version, wait_seconds } => (Vec::new(), Channel::Poll { version, wait_seconds, fields }),
    };
    let socket = mio::net::TcpStream::from_std(stream);
    registration.open(Connection { socket, answer, early: Vec::new(), channel, seat }, &found);
}

/// The head of a stream: its length is not known, so that nothing need be kept for it.
fn stream_head(fields: &[u8], now: Timestamp) -> Vec<u8> {
    let head = Answer::new(StatusCode::OK, Some(now)).field("content-type", b"text/event-stream").fields(fields);
    head.open().to_vec()
}

/// All fields but those that depend on what is answered. The connection ends with the answer.
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
