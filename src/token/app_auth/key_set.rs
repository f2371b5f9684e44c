//! The public keys of app tokens, as their source publishes them: a JWK Set (RFC 7517).

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;
use tracing::{info, warn};

use super::fetch::Source;
use super::{AuthError, InvalidToken};
use crate::clock::Clock;

/// How often the source is asked, so that a key that was taken back is.
const REFRESH_SECONDS: u32 = 300;
/// While it cannot be, how often it is tried.
const RETRY_SECONDS: u32 = 15;
/// A token that names an unknown key has the source asked, but not more often than this.
const ON_DEMAND: Duration = Duration::from_secs(10);
/// While the source is down, its keys are used for this long.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// See the module.
pub(super) struct KeySet {
    source: Source,
    clock: Clock,
    known: RwLock<Known>,
    /// When a token last had the source asked. Held while it is.
    demanded: Mutex<Option<Duration>>,
}

#[derive(Default)]
struct Known {
    keys: Vec<Arc<Key>>,
    /// When the source last answered, and whether it did when it was last asked.
    fetched_at: Option<Duration>,
    is_source_up: bool,
}

/// A key, and the one algorithm that is used with it.
pub(super) struct Key {
    id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

#[derive(Deserialize)]
struct Published {
    keys: Vec<Value>,
}

impl KeySet {
    pub(super) fn new(source: Source, clock: Clock) -> Self {
        Self { source, clock, known: RwLock::default(), demanded: Mutex::default() }
    }

    /// Asks the source at once and from time to time, for as long as the program runs.
    pub(super) async fn keep_fresh(&self) {
        loop {
            let is_up = self.fetch().await;
            self.clock.sleep_seconds(if is_up { REFRESH_SECONDS } else { RETRY_SECONDS }).await;
        }
    }

    /// The key of this id; without one, the only key.
    pub(super) async fn find(&self, id: Option<&str>) -> Result<Arc<Key>, AuthError> {
        if let Some(key) = self.look(id) {
            return Ok(key);
        }
        let mut demanded = self.demanded.lock().await;
        // Whoever waited for the other's answer looks at it.
        if let Some(key) = self.look(id) {
            return Ok(key);
        }
        let now = self.clock.steady();
        if demanded.is_none_or(|last| now.saturating_sub(last) >= ON_DEMAND) {
            *demanded = Some(now);
            self.fetch().await;
            if let Some(key) = self.look(id) {
                return Ok(key);
            }
        }
        if self.known().is_source_up { Err(InvalidToken::UnknownKey.into()) } else { Err(AuthError::Unavailable) }
    }

    fn look(&self, id: Option<&str>) -> Option<Arc<Key>> {
        let known = self.known();
        let is_stale = known.fetched_at.is_none_or(|at| self.clock.steady().saturating_sub(at) >= STALE);
        match id {
            _ if is_stale => None,
            Some(id) => known.keys.iter().find(|key| key.id.as_deref() == Some(id)).cloned(),
            None if known.keys.len() == 1 => known.keys.first().cloned(),
            None => None,
        }
    }

    /// Whether the source answers.
    async fn fetch(&self) -> bool {
        let fetched = match self.source.get().await {
            Ok(body) => serde_json::from_slice::<Published>(&body).map_err(|_| "its answer is no JWK Set".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        match fetched {
            Ok(published) => {
                // What is not for us, or not known to us, is nobody's fault.
                known.keys = published.keys.into_iter().filter_map(Key::of).map(Arc::new).collect();
                known.fetched_at = Some(self.clock.steady());
                if !known.is_source_up {
                    info!(event = "keys of app tokens fetched", keys = known.keys.len());
                }
                known.is_source_up = true;
            }
            Err(reason) => {
                warn!(event = "keys of app tokens not fetched", setting = "app_auth.jwks_url", %reason);
                known.is_source_up = false;
            }
        }
        known.is_source_up
    }

    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Key {
    fn of(published: Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(published).ok()?;
        if jwk.common.public_key_use.as_ref().is_some_and(|r#use| *r#use != PublicKeyUse::Signature) {
            return None;
        }
        let algorithm = algorithm(&jwk)?;
        Some(Self { id: jwk.common.key_id.clone(), algorithm, key: DecodingKey::from_jwk(&jwk).ok()? })
    }
}

/// The one algorithm of a key: what it says itself, if its kind can have that; else what is usual for its kind. Never an
/// HMAC, whose key would be no secret (RFC 8725 §3.1, §3.5).
fn algorithm(jwk: &Jwk) -> Option<Algorithm> {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    let said = jwk.common.key_algorithm;
    match (&jwk.algorithm, said) {
        (AlgorithmParameters::RSA(_), None | Some(KeyAlgorithm::RS256)) => Some(RS256),
        (AlgorithmParameters::RSA(_), Some(KeyAlgorithm::RS384)) => Some(RS384),
        (AlgorithmParameters::RSA(_), Some(KeyAlgorithm::RS512)) => Some(RS512),
        (AlgorithmParameters::RSA(_), Some(KeyAlgorithm::PS256)) => Some(PS256),
        (AlgorithmParameters::RSA(_), Some(KeyAlgorithm::PS384)) => Some(PS384),
        (AlgorithmParameters::RSA(_), Some(KeyAlgorithm::PS512)) => Some(PS512),
        (AlgorithmParameters::EllipticCurve(key), None | Some(KeyAlgorithm::ES256))
            if key.curve == EllipticCurve::P256 =>
        {
            Some(ES256)
        }
        (AlgorithmParameters::EllipticCurve(key), None | Some(KeyAlgorithm::ES384))
            if key.curve == EllipticCurve::P384 =>
        {
            Some(ES384)
        }
        (AlgorithmParameters::OctetKeyPair(key), None | Some(KeyAlgorithm::EdDSA))
            if key.curve == EllipticCurve::Ed25519 =>
        {
            Some(EdDSA)
        }
        _ => None,
    }
}
