//! A server in this process, and the browsers and phones that call it.

mod browser;
mod phone;
mod raw;
mod server;

use std::time::Duration;

/// Settings that a test changes before it starts a server.
pub use qrlogin::internals::config::{OAuthClientSettings, ProxyHeader, RiskPolicy, RiskSignal, Secret, Settings};
pub use qrlogin::internals::oauth::hash_secret;
use qrlogin::session::Timestamp;
use reqwest::StatusCode;
use serde_json::{Map, Value};

use crate::real_time::WAIT_SECONDS;

pub use browser::{Browser, Seen};
pub use phone::Phone;
pub use raw::{RawConnection, WEBSOCKET_KEY, masked_frame, upgrade_request};
pub use server::Server;

/// Secret of the app tokens.
pub const SECRET: &str = "a secret of at least thirty-two bytes, for tests";
/// Time at which the tests' manual clock starts: 2030-01-01T00:00:00Z.
pub const START: Timestamp = Timestamp::from_millis(1_893_456_000_000);

/// Returns an HTTP client without a proxy. A request fails if the server sends nothing for 30 seconds.
pub fn http_client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().read_timeout(Duration::from_secs(WAIT_SECONDS)).build().unwrap()
}

/// A session as its browser knows it, from the answer of `generate`.
#[derive(Debug, Clone)]
pub struct Session {
    /// The session id.
    pub id: String,
    /// The code, for the phone.
    pub code: String,
    /// Path of the WebSocket.
    pub ws_path: String,
}

/// An HTTP answer that has been read to its end.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The header fields.
    pub headers: reqwest::header::HeaderMap,
    /// The body, as JSON, or as a JSON string if it is not JSON.
    pub body: Value,
}

impl Answer {
    /// Reads an answer to its end.
    pub async fn of(response: reqwest::Response) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.unwrap();
        Self { status, headers, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) }
    }

    /// Returns the status and the problem code, as in `409 already_decided`. The answer of a successful request gives
    /// the status alone.
    pub fn refusal(&self) -> String {
        match self.body["code"].as_str() {
            Some(code) if !self.status.is_success() => format!("{} {code}", self.status.as_u16()),
            _ => self.status.as_u16().to_string(),
        }
    }

    /// Returns the value of a header field, or an empty string if the answer does not have it.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// Returns the first `web_token` in the frames, if there is one.
pub fn token_in(seen: &[Seen]) -> Option<String> {
    seen.iter().find_map(|seen| match seen {
        Seen::Frame(frame) => frame["web_token"].as_str().map(ToOwned::to_owned),
        _ => None,
    })
}

/// Verifies a `web_token` against the keys that the server publishes and returns its claims. The library that verifies
/// is not the one that signed.
pub async fn verified(server: &Server, token: &str) -> Map<String, Value> {
    use jsonwebtoken::jwk::JwkSet;
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};

    let jwks: JwkSet = serde_json::from_value(server.get("/.well-known/jwks.json").await.body).unwrap();
    let kid = decode_header(token).unwrap().kid.unwrap();
    let key = DecodingKey::from_jwk(jwks.find(&kid).unwrap()).unwrap();
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.set_audience(&["http://localhost:8080"]);
    validation.set_issuer(&["http://localhost:8080"]);
    decode::<Map<String, Value>>(token, &key, &validation).unwrap().claims
}

/// Returns a token's claims without verifying it.
pub fn claims_of(token: &str) -> Value {
    use base64::Engine as _;
    let part = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice(&part).unwrap()
}
