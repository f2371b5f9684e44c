//! Minting of the `web_token`. The decision fixes a grant, and every delivery mints the same token from it.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use super::{AppUser, KeyKind, KeyRing, WEB_TOKEN_TYPE, identity_claims};
use crate::session::{Grant, Timestamp};
use crate::system::random;

/// Claims that the server sets itself. `token.claims` cannot pass on claims of these names.
pub const RESERVED_CLAIMS: [&str; 9] = ["iss", "sub", "aud", "iat", "nbf", "exp", "jti", "auth_time", "amr"];

/// Authentication methods of the token's `amr` claim (RFC 8176 §2): `mca`, more than one channel, and `qr`, a QR code.
pub const AMR: [&str; 2] = ["mca", "qr"];

/// Makes the grant of a decision, and mints the `web_token` of a grant.
#[derive(Debug)]
pub struct Minter {
    keys: Arc<KeyRing>,
    issuer: String,
    audience: String,
    ttl_seconds: u32,
    passed_on: Vec<String>,
}

/// An error of [`Minter::mint`].
#[derive(Debug, Error)]
pub enum MintError {
    /// The directory no longer holds the signing key that the grant names.
    #[error("token.key_dir: the signing key {0} is missing, and a login decided with it is still to be delivered")]
    KeyGone(String),
    /// The header or the claims could not be serialized as JSON.
    #[error("the token's claims could not be written: {0}")]
    Claims(#[from] serde_json::Error),
}

#[derive(Serialize)]
struct Header<'a> {
    alg: &'a str,
    typ: &'a str,
    kid: &'a str,
}

/// The header of a token that is presented to the server.
#[derive(Deserialize)]
struct OwnedHeader {
    alg: String,
    #[serde(default)]
    typ: String,
    kid: String,
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
    /// Returns a minter of tokens that `issuer` issues for `audience`, and that expire `ttl_seconds` after the
    /// decision. `passed_on` names the claims that are copied from the app token.
    #[must_use]
    pub fn new(
        keys: impl Into<Arc<KeyRing>>,
        issuer: String,
        audience: String,
        ttl_seconds: u32,
        passed_on: Vec<String>,
    ) -> Self {
        Self { keys: keys.into(), issuer, audience, ttl_seconds, passed_on }
    }

    /// Returns the grant of a confirmation by the user `by`. `date` is the time of the decision by the wall clock,
    /// because other machines compare it with theirs.
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

    /// Returns the grant of a confirmation for an OAuth client: with the client as audience, and with all claims of the
    /// user that a scope of OpenID Connect can ask for. The scopes select among them when tokens are issued.
    #[must_use]
    pub fn client_grant(&self, by: &AppUser, date: Timestamp, client_id: &str) -> Grant {
        let mut grant = Grant { aud: client_id.to_owned(), ..self.grant(by, date) };
        for name in identity_claims() {
            if let Some(value) = by.claims.get(name) {
                grant.claims.insert(name.to_owned(), value.clone());
            }
        }
        grant
    }

    /// Returns the token of a grant: a JWT (RFC 7519) that is signed with EdDSA (RFC 8037). Ed25519 is deterministic,
    /// so the same grant gives the same token, byte for byte.
    ///
    /// # Errors
    /// Returns [`MintError::KeyGone`] if the directory no longer holds the key that the grant names, and
    /// [`MintError::Claims`] if the token cannot be serialized.
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
        self.signed(&header, &claims)
    }

    /// Returns a JWT with these claims, signed with the newest key of this kind. `typ` is its type (RFC 8725 §3.11).
    ///
    /// # Errors
    /// Returns the errors of [`Minter::mint`].
    pub fn sign(&self, kind: KeyKind, typ: &str, claims: &impl Serialize) -> Result<String, MintError> {
        let kid = self.keys.signing_of(kind).ok_or_else(|| MintError::KeyGone(kind.algorithm().to_owned()))?;
        self.signed(&Header { alg: kind.algorithm(), typ, kid: &kid }, claims)
    }

    fn signed(&self, header: &Header<'_>, claims: &impl Serialize) -> Result<String, MintError> {
        let mut token = URL_SAFE_NO_PAD.encode(serde_json::to_vec(header)?);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(serde_json::to_vec(claims)?, &mut token);
        let signature =
            self.keys.sign(header.kid, token.as_bytes()).ok_or_else(|| MintError::KeyGone(header.kid.to_owned()))?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }

    /// Returns the claims of a JWT of type `typ` that a key of this server has signed. Checks no claim. Returns `None` for
    /// every other text.
    #[must_use]
    pub fn claims_of(&self, token: &str, typ: &str) -> Option<Map<String, Value>> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        let read = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
        let header: OwnedHeader = serde_json::from_slice(&read(header)?).ok()?;
        let kind = [KeyKind::Ed25519, KeyKind::Rsa].into_iter().find(|kind| kind.algorithm() == header.alg)?;
        let is_ours = header.typ.eq_ignore_ascii_case(typ)
            && self.keys.has_signed(&header.kid, kind, message.as_bytes(), &read(signature)?);
        if is_ours { serde_json::from_slice(&read(claims)?).ok() } else { None }
    }

    /// Reads the directory of signing keys again, see [`KeyRing::refresh_or_warn`].
    pub fn refresh_keys(&self) {
        self.keys.refresh_or_warn();
    }

    /// Returns the public keys as a JWK Set (RFC 7517 §5).
    #[must_use]
    pub fn jwks(&self) -> Value {
        self.keys.jwks()
    }
}
