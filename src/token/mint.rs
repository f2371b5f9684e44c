//! Minting `web_token`: what a decision grants, fixed once, becomes the same token at every delivery.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde_json::{Map, Value};
use thiserror::Error;

use super::{AppUser, KeyRing, WEB_TOKEN_TYPE};
use crate::random;
use crate::session::{Grant, Timestamp};

/// Claims that say what the token is; `token.claims` cannot pass others on under these names.
pub const RESERVED_CLAIMS: [&str; 9] = ["iss", "sub", "aud", "iat", "nbf", "exp", "jti", "auth_time", "amr"];

/// How the user was authenticated (RFC 8176 §2): over more than one channel, by a QR code.
const AMR: [&str; 2] = ["mca", "qr"];

/// Mints `web_token`.
#[derive(Debug)]
pub struct Minter {
    keys: KeyRing,
    issuer: String,
    audience: String,
    ttl_seconds: u32,
    passed_on: Vec<String>,
}

/// Why a token could not be minted.
#[derive(Debug, Error)]
pub enum MintError {
    /// The key that the decision named is no longer in the directory.
    #[error("token.key_dir: the signing key {0} is gone, and a login decided under it is still to be delivered")]
    KeyGone(String),
    /// The claims could not be written as JSON.
    #[error("the token's claims could not be written: {0}")]
    Claims(#[from] serde_json::Error),
}

#[derive(Serialize)]
struct Header<'a> {
    alg: &'a str,
    typ: &'a str,
    kid: &'a str,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    iat: i64,
    exp: i64,
    jti: &'a str,
    auth_time: i64,
    amr: [&'a str; 2],
    #[serde(flatten)]
    passed_on: &'a Map<String, Value>,
}

impl Minter {
    /// Tokens of `issuer` for `audience`, good for `ttl_seconds` from the decision, with those claims of the app
    /// token that `passed_on` names.
    #[must_use]
    pub fn new(keys: KeyRing, issuer: String, audience: String, ttl_seconds: u32, passed_on: Vec<String>) -> Self {
        Self { keys, issuer, audience, ttl_seconds, passed_on }
    }

    /// Returns what a yes of `by` grants. `date` is when it was said, by the wall clock: the token is for other machines.
    #[must_use]
    pub fn grant(&self, by: &AppUser, date: Timestamp) -> Grant {
        let pass_on = |name: &String| Some((name.clone(), by.claims.get(name)?.clone()));
        Grant {
            kid: self.keys.signing(),
            jti: URL_SAFE_NO_PAD.encode(random::bytes::<16>()),
            iss: self.issuer.clone(),
            sub: by.user.id.clone(),
            aud: self.audience.clone(),
            iat: date.as_seconds(),
            exp: date.as_seconds() + i64::from(self.ttl_seconds),
            claims: self.passed_on.iter().filter_map(pass_on).collect(),
        }
    }

    /// The token of a grant: an EdDSA JWT (RFC 7519, RFC 8037). Ed25519 signs deterministically, so the same grant
    /// is the same token, byte for byte.
    ///
    /// # Errors
    /// The key that the grant names is gone.
    pub fn mint(&self, grant: &Grant) -> Result<String, MintError> {
        let header = Header { alg: "EdDSA", typ: WEB_TOKEN_TYPE, kid: &grant.kid };
        let claims = Claims {
            iss: &grant.iss,
            sub: &grant.sub,
            aud: &grant.aud,
            iat: grant.iat,
            exp: grant.exp,
            jti: &grant.jti,
            auth_time: grant.iat,
            amr: AMR,
            passed_on: &grant.claims,
        };
        let mut token = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&header)?);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(serde_json::to_vec(&claims)?, &mut token);
        let signature =
            self.keys.sign(&grant.kid, token.as_bytes()).ok_or_else(|| MintError::KeyGone(grant.kid.clone()))?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }

    /// Looks for keys that have come or gone; see [`KeyRing::refresh_or_warn`].
    pub fn refresh_keys(&self) {
        self.keys.refresh_or_warn();
    }

    /// The public keys, as a JWK Set.
    #[must_use]
    pub fn jwks(&self) -> Value {
        self.keys.jwks()
    }
}
