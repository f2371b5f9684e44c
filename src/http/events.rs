//! `GET /v1/sse/qr/{session_id}`: the browser waits where no WebSocket gets through, for server-sent events (HTML
//! Standard §9.2).
//!
//! In the description of the API the stream has no schema: OpenAPI 3.1 has none for events, and some programs apply that
//! of the stream to each of them.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, State};
use axum::http::header::{CONTENT_TYPE, HeaderName};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};

use super::App;
use super::arrive::arrive;
use super::browser::{id_in_header, session_id};
use super::client::ClientAddress;
use super::limit::SeatOfConnection;
use super::openapi::BROWSER;
use super::origin::LAST_EVENT_ID;
use super::park::{Parking, Patience};
use super::problem::ApiError;
use crate::limits::Call;
use crate::login::Arrival;
use crate::protocol::EXPIRED_EVENT_ID;
use crate::session::{SessionId, Status};

const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// Heartbeats in a row that may get lost.
const MAX_LOST: u32 = 2;

/// `GET /v1/sse/qr/{session_id}`
#[utoipa::path(get, path = "/v1/sse/qr/{session_id}", tag = BROWSER,
    params(
        ("session_id" = String, Path, description = "The browser's secret."),
        ("last-event-id" = Option<String>, Header, description = "Of the last event that the browser has seen."),
    ),
    responses(
        (status = 200, description = "The frames of the WebSocket, as events: the `data` of each is one, as JSON.", content(("text/event-stream"))),
        (status = 204, description = "The browser has been told the end; it need not come back."),
    ))]
pub(super) async fn open(
    State(app): State<Arc<App>>,
    address: ClientAddress,
    Extension(taken): Extension<SeatOfConnection>,
    path: Result<Path<String>, PathRejection>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Ok(Path(id)) = path else { return Err(ApiError::NotFound) };
    stream(&app, address, &taken, &session_id(&id)?, &method, &headers).await
}

/// `GET /v1/sse/qr`, with the header `X-QR-Session`.
#[utoipa::path(get, path = "/v1/sse/qr", tag = BROWSER,
    params(
        ("x-qr-session" = String, Header, description = "The browser's secret, kept out of the path."),
        ("last-event-id" = Option<String>, Header, description = "Of the last event that the browser has seen."),
    ),
    responses(
        (status = 200, description = "The frames of the WebSocket, as events: the `data` of each is one, as JSON.", content(("text/event-stream"))),
        (status = 204, description = "The browser has been told the end; it need not come back."),
    ))]
pub(super) async fn open_by_header(
    State(app): State<Arc<App>>,
    address: ClientAddress,
    Extension(taken): Extension<SeatOfConnection>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    stream(&app, address, &taken, &id_in_header(&headers)?, &method, &headers).await
}

async fn stream(
    app: &App,
    address: ClientAddress,
    taken: &SeatOfConnection,
    id: &SessionId,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let (registration, found) = arrive(app, id.key(), address.0, Some(Call::WebSocket)).await?;
    let last = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
    if has_heard_the_end(&found, last) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    // To a proxy that would keep events back (nginx), not to.
    let fields = [(CONTENT_TYPE, "text/event-stream"), (X_ACCEL_BUFFERING, "no")];
    if method != Method::GET {
        return Ok(fields.into_response());
    }
    // A token that nobody has acknowledged is told once more.
    let is_open = matches!(found.session.status(found.read_at), Status::Pending | Status::Scanned);
    let told = last.parse().ok().filter(|told| is_open && *told == found.session.version);
    let seat = app.limits.seat_of(taken, address.0)?;
    let patience = Patience::Stream {
        told_version: told.unwrap_or(0),
        silent_seconds: app.logins.policy.heartbeat_seconds.saturating_mul(MAX_LOST),
    };
    Ok((fields, Parking { registration, found, seat, patience }.into_response()).into_response())
}

/// Then it must not come back (HTML Standard §9.2.5).
fn has_heard_the_end(found: &Arrival, last_event_id: &str) -> bool {
    match found.session.status(found.read_at) {
        Status::Pending | Status::Scanned | Status::Confirmed => false,
        Status::Expired => last_event_id == EXPIRED_EVENT_ID,
        Status::Claimed | Status::Rejected | Status::Cancelled => last_event_id == found.session.version.to_string(),
    }
}
