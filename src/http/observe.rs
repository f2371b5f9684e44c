//! What is counted and logged of each request: the route's pattern, never the path, in which secrets may stand.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use tracing::debug;

use super::App;
use crate::metrics::Stopwatch;

/// Counts and logs.
pub(super) async fn observe(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let started = Stopwatch::start();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = known_method(&request);
    let response = next.run(request).await;
    let (route, status) = (route.as_ref().map_or("(none)", MatchedPath::as_str), response.status().as_u16());
    app.metrics.answered(method, route, status, started);
    debug!(event = "answered", method, route, status, micros = started.elapsed().as_micros());
    response
}

/// Anyone may invent a method, and no label may be invented.
fn known_method(request: &Request) -> &'static str {
    match request.method().as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "OPTIONS" => "OPTIONS",
        _ => "OTHER",
    }
}
