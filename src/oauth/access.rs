//! Access tokens at this server: UserInfo (OpenID Connect Core §5.3), introspection (RFC 7662) and revocation (RFC 7009).

use serde::Serialize;
use serde_json::{Map, Value};

use super::authorization::parse_sid;
use super::issue::Stored;
use super::tokens::{ACCESS_TOKEN_TYPE, ID_TOKEN_TYPE, RefreshToken, number_of};
use super::{Authorization, OAuth, OAuthClient, OAuthError};
use crate::store::RecordId;

/// A valid access token.
pub struct Access {
    /// Claims of the token.
    pub claims: Map<String, Value>,
    id: RecordId,
    authorization: Authorization,
    scopes: Vec<String>,
}

/// The response of the introspection endpoint (RFC 7662 §2.2).
#[derive(Serialize)]
pub struct Introspection {
    active: bool,
    #[serde(flatten)]
    claims: Map<String, Value>,
}

/// Claims of an access token that introspection returns.
const INTROSPECTED: [&str; 9] = ["iss", "sub", "aud", "client_id", "scope", "iat", "exp", "jti", "auth_time"];

impl OAuth {
    /// Verifies an access token. It is valid until its `exp`, unless it was revoked.
    ///
    /// # Errors
    /// [`OAuthError::InvalidToken`] for every other text, [`OAuthError::Unavailable`] if the store failed.
    pub async fn access(&self, token: &str) -> Result<Access, OAuthError> {
        let claims = self.minter.claims_of(token, ACCESS_TOKEN_TYPE).ok_or(OAuthError::InvalidToken)?;
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        let expires_at = claims.get("exp").and_then(Value::as_i64).unwrap_or_default();
        if text("iss") != Some(&self.issuer) || self.clock.wall().as_seconds() >= expires_at {
            return Err(OAuthError::InvalidToken);
        }
        let id = text("sid").and_then(parse_sid).ok_or(OAuthError::InvalidToken)?;
        let number = text("jti").and_then(number_of).ok_or(OAuthError::InvalidToken)?;
        let found = self.stored(&id).await?.filter(|(stored, _)| !stored.is_superseded(number));
        let (stored, _) = found.ok_or(OAuthError::InvalidToken)?;
        let authorization = stored.authorization;
        let scopes = text("scope").unwrap_or_default().split(' ').map(str::to_owned).collect();
        Ok(Access { claims, id, authorization, scopes })
    }

    /// Returns the claims about the user of an access token.
    ///
    /// # Errors
    /// [`OAuthError::InsufficientScope`] if the token lacks the scope `openid`, and the errors of [`OAuth::access`].
    pub async fn user_info(&self, token: &str) -> Result<Map<String, Value>, OAuthError> {
        let access = self.access(token).await?;
        if !access.scopes.iter().any(|scope| scope == "openid") {
            return Err(OAuthError::InsufficientScope);
        }
        let mut claims = access.authorization.claims_for(&access.scopes);
        claims.insert("sub".to_owned(), access.authorization.sub.into());
        Ok(claims)
    }

    /// Returns whether a token is active, and its claims. A refresh token is active for its own client only.
    ///
    /// # Errors
    /// [`OAuthError::Unavailable`] if the store failed.
    pub async fn introspect(&self, client: &OAuthClient, token: &str) -> Result<Introspection, OAuthError> {
        let inactive = Introspection { active: false, claims: Map::new() };
        if let Some((id, number)) = self.refresh_token(token) {
            let found = self.stored(&id).await?.map(|(stored, _)| stored);
            let is_active =
                |stored: &Stored| stored.authorization.client_id == client.settings.id && stored.number == number;
            return Ok(found.filter(is_active).map_or(inactive, |Stored { authorization, .. }| {
                let mut claims = Map::new();
                claims.insert("iss".to_owned(), self.issuer.clone().into());
                claims.insert("sub".to_owned(), authorization.sub.into());
                claims.insert("client_id".to_owned(), authorization.client_id.into());
                claims.insert("scope".to_owned(), authorization.scopes.join(" ").into());
                Introspection { active: true, claims }
            }));
        }
        match self.access(token).await {
            Ok(Access { claims, .. }) => {
                let mut claims: Map<_, _> =
                    claims.into_iter().filter(|(name, _)| INTROSPECTED.contains(&name.as_str())).collect();
                claims.insert("token_type".to_owned(), "Bearer".into());
                Ok(Introspection { active: true, claims })
            }
            Err(OAuthError::Unavailable) => Err(OAuthError::Unavailable),
            Err(_) => Ok(inactive),
        }
    }

    /// Revokes a token, and all others of the same authorization. An unknown or expired token is revoked already (RFC 7009
    /// §2.2).
    ///
    /// # Errors
    /// [`OAuthError::TokenOfAnother`] if the token is of another client, [`OAuthError::Unavailable`] if the store
    /// failed.
    pub async fn revoke(&self, client: &OAuthClient, token: &str) -> Result<(), OAuthError> {
        let found = match self.refresh_token(token) {
            Some((id, _)) => self.stored(&id).await?.map(|(stored, _)| (id, stored.authorization)),
            None => match self.access(token).await {
                Ok(access) => Some((access.id, access.authorization)),
                Err(OAuthError::Unavailable) => return Err(OAuthError::Unavailable),
                Err(_) => None,
            },
        };
        match found {
            Some((_, authorization)) if authorization.client_id != client.settings.id => {
                Err(OAuthError::TokenOfAnother)
            }
            Some((id, _)) => self.end(id).await,
            None => Ok(()),
        }
    }

    fn refresh_token(&self, token: &str) -> Option<(RecordId, u32)> {
        let token: RefreshToken = self.sealer.kept(token, self.clock.now())?;
        Some((parse_sid(&token.sid)?, token.number))
    }

    /// Returns the user and the client of an ID token that this server has issued, also if it has expired, as hints have
    /// (OpenID Connect Core §3.1.2.1).
    #[must_use]
    pub fn hinted(&self, id_token: &str) -> Option<(String, String)> {
        let claims = self.minter.claims_of(id_token, ID_TOKEN_TYPE)?;
        let text = |name: &str| claims.get(name).and_then(Value::as_str).map(str::to_owned);
        if text("iss").as_ref() == Some(&self.issuer) { Some((text("sub")?, text("aud")?)) } else { None }
    }
}
