//! Metrics and log lines of requests. They have the route's pattern and never the path, which can hold secrets.

use axum::extract::{MatchedPath, Request};
use axum::http::StatusCode;
use tracing::debug;

use crate::metrics::{Metrics, Stopwatch};

/// A request that has not been answered yet.
pub(crate) struct Observed {
    since: Stopwatch,
    method: &'static str,
    route: Option<MatchedPath>,
}

impl Observed {
    pub(crate) fn of(request: &Request) -> Self {
        let route = request.extensions().get::<MatchedPath>().cloned();
        Self { since: Stopwatch::start(), method: known_method(request), route }
    }

    pub(crate) fn answered(self, metrics: &Metrics, status: StatusCode) {
        let Self { since, method, route } = self;
        let (route, status) = (route.as_ref().map_or("(none)", MatchedPath::as_str), status.as_u16());
        metrics.answered(method, route, status, since);
        debug!(event = "answered", method, route, status, micros = since.elapsed().as_micros());
    }
}

/// Returns the method as a label. Clients can invent methods, and the number of labels must be bounded.
fn known_method(request: &Request) -> &'static str {
    match request.method().as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "OPTIONS" => "OPTIONS",
        _ => "OTHER",
    }
}
