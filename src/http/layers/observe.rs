//! Metrics and log lines of requests. They have the route's pattern and never the path, which can hold secrets.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use tracing::{debug, warn};

use crate::http::problem::Fault;
use crate::login::Logins;
use crate::metrics::{Metrics, Stopwatch};
use crate::system::clock::Clock;
use crate::telemetry::warnings::Warnings;

/// Counts and logs requests, and warns of the faults that they meet.
pub(crate) struct Observer {
    metrics: Arc<Metrics>,
    logins: Arc<Logins>,
    clock: Clock,
    /// Rate limit for warnings of browsers that are refused because too many wait for the store.
    handshakes_refused: Warnings,
}

impl Observer {
    pub(crate) fn new(metrics: Arc<Metrics>, logins: Arc<Logins>, clock: Clock) -> Self {
        Self { metrics, logins, clock, handshakes_refused: Warnings::default() }
    }

    /// Counts and logs a request that the acceptor has answered.
    pub(crate) fn record_response(&self, method: &'static str, route: &str, status: StatusCode, since: Stopwatch) {
        let status = status.as_u16();
        self.metrics.record_response(method, route, status, since);
        debug!(event = "answered", method, route, status, micros = since.elapsed().as_micros());
    }

    /// Logs a fault, each kind at most once a minute.
    fn warn(&self, fault: &Fault) {
        match fault {
            Fault::Login(error) => self.logins.warn_of(error),
            Fault::TooManyHandshakes => {
                if let Some(count) = self.handshakes_refused.count(self.clock.steady()) {
                    let cause = "browsers connect faster than the store reads their sessions";
                    warn!(event = "too many handshakes", count, reason = cause, "further browsers get 503");
                }
            }
        }
    }
}

/// Counts and logs a request, and logs the fault that it met.
pub(crate) async fn observe(State(observer): State<Arc<Observer>>, request: Request, next: Next) -> Response {
    let observed = Observed::of(&request);
    let mut response = next.run(request).await;
    if let Some(fault) = response.extensions_mut().remove::<Fault>() {
        observer.warn(&fault);
    }
    observed.record_response(&observer, response.status());
    response
}

/// A request that has not been answered yet.
struct Observed {
    since: Stopwatch,
    method: &'static str,
    route: Option<MatchedPath>,
}

impl Observed {
    fn of(request: &Request) -> Self {
        let route = request.extensions().get::<MatchedPath>().cloned();
        Self { since: Stopwatch::start(), method: known_method(request), route }
    }

    fn record_response(self, observer: &Observer, status: StatusCode) {
        let route = self.route.as_ref().map_or("(none)", MatchedPath::as_str);
        observer.record_response(self.method, route, status, self.since);
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
