//! Verification of app tokens, with which a phone authenticates as a user of the integrator's own user system.

mod claims;
mod error;
mod fair_semaphore;
mod fetch;
mod introspection;
mod key;
mod key_set;
mod public_key_file;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use parking_lot::RwLock;
use serde::Deserialize;
use serde_json::{Map, Value};
use tracing::{info, warn};
use url::Url;

use super::{KeyRing, WEB_TOKEN_TYPE};
use crate::session::Timestamp;
use crate::system::clock::Clock;
use fetch::HttpSource;
use introspection::Introspection;
use key::VerifyingKey;
use key_set::KeySet;

pub use claims::{AppUser, ClaimRules};
pub use error::{AppAuthError, AuthError, InvalidToken};
pub use key::check_jwk;

/// Minimum length of the secret of HS256, in bytes: the length of its hash (RFC 7518 §3.2).
pub const MIN_HMAC_SECRET_BYTES: usize = 32;

/// The verifier of app tokens.
pub struct AppAuth {
    verification: Verification,
    rules: ClaimRules,
    /// Signing keys of this server, whose tokens are not app tokens.
    own: Option<Arc<KeyRing>>,
}

/// The way in which tokens are verified.
enum Verification {
    /// HS256 with a shared secret.
    Secret(Arc<VerifyingKey>),
    /// Signatures of the public keys in a file.
    KeyFile(PathBuf, RwLock<Vec<Arc<VerifyingKey>>>),
    /// Signatures of the public keys in a published JWK Set.
    KeySet(Box<KeySet>),
    /// Responses of an introspection endpoint (RFC 7662).
    Introspection(Introspection),
    /// No token is accepted, because users approve on the approve page only.
    None,
}

impl AppAuth {
    /// Returns a verifier of tokens that are signed with HS256 and this secret.
    #[must_use]
    pub fn hmac(secret: &[u8]) -> Self {
        Self::with_verification(Verification::Secret(Arc::new(VerifyingKey::of_secret(secret))))
    }

    /// Returns a verifier with the public keys of a PEM file. The algorithm must be one of the key's type: RS256 to
    /// RS512 and PS256 to PS512, ES256, ES384, ES512 or EdDSA.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, if others may write it, if it has no or too many PEM blocks, or if
    /// a block is not a public key or is cut off.
    pub fn public_key_file(path: &Path) -> Result<Self, AppAuthError> {
        let keys = public_key_file::read_keys(path)?;
        Ok(Self::with_verification(Verification::KeyFile(path.to_owned(), RwLock::new(keys))))
    }

    /// Returns a verifier with the keys of the JWK Set at this URL. `is_loopback` says whether the URL leads to this
    /// machine, so may be plain http.
    ///
    /// # Errors
    /// Returns an error if the HTTP client cannot be created, for example because the system's trusted certificates
    /// cannot be used.
    pub fn key_set(url: Url, is_loopback: bool, clock: Clock) -> Result<Self, AppAuthError> {
        let source = source("app_auth.jwks_url", url, is_loopback)?;
        Ok(Self::with_verification(Verification::KeySet(Box::new(KeySet::new(source, clock)))))
    }

    /// Returns a verifier that asks an introspection endpoint (RFC 7662). `client` is the client id and secret with
    /// which the server authenticates there. `is_loopback` says whether the URL leads to this machine, so may be plain
    /// http.
    ///
    /// # Errors
    /// Returns an error if the HTTP client cannot be created, for example because the system's trusted certificates
    /// cannot be used.
    pub fn introspection(
        url: Url,
        is_loopback: bool,
        client: Option<(&str, &str)>,
        clock: Clock,
    ) -> Result<Self, AppAuthError> {
        let source = source("app_auth.introspection_url", url, is_loopback)?;
        Ok(Self::with_verification(Verification::Introspection(Introspection::new(source, client, clock))))
    }

    /// Returns a verifier that accepts no token.
    #[must_use]
    pub fn none() -> Self {
        Self::with_verification(Verification::None)
    }

    fn with_verification(verification: Verification) -> Self {
        let (user_claim, passed_on) = ("sub".to_owned(), Vec::new());
        let rules = ClaimRules { issuer: None, audience: None, user_claim, max_age_seconds: 0, passed_on };
        Self { verification, rules, own: None }
    }

    /// Refuses tokens that name one of these keys, which are those of this server. An OAuth client that holds a user's ID
    /// token or access token must not be able to act as the user's app.
    #[must_use]
    pub fn with_own_keys(mut self, keys: Arc<KeyRing>) -> Self {
        self.own = Some(keys);
        self
    }

    /// Accepts tokens of this issuer only.
    #[must_use]
    pub fn with_issuer(mut self, issuer: &str) -> Self {
        self.rules.issuer = Some(issuer.to_owned());
        self
    }

    /// Accepts tokens for this audience only.
    #[must_use]
    pub fn with_audience(mut self, audience: &str) -> Self {
        self.rules.audience = Some(audience.to_owned());
        self
    }

    /// Takes the user's id from this claim instead of `sub`.
    #[must_use]
    pub fn with_user_claim(mut self, claim: &str) -> Self {
        claim.clone_into(&mut self.rules.user_claim);
        self
    }

    /// Accepts tokens only if `auth_time` is at most this many seconds ago. 0 means any time.
    #[must_use]
    pub const fn with_max_age(mut self, seconds: u32) -> Self {
        self.rules.max_age_seconds = seconds;
        self
    }

    /// Refuses tokens with a control character other than tab, line feed and carriage return in one of these claims,
    /// which are copied into `web_token`.
    #[must_use]
    pub fn with_passed_on(mut self, claims: Vec<String>) -> Self {
        self.rules.passed_on = claims;
        self
    }

    /// Keeps in touch with the source outside, if there is one. Fetches a JWK Set periodically, and then never returns.
    /// Tries an introspection endpoint until it answers.
    pub async fn keep_fresh(&self) {
        match &self.verification {
            Verification::KeySet(keys) => keys.keep_fresh().await,
            Verification::Introspection(introspection) => introspection.try_until_answered().await,
            Verification::Secret(_) | Verification::KeyFile(..) | Verification::None => {}
        }
    }

    /// Reads the key file again, or fetches the JWK Set now. If that fails, the known keys stay in use.
    pub async fn refresh(&self) {
        match &self.verification {
            Verification::KeyFile(path, known) => match public_key_file::read_keys(path) {
                Ok(keys) => {
                    *known.write() = keys;
                    info!(event = "key of app tokens read again");
                }
                Err(error) => warn!(event = "key of app tokens not read", %error),
            },
            Verification::KeySet(keys) => keys.refresh().await,
            Verification::Secret(_) | Verification::Introspection(_) | Verification::None => {}
        }
    }

    /// Verifies an app token that a phone at `address` sent. Returns its user. `now` is the date, by the wall clock.
    ///
    /// # Errors
    /// Returns an error if the token is not valid, if the user's login is too long ago, or if the source does not
    /// answer.
    pub async fn verify(&self, token: &str, address: IpAddr, now: Timestamp) -> Result<AppUser, AuthError> {
        // Checked first, so that a token of this server is not sent to an introspection endpoint.
        let header = JoseHeader::of(token);
        let is_web_token = |typ: &String| typ.eq_ignore_ascii_case(WEB_TOKEN_TYPE);
        if header.as_ref().is_some_and(|header| header.typ.as_ref().is_some_and(is_web_token)) {
            return Err(InvalidToken::WebToken.into());
        }
        let kid = header.as_ref().and_then(|header| header.kid.as_deref());
        if kid.is_some_and(|kid| self.own.as_ref().is_some_and(|own| own.contains(kid))) {
            return Err(InvalidToken::OwnToken.into());
        }
        let claims = match &self.verification {
            Verification::Introspection(introspection) => introspection.introspect(token, address).await?,
            verification => {
                let header = header.ok_or(InvalidToken::Malformed)?;
                if header.crit.is_some() {
                    // A token with an extension that is not supported must be refused (RFC 7515 §4.1.11).
                    return Err(InvalidToken::Critical.into());
                }
                let keys = match verification {
                    Verification::KeySet(keys) => keys.find(header.kid.as_deref(), &header.alg).await?,
                    Verification::KeyFile(_, keys) => keys.read().clone(),
                    Verification::Secret(key) => vec![Arc::clone(key)],
                    Verification::Introspection(_) | Verification::None => Vec::new(),
                };
                let claims = verify_with_any(&keys, token, &header.alg)?;
                if !claims.contains_key("exp") {
                    return Err(InvalidToken::Claim("exp".to_owned()).into());
                }
                claims
            }
        };
        self.rules.check(claims, now)
    }
}

fn source(key: &'static str, url: Url, is_loopback: bool) -> Result<HttpSource, AppAuthError> {
    HttpSource::new(url, is_loopback).map_err(|error| AppAuthError::Source { key, reason: error.to_string() })
}

/// The parameters of a JWT's header that matter here (RFC 7515 §4.1).
#[derive(Deserialize)]
struct JoseHeader {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<Value>,
}

impl JoseHeader {
    /// Returns the header of a token, or `None` if the token is not in the form of a JWT.
    fn of(token: &str) -> Option<Self> {
        let (header, _) = token.split_once('.')?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()
    }
}

/// Verifies a token with each of these keys until one has signed it. Returns the claims of the token.
fn verify_with_any(
    keys: &[Arc<VerifyingKey>],
    token: &str,
    algorithm: &str,
) -> Result<Map<String, Value>, InvalidToken> {
    let signature = InvalidToken::Signature;
    let mut results = keys.iter().map(|key| key.verify(token, algorithm));
    results.find(|result| result.as_ref() != Err(&signature)).unwrap_or(Err(signature))
}

/// Returns an app token with these claims, signed with HS256, for tests and the demo. Returns `None` if it cannot be
/// signed.
#[must_use]
pub fn sign_app_token(secret: &[u8], claims: &Map<String, Value>) -> Option<String> {
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(secret)).ok()
}
