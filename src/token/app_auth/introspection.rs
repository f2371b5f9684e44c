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

use super::fetch::{Source, json_of};
use super::turns::Turns;
use super::{AuthError, InvalidToken};
use crate::session::network_of;
use crate::system::clock::Clock;
use crate::system::random;
use crate::telemetry::warnings::Warnings;

/// Key of the setting that names the endpoint.
const SETTING: &str = "app_auth.introspection_url";
/// Prefix of the random token with which the endpoint is tried when the server starts.
const TRIAL: &str = "qrlogin-trial-";
/// Time for which an answer is cached. A phone usually scans and decides within it, and a revoked token is refused
/// after it.
const KEPT: Duration = Duration::from_secs(10);
/// Maximum number of cached answers.
const MAX_KEPT: usize = 10_000;
/// Maximum time that a request to the endpoint waits for its turn, in seconds. After it, the request is not sent.
const TURN_SECONDS: u32 = 2;
/// Maximum time that a phone waits, in seconds: for the turn, and then for the endpoint, to which [`Source`] gives 3
/// seconds.
const ANSWER_SECONDS: u32 = 5;
/// Time between two trials of an endpoint that has not answered since the server's start, in seconds.
const TRIAL_PAUSE_SECONDS: u32 = 15;

/// A client of the endpoint. Concurrent phone requests with the same token share one request to it.
#[derive(Clone)]
pub(super) struct Introspection(Arc<Inner>);

struct Inner {
    source: Source,
    authorization: Option<HeaderValue>,
    clock: Clock,
    /// Cached answers, by the SHA-256 of the token.
    kept: Cache<[u8; 32], Kept>,
    /// Pending requests to the endpoint, by the SHA-256 of the token.
    waiting: Mutex<HashMap<[u8; 32], Question>>,
    turns: Turns,
    /// Failed requests. A client can cause any number of them, so the log does not name each one.
    failures: Warnings,
}

/// An answer of the endpoint: the claims of a token, or `None` if the token is not active. An error means that there is
/// no valid answer.
type Said = Result<Option<Arc<Map<String, Value>>>, AuthError>;

/// A request to the endpoint that is sent once, however many phone requests wait for its answer.
type Question = Shared<BoxFuture<'static, Said>>;

#[derive(Clone)]
struct Kept {
    /// Claims of the token; `None` if it is not active.
    claims: Option<Arc<Map<String, Value>>>,
    /// Steady time at which the answer expires.
    until: Duration,
}

impl Introspection {
    /// Returns a client of this endpoint. `client` is the client id and secret with which the server authenticates.
    pub(super) fn new(source: Source, client: Option<(&str, &str)>, clock: Clock) -> Self {
        Self(Arc::new(Inner {
            source,
            authorization: client.and_then(|(id, secret)| basic(id, secret)),
            clock,
            kept: Cache::new(MAX_KEPT),
            waiting: Mutex::default(),
            turns: Turns::default(),
            failures: Warnings::default(),
        }))
    }

    /// Asks about a random token until there is an answer. The log then names a wrong URL or client secret at the
    /// start, and not only when a user logs in.
    pub(super) async fn try_out(&self) {
        loop {
            let token = format!("{TRIAL}{}", URL_SAFE_NO_PAD.encode(random::bytes::<16>()));
            match self.0.ask_source(&token).await {
                Ok(None) => return,
                Ok(Some(_)) => {
                    warn!(event = "app tokens not verified", setting = SETTING, "the endpoint accepts any token");
                    return;
                }
                Err(reason) => drop(self.0.unanswered(&reason)),
            }
            self.0.clock.sleep_seconds(TRIAL_PAUSE_SECONDS).await;
        }
    }

    /// Returns the claims of a token that a client at `address` sent.
    ///
    /// # Errors
    /// Returns [`InvalidToken::Inactive`] if the token is not active, and [`AuthError::Unavailable`] if there is no
    /// valid answer within 5 seconds.
    pub(super) async fn ask(&self, token: &str, address: IpAddr) -> Result<Map<String, Value>, AuthError> {
        let mut key = [0; 32];
        key.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        let kept = self.0.kept.get(&key).filter(|kept| self.0.clock.steady() < kept.until);
        let claims = match kept {
            Some(kept) => kept.claims,
            None => {
                let question = self.question(key, token, address);
                self.0.clock.timeout(ANSWER_SECONDS, question).await.ok_or(AuthError::Unavailable)??
            }
        };
        Ok(Map::clone(&*claims.ok_or(InvalidToken::Inactive)?))
    }

    /// Returns the pending request about a token, or starts one. A new request runs as a task of its own, so that it
    /// goes on if the phone request that caused it is abandoned.
    fn question(&self, key: [u8; 32], token: &str, address: IpAddr) -> Question {
        let mut waiting = self.0.waiting.lock();
        if let Some(question) = waiting.get(&key) {
            return question.clone();
        }
        let (reply, answer) = oneshot::channel();
        // The sender is dropped without an answer if the task panics or the runtime ends.
        let question = answer.map(|said| said.unwrap_or(Err(AuthError::Unavailable))).boxed().shared();
        waiting.insert(key, question.clone());
        drop(waiting);
        let (asking, token) = (Asking { inner: self.0.clone(), key }, token.to_owned());
        let asked = async move {
            let said = asking.inner.ask_in_turn(&token, network_of(address)).await;
            if let Ok(claims) = &said {
                let until = asking.inner.clock.steady() + KEPT;
                asking.inner.kept.insert(key, Kept { claims: claims.clone(), until });
            }
            // Removed after the answer is cached, so that a later phone request finds the answer in the cache.
            drop(asking);
            // The receiver may have been dropped; ignore the error.
            let _ = reply.send(said);
        };
        tokio::spawn(asked.in_current_span());
        question
    }
}

/// A guard that removes the pending request of a token when it is dropped.
struct Asking {
    inner: Arc<Inner>,
    key: [u8; 32],
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.inner.waiting.lock().remove(&self.key);
    }
}

impl Inner {
    /// Waits for a turn of this address, and then asks the endpoint.
    async fn ask_in_turn(&self, token: &str, address: IpAddr) -> Said {
        let Some(Ok(_turn)) = self.clock.timeout(TURN_SECONDS, self.turns.take(address)).await else {
            return Err(self.unanswered("too many tokens wait for it"));
        };
        let said = self.ask_source(token).await;
        said.map(|claims| claims.map(Arc::new)).map_err(|reason| self.unanswered(&reason))
    }

    /// Logs a failed request, at most one a minute. Returns the error for the phone.
    fn unanswered(&self, reason: &str) -> AuthError {
        if let Some(count) = self.failures.count(self.clock.steady()) {
            let cost = "app tokens that it does not answer for are refused with 503";
            warn!(event = "app token not introspected", setting = SETTING, count, reason, "{cost}");
        }
        AuthError::Unavailable
    }

    /// Asks the endpoint. Returns the claims of an active token, `None` for one that is not active, or the reason why
    /// there is no valid answer.
    async fn ask_source(&self, token: &str) -> Result<Option<Map<String, Value>>, String> {
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("token", token)
            .append_pair("token_type_hint", "access_token")
            .finish();
        let body = self.source.post(form, self.authorization.as_ref()).await.map_err(|error| error.to_string())?;
        let said: Map<String, Value> = json_of(&body).ok_or_else(|| "its answer is not a JSON object".to_owned())?;
        match said.get("active") {
            Some(Value::Bool(true)) => Ok(Some(said)),
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
