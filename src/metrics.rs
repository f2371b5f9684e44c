//! The metrics of `/metrics`. Their names and labels are part of the protocol (PROTOCOL.md, "Metrics").

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// The reason why a waiting connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The session was confirmed or rejected.
    Decided,
    /// The session expired.
    Expired,
    /// The browser sent a Close, or ended its event stream or long poll.
    Client,
    /// The browser left two heartbeats unanswered.
    Heartbeat,
    /// The connection failed or ended without a Close.
    Network,
    /// A newer connection of the same session superseded this one.
    Replaced,
    /// The session was cancelled.
    Cancelled,
    /// The server drained.
    Shutdown,
    /// The browser violated the WebSocket protocol.
    Protocol,
    /// The browser did not read a frame within its time.
    Slow,
    /// The store did not answer at the session's deadline.
    Unavailable,
    /// The token could not be minted.
    Internal,
    /// A long poll was answered before the session's end, and the browser polls again.
    Answered,
}

impl CloseReason {
    const ALL: [Self; 13] = [
        Self::Decided,
        Self::Expired,
        Self::Client,
        Self::Heartbeat,
        Self::Network,
        Self::Replaced,
        Self::Cancelled,
        Self::Shutdown,
        Self::Protocol,
        Self::Slow,
        Self::Unavailable,
        Self::Internal,
        Self::Answered,
    ];

    /// Returns the label of metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Decided => "decided",
            Self::Expired => "expired",
            Self::Client => "client",
            Self::Heartbeat => "heartbeat",
            Self::Network => "network",
            Self::Replaced => "replaced",
            Self::Cancelled => "cancelled",
            Self::Shutdown => "shutdown",
            Self::Protocol => "protocol",
            Self::Slow => "slow",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
            Self::Answered => "answered",
        }
    }
}

/// The outcome of a session. `Confirmed`, `Rejected` and `Cancelled` are counted when the session changes, and
/// `Expired` and `Unclaimed` when its row is swept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The user confirmed the session.
    Confirmed,
    /// The user rejected the session, or chose a wrong number.
    Rejected,
    /// The browser cancelled the session, or the server did because too many waited to be scanned.
    Cancelled,
    /// The session expired without a decision.
    Expired,
    /// The session was confirmed, and counted as such, but its token was never acknowledged.
    Unclaimed,
}

impl Outcome {
    const ALL: [Self; 5] = [Self::Confirmed, Self::Rejected, Self::Cancelled, Self::Expired, Self::Unclaimed];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Rejected => "rejected",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Unclaimed => "unclaimed",
        }
    }
}

impl EncodeLabelValue for CloseReason {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        self.as_str().encode(encoder)
    }
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        self.as_str().encode(encoder)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: CloseReason,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenLabel {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: String,
    route: String,
    status: u16,
}

/// The counters, gauges and histograms of this process.
pub struct Metrics {
    registry: Registry,
    active_connections: Gauge<i64, AtomicI64>,
    connections_closed: Family<ReasonLabel, Counter<u64, AtomicU64>>,
    sessions: Family<OutcomeLabel, Counter<u64, AtomicU64>>,
    push_seconds: Histogram,
    http_request_seconds: Family<RequestLabels, Histogram, fn() -> Histogram>,
    requests_answered: AtomicU64,
    bus_connected: Gauge<i64, AtomicI64>,
    hints: Counter<u64, AtomicU64>,
    untold_found: Counter<u64, AtomicU64>,
    app_tokens_refused: Family<TokenLabel, Counter<u64, AtomicU64>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Returns metrics that are all zero, except that `qrlogin_bus_connected` is 1.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("qrlogin");
        let metrics = Self {
            active_connections: Gauge::default(),
            connections_closed: Family::default(),
            sessions: Family::default(),
            // The bounds of the buckets are 50 µs to 0.8 s.
            push_seconds: Histogram::new(exponential_buckets(50e-6, 2.0, 15)),
            // The bounds of the buckets are 0.25 ms to 8 s.
            http_request_seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(250e-6, 2.0, 16))),
            requests_answered: AtomicU64::new(0),
            bus_connected: Gauge::default(),
            hints: Counter::default(),
            untold_found: Counter::default(),
            app_tokens_refused: Family::default(),
            registry: Registry::default(),
        };
        registry.register("active_connections", "Browsers that are waiting now", metrics.active_connections.clone());
        registry.register("connections_closed", "Waiting connections that ended", metrics.connections_closed.clone());
        registry.register("sessions", "Sessions that have ended", metrics.sessions.clone());
        registry.register_with_unit(
            "push",
            "Time from storing a change of a session to writing it to the waiting browser",
            Unit::Seconds,
            metrics.push_seconds.clone(),
        );
        registry.register_with_unit(
            "http_request",
            "Time from the head of a request to the head of its response",
            Unit::Seconds,
            metrics.http_request_seconds.clone(),
        );
        registry.register(
            "bus_connected",
            "Whether notifications of other nodes arrive (1), or their changes are found only by a search (0)",
            metrics.bus_connected.clone(),
        );
        registry.register("hints", "Notifications received of changes at other nodes", metrics.hints.clone());
        registry.register(
            "untold_found",
            "Changes found by a search, without a notification",
            metrics.untold_found.clone(),
        );
        registry.register("app_tokens_refused", "App tokens that were refused", metrics.app_tokens_refused.clone());
        // A single node has no bus that could fail. The buses of several nodes set the gauge themselves.
        metrics.bus_connected.set(1);
        for reason in CloseReason::ALL {
            drop(metrics.connections_closed.get_or_create(&ReasonLabel { reason }));
        }
        for outcome in Outcome::ALL {
            drop(metrics.sessions.get_or_create(&OutcomeLabel { outcome }));
        }
        Self { registry, ..metrics }
    }

    /// Returns the response of `/metrics`, in the text format of OpenMetrics 1.0.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
    }

    /// Counts a connection that begins to wait.
    pub fn connection_opened(&self) {
        self.active_connections.inc();
    }

    /// Counts a waiting connection that has ended.
    pub fn connection_closed(&self, reason: CloseReason) {
        // In this order, so that a reader which sees the gauge lowered also sees the connection counted as closed.
        self.connections_closed.get_or_create(&ReasonLabel { reason }).inc();
        self.active_connections.dec();
    }

    /// Returns the number of waiting connections.
    #[must_use]
    pub fn active_connections(&self) -> i64 {
        self.active_connections.get()
    }

    /// Counts a session that has ended.
    pub fn session_ended(&self, outcome: Outcome) {
        self.sessions.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Records that a change, stored at `since`, has been written to its connection.
    pub fn pushed(&self, since: Stopwatch) {
        self.push_seconds.observe(since.elapsed().as_secs_f64());
    }

    /// Sets whether notifications of other nodes arrive.
    pub fn bus_connected(&self, is_connected: bool) {
        self.bus_connected.set(is_connected.into());
    }

    /// Returns whether notifications of other nodes arrive.
    #[must_use]
    pub fn is_bus_connected(&self) -> bool {
        self.bus_connected.get() == 1
    }

    /// Counts a notification of another node.
    pub fn notified(&self) {
        self.hints.inc();
    }

    /// Counts a change that was found in the store without a notification.
    pub fn found_undelivered(&self) {
        self.untold_found.inc();
    }

    /// Counts a refused app token. `reason` is one of the fixed labels of `AuthError::as_str`.
    pub fn app_token_refused(&self, reason: &'static str) {
        self.app_tokens_refused.get_or_create(&TokenLabel { reason }).inc();
    }

    /// Returns the number of requests that have been answered.
    #[must_use]
    pub fn requests_answered(&self) -> u64 {
        self.requests_answered.load(Ordering::Relaxed)
    }

    /// Counts an answered request that began at `since`. `route` is the pattern of the route, never the path of the
    /// request, which may contain a session id.
    pub fn record_response(&self, method: &str, route: &str, status: u16, since: Stopwatch) {
        self.requests_answered.fetch_add(1, Ordering::Relaxed);
        let labels = RequestLabels { method: method.to_owned(), route: route.to_owned(), status };
        self.http_request_seconds.get_or_create(&labels).observe(since.elapsed().as_secs_f64());
    }
}

/// A stopwatch on the monotonic clock of the machine. Unlike `Clock`, tests cannot move it.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl From<Instant> for Stopwatch {
    /// Returns a stopwatch that was started at this instant.
    fn from(start: Instant) -> Self {
        Self(start)
    }
}

impl Stopwatch {
    /// Starts a stopwatch.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "measurements read the monotonic clock of the machine")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Returns the time from the start of this stopwatch to that of a later one, or zero if the other is earlier.
    #[must_use]
    pub fn until(self, later: Self) -> Duration {
        later.0.saturating_duration_since(self.0)
    }

    /// Returns the time since the start.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}
