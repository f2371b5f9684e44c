use aws_lc_rs::digest::{SHA256, SHA512, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::authorization::sid;
use super::issue::Stored;
use super::{Issue, OAuth, OAuthClient, OAuthError};
use crate::token::{AMR, Kept, KeyKind};

/// Authentication context of all logins, the value of `acr` (OpenID Connect Core §2).
pub(super) const ACR: &str = "urn:qrlogin:acr:qr";
/// Type of access tokens (RFC 9068 §2.1).
pub(super) const ACCESS_TOKEN_TYPE: &str = "at+jwt";
/// Type of ID tokens. Clients expect no other one.
pub(super) const ID_TOKEN_TYPE: &str = "JWT";

/// The response of the token endpoint (RFC 6749 §5.1, OpenID Connect Core §3.1.3.3).
#[derive(Serialize)]
pub struct TokenResponse {
    access_token: Zeroizing<String>,
    token_type: &'static str,
    expires_in: u32,
    scope: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id_token: Option<Zeroizing<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<Zeroizing<String>>,
}

/// A response, and the issue that it delivers.
pub struct Tokens {
    /// Response to the client.
    pub response: TokenResponse,
    /// Issue, which is to be marked as delivered when the response has been sent.
    pub issue: Issue,
}

/// What a refresh token seals.
#[derive(Serialize, Deserialize)]
pub(super) struct RefreshToken {
    /// Authorization, as `sid`.
    pub(super) sid: String,
    /// Number of the issue.
    pub(super) number: u32,
}

impl Kept for RefreshToken {
    const PURPOSE: &'static str = "refresh token";
    /// The record ends earlier. An expired token must still be recognized as one of a family.
    const SECONDS: u32 = u32::MAX / 2;
}

/// The claims of an ID token (OpenID Connect Core §2).
#[derive(Serialize)]
struct IdClaims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    iat: i64,
    exp: i64,
    auth_time: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    nonce: Option<&'a str>,
    acr: &'a str,
    amr: [&'a str; 2],
    at_hash: String,
    sid: &'a str,
    #[serde(flatten)]
    user: Map<String, Value>,
}

/// The claims of an access token (RFC 9068 §2.2).
#[derive(Serialize)]
struct AccessClaims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    client_id: &'a str,
    scope: &'a str,
    iat: i64,
    exp: i64,
    jti: String,
    auth_time: i64,
    acr: &'a str,
    amr: [&'a str; 2],
    sid: &'a str,
}

impl OAuth {
    /// Makes the tokens of an issue with these scopes. `nonce` is that of the authorization request.
    pub(super) fn tokens(
        &self,
        client: &OAuthClient,
        issue: Issue,
        scopes: &[String],
        nonce: Option<&str>,
    ) -> Result<Tokens, OAuthError> {
        let Stored { authorization, number, .. } = &issue.stored;
        let (kind, sid) = (client.signing_kind(), sid(&issue.id));
        let (now, scope) = (self.clock.wall().as_seconds(), scopes.join(" "));
        let access_seconds = self.lifetimes.access_seconds;
        let access = AccessClaims {
            iss: &self.issuer,
            sub: &authorization.sub,
            aud: &self.issuer,
            client_id: &client.settings.id,
            scope: &scope,
            iat: now,
            exp: now + i64::from(access_seconds),
            jti: jti(&sid, *number),
            auth_time: authorization.auth_time,
            acr: ACR,
            amr: AMR,
            sid: &sid,
        };
        let access_token = Zeroizing::new(self.minter.sign(kind, ACCESS_TOKEN_TYPE, &access)?);
        let is_openid = scopes.iter().any(|scope| scope == "openid");
        let id_claims = || IdClaims {
            iss: &self.issuer,
            sub: &authorization.sub,
            aud: &client.settings.id,
            iat: now,
            exp: now + i64::from(self.lifetimes.id_token_seconds),
            auth_time: authorization.auth_time,
            nonce,
            acr: ACR,
            amr: AMR,
            at_hash: at_hash(kind, &access_token),
            sid: &sid,
            user: authorization.claims_for(scopes),
        };
        let id_token = is_openid.then(|| self.minter.sign(kind, ID_TOKEN_TYPE, &id_claims())).transpose()?;
        let refresh = RefreshToken { sid: sid.clone(), number: *number };
        let refresh_token = authorization.is_offline().then(|| self.sealer.keep(&refresh, self.clock.now()));
        let response = TokenResponse {
            access_token,
            token_type: "Bearer",
            expires_in: access_seconds,
            scope,
            id_token: id_token.map(Zeroizing::new),
            refresh_token: refresh_token.flatten().map(Zeroizing::new),
        };
        Ok(Tokens { response, issue })
    }
}

/// Returns the id of an issue's access token.
fn jti(sid: &str, number: u32) -> String {
    format!("{sid}.{number}")
}

/// Returns the number of the issue of an access token with this id.
pub(super) fn number_of(jti: &str) -> Option<u32> {
    jti.rsplit_once('.')?.1.parse().ok()
}

/// Returns the first half of the access token's hash, of the length that belongs to the algorithm (OpenID Connect Core
/// §3.1.3.6): SHA-256 for RS256, SHA-512 for Ed25519.
fn at_hash(kind: KeyKind, access_token: &str) -> String {
    let hash = match kind {
        KeyKind::Rsa => digest(&SHA256, access_token.as_bytes()),
        KeyKind::Ed25519 => digest(&SHA512, access_token.as_bytes()),
    };
    let hash = hash.as_ref();
    URL_SAFE_NO_PAD.encode(&hash[..hash.len() / 2])
}
