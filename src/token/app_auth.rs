//! Verifying app tokens: the phone proves itself with a JWT of the integrator's own user system.

use std::path::{Path, PathBuf};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde_json::{Map, Value};
use thiserror::Error;

use super::WEB_TOKEN_TYPE;
use crate::session::{PhoneUser, Timestamp};

/// Below this an HMAC secret is weaker than HS256 (RFC 7518 §3.2).
pub const MIN_HMAC_SECRET_BYTES: usize = 32;
/// How far ahead of ours the clock of whoever made a token may be.
const NOT_BEFORE_LEEWAY_SECONDS: i64 = 5;
/// A user's id, in bytes.
const MAX_ID_BYTES: usize = 256;
/// A display name, in characters; a longer one is cut.
const MAX_NAME_CHARS: usize = 128;
/// A picture's URL, in bytes; a longer one is left out.
const MAX_PICTURE_BYTES: usize = 2048;

/// Verifies app tokens.
pub struct AppAuth {
    key: DecodingKey,
    validation: Validation,
    user_claim: String,
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
    /// A token that was minted here for a browser.
    #[error("a web_token is not an app token")]
    WebToken,
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
    /// The key file holds something else.
    #[error("app_auth.public_key_file: {path}: not an RSA, P-256 or Ed25519 public key in PEM form")]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
}

impl AppAuth {
    /// Tokens signed with HS256 and this secret.
    #[must_use]
    pub fn hmac(secret: &[u8]) -> Self {
        Self::new(DecodingKey::from_secret(secret), Algorithm::HS256)
    }

    /// Tokens signed with the private half of the key in this file; RS256, ES256 or EdDSA, as the key's kind is.
    ///
    /// # Errors
    /// A file that cannot be read, or that holds no such key.
    pub fn public_key_file(path: &Path) -> Result<Self, AppAuthError> {
        let text = std::fs::read(path).map_err(|source| AppAuthError::Io { path: path.into(), source })?;
        DecodingKey::from_rsa_pem(&text)
            .map(|key| Self::new(key, Algorithm::RS256))
            .or_else(|_| DecodingKey::from_ec_pem(&text).map(|key| Self::new(key, Algorithm::ES256)))
            .or_else(|_| DecodingKey::from_ed_pem(&text).map(|key| Self::new(key, Algorithm::EdDSA)))
            .map_err(|_| AppAuthError::NotAKey { path: path.into() })
    }

    fn new(key: DecodingKey, algorithm: Algorithm) -> Self {
        let mut validation = Validation::new(algorithm);
        // `exp` and `nbf` are checked here, against our own clock.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        Self { key, validation, user_claim: "sub".to_owned() }
    }

    /// Accepts tokens of this issuer only.
    #[must_use]
    pub fn with_issuer(mut self, issuer: &str) -> Self {
        self.validation.set_issuer(&[issuer]);
        self.validation.required_spec_claims.insert("iss".to_owned());
        self
    }

    /// Accepts tokens for this audience only.
    #[must_use]
    pub fn with_audience(mut self, audience: &str) -> Self {
        self.validation.set_audience(&[audience]);
        self.validation.validate_aud = true;
        self.validation.required_spec_claims.insert("aud".to_owned());
        self
    }

    /// Takes the user's id from this claim instead of `sub`.
    #[must_use]
    pub fn with_user_claim(mut self, claim: &str) -> Self {
        claim.clone_into(&mut self.user_claim);
        self
    }

    /// Who sent this token.
    ///
    /// # Errors
    /// See [`InvalidToken`].
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<AppUser, InvalidToken> {
        let decoded = jsonwebtoken::decode::<Map<String, Value>>(token, &self.key, &self.validation)
            .map_err(|error| refusal(error.kind()))?;
        if decoded.header.typ.is_some_and(|typ| typ.eq_ignore_ascii_case(WEB_TOKEN_TYPE)) {
            return Err(InvalidToken::WebToken);
        }
        let claims = decoded.claims;
        let expires_at = numeric_date(&claims, "exp")?.ok_or_else(|| InvalidToken::Claim("exp".to_owned()))?;
        if now >= expires_at {
            return Err(InvalidToken::Expired);
        }
        if numeric_date(&claims, "nbf")?.is_some_and(|nbf| now < nbf.plus_millis(-1000 * NOT_BEFORE_LEEWAY_SECONDS)) {
            return Err(InvalidToken::NotYetValid);
        }
        let user = PhoneUser { id: self.user_id(&claims)?, name: name(&claims), picture: picture(&claims) };
        Ok(AppUser { user, claims })
    }

    fn user_id(&self, claims: &Map<String, Value>) -> Result<String, InvalidToken> {
        let id = match claims.get(&self.user_claim) {
            Some(Value::String(id)) => id.clone(),
            Some(Value::Number(id)) => id.to_string(),
            _ => String::new(),
        };
        if (1..=MAX_ID_BYTES).contains(&id.len()) { Ok(id) } else { Err(InvalidToken::Claim(self.user_claim.clone())) }
    }
}

fn refusal(error: &ErrorKind) -> InvalidToken {
    match error {
        ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm => InvalidToken::Signature,
        ErrorKind::InvalidIssuer => InvalidToken::Issuer,
        ErrorKind::InvalidAudience => InvalidToken::Audience,
        ErrorKind::MissingRequiredClaim(claim) => InvalidToken::Claim(claim.clone()),
        _ => InvalidToken::Malformed,
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
    let name: String = claims.get("name")?.as_str()?.chars().take(MAX_NAME_CHARS).collect();
    (!name.is_empty()).then_some(name)
}

/// Only what a page may load as a picture: anything else than http(s) could be script.
fn picture(claims: &Map<String, Value>) -> Option<String> {
    let picture = claims.get("picture")?.as_str()?;
    let is_web = picture.starts_with("https://") || picture.starts_with("http://");
    (is_web && picture.len() <= MAX_PICTURE_BYTES).then(|| picture.to_owned())
}

/// An app token for trying out: `claims`, signed with HS256 and `secret`. `None` if the claims cannot be written.
#[must_use]
pub fn sign_app_token(secret: &[u8], claims: &Map<String, Value>) -> Option<String> {
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(secret)).ok()
}
