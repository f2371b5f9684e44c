//! Verification of app tokens by an introspection endpoint (RFC 7662).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use reqwest::header::HeaderValue;
use serde_json::{Map, Value};
use tokio::sync::oneshot;
use tracing::{Instrument as _, warn};
use url::form_urlencoded;

use super::fair_semaphore::FairSemaphore;
use super::fetch::{HttpSource, json_of};
use super::{AuthError, InvalidToken};
use crate::session::network_of;
use crate::system::clock::Clock;
use crate::system::random;
use crate::telemetry::warnings::Warnings;

/// Key of the setting that names the endpoint.
const SETTING: &str = "app_auth.introspection_url";
/// Prefix of the random token with which the endpoint is tried when the server starts.
const TRIAL: &str = "qrlogin-trial-";
/// Time for which a response is cached. A phone usually scans and decides within it, and a revoked token is refused
/// after it.
const CACHE_TIME: Duration = Duration::from_secs(10);
/// Maximum number of cached responses.
const MAX_CACHED: usize = 10_000;
/// Maximum time that a request to the endpoint waits for its permit, in seconds. After it, the request is not sent.
const QUEUE_SECONDS: u32 = 2;
/// Maximum time that a phone waits, in seconds: for the permit, and then for the endpoint, to which [`HttpSource`]
/// gives 3 seconds.
const WAIT_SECONDS: u32 = 5;
/// Time between two trials of an endpoint that has not responded since the server's start, in seconds.
const TRIAL_PAUSE_SECONDS: u32 = 15;

/// A client of the endpoint. Concurrent phone requests with the same token share one request to it.
#[derive(Clone)]
pub(super) struct Introspection(Arc<Inner>);

struct Inner {
    source: HttpSource,
    authorization: Option<HeaderValue>,
    clock: Clock,
    /// Cached responses, by the SHA-256 of the token.
    cache: Cache<[u8; 32], CachedResponse>,
    /// Pending requests to the endpoint, by the SHA-256 of the token.
    pending: Mutex<HashMap<[u8; 32], PendingRequest>>,
    semaphore: FairSemaphore,
    /// Failed requests. A client can cause any number of them, so the log does not name each one.
    failures: Warnings,
}

/// A response of the endpoint: the claims of a token, or `None` if the token is not active. An error means that there
/// is no valid response.
type Introspected = Result<Option<Arc<Map<String, Value>>>, AuthError>;

/// A request to the endpoint that is sent once, however many phone requests wait for its response.
type PendingRequest = Shared<BoxFuture<'static, Introspected>>;

#[derive(Clone)]
struct CachedResponse {
    /// Claims of the token; `None` if it is not active.
    claims: Option<Arc<Map<String, Value>>>,
    /// Steady time at which the response expires.
    until: Duration,
}

impl Introspection {
    /// Returns a client of this endpoint. `client` is the client id and secret with which the server authenticates.
    pub(super) fn new(source: HttpSource, client: Option<(&str, &str)>, clock: Clock) -> Self {
        Self(Arc::new(Inner {
            source,
            authorization: client.and_then(|(id, secret)| basic(id, secret)),
            clock,
            cache: Cache::new(MAX_CACHED),
            pending: Mutex::default(),
            semaphore: FairSemaphore::default(),
            failures: Warnings::default(),
        }))
    }

    /// Introspects a random token until the endpoint responds. The log then names a wrong URL or client secret at the
    /// start, and not only when a user logs in.
    pub(super) async fn try_until_answered(&self) {
        loop {
            let token = format!("{TRIAL}{}", URL_SAFE_NO_PAD.encode(random::bytes::<16>()));
            match self.0.request(&token).await {
                Ok(None) => return,
                Ok(Some(_)) => {
                    warn!(event = "app tokens not verified", setting = SETTING, "the endpoint accepts any token");
                    return;
                }
                Err(reason) => drop(self.0.warn_unavailable(&reason)),
            }
            self.0.clock.sleep_seconds(TRIAL_PAUSE_SECONDS).await;
        }
    }

    /// Returns the claims of a token that a client at `address` sent.
    ///
    /// # Errors
    /// Returns [`InvalidToken::Inactive`] if the token is not active, and [`AuthError::Unavailable`] if there is no
    /// valid response within 5 seconds.
    pub(super) async fn introspect(&self, token: &str, address: IpAddr) -> Result<Map<String, Value>, AuthError> {
        let mut key = [0; 32];
        key.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        let cached = self.0.cache.get(&key).filter(|cached| self.0.clock.steady() < cached.until);
        let claims = match cached {
            Some(cached) => cached.claims,
            None => {
                let request = self.pending_request(key, token, address);
                self.0.clock.timeout(WAIT_SECONDS, request).await.ok_or(AuthError::Unavailable)??
            }
        };
        Ok(Map::clone(&*claims.ok_or(InvalidToken::Inactive)?))
    }

    /// Returns the pending request about a token, or starts one. A new request runs as a task of its own, so that it
    /// goes on if the phone request that caused it is abandoned.
    fn pending_request(&self, key: [u8; 32], token: &str, address: IpAddr) -> PendingRequest {
        let mut pending = self.0.pending.lock();
        if let Some(request) = pending.get(&key) {
            return request.clone();
        }
        let (sender, receiver) = oneshot::channel();
        // The sender is dropped without a response if the task panics or the runtime ends.
        let request = receiver.map(|response| response.unwrap_or(Err(AuthError::Unavailable))).boxed().shared();
        pending.insert(key, request.clone());
        drop(pending);
        let (guard, token) = (PendingGuard { inner: self.0.clone(), key }, token.to_owned());
        let requesting = async move {
            let response = guard.inner.request_with_permit(&token, network_of(address)).await;
            if let Ok(claims) = &response {
                let until = guard.inner.clock.steady() + CACHE_TIME;
                guard.inner.cache.insert(key, CachedResponse { claims: claims.clone(), until });
            }
            // Removed after the response is cached, so that a later phone request finds the response in the cache.
            drop(guard);
            // The receiver may have been dropped; ignore the error.
            let _ = sender.send(response);
        };
        tokio::spawn(requesting.in_current_span());
        request
    }
}

/// A guard that removes the pending request of a token when it is dropped.
struct PendingGuard {
    inner: Arc<Inner>,
    key: [u8; 32],
}

impl Drop for PendingGuard {
    fn drop(&mut self) {
        self.inner.pending.lock().remove(&self.key);
    }
}

impl Inner {
    /// Waits for a permit of this address, and then sends the request.
    async fn request_with_permit(&self, token: &str, address: IpAddr) -> Introspected {
        let Some(Ok(_permit)) = self.clock.timeout(QUEUE_SECONDS, self.semaphore.acquire(address)).await else {
            return Err(self.warn_unavailable("too many tokens wait for it"));
        };
        let response = self.request(token).await;
        response.map(|claims| claims.map(Arc::new)).map_err(|reason| self.warn_unavailable(&reason))
    }

    /// Logs a failed request, at most one a minute. Returns the error for the phone.
    fn warn_unavailable(&self, reason: &str) -> AuthError {
        if let Some(count) = self.failures.count(self.clock.steady()) {
            let cost = "app tokens that it does not answer for are refused with 503";
            warn!(event = "app token not introspected", setting = SETTING, count, reason, "{cost}");
        }
        AuthError::Unavailable
    }

    /// Sends a request to the endpoint. Returns the claims of an active token, `None` for one that is not active, or
    /// the reason why there is no valid response.
    async fn request(&self, token: &str) -> Result<Option<Map<String, Value>>, String> {
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("token", token)
            .append_pair("token_type_hint", "access_token")
            .finish();
        let body = self.source.post(form, self.authorization.as_ref()).await.map_err(|error| error.to_string())?;
        let response: Map<String, Value> =
            json_of(&body).ok_or_else(|| "its answer is not a JSON object".to_owned())?;
        match response.get("active") {
            Some(Value::Bool(true)) => Ok(Some(response)),
            Some(Value::Bool(false)) => Ok(None),
            _ => Err("its answer does not say whether the token is active".to_owned()),
        }
    }
}

/// Returns the `Authorization` header of HTTP Basic, in which OAuth form-encodes id and secret (RFC 6749 §2.3.1).
fn basic(id: &str, secret: &str) -> Option<HeaderValue> {
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let credentials = STANDARD.encode(format!("{}:{}", encode(id), encode(secret)));
    let mut value = HeaderValue::from_str(&format!("Basic {credentials}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}
