//! Asking whether an app token is good (RFC 7662).

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quick_cache::sync::Cache;
use reqwest::header::HeaderValue;
use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use tracing::warn;
use url::form_urlencoded;

use super::fetch::Source;
use super::{AuthError, InvalidToken};
use crate::clock::Clock;

/// How long an answer is kept: a phone scans and decides within it, and a token that was taken back is soon none.
const KEPT: Duration = Duration::from_secs(10);
/// Answers that are kept, at most.
const MAX_KEPT: usize = 10_000;
/// Questions under way, at most; who comes beyond waits in turn, within its own patience.
const MAX_ASKING: usize = 64;

/// See the module.
pub(super) struct Introspection {
    source: Source,
    authorization: Option<HeaderValue>,
    clock: Clock,
    /// By the SHA-256 of the token.
    kept: Cache<[u8; 32], Kept>,
    asking: Semaphore,
}

#[derive(Clone)]
struct Kept {
    /// What was said of the token; `None`: that it is not active.
    claims: Option<Arc<Map<String, Value>>>,
    until: Duration,
}

impl Introspection {
    /// `client` is as whom it asks, and with which secret.
    pub(super) fn new(source: Source, client: Option<(&str, &str)>, clock: Clock) -> Self {
        Self {
            source,
            authorization: client.and_then(|(id, secret)| basic(id, secret)),
            clock,
            kept: Cache::new(MAX_KEPT),
            asking: Semaphore::new(MAX_ASKING),
        }
    }

    /// What is said of this token.
    pub(super) async fn ask(&self, token: &str) -> Result<Map<String, Value>, AuthError> {
        let mut key = [0; 32];
        key.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        let kept = self.kept.get(&key).filter(|kept| self.clock.steady() < kept.until);
        let claims = match kept {
            Some(kept) => kept.claims,
            None => {
                let _turn = self.asking.acquire().await;
                let claims = self.ask_source(token).await.map_err(|reason| {
                    warn!(event = "app token not introspected", setting = "app_auth.introspection_url", %reason);
                    AuthError::Unavailable
                })?;
                let claims = claims.map(Arc::new);
                self.kept.insert(key, Kept { claims: claims.clone(), until: self.clock.steady() + KEPT });
                claims
            }
        };
        Ok(Map::clone(&*claims.ok_or(InvalidToken::Inactive)?))
    }

    async fn ask_source(&self, token: &str) -> Result<Option<Map<String, Value>>, String> {
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("token", token)
            .append_pair("token_type_hint", "access_token")
            .finish();
        let body = self.source.post(form, self.authorization.as_ref()).await.map_err(|error| error.to_string())?;
        let said: Map<String, Value> =
            serde_json::from_slice(&body).map_err(|_| "its answer is no JSON object".to_owned())?;
        match said.get("active") {
            Some(Value::Bool(true)) => Ok(Some(said)),
            Some(Value::Bool(false)) => Ok(None),
            _ => Err("its answer does not say whether the token is active".to_owned()),
        }
    }
}

/// HTTP Basic, as OAuth has it (RFC 6749 §2.3.1).
fn basic(id: &str, secret: &str) -> Option<HeaderValue> {
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let credentials = STANDARD.encode(format!("{}:{}", encode(id), encode(secret)));
    let mut value = HeaderValue::from_str(&format!("Basic {credentials}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}
