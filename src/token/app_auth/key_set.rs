//! The public keys of app tokens, as their source publishes them: a JWK Set (RFC 7517).

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;
use tracing::{info, warn};

use super::fetch::{Source, json_of};
use super::key::{Key, Unusable};
use super::{AuthError, InvalidToken};
use crate::clock::Clock;
use crate::session::printable;
use crate::warnings::Warnings;

/// The setting that names the source.
const SETTING: &str = "app_auth.jwks_url";
/// How often the source is asked, so that a key that was taken back is.
const REFRESH_SECONDS: u32 = 300;
/// While it cannot be, how often it is tried.
const RETRY_SECONDS: u32 = 15;
/// A token that names an unknown key has the source asked, but not more often than this.
const ON_DEMAND: Duration = Duration::from_secs(10);
/// While the source is down, its keys are used for this long.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// Keys that are looked at of a set.
const MAX_KEYS: usize = 256;
/// Keys that are tried on a token that does not say which one signed it, or whose `kid` several have.
const MAX_TRIED: usize = 16;
/// Characters of a key's id that are shown in the log.
const MAX_KID_CHARS: usize = 128;

/// See the module.
pub(super) struct KeySet {
    source: Source,
    clock: Clock,
    known: RwLock<Known>,
    /// When a token last had the source asked. Held while it is.
    demanded: Mutex<Option<Duration>>,
    /// Fetches that failed, and fetches of a set without a key that can be used.
    failures: Warnings,
    empty: Warnings,
}

#[derive(Default)]
struct Known {
    keys: Vec<Arc<Key>>,
    /// The keys that are not used, and why: each is named in the log once.
    skipped: HashSet<(Option<String>, Unusable)>,
    /// A set with too many keys has been named in the log.
    is_cut: bool,
    /// When the source last answered, and whether it did when it was last asked.
    fetched_at: Option<Duration>,
    is_source_up: bool,
}

#[derive(Deserialize)]
struct Published {
    keys: Vec<Value>,
}

impl KeySet {
    pub(super) fn new(source: Source, clock: Clock) -> Self {
        let (failures, empty) = (Warnings::default(), Warnings::default());
        Self { source, clock, known: RwLock::default(), demanded: Mutex::default(), failures, empty }
    }

    /// Asks the source at once and from time to time, for as long as the program runs.
    pub(super) async fn keep_fresh(&self) {
        loop {
            let is_up = self.fetch().await;
            self.clock.sleep_seconds(if is_up { REFRESH_SECONDS } else { RETRY_SECONDS }).await;
        }
    }

    /// The keys of this id; without one, all keys. A bounded number of those that fit this `alg`, none if none does.
    pub(super) async fn find(&self, id: Option<&str>, algorithm: &str) -> Result<Vec<Arc<Key>>, AuthError> {
        if let Some(keys) = self.look(id, algorithm) {
            return Ok(keys);
        }
        let mut demanded = self.demanded.lock().await;
        // Another may have had the source asked meanwhile.
        if let Some(keys) = self.look(id, algorithm) {
            return Ok(keys);
        }
        let now = self.clock.steady();
        if demanded.is_none_or(|last| now.saturating_sub(last) >= ON_DEMAND) {
            *demanded = Some(now);
            self.fetch().await;
            if let Some(keys) = self.look(id, algorithm) {
                return Ok(keys);
            }
        }
        if self.known().is_source_up { Err(InvalidToken::UnknownKey.into()) } else { Err(AuthError::Unavailable) }
    }

    /// As [`KeySet::find`]; `None` if there is no key of this id at all.
    fn look(&self, id: Option<&str>, algorithm: &str) -> Option<Vec<Arc<Key>>> {
        let known = self.known();
        if known.is_stale(self.clock.steady()) {
            return None;
        }
        let mut of_id = known.keys.iter().filter(|key| id.is_none() || key.id.as_deref() == id).peekable();
        of_id.peek()?;
        Some(of_id.filter(|key| key.fits(algorithm)).take(MAX_TRIED).cloned().collect())
    }

    /// Asks the source now.
    pub(super) async fn refresh(&self) {
        self.fetch().await;
    }

    /// Whether the source answers.
    async fn fetch(&self) -> bool {
        let fetched = match self.source.get().await {
            Ok(body) => json_of::<Published>(&body).ok_or_else(|| "its answer is no JWK Set".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        let now = self.clock.steady();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        match fetched {
            Ok(published) => {
                known.take(&published.keys);
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

    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Whether there are no keys, or only keys that are too old to be used.
    fn is_stale(&self, now: Duration) -> bool {
        self.fetched_at.is_none_or(|fetched_at| now.saturating_sub(fetched_at) >= STALE)
    }

    /// Keys that cannot be used are named in the log, each once.
    fn take(&mut self, published: &[Value]) {
        self.keys.clear();
        if published.len() > MAX_KEYS && !std::mem::replace(&mut self.is_cut, true) {
            let (published, used) = (published.len(), MAX_KEYS);
            warn!(
                event = "keys of app tokens skipped",
                setting = SETTING,
                published,
                used,
                "the set has too many keys"
            );
        }
        for published in published.iter().take(MAX_KEYS) {
            match Key::of_jwk(published) {
                Ok(key) => self.keys.push(Arc::new(key)),
                Err(reason) => {
                    let id = published.get("kid").and_then(Value::as_str).map(|id| printable(id, MAX_KID_CHARS));
                    let shown = id.clone().unwrap_or_else(|| "(none)".to_owned());
                    if self.skipped.len() < MAX_KEYS && self.skipped.insert((id, reason)) {
                        warn!(event = "key of app tokens skipped", setting = SETTING, kid = shown, %reason);
                    }
                }
            }
        }
    }
}
