//! Event streams (HTML Standard §9.2, server-sent events), on which a browser waits where a WebSocket is not possible.
//!
//! The stream has no schema in the OpenAPI document. OpenAPI 3.1 cannot describe events, and some programs apply the
//! schema of the stream to each event.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, State};
use axum::http::header::{CONTENT_TYPE, HeaderName};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};

use super::tags::BROWSER;
use crate::http::arrive::{Admitted, Arrivals, Arrived, Arriving};
use crate::http::layers::client::ClientAddress;
use crate::http::layers::limit::SharedPermit;
use crate::http::layers::origin::LAST_EVENT_ID;
use crate::http::problem::ApiError;
use crate::http::routes::browser::{Browsers, id_in_header, session_id};
use crate::http::waiting_response::{WaitKind, WaitingResponse};
use crate::limits::Call;
use crate::session::{Session, Status, Timestamp};
use crate::wire::types::EXPIRED_EVENT_ID;

const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// Number of heartbeats in a row that the browser's system may leave unacknowledged.
const MAX_LOST: u32 = 2;

/// Opens an event stream of a session.
#[utoipa::path(get, path = "/v1/sse/qr/{session_id}", tag = BROWSER,
    params(
        ("session_id" = String, Path, description = "Session id."),
        ("last-event-id" = Option<String>, Header, description = "Id of the last event that the browser has received."),
    ),
    responses(
        (status = 200, description = "An event stream. The `data` of each event is a frame of the WebSocket, as JSON.", content(("text/event-stream"))),
        (status = 204, description = "The browser has received the last event, and must not reconnect."),
    ))]
pub(crate) async fn open(
    State(arrivals): State<Arc<Arrivals>>,
    State(browsers): State<Arc<Browsers>>,
    ClientAddress(address): ClientAddress,
    Extension(permit): Extension<SharedPermit>,
    path: Result<Path<String>, PathRejection>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Ok(Path(id)) = path else { return Err(ApiError::NotFound) };
    let arriving = Arriving { key: session_id(&id)?.key(), address, call: Some(Call::WebSocket), permit: &permit };
    stream(&arrivals, arriving, browsers.heartbeat_seconds, &method, &headers).await
}

/// Opens an event stream of the session in the header field `X-QR-Session`.
#[utoipa::path(get, path = "/v1/sse/qr", tag = BROWSER,
    params(
        ("x-qr-session" = String, Header, description = "Session id. In this header, it is kept out of the path."),
        ("last-event-id" = Option<String>, Header, description = "Id of the last event that the browser has received."),
    ),
    responses(
        (status = 200, description = "An event stream. The `data` of each event is a frame of the WebSocket, as JSON.", content(("text/event-stream"))),
        (status = 204, description = "The browser has received the last event, and must not reconnect."),
    ))]
pub(crate) async fn open_by_header(
    State(arrivals): State<Arc<Arrivals>>,
    State(browsers): State<Arc<Browsers>>,
    ClientAddress(address): ClientAddress,
    Extension(permit): Extension<SharedPermit>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let key = id_in_header(&headers)?.key();
    let arriving = Arriving { key, address, call: Some(Call::WebSocket), permit: &permit };
    stream(&arrivals, arriving, browsers.heartbeat_seconds, &method, &headers).await
}

async fn stream(
    arrivals: &Arrivals,
    arriving: Arriving<'_>,
    heartbeat_seconds: u32,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let last = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
    let is_get = method == Method::GET;
    let is_awaited = |session: &Session, now| is_get && !has_received_end(session, now, last);
    let arrived = match arrivals.arrive_if(arriving, is_awaited).await? {
        Admitted::Waits(arrived) => arrived,
        Admitted::Immediate(current) => {
            let (session, now) = *current;
            if has_received_end(&session, now, last) {
                return Ok(StatusCode::NO_CONTENT.into_response());
            }
            return Ok(FIELDS.into_response());
        }
    };
    let Arrived { registration, found, permit } = *arrived;
    // A token that has not been acknowledged is delivered again.
    let is_open = matches!(found.session.status(found.read_at), Status::Pending | Status::Scanned);
    let delivered = last.parse().ok().filter(|version| is_open && *version == found.session.version);
    let kind = WaitKind::Stream {
        delivered_version: delivered.unwrap_or(0),
        silent_seconds: heartbeat_seconds.saturating_mul(MAX_LOST),
    };
    Ok((FIELDS, WaitingResponse { registration, found, permit: permit.keep(), kind }.into_response()).into_response())
}

/// Header fields of a stream. `X-Accel-Buffering` turns off nginx's buffering, which would delay events.
const FIELDS: [(HeaderName, &str); 2] = [(CONTENT_TYPE, "text/event-stream"), (X_ACCEL_BUFFERING, "no")];

/// Returns whether the browser has received the session's last event. It is then answered with 204, upon which an
/// `EventSource` does not reconnect (HTML Standard §9.2.3).
fn has_received_end(session: &Session, now: Timestamp, last_event_id: &str) -> bool {
    match session.status(now) {
        Status::Pending | Status::Scanned | Status::Confirmed => false,
        Status::Expired => last_event_id == EXPIRED_EVENT_ID,
        Status::Claimed | Status::Rejected | Status::Cancelled => last_event_id == session.version.to_string(),
    }
}
