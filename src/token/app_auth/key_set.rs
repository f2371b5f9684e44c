//! The public keys of app tokens that a source publishes as a JWK Set (RFC 7517 §5).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;
use tracing::{info, warn};

use super::fetch::{HttpSource, json_of};
use super::key::{Unusable, VerifyingKey};
use super::{AuthError, InvalidToken};
use crate::session::printable;
use crate::system::clock::Clock;
use crate::telemetry::warnings::Warnings;

/// Key of the setting that names the source.
const SETTING: &str = "app_auth.jwks_url";
/// Time between two fetches of the set, in seconds. After it, a key that the source has withdrawn is refused.
const REFRESH_SECONDS: u32 = 300;
/// Time between two fetches while the source does not answer, in seconds.
const RETRY_SECONDS: u32 = 15;
/// Minimum time between two fetches that tokens with an unknown key cause.
const ON_DEMAND: Duration = Duration::from_secs(10);
/// Time for which the known keys are used while the source does not answer.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// Maximum number of keys that are read of a set.
const MAX_KEYS: usize = 256;
/// Maximum number of keys that are tried on one token. A token need not name its key, and keys may share an id.
const MAX_TRIED: usize = 16;
/// Maximum length of a key's id in the log, in characters.
const MAX_KID_CHARS: usize = 128;

/// The JWK Set of one source, which is fetched periodically and on demand.
pub(super) struct KeySet {
    source: HttpSource,
    clock: Clock,
    known: RwLock<KnownKeys>,
    /// Steady time of the last fetch that a token caused. The lock is held during such a fetch.
    demanded: Mutex<Option<Duration>>,
    /// Failed fetches of the set.
    failures: Warnings,
    /// Fetches of a set without a usable key.
    empty: Warnings,
}

#[derive(Default)]
struct KnownKeys {
    keys: Vec<Arc<VerifyingKey>>,
    /// Names of the skipped keys that the log has named already, with the reasons.
    skipped: HashSet<(String, Unusable)>,
    /// Whether the log has named already that a set has too many keys.
    has_named_surplus: bool,
    /// Steady time of the last successful fetch.
    fetched_at: Option<Duration>,
    /// Whether the last fetch succeeded.
    is_source_up: bool,
}

#[derive(Deserialize)]
struct Published {
    keys: Vec<Value>,
}

impl KeySet {
    pub(super) fn new(source: HttpSource, clock: Clock) -> Self {
        let (failures, empty) = (Warnings::default(), Warnings::default());
        Self { source, clock, known: RwLock::default(), demanded: Mutex::default(), failures, empty }
    }

    /// Fetches the set at once, and then periodically. Never returns.
    pub(super) async fn keep_fresh(&self) {
        loop {
            let is_up = self.fetch().await;
            self.clock.sleep_seconds(if is_up { REFRESH_SECONDS } else { RETRY_SECONDS }).await;
        }
    }

    /// Returns the keys of this id that fit this `alg`, or without an id, all keys that fit it: at most [`MAX_TRIED`],
    /// and possibly none. If no key has the id, fetches the set first, unless a token caused a fetch less than
    /// [`ON_DEMAND`] ago.
    ///
    /// # Errors
    /// Returns [`InvalidToken::UnknownKey`] if the source does not publish a key of this id, and
    /// [`AuthError::Unavailable`] if that is not known because the source does not answer.
    pub(super) async fn find(&self, id: Option<&str>, algorithm: &str) -> Result<Vec<Arc<VerifyingKey>>, AuthError> {
        if let Some(keys) = self.find_known(id, algorithm) {
            return Ok(keys);
        }
        let mut demanded = self.demanded.lock().await;
        // Another request may have fetched the set while this one waited for the lock.
        if let Some(keys) = self.find_known(id, algorithm) {
            return Ok(keys);
        }
        let now = self.clock.steady();
        if demanded.is_none_or(|last| now.saturating_sub(last) >= ON_DEMAND) {
            *demanded = Some(now);
            self.fetch().await;
            if let Some(keys) = self.find_known(id, algorithm) {
                return Ok(keys);
            }
        }
        if self.known.read().is_source_up { Err(InvalidToken::UnknownKey.into()) } else { Err(AuthError::Unavailable) }
    }

    /// Searches the known keys as [`KeySet::find`] does. Returns `None` if none of them has this id, or if they are
    /// stale.
    fn find_known(&self, id: Option<&str>, algorithm: &str) -> Option<Vec<Arc<VerifyingKey>>> {
        let known = self.known.read();
        if known.is_stale(self.clock.steady()) {
            return None;
        }
        let mut of_id = known.keys.iter().filter(|key| id.is_none() || key.id.as_deref() == id).peekable();
        of_id.peek()?;
        Some(of_id.filter(|key| key.fits(algorithm)).take(MAX_TRIED).cloned().collect())
    }

    /// Fetches the set now.
    pub(super) async fn refresh(&self) {
        self.fetch().await;
    }

    /// Fetches the set, and logs changes of the source's state. Returns whether the fetch succeeded.
    async fn fetch(&self) -> bool {
        let fetched = match self.source.get().await {
            Ok(body) => json_of::<Published>(&body).ok_or_else(|| "its answer is not a JWK Set".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        let now = self.clock.steady();
        let mut known = self.known.write();
        match fetched {
            Ok(published) => {
                known.replace(&published.keys);
                known.fetched_at = Some(now);
                if known.keys.is_empty()
                    && let Some(count) = self.empty.count(now)
                {
                    let published = published.keys.len();
                    warn!(
                        event = "no keys of app tokens",
                        setting = SETTING,
                        count,
                        published,
                        "no published key can be used: app tokens are refused with 401"
                    );
                }
                if !known.is_source_up {
                    info!(event = "keys of app tokens fetched", keys = known.keys.len());
                }
                known.is_source_up = true;
            }
            Err(reason) => {
                known.is_source_up = false;
                if let Some(count) = self.failures.count(now) {
                    let cost = if known.is_stale(now) {
                        "app tokens are answered with 503"
                    } else {
                        "app tokens with a new key are answered with 503; known keys are used for a day"
                    };
                    warn!(event = "keys of app tokens not fetched", setting = SETTING, count, %reason, "{cost}");
                }
            }
        }
        known.is_source_up
    }
}

impl KnownKeys {
    /// Returns whether no set has been fetched, or only one that is too old to be used.
    fn is_stale(&self, now: Duration) -> bool {
        self.fetched_at.is_none_or(|fetched_at| now.saturating_sub(fetched_at) >= STALE)
    }

    /// Replaces the keys by the usable ones of a fetched set. Logs each skipped key once.
    fn replace(&mut self, published: &[Value]) {
        self.keys.clear();
        if published.len() > MAX_KEYS && !std::mem::replace(&mut self.has_named_surplus, true) {
            let (published, used) = (published.len(), MAX_KEYS);
            warn!(
                event = "keys of app tokens skipped",
                setting = SETTING,
                published,
                used,
                "the set has too many keys"
            );
        }
        for (number, published) in (1..).zip(published.iter().take(MAX_KEYS)) {
            match VerifyingKey::of_jwk(published) {
                Ok(key) => self.keys.push(Arc::new(key)),
                Err(reason) => {
                    let name = name_of(published, number);
                    if self.skipped.len() < MAX_KEYS && self.skipped.insert((name.clone(), reason)) {
                        warn!(event = "key of app tokens skipped", setting = SETTING, key = name, %reason);
                    }
                }
            }
        }
    }
}

/// Returns the name of a key in the log: its id, or its position in the set if it has none.
fn name_of(published: &Value, number: usize) -> String {
    let id = published.get("kid").and_then(Value::as_str).map(|id| printable(id, MAX_KID_CHARS));
    id.filter(|id| !id.is_empty()).unwrap_or_else(|| format!("key {number} of the set"))
}
