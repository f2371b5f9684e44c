//! The HTTP API: the route table, and the layers that every request passes through.

mod acceptor;
mod arrive;
mod cookies;
#[cfg(feature = "internals")]
pub mod fuzz;
mod grace;
mod layers;
mod outgoing;
mod pages;
mod prefixed_stream;
mod problem;
mod routes;
mod server;
mod state;
mod waiting_response;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;
use tower::ServiceBuilder;

use layers::observe::observe;
use layers::{base, limit, origin};
use problem::ApiError;
use routes::{approve, browser, client_js, demo, event_stream, jwks, oauth, openapi, phone, websocket};

pub use acceptor::serve_public;
pub use layers::limit::ClientLimits;
pub use outgoing::SEND_BUFFER_BYTES;
pub use routes::ops::{OpsState, routes as ops_routes};
pub use server::serve_ops;
pub use state::{AppParts, AppState};

/// Returns the routes of the public port, with their layers.
pub fn routes(state: AppState) -> Router {
    let checks = &state.checks;
    let generate = Router::new()
        .route("/v1/qr-login/generate", post(browser::generate))
        .route_layer(from_fn_with_state(checks.clone(), limit::generate));
    let status = Router::new()
        .route("/v1/qr-login/status", get(browser::status_by_header))
        .route("/v1/qr-login/status/{session_id}", get(browser::status))
        .route("/v1/qr-login/ack", post(browser::ack))
        .route("/v1/qr-login/cancel", post(browser::cancel))
        .route_layer(from_fn_with_state(checks.clone(), limit::status));
    let wait = Router::new()
        .route("/v1/ws/qr", get(websocket::open))
        .route("/v1/ws/qr/{session_id}", get(websocket::open))
        .route("/v1/sse/qr", get(event_stream::open_by_header))
        .route("/v1/sse/qr/{session_id}", get(event_stream::open));
    let browser = generate.merge(status).merge(wait).route_layer(from_fn_with_state(checks.clone(), origin::check));
    let phone = Router::new()
        .route("/v1/qr-login/scan", post(phone::scan))
        .route("/v1/qr-login/confirm", post(phone::confirm))
        .route("/v1/qr-login/reject", post(phone::reject));
    let anyone =
        Router::new().route("/.well-known/jwks.json", get(jwks::jwks)).route("/openapi.json", get(openapi::document));

    let approve = approve::routes(state.approve.clone()).merge(approve::app_link_routes(&state.approve));
    let mut routes = browser.merge(phone).merge(anyone).merge(client_js::routes()).merge(approve);
    if let Some(pages) = &state.oauth {
        routes = routes.merge(oauth::routes(pages.clone()));
    }
    if let Some(pages) = &state.demo {
        routes = routes.merge(demo::routes(pages));
    }
    let routes = routes
        .fallback(async || ApiError::NotFound)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        // One stack of concrete types: each layer added to a `Router` separately costs allocations per request.
        .layer(
            ServiceBuilder::new()
                .layer(from_fn_with_state(state.observer.clone(), observe))
                .map_response(with_response_fields)
                .layer(origin::cors(checks))
                .layer(from_fn_with_state(checks.clone(), layers::accept)),
        );
    let base = checks.base.clone();
    base::under_base(base, routes.with_state(state))
}

/// Adds the header fields of [`RESPONSE_FIELDS`] that a response does not have.
fn with_response_fields(mut response: Response) -> Response {
    for (name, value) in RESPONSE_FIELDS {
        response.headers_mut().entry(name).or_insert(value);
    }
    response
}

/// A JSON response: its status and the value of its body.
pub(crate) struct JsonResponse<T>(pub(crate) StatusCode, pub(crate) T);

impl<T: Serialize> IntoResponse for JsonResponse<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.1) {
            Ok(body) => (self.0, [(CONTENT_TYPE, "application/json")], body).into_response(),
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }
}

/// Header fields of every response, unless the route sets other values. A response can hold secrets or state that
/// changes, so it must not be stored. It is data, so a browser must not execute it, frame it or guess another type.
/// Paths can hold codes and session ids, so a browser must not send a `Referer`.
const RESPONSE_FIELDS: [(HeaderName, HeaderValue); 5] = [
    (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
];
