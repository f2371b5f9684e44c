//! Verification of app tokens, with which a phone authenticates as a user of the integrator's own user system.

mod fetch;
mod introspection;
mod key;
mod key_set;
mod turns;

use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use parking_lot::RwLock;
use pem::Pem;
use serde::Deserialize;
use serde_json::{Map, Value};
use thiserror::Error;
use tracing::{info, warn};
use url::Url;

use super::WEB_TOKEN_TYPE;
use super::key_file::{mode_of, pem_blocks};
use crate::secret::shown_path;
use crate::session::{PhoneUser, Timestamp, printable};
use crate::system::clock::Clock;
use fetch::Source;
use introspection::Introspection;
use key::Key;
use key_set::KeySet;

/// Minimum length of the secret of HS256, in bytes: the length of its hash (RFC 7518 §3.2).
pub const MIN_HMAC_SECRET_BYTES: usize = 32;
/// Leeway for `nbf`, in seconds, as the issuer's clock may be ahead of this server's.
const NOT_BEFORE_LEEWAY_SECONDS: i64 = 5;
/// Mode bit with which others than the owner and the group may write a file.
const OTHERS_WRITE: u32 = 0o002;
/// Mode bit with which the group may write a file.
const GROUP_WRITE: u32 = 0o020;
/// Maximum number of keys in a file.
const MAX_FILE_KEYS: usize = 16;
/// Maximum length of a user's id, in bytes.
const MAX_ID_BYTES: usize = 256;
/// Maximum length of a display name, in characters. A longer name is truncated.
const MAX_NAME_CHARS: usize = 128;
/// Maximum length of a picture's URL, in bytes. A longer URL is left out.
const MAX_PICTURE_BYTES: usize = 2048;

/// The verifier of app tokens.
pub struct AppAuth {
    judge: Judge,
    issuer: Option<String>,
    audience: Option<String>,
    user_claim: String,
    max_age_seconds: u32,
    passed_on: Vec<String>,
}

/// The way in which tokens are verified.
enum Judge {
    /// HS256 with a shared secret.
    Secret(Arc<Key>),
    /// Signatures of the public keys in a file.
    KeyFile(PathBuf, RwLock<Vec<Arc<Key>>>),
    /// Signatures of the public keys in a published JWK Set.
    KeySet(Box<KeySet>),
    /// An introspection endpoint.
    Introspection(Introspection),
}

/// A phone user, with the claims of the app token.
#[derive(Debug, Clone, PartialEq)]
pub struct AppUser {
    /// Id, name and picture of the user.
    pub user: PhoneUser,
    /// All claims of the token. `token.claims` names those that are copied into `web_token`.
    pub claims: Map<String, Value>,
}

/// The reason why an app token was refused. The text is for the app's developer, and never quotes the token.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidToken {
    /// The request has no `Authorization: Bearer` header.
    #[error("the request has no app token; send it as 'Authorization: Bearer'")]
    Missing,
    /// The token is not a well-formed JWT (RFC 7519).
    #[error("the app token is not a well-formed JWT")]
    Malformed,
    /// No configured key has made the signature with the algorithm that the header names.
    #[error("the app token is not signed with the configured key and its algorithm")]
    Signature,
    /// The time is at or past the token's `exp`.
    #[error("the app token has expired")]
    Expired,
    /// The time is before the token's `nbf`, by more than the leeway.
    #[error("the app token is not yet valid")]
    NotYetValid,
    /// The token's `iss` is not `app_auth.issuer`.
    #[error("the app token's 'iss' is not the configured issuer")]
    Issuer,
    /// The token's `aud` does not name `app_auth.audience`.
    #[error("the app token's 'aud' does not name the configured audience")]
    Audience,
    /// A required claim is missing, or a claim is of the wrong type or length.
    #[error("the app token has no usable '{0}' claim")]
    Claim(String),
    /// The user's id, or a claim that is passed on, has a control character. Postgres, for example, does not store
    /// U+0000.
    #[error("the app token's '{0}' claim has a control character")]
    ControlCharacter(String),
    /// The token is a `web_token`, which a server like this minted for a browser.
    #[error("a web_token is not an app token")]
    WebToken,
    /// The header has a `crit` (RFC 7515 §4.1.11), of which no extension is supported.
    #[error("the app token's header has a 'crit' that is not supported")]
    Critical,
    /// The token names a key that the JWK Set does not contain.
    #[error("the app token is signed with a key that its source does not publish")]
    UnknownKey,
    /// The introspection endpoint answered that the token is not active.
    #[error("the app token is not active")]
    Inactive,
}

/// An error of [`AppAuth::verify`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AuthError {
    /// The token is not valid.
    #[error(transparent)]
    Invalid(#[from] InvalidToken),
    /// The user's login on the phone is too long ago, or its time is not known (RFC 9470).
    #[error("the login on the phone is older than {max_age_seconds} s; log in on the phone again")]
    TooOld {
        /// Maximum time since the login, in seconds.
        max_age_seconds: u32,
    },
    /// The source that app tokens are verified with does not answer, or gives no valid answer.
    #[error("the source that app tokens are verified with does not answer; try again")]
    Unavailable,
}

impl InvalidToken {
    /// Returns the label of the metric `qrlogin_app_tokens_refused_total`.
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
    /// Returns the label of the metric `qrlogin_app_tokens_refused_total`.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Invalid(invalid) => invalid.as_str(),
            Self::TooOld { .. } => "too_old",
            Self::Unavailable => "unavailable",
        }
    }
}

/// An error in the settings of `app_auth`.
#[derive(Debug, Error)]
pub enum AppAuthError {
    /// The key file cannot be read.
    #[error("app_auth.public_key_file: {}: {source}", shown_path(.path))]
    Io {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// The HTTP client for a source cannot be created.
    #[error("{key}: {reason}")]
    Source {
        /// Key of the setting.
        key: &'static str,
        /// Description of the error.
        reason: String,
    },
    /// A block of the key file is not a public key that can be used.
    #[error(
        "app_auth.public_key_file: {}: not an RSA (2,048 to 8,192 bits), P-256, P-384, P-521 or Ed25519 public key \
         in PEM form (block {number})",
        shown_path(.path)
    )]
    NotAKey {
        /// Path of the file.
        path: PathBuf,
        /// Number of the PEM block in the file, from 1.
        number: usize,
    },
    /// Other users of the machine can write the key file, and so log in as any user.
    #[error(
        "app_auth.public_key_file: {path}: other users can write it (mode {mode:03o}), and so log in as any user; run \
         chmod o-w on it"
    )]
    Writable {
        /// Path of the file.
        path: PathBuf,
        /// Mode bits of the file.
        mode: u32,
    },
    /// The key file has too many keys, each of which is tried on each token.
    #[error("app_auth.public_key_file: {}: more than {MAX_FILE_KEYS} keys", shown_path(.path))]
    TooManyKeys {
        /// Path of the file.
        path: PathBuf,
    },
}

impl AppAuth {
    /// Returns a verifier of tokens that are signed with HS256 and this secret.
    #[must_use]
    pub fn hmac(secret: &[u8]) -> Self {
        Self::judged_by(Judge::Secret(Arc::new(Key::of_secret(secret))))
    }

    /// Returns a verifier with the public keys of a PEM file. The algorithm must be one of the key's type: RS256 to
    /// RS512 and PS256 to PS512, ES256, ES384, ES512 or EdDSA.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, if others may write it, if it has no or too many PEM blocks, or if a
    /// block is not a public key or is cut off.
    pub fn public_key_file(path: &Path) -> Result<Self, AppAuthError> {
        let keys = read_keys(path)?;
        Ok(Self::judged_by(Judge::KeyFile(path.to_owned(), RwLock::new(keys))))
    }

    /// Returns a verifier with the keys of the JWK Set at this URL. `is_loopback` says whether the URL leads to this
    /// machine, so may be plain http.
    ///
    /// # Errors
    /// Returns an error if the HTTP client cannot be created, for example because the system's trusted certificates
    /// cannot be used.
    pub fn key_set(url: Url, is_loopback: bool, clock: Clock) -> Result<Self, AppAuthError> {
        let source = source("app_auth.jwks_url", url, is_loopback)?;
        Ok(Self::judged_by(Judge::KeySet(Box::new(KeySet::new(source, clock)))))
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
        Ok(Self::judged_by(Judge::Introspection(Introspection::new(source, client, clock))))
    }

    fn judged_by(judge: Judge) -> Self {
        let (user_claim, passed_on) = ("sub".to_owned(), Vec::new());
        Self { judge, issuer: None, audience: None, user_claim, max_age_seconds: 0, passed_on }
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

    /// Accepts tokens only if `auth_time` is at most this many seconds ago. 0 means any time.
    #[must_use]
    pub const fn with_max_age(mut self, seconds: u32) -> Self {
        self.max_age_seconds = seconds;
        self
    }

    /// Refuses tokens with a control character other than tab, line feed and carriage return in one of these claims,
    /// which are copied into `web_token`.
    #[must_use]
    pub fn with_passed_on(mut self, claims: Vec<String>) -> Self {
        self.passed_on = claims;
        self
    }

    /// Keeps in touch with the source outside, if there is one. Fetches a JWK Set periodically, and then never returns.
    /// Tries an introspection endpoint until it answers.
    pub async fn keep_fresh(&self) {
        match &self.judge {
            Judge::KeySet(keys) => keys.keep_fresh().await,
            Judge::Introspection(introspection) => introspection.try_out().await,
            Judge::Secret(_) | Judge::KeyFile(..) => {}
        }
    }

    /// Reads the key file again, or fetches the JWK Set now. If that fails, the known keys stay in use.
    pub async fn refresh(&self) {
        match &self.judge {
            Judge::KeyFile(path, known) => match read_keys(path) {
                Ok(keys) => {
                    *known.write() = keys;
                    info!(event = "key of app tokens read again");
                }
                Err(error) => warn!(event = "key of app tokens not read", %error),
            },
            Judge::KeySet(keys) => keys.refresh().await,
            Judge::Secret(_) | Judge::Introspection(_) => {}
        }
    }

    /// Verifies an app token that a phone at `address` sent. Returns its user. `now` is the date, by the wall clock.
    ///
    /// # Errors
    /// Returns an error if the token is not valid, if the user's login is too long ago, or if the source does not
    /// answer.
    pub async fn verify(&self, token: &str, address: IpAddr, now: Timestamp) -> Result<AppUser, AuthError> {
        // Checked first, so that a `web_token` is not sent to an introspection endpoint.
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
                    // A token with an extension that is not supported must be refused (RFC 7515 §4.1.11).
                    return Err(InvalidToken::Critical.into());
                }
                let keys = match judge {
                    Judge::KeySet(keys) => keys.find(header.kid.as_deref(), &header.alg).await?,
                    Judge::KeyFile(_, keys) => keys.read().clone(),
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
        let has_control = |name: &&String| claims.get(*name).is_some_and(has_control_character);
        if let Some(name) = self.passed_on.iter().find(has_control) {
            return Err(InvalidToken::ControlCharacter(name.clone()).into());
        }
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

/// Reads the public keys of a PEM file, one of each block. Logs a file that its group may write.
fn read_keys(path: &Path) -> Result<Vec<Arc<Key>>, AppAuthError> {
    let failed = |source| AppAuthError::Io { path: path.into(), source };
    let mut file = File::open(path).map_err(failed)?;
    let mode = mode_of(&file.metadata().map_err(failed)?);
    if mode & OTHERS_WRITE != 0 {
        return Err(AppAuthError::Writable { path: path.into(), mode });
    }
    if mode & GROUP_WRITE != 0 {
        let (setting, path) = ("app_auth.public_key_file", path.display());
        let cost = "its group can write it, and so log in as any user; run chmod g-w on it";
        warn!(event = "key of app tokens not private", setting, %path, "{cost}");
    }
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(failed)?;
    let not_a_key = |number| AppAuthError::NotAKey { path: path.into(), number };
    let blocks = pem_blocks(&text).map_err(not_a_key)?;
    if blocks.is_empty() {
        return Err(not_a_key(1));
    }
    if blocks.len() > MAX_FILE_KEYS {
        return Err(AppAuthError::TooManyKeys { path: path.into() });
    }
    let key = |(number, block): (usize, &Pem)| Key::of_pem(block).map(Arc::new).ok_or_else(|| not_a_key(number));
    (1..).zip(&blocks).map(key).collect()
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
fn verify_with_any(keys: &[Arc<Key>], token: &str, algorithm: &str) -> Result<Map<String, Value>, InvalidToken> {
    let signature = InvalidToken::Signature;
    let said = keys.iter().map(|key| key.verify(token, algorithm)).find(|said| said.as_ref() != Err(&signature));
    said.unwrap_or(Err(signature))
}

/// Returns whether a claim is this text or a list that contains it, as `aud` can be (RFC 7519 §4.1.3).
fn names(claim: Option<&Value>, text: &str) -> bool {
    match claim {
        Some(Value::String(said)) => said == text,
        Some(Value::Array(said)) => said.iter().any(|said| said == text),
        _ => false,
    }
}

/// Returns whether a string or a key within this value has a control character other than tab, line feed and carriage
/// return.
fn has_control_character(value: &Value) -> bool {
    let has = |text: &String| text.contains(|letter: char| letter.is_control() && !"\t\n\r".contains(letter));
    match value {
        Value::String(text) => has(text),
        Value::Array(items) => items.iter().any(has_control_character),
        Value::Object(members) => members.iter().any(|(key, value)| has(key) || has_control_character(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Returns a claim of type `NumericDate` (RFC 7519 §2): seconds since the epoch, possibly with a fraction.
///
/// # Errors
/// Returns [`InvalidToken::Claim`] if the claim is not a number.
fn numeric_date(claims: &Map<String, Value>, name: &str) -> Result<Option<Timestamp>, InvalidToken> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_f64().ok_or_else(|| InvalidToken::Claim(name.to_owned()))?;
    #[expect(clippy::cast_possible_truncation, reason = "the cast saturates, which keeps dates in order")]
    Ok(Some(Timestamp::from_millis((seconds * 1000.0) as i64)))
}

/// Returns the display name of the user, without unprintable characters and truncated.
fn name(claims: &Map<String, Value>) -> Option<String> {
    let name = printable(claims.get("name")?.as_str()?, MAX_NAME_CHARS);
    (!name.is_empty()).then_some(name)
}

/// Returns the URL of the user's picture. Only http and https are accepted, because a page loads the picture, and a URL
/// of another scheme could be a script.
fn picture(claims: &Map<String, Value>) -> Option<String> {
    let picture = claims.get("picture")?.as_str()?;
    let is_web = picture.starts_with("https://") || picture.starts_with("http://");
    let is_kept = is_web && picture.len() <= MAX_PICTURE_BYTES && !picture.contains(char::is_control);
    is_kept.then(|| picture.to_owned())
}

/// Returns an app token with these claims, signed with HS256, for tests and the demo. Returns `None` if it cannot be
/// signed.
#[must_use]
pub fn sign_app_token(secret: &[u8], claims: &Map<String, Value>) -> Option<String> {
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(secret)).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn picture_is_an_http_url_of_bounded_length() {
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
