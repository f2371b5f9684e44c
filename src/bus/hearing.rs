//! Hearing what other nodes say, over a connection that may break at any time.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use super::{Bus as _, Listener, LocalBus};
use crate::cause::explain;
use crate::metrics::Metrics;
use crate::node::Hint;
use crate::random;

/// After this long the other end is asked whether it is still there.
pub(super) const PING_SECONDS: u64 = 5;
/// An answer that has not come after this long never will.
pub(super) const PATIENCE_SECONDS: u64 = 3;
/// Attempts to connect are this far apart at most, and in the mean half as far: nodes that lost it together are not to
/// come back together.
const MAX_PAUSE_MILLIS: u32 = 2000;
const FIRST_PAUSE_MILLIS: u32 = 100;

/// A connection over which this node hears.
#[async_trait]
pub(super) trait Source: Send + 'static {
    /// Connects, and passes on what it hears, for as long as that goes well; says what happened then.
    async fn hear(&mut self, ears: &Ears) -> String;
}

/// Where what is heard is passed on to.
pub(super) struct Ears {
    here: Arc<LocalBus>,
    metrics: Arc<Metrics>,
}

impl Ears {
    /// From here on, everything is heard.
    pub(super) fn open(&self) {
        info!(event = "bus connected");
        self.metrics.bus_connected(true);
        if let Some(listener) = self.here.listener() {
            listener.may_have_missed();
        }
    }

    /// This has been said to this node.
    pub(super) fn heard(&self, text: &str) {
        match (Hint::parse(text), self.here.listener()) {
            (Some(hint), Some(listener)) => listener.hinted(hint),
            (None, _) => warn!(event = "bus spoke nonsense"),
            (Some(_), None) => {}
        }
    }
}

/// Lets `listener` hear over `source`, connecting again and again; ends when the handle is dropped.
pub(super) fn hear(
    here: &Arc<LocalBus>,
    listener: Weak<dyn Listener>,
    metrics: &Arc<Metrics>,
    mut source: impl Source,
) -> AbortOnDropHandle<()> {
    here.listen(listener);
    let ears = Ears { here: here.clone(), metrics: metrics.clone() };
    ears.metrics.bus_connected(false);
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut failures = 0;
        loop {
            let why = source.hear(&ears).await;
            if ears.metrics.is_bus_connected() {
                warn!(event = "bus lost", why, "logins at other nodes are found by looking, a little later");
                failures = 0;
            } else {
                debug!(event = "bus not connected", why);
            }
            ears.metrics.bus_connected(false);
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

/// Waits for the next time to ask whether the other end is still there.
#[expect(clippy::disallowed_methods, reason = "nothing a test would want to move")]
pub(super) async fn until_ping() {
    tokio::time::sleep(Duration::from_secs(PING_SECONDS)).await;
}

/// An answer, or why there is none.
#[expect(clippy::disallowed_methods, reason = "nothing a test would want to move")]
pub(super) async fn answer<T, E: std::error::Error + 'static>(
    asked: impl Future<Output = Result<T, E>>,
) -> Result<T, String> {
    match tokio::time::timeout(Duration::from_secs(PATIENCE_SECONDS), asked).await {
        Ok(answer) => answer.map_err(|error| explain(&error)),
        Err(_) => Err("it does not answer".to_owned()),
    }
}
