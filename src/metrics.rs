//! What `/metrics` shows. Names and labels are part of the contract (PROTOCOL.md).

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

/// Why a waiting connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The phone's owner confirmed or rejected.
    Decided,
    /// The session ran out of time.
    Expired,
    /// The browser closed.
    Client,
    /// Two heartbeats went unanswered.
    Heartbeat,
    /// The network failed, or the browser vanished without a word.
    Network,
    /// A newer connection of the same session took over.
    Replaced,
    /// The browser gave up.
    Cancelled,
    /// This server is stopping.
    Shutdown,
    /// The browser broke the WebSocket protocol.
    Protocol,
    /// The browser did not read.
    Slow,
    /// The store did not answer when it had to.
    Unavailable,
    /// The token could not be made.
    Internal,
    /// A long poll was answered; its browser asks again.
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

    /// The label, as it is shown in metrics and logs.
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

/// What became of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The phone's owner said yes. Counted when decided, as the next two.
    Confirmed,
    /// The phone's owner said no.
    Rejected,
    /// The browser gave up.
    Cancelled,
    /// Nobody decided in time. Counted when the row is swept, as the next.
    Expired,
    /// Confirmed (and counted so), but the browser never acknowledged its token.
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

/// All that is counted.
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
    /// Everything at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("qrlogin");
        let metrics = Self {
            active_connections: Gauge::default(),
            connections_closed: Family::default(),
            sessions: Family::default(),
            // 50 µs to 0.8 s.
            push_seconds: Histogram::new(exponential_buckets(50e-6, 2.0, 15)),
            // 0.25 ms to 8 s.
            http_request_seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(250e-6, 2.0, 16))),
            requests_answered: AtomicU64::new(0),
            bus_connected: Gauge::default(),
            hints: Counter::default(),
            untold_found: Counter::default(),
            app_tokens_refused: Family::default(),
            registry: Registry::default(),
        };
        registry.register("active_connections", "Browsers waiting now", metrics.active_connections.clone());
        registry.register("connections_closed", "Waiting connections that ended", metrics.connections_closed.clone());
        registry.register("sessions", "Sessions that came to an end", metrics.sessions.clone());
        registry.register_with_unit(
            "push",
            "From a change's being stored to its being written to the waiting browser",
            Unit::Seconds,
            metrics.push_seconds.clone(),
        );
        registry.register_with_unit(
            "http_request",
            "From a request's head to its answer's head",
            Unit::Seconds,
            metrics.http_request_seconds.clone(),
        );
        registry.register(
            "bus_connected",
            "Whether a message to this node has come back (1), or changes at other nodes are only found by looking (0)",
            metrics.bus_connected.clone(),
        );
        registry.register("hints", "Changes at other nodes that were heard of", metrics.hints.clone());
        registry.register(
            "untold_found",
            "Changes that were not heard of, and found by looking",
            metrics.untold_found.clone(),
        );
        registry.register("app_tokens_refused", "App tokens that were refused", metrics.app_tokens_refused.clone());
        // A single node hears all it does.
        metrics.bus_connected.set(1);
        for reason in CloseReason::ALL {
            drop(metrics.connections_closed.get_or_create(&ReasonLabel { reason }));
        }
        for outcome in Outcome::ALL {
            drop(metrics.sessions.get_or_create(&OutcomeLabel { outcome }));
        }
        Self { registry, ..metrics }
    }

    /// The text that `/metrics` answers with (OpenMetrics 1.0).
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
    }

    /// A browser began to wait.
    pub fn connection_opened(&self) {
        self.active_connections.inc();
    }

    /// A browser no longer waits.
    pub fn connection_closed(&self, reason: CloseReason) {
        // In this order: whoever sees the connection gone sees it counted.
        self.connections_closed.get_or_create(&ReasonLabel { reason }).inc();
        self.active_connections.dec();
    }

    /// How many browsers wait now.
    #[must_use]
    pub fn active_connections(&self) -> i64 {
        self.active_connections.get()
    }

    /// A session came to an end.
    pub fn session_ended(&self, outcome: Outcome) {
        self.sessions.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// A change was written to a waiting browser.
    pub fn pushed(&self, since: Stopwatch) {
        self.push_seconds.observe(since.elapsed().as_secs_f64());
    }

    /// Whether other nodes are heard.
    pub fn bus_connected(&self, is_connected: bool) {
        self.bus_connected.set(is_connected.into());
    }

    /// Whether other nodes are heard.
    #[must_use]
    pub fn is_bus_connected(&self) -> bool {
        self.bus_connected.get() == 1
    }

    /// Another node was heard.
    pub fn hinted(&self) {
        self.hints.inc();
    }

    /// Something was found by looking.
    pub fn found_untold(&self) {
        self.untold_found.inc();
    }

    /// An app token was refused. `reason` is one of a fixed set.
    pub fn app_token_refused(&self, reason: &'static str) {
        self.app_tokens_refused.get_or_create(&TokenLabel { reason }).inc();
    }

    /// How many requests have been answered.
    #[must_use]
    pub fn requests_answered(&self) -> u64 {
        self.requests_answered.load(Ordering::Relaxed)
    }

    /// A request was answered. `route` is the route's pattern, never the path that was asked for.
    pub fn answered(&self, method: &str, route: &str, status: u16, since: Stopwatch) {
        self.requests_answered.fetch_add(1, Ordering::Relaxed);
        let labels = RequestLabels { method: method.to_owned(), route: route.to_owned(), status };
        self.http_request_seconds.get_or_create(&labels).observe(since.elapsed().as_secs_f64());
    }
}

/// Measures how long something took; durations are nobody's business but the metrics'.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl From<Instant> for Stopwatch {
    /// Measures from this instant.
    fn from(start: Instant) -> Self {
        Self(start)
    }
}

impl Stopwatch {
    /// Begins to measure.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that may ask")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// From this start to a later one.
    #[must_use]
    pub fn until(self, later: Self) -> Duration {
        later.0.saturating_duration_since(self.0)
    }

    /// How long it has been.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}
