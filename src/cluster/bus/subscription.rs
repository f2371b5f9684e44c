//! Receives notifications from other nodes over a connection that is restored whenever it breaks.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use super::{Bus as _, Listener, LocalBus};
use crate::cluster::node::Notification;
use crate::metrics::{Metrics, Stopwatch};
use crate::system::random;
use crate::telemetry::cause::explain;
use crate::telemetry::warnings::Warnings;

/// Time between two probes, in seconds.
const PROBE_PAUSE_SECONDS: u64 = 5;
/// Time in which a probe must come back, in seconds.
const PROBE_SECONDS: u64 = 5;
/// Time after which a request to the server of the bus fails, in seconds.
const REQUEST_SECONDS: u64 = 3;
/// Maximum time between two attempts to connect, in milliseconds. The actual time is random, half of it on average, so
/// that the nodes do not reconnect at the same moment.
const MAX_PAUSE_MILLIS: u32 = 2000;
/// Maximum time between the first two attempts to connect, in milliseconds. It doubles with each failure.
const FIRST_PAUSE_MILLIS: u32 = 100;
/// Prefix of a probe, which no notification begins with.
const PROBE: &str = "probe:";

/// A connection over which this node receives notifications.
#[async_trait]
pub(super) trait Subscription: Send + 'static {
    /// Name of the setting that holds the URL of the server.
    const SETTING: &'static str;

    /// Connects, passes messages to [`MessageHandler::handle`], and probes the bus ([`MessageHandler::probe`]) until
    /// the connection ends. Returns why it ended.
    async fn receive(&mut self, handler: &MessageHandler) -> String;
}

/// Handles received messages, and keeps track of whether the bus is connected.
pub(super) struct MessageHandler {
    local: Arc<LocalBus>,
    metrics: Arc<Metrics>,
    setting: &'static str,
    /// Number of the last probe that came back.
    returned: watch::Sender<u64>,
    started: Stopwatch,
    faults: Warnings,
    malformed: Warnings,
}

impl MessageHandler {
    /// Sends a message to this node itself in the way in which notifications are sent, and waits until it comes back.
    /// Records whether the bus is connected. Only a round trip shows that this node may publish, that it may subscribe,
    /// and that both happen on the same server.
    pub(super) async fn probe<F: Future<Output = Result<(), String>>>(&self, send: impl FnOnce(String) -> F) {
        let number = u64::from_le_bytes(random::bytes());
        let mut returned = self.returned.subscribe();
        let round_trip = async {
            send(format!("{PROBE}{number}")).await?;
            returned.wait_for(|returned| *returned == number).await.map(drop).map_err(|error| error.to_string())
        };
        let returned_in_time = within_seconds(PROBE_SECONDS, round_trip).await;
        match returned_in_time.unwrap_or_else(|| Err("a message of this node to itself did not arrive".to_owned())) {
            Ok(()) => self.connected(),
            Err(why) => self.not_connected(&why),
        }
    }

    /// Records that the bus is connected. If it was not, notifications may have been lost.
    fn connected(&self) {
        if self.metrics.is_bus_connected() {
            return;
        }
        info!(event = "bus connected");
        self.metrics.bus_connected(true);
        if let Some(listener) = self.local.listener() {
            listener.may_have_lost();
        }
    }

    /// Records that the bus is not connected.
    fn not_connected(&self, why: &str) {
        self.metrics.bus_connected(false);
        let setting = self.setting;
        match self.faults.count(self.started.elapsed()) {
            Some(count) => warn!(
                event = "bus not connected",
                setting, count, why, "changes at other nodes are found by a search, up to two seconds later"
            ),
            None => debug!(event = "bus not connected", setting, why),
        }
    }

    /// Handles a message: a probe that came back, or a notification.
    pub(super) fn handle(&self, text: &str) {
        if let Some(number) = text.strip_prefix(PROBE).and_then(|number| number.parse().ok()) {
            self.returned.send_replace(number);
            return;
        }
        match (Notification::parse(text), self.local.listener()) {
            (Some(notification), Some(listener)) => listener.notified(notification),
            (None, _) => {
                if let Some(count) = self.malformed.count(self.started.elapsed()) {
                    warn!(event = "bus spoke nonsense", setting = self.setting, count);
                }
            }
            (Some(_), None) => {}
        }
    }
}

/// Starts a task that receives from `subscription` for `listener` and reconnects whenever the connection ends. The task
/// ends when the returned handle is dropped.
pub(super) fn subscribe<S: Subscription>(
    local: &Arc<LocalBus>,
    listener: Weak<dyn Listener>,
    metrics: &Arc<Metrics>,
    mut subscription: S,
) -> AbortOnDropHandle<()> {
    local.listen(listener);
    let handler = MessageHandler {
        local: local.clone(),
        metrics: metrics.clone(),
        setting: S::SETTING,
        returned: watch::Sender::new(0),
        started: Stopwatch::start(),
        faults: Warnings::default(),
        malformed: Warnings::default(),
    };
    handler.metrics.bus_connected(false);
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut failures = 0;
        loop {
            let why = subscription.receive(&handler).await;
            if handler.metrics.is_bus_connected() {
                failures = 0;
            }
            handler.not_connected(&why);
            pause(failures).await;
            failures += 1;
        }
    }))
}

/// Waits before the next attempt. The time is random, and its maximum grows with the number of failures.
#[expect(clippy::disallowed_methods, reason = "waits by the machine's clock, which tests do not move")]
pub(super) async fn pause(failures: u32) {
    let max_millis = FIRST_PAUSE_MILLIS.saturating_mul(1 << failures.min(8)).min(MAX_PAUSE_MILLIS);
    tokio::time::sleep(Duration::from_millis(random::below(max_millis).into())).await;
}

/// Waits until the next probe is due.
#[expect(clippy::disallowed_methods, reason = "waits by the machine's clock, which tests do not move")]
pub(super) async fn until_probe() {
    tokio::time::sleep(Duration::from_secs(PROBE_PAUSE_SECONDS)).await;
}

/// Returns the response to a request, or the reason for which there is none.
pub(super) async fn response<T, E: std::error::Error + 'static>(
    request: impl Future<Output = Result<T, E>>,
) -> Result<T, String> {
    match within_seconds(REQUEST_SECONDS, request).await {
        Some(response) => response.map_err(|error| explain(&error)),
        None => Err("it does not answer".to_owned()),
    }
}

/// Returns the output of a future, or `None` after this time.
#[expect(clippy::disallowed_methods, reason = "waits by the machine's clock, which tests do not move")]
async fn within_seconds<F: Future>(seconds: u64, future: F) -> Option<F::Output> {
    tokio::time::timeout(Duration::from_secs(seconds), future).await.ok()
}
