//! Hearing what other nodes say, over a connection that may break at any time.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use super::{Bus as _, Listener, LocalBus};
use crate::cause::explain;
use crate::metrics::{Metrics, Stopwatch};
use crate::node::Hint;
use crate::random;
use crate::warnings::Warnings;

/// Time between two probes, in seconds.
const PROBE_PAUSE_SECONDS: u64 = 5;
/// Time in which a probe must come back, in seconds.
const PROBE_SECONDS: u64 = 5;
/// An answer that has not come after this long never will.
const PATIENCE_SECONDS: u64 = 3;
/// Attempts to connect are this far apart at most, and in the mean half as far: nodes that lost it together are not to
/// come back together.
const MAX_PAUSE_MILLIS: u32 = 2000;
const FIRST_PAUSE_MILLIS: u32 = 100;
/// Beginning of a probe's text. A [`Hint`] never begins so.
const PROBE: &str = "probe:";

/// A connection over which this node hears.
#[async_trait]
pub(super) trait Source: Send + 'static {
    /// The setting that names the server.
    const SETTING: &'static str;

    /// Connects, passes on what it hears, and probes the bus ([`Ears::probe`]), for as long as that goes well. Returns
    /// why the connection has ended.
    async fn hear(&mut self, ears: &Ears) -> String;
}

/// Where what is heard is passed on to.
pub(super) struct Ears {
    here: Arc<LocalBus>,
    metrics: Arc<Metrics>,
    setting: &'static str,
    /// The number of the probe that came back last.
    returned: watch::Sender<u64>,
    started: Stopwatch,
    faults: Warnings,
    nonsense: Warnings,
}

impl Ears {
    /// Sends a message to this node itself, in the way in which hints are sent, and waits until it comes back: only that
    /// shows that this node may send, that it may listen, and that both reach the same server. Notes whether it did.
    pub(super) async fn probe<F: Future<Output = Result<(), String>>>(&self, send: impl FnOnce(String) -> F) {
        let number = u64::from_le_bytes(random::bytes());
        let mut returned = self.returned.subscribe();
        let round_trip = async {
            send(format!("{PROBE}{number}")).await?;
            returned.wait_for(|returned| *returned == number).await.map(drop).map_err(|error| error.to_string())
        };
        let came_back = within_seconds(PROBE_SECONDS, round_trip).await;
        match came_back.unwrap_or_else(|| Err("a message that was sent has not come back".to_owned())) {
            Ok(()) => self.connected(),
            Err(why) => self.not_connected(&why),
        }
    }

    fn connected(&self) {
        if self.metrics.is_bus_connected() {
            return;
        }
        info!(event = "bus connected");
        self.metrics.bus_connected(true);
        if let Some(listener) = self.here.listener() {
            listener.may_have_missed();
        }
    }

    fn not_connected(&self, why: &str) {
        self.metrics.bus_connected(false);
        let setting = self.setting;
        match self.faults.count(self.started.elapsed()) {
            Some(count) => warn!(
                event = "bus not connected",
                setting, count, why, "changes at other nodes are found by looking, up to two seconds later"
            ),
            None => debug!(event = "bus not connected", setting, why),
        }
    }

    /// This has been said to this node.
    pub(super) fn heard(&self, text: &str) {
        if let Some(number) = text.strip_prefix(PROBE).and_then(|number| number.parse().ok()) {
            self.returned.send_replace(number);
            return;
        }
        match (Hint::parse(text), self.here.listener()) {
            (Some(hint), Some(listener)) => listener.hinted(hint),
            (None, _) => {
                if let Some(count) = self.nonsense.count(self.started.elapsed()) {
                    warn!(event = "bus spoke nonsense", setting = self.setting, count);
                }
            }
            (Some(_), None) => {}
        }
    }
}

/// Lets `listener` hear over `source`, connecting again and again; ends when the handle is dropped.
pub(super) fn hear<S: Source>(
    here: &Arc<LocalBus>,
    listener: Weak<dyn Listener>,
    metrics: &Arc<Metrics>,
    mut source: S,
) -> AbortOnDropHandle<()> {
    here.listen(listener);
    let ears = Ears {
        here: here.clone(),
        metrics: metrics.clone(),
        setting: S::SETTING,
        returned: watch::Sender::new(0),
        started: Stopwatch::start(),
        faults: Warnings::default(),
        nonsense: Warnings::default(),
    };
    ears.metrics.bus_connected(false);
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut failures = 0;
        loop {
            let why = source.hear(&ears).await;
            if ears.metrics.is_bus_connected() {
                failures = 0;
            }
            ears.not_connected(&why);
            pause(failures).await;
            failures += 1;
        }
    }))
}

/// Waits before the next attempt, the longer the more have failed.
#[expect(clippy::disallowed_methods, reason = "nothing a test would want to move")]
pub(super) async fn pause(failures: u32) {
    let most = FIRST_PAUSE_MILLIS.saturating_mul(1 << failures.min(8)).min(MAX_PAUSE_MILLIS);
    tokio::time::sleep(Duration::from_millis(random::below(most).into())).await;
}

/// Waits for the time of the next probe.
#[expect(clippy::disallowed_methods, reason = "nothing a test would want to move")]
pub(super) async fn until_probe() {
    tokio::time::sleep(Duration::from_secs(PROBE_PAUSE_SECONDS)).await;
}

/// An answer, or why there is none.
pub(super) async fn answer<T, E: std::error::Error + 'static>(
    asked: impl Future<Output = Result<T, E>>,
) -> Result<T, String> {
    match within_seconds(PATIENCE_SECONDS, asked).await {
        Some(answer) => answer.map_err(|error| explain(&error)),
        None => Err("it does not answer".to_owned()),
    }
}

#[expect(clippy::disallowed_methods, reason = "nothing a test would want to move")]
async fn within_seconds<F: Future>(seconds: u64, future: F) -> Option<F::Output> {
    tokio::time::timeout(Duration::from_secs(seconds), future).await.ok()
}
