//! Verifying app tokens: the phone proves itself with a token of the integrator's own user system.

mod fetch;
mod introspection;
mod key;
mod key_set;
mod turns;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use pem::Pem;
use serde::Deserialize;
use serde_json::{Map, Value};
use thiserror::Error;
use tracing::{info, warn};
use url::Url;

use super::WEB_TOKEN_TYPE;
use crate::clock::Clock;
use crate::session::{PhoneUser, Timestamp, printable};
use fetch::Source;
use introspection::Introspection;
use key::Key;
use key_set::KeySet;

/// Below this an HMAC secret is weaker than HS256 (RFC 7518 §3.2).
pub const MIN_HMAC_SECRET_BYTES: usize = 32;
/// How far ahead of ours the clock of whoever made a token may be.
const NOT_BEFORE_LEEWAY_SECONDS: i64 = 5;
/// Maximum number of keys in a file.
const MAX_FILE_KEYS: usize = 16;
/// A user's id, in bytes.
const MAX_ID_BYTES: usize = 256;
/// A display name, in characters; a longer one is cut.
const MAX_NAME_CHARS: usize = 128;
/// A picture's URL, in bytes; a longer one is left out.
const MAX_PICTURE_BYTES: usize = 2048;

/// Verifies app tokens.
pub struct AppAuth {
    judge: Judge,
    issuer: Option<String>,
    audience: Option<String>,
    user_claim: String,
    max_age_seconds: u32,
}

/// Who says whether a token is good.
enum Judge {
    /// One key, of a secret.
    Secret(Arc<Key>),
    /// The keys of a file.
    KeyFile(PathBuf, RwLock<Vec<Arc<Key>>>),
    /// Keys that are published.
    KeySet(Box<KeySet>),
    /// Whoever gave it.
    Introspection(Introspection),
}

/// A phone user, with all that the app token says.
#[derive(Debug, Clone, PartialEq)]
pub struct AppUser {
    /// Who.
    pub user: PhoneUser,
    /// The token's claims, some of which may be passed on.
    pub claims: Map<String, Value>,
}

/// Why an app token was refused; its text is for the phone's developer and never quotes the token.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidToken {
    /// No `Authorization: Bearer` header.
    #[error("the request carries no app token; send it as 'Authorization: Bearer'")]
    Missing,
    /// Not a JWT, or not in its form.
    #[error("the app token is not a well-formed JWT")]
    Malformed,
    /// The signature or its algorithm is not that of the configured key.
    #[error("the app token is not signed with the configured key and its algorithm")]
    Signature,
    /// Past its `exp`.
    #[error("the app token has expired")]
    Expired,
    /// Before its `nbf`.
    #[error("the app token is not yet valid")]
    NotYetValid,
    /// Another issuer.
    #[error("the app token's 'iss' is not the configured issuer")]
    Issuer,
    /// Another audience.
    #[error("the app token's 'aud' does not name the configured audience")]
    Audience,
    /// A claim that is needed is missing or of the wrong type.
    #[error("the app token has no usable '{0}' claim")]
    Claim(String),
    /// A claim has a control character, which no identifier has and no database takes.
    #[error("the app token's '{0}' claim has a control character")]
    ControlCharacter(String),
    /// A token that was minted here for a browser.
    #[error("a web_token is not an app token")]
    WebToken,
    /// It demands what is not understood here.
    #[error("the app token's header has a 'crit' that is not understood")]
    Critical,
    /// It names a key that is not published.
    #[error("the app token is signed with a key that its source does not publish")]
    UnknownKey,
    /// Whoever gave it says so.
    #[error("the app token is not active")]
    Inactive,
}

/// Why an app token does not let its phone in.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AuthError {
    /// It proves nothing.
    #[error(transparent)]
    Invalid(#[from] InvalidToken),
    /// The user's login on the phone is too long ago (RFC 9470).
    #[error("the login on the phone is older than {max_age_seconds} s; log in there again")]
    TooOld {
        /// How long ago it may be.
        max_age_seconds: u32,
    },
    /// Whoever would know does not answer.
    #[error("the source that app tokens are verified with does not answer; try again")]
    Unavailable,
}

impl InvalidToken {
    /// The label of the metric.
    const fn as_str(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Claim(_) | Self::ControlCharacter(_) => "claim",
            Self::WebToken => "web_token",
            Self::Critical => "critical",
            Self::UnknownKey => "unknown_key",
            Self::Inactive => "inactive",
        }
    }
}

impl AuthError {
    /// The label of the metric `qrlogin_app_tokens_refused_total`.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Invalid(invalid) => invalid.as_str(),
            Self::TooOld { .. } => "too_old",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Why app tokens cannot be verified as configured.
#[derive(Debug, Error)]
pub enum AppAuthError {
    /// The key file cannot be read.
    #[error("app_auth.public_key_file: {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A source cannot be asked.
    #[error("{key}: {reason}")]
    Source {
        /// The setting.
        key: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The key file holds something else.
    #[error(
        "app_auth.public_key_file: {path}: not an RSA, P-256, P-384, P-521 or Ed25519 public key in PEM form (block \
         {number})"
    )]
    NotAKey {
        /// The file.
        path: PathBuf,
        /// Which of its PEM blocks, from 1.
        number: usize,
    },
    /// Each key of the file is tried on each token.
    #[error("app_auth.public_key_file: {path}: more than {MAX_FILE_KEYS} keys")]
    TooManyKeys {
        /// The file.
        path: PathBuf,
    },
}

impl AppAuth {
    /// Tokens signed with HS256 and this secret.
    #[must_use]
    pub fn hmac(secret: &[u8]) -> Self {
        Self::judged_by(Judge::Secret(Arc::new(Key::of_secret(secret))))
    }

    /// Tokens signed with the private half of a key in this file, by an algorithm of the key's type: RS256 to RS512 and
    /// PS256 to PS512, ES256, ES384, ES512 or EdDSA.
    ///
    /// # Errors
    /// A file that cannot be read, or that holds no such key.
    pub fn public_key_file(path: &Path) -> Result<Self, AppAuthError> {
        let keys = read_keys(path)?;
        Ok(Self::judged_by(Judge::KeyFile(path.to_owned(), RwLock::new(keys))))
    }

    /// Tokens signed with a key of the JWK Set that is published here.
    ///
    /// # Errors
    /// The system's trusted certificates cannot be used.
    pub fn key_set(url: Url, is_loopback: bool, clock: Clock) -> Result<Self, AppAuthError> {
        let source = source("app_auth.jwks_url", url, is_loopback)?;
        Ok(Self::judged_by(Judge::KeySet(Box::new(KeySet::new(source, clock)))))
    }

    /// Tokens of which this endpoint (RFC 7662) says that they are active; `client` is as whom it is asked, and with which
    /// secret.
    ///
    /// # Errors
    /// The system's trusted certificates cannot be used.
    pub fn introspection(
        url: Url,
        is_loopback: bool,
        client: Option<(&str, &str)>,
        clock: Clock,
    ) -> Result<Self, AppAuthError> {
        let source = source("app_auth.introspection_url", url, is_loopback)?;
        Ok(Self::judged_by(Judge::Introspection(Introspection::new(source, client, clock))))
    }

    fn judged_by(judge: Judge) -> Self {
        Self { judge, issuer: None, audience: None, user_claim: "sub".to_owned(), max_age_seconds: 0 }
    }

    /// Accepts tokens of this issuer only.
    #[must_use]
    pub fn with_issuer(mut self, issuer: &str) -> Self {
        self.issuer = Some(issuer.to_owned());
        self
    }

    /// Accepts tokens for this audience only.
    #[must_use]
    pub fn with_audience(mut self, audience: &str) -> Self {
        self.audience = Some(audience.to_owned());
        self
    }

    /// Takes the user's id from this claim instead of `sub`.
    #[must_use]
    pub fn with_user_claim(mut self, claim: &str) -> Self {
        claim.clone_into(&mut self.user_claim);
        self
    }

    /// Accepts tokens only of users who logged in no longer ago; 0: at any time.
    #[must_use]
    pub const fn with_max_age(mut self, seconds: u32) -> Self {
        self.max_age_seconds = seconds;
        self
    }

    /// Asks the source outside, if there is one: for its keys, from time to time and for as long as the program runs; or
    /// for a first answer.
    pub async fn keep_fresh(&self) {
        match &self.judge {
            Judge::KeySet(keys) => keys.keep_fresh().await,
            Judge::Introspection(introspection) => introspection.try_out().await,
            Judge::Secret(_) | Judge::KeyFile(..) => {}
        }
    }

    /// Reads the key's file again, or asks the source for its keys now. What cannot be had leaves what was.
    pub async fn refresh(&self) {
        match &self.judge {
            Judge::KeyFile(path, known) => match read_keys(path) {
                Ok(keys) => {
                    *known.write().unwrap_or_else(PoisonError::into_inner) = keys;
                    info!(event = "key of app tokens read again");
                }
                Err(error) => warn!(event = "key of app tokens not read", %error),
            },
            Judge::KeySet(keys) => keys.refresh().await,
            Judge::Secret(_) | Judge::Introspection(_) => {}
        }
    }

    /// Returns the user who sent this token from this address.
    ///
    /// # Errors
    /// See [`AuthError`].
    pub async fn verify(&self, token: &str, address: IpAddr, now: Timestamp) -> Result<AppUser, AuthError> {
        // Before a source outside sees it: it is not theirs.
        let header = JoseHeader::of(token);
        let is_web_token = |typ: &String| typ.eq_ignore_ascii_case(WEB_TOKEN_TYPE);
        if header.as_ref().is_some_and(|header| header.typ.as_ref().is_some_and(is_web_token)) {
            return Err(InvalidToken::WebToken.into());
        }
        let claims = match &self.judge {
            Judge::Introspection(introspection) => introspection.ask(token, address).await?,
            judge => {
                let header = header.ok_or(InvalidToken::Malformed)?;
                if header.crit.is_some() {
                    // RFC 7515 §4.1.11: none of these is understood here.
                    return Err(InvalidToken::Critical.into());
                }
                let keys = match judge {
                    Judge::KeySet(keys) => keys.find(header.kid.as_deref(), &header.alg).await?,
                    Judge::KeyFile(_, keys) => keys.read().unwrap_or_else(PoisonError::into_inner).clone(),
                    Judge::Secret(key) => vec![Arc::clone(key)],
                    Judge::Introspection(_) => Vec::new(),
                };
                let claims = verify_with_any(&keys, token, &header.alg)?;
                if !claims.contains_key("exp") {
                    return Err(InvalidToken::Claim("exp".to_owned()).into());
                }
                claims
            }
        };
        self.check(&claims, now)?;
        let user = PhoneUser { id: self.user_id(&claims)?, name: name(&claims), picture: picture(&claims) };
        Ok(AppUser { user, claims })
    }

    fn check(&self, claims: &Map<String, Value>, now: Timestamp) -> Result<(), AuthError> {
        if self.issuer.as_deref().is_some_and(|issuer| claims.get("iss").and_then(Value::as_str) != Some(issuer)) {
            return Err(InvalidToken::Issuer.into());
        }
        if self.audience.as_deref().is_some_and(|audience| !names(claims.get("aud"), audience)) {
            return Err(InvalidToken::Audience.into());
        }
        if numeric_date(claims, "exp")?.is_some_and(|expires_at| now >= expires_at) {
            return Err(InvalidToken::Expired.into());
        }
        let earliest = |nbf: Timestamp| nbf.plus_millis(-1000 * NOT_BEFORE_LEEWAY_SECONDS);
        if numeric_date(claims, "nbf")?.is_some_and(|nbf| now < earliest(nbf)) {
            return Err(InvalidToken::NotYetValid.into());
        }
        let max_age_seconds = self.max_age_seconds;
        let is_fresh = |auth_time: Timestamp| auth_time.plus_seconds(max_age_seconds) >= now;
        if max_age_seconds > 0 && !numeric_date(claims, "auth_time")?.is_some_and(is_fresh) {
            return Err(AuthError::TooOld { max_age_seconds });
        }
        Ok(())
    }

    fn user_id(&self, claims: &Map<String, Value>) -> Result<String, InvalidToken> {
        let id = match claims.get(&self.user_claim) {
            Some(Value::String(id)) => id.clone(),
            Some(Value::Number(id)) => id.to_string(),
            _ => String::new(),
        };
        if !(1..=MAX_ID_BYTES).contains(&id.len()) {
            return Err(InvalidToken::Claim(self.user_claim.clone()));
        }
        if id.contains(char::is_control) {
            return Err(InvalidToken::ControlCharacter(self.user_claim.clone()));
        }
        Ok(id)
    }
}

fn source(key: &'static str, url: Url, is_loopback: bool) -> Result<Source, AppAuthError> {
    Source::new(url, is_loopback).map_err(|error| AppAuthError::Source { key, reason: error.to_string() })
}

/// The keys of a file, each in a PEM block of its own.
fn read_keys(path: &Path) -> Result<Vec<Arc<Key>>, AppAuthError> {
    let text = std::fs::read(path).map_err(|source| AppAuthError::Io { path: path.into(), source })?;
    let not_a_key = |number| AppAuthError::NotAKey { path: path.into(), number };
    let blocks = pem::parse_many(&text).map_err(|_| not_a_key(1))?;
    if blocks.is_empty() {
        return Err(not_a_key(1));
    }
    if blocks.len() > MAX_FILE_KEYS {
        return Err(AppAuthError::TooManyKeys { path: path.into() });
    }
    let key = |(number, block): (usize, &Pem)| Key::of_pem(block).map(Arc::new).ok_or_else(|| not_a_key(number));
    (1..).zip(&blocks).map(key).collect()
}

/// The header of a JWT (RFC 7515 §4.1), as far as it is looked at.
#[derive(Deserialize)]
struct JoseHeader {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<Value>,
}

impl JoseHeader {
    fn of(token: &str) -> Option<Self> {
        let (header, _) = token.split_once('.')?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()
    }
}

/// The claims of a token that one of these keys has signed.
fn verify_with_any(keys: &[Arc<Key>], token: &str, algorithm: &str) -> Result<Map<String, Value>, InvalidToken> {
    let signature = InvalidToken::Signature;
    let said = keys.iter().map(|key| key.verify(token, algorithm)).find(|said| said.as_ref() != Err(&signature));
    said.unwrap_or(Err(signature))
}

/// Whether a claim is this text, or a list in which it stands (RFC 7519 §4.1.3).
fn names(claim: Option<&Value>, text: &str) -> bool {
    match claim {
        Some(Value::String(said)) => said == text,
        Some(Value::Array(said)) => said.iter().any(|said| said == text),
        _ => false,
    }
}

/// A `NumericDate` (RFC 7519 §2): seconds since the epoch, possibly with a fraction.
fn numeric_date(claims: &Map<String, Value>, name: &str) -> Result<Option<Timestamp>, InvalidToken> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_f64().ok_or_else(|| InvalidToken::Claim(name.to_owned()))?;
    #[expect(clippy::cast_possible_truncation, reason = "saturates: a date beyond the range is far enough away")]
    Ok(Some(Timestamp::from_millis((seconds * 1000.0) as i64)))
}

fn name(claims: &Map<String, Value>) -> Option<String> {
    let name = printable(claims.get("name")?.as_str()?, MAX_NAME_CHARS);
    (!name.is_empty()).then_some(name)
}

/// Only what a page may load as a picture: anything else than http(s) could be script.
fn picture(claims: &Map<String, Value>) -> Option<String> {
    let picture = claims.get("picture")?.as_str()?;
    let is_web = picture.starts_with("https://") || picture.starts_with("http://");
    let is_kept = is_web && picture.len() <= MAX_PICTURE_BYTES && !picture.contains(char::is_control);
    is_kept.then(|| picture.to_owned())
}

/// An app token for trying out: `claims`, signed with HS256 and `secret`. `None` if the claims cannot be written.
#[must_use]
pub fn sign_app_token(secret: &[u8], claims: &Map<String, Value>) -> Option<String> {
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(secret)).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_picture_is_a_url_of_the_web_of_bounded_length() {
        let kept = |url: String| picture(json!({ "picture": url }).as_object().unwrap()).is_some();
        let long = |bytes: usize| format!("{:a<bytes$}", "https://");
        assert!(kept("https://a.example/a.png".to_owned()) && kept("http://a.example/a.png".to_owned()));
        assert!(kept(long(MAX_PICTURE_BYTES)) && !kept(long(MAX_PICTURE_BYTES + 1)));
        for bad in [
            "javascript:alert(1)",
            "data:image/png;base64,",
            "//a.example",
            "",
            "https://a.example/\0.png",
            "https://a.example/\n",
            "https://a.example/\u{85}",
        ] {
            assert!(!kept(bad.to_owned()), "{bad}");
        }
        assert_eq!(picture(json!({ "picture": 7 }).as_object().unwrap()), None);
    }
}
