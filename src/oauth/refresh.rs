//! Refresh tokens (RFC 6749 §6). Each use gives a new one, and a second use of an old one ends the family (RFC 9700
//! §4.14.2).

use super::authorization::parse_sid;
use super::tokens::RefreshToken;
use super::{OAuth, OAuthClient, OAuthError, Parameters, Tokens};
use crate::config::GrantType;

const UNKNOWN: OAuthError = OAuthError::InvalidGrant("the refresh token is unknown, used, revoked or expired");

impl OAuth {
    /// Exchanges a refresh token for new tokens.
    ///
    /// # Errors
    /// See [`OAuthError`].
    pub async fn refresh(&self, client: &OAuthClient, parameters: &Parameters) -> Result<Tokens, OAuthError> {
        if !client.settings.may_use(GrantType::RefreshToken) {
            return Err(OAuthError::UnauthorizedClient);
        }
        let token = parameters.need("refresh_token")?;
        let token: RefreshToken = self.sealer.kept(token, self.clock.now()).ok_or(UNKNOWN)?;
        let id = parse_sid(&token.sid).ok_or(UNKNOWN)?;
        let Some((stored, version)) = self.stored(&id).await? else { return Err(UNKNOWN) };
        if stored.authorization.client_id != client.settings.id {
            return Err(UNKNOWN);
        }
        let granted = &stored.authorization.scopes;
        let scopes = match parameters.get("scope") {
            None => granted.clone(),
            Some(requested) => narrowed(granted, requested)?,
        };
        let Some(issue) = self.next(id, (stored, version), token.number).await? else {
            self.warn_of_replayed_refresh_token(&client.settings.id);
            self.end(id).await?;
            return Err(UNKNOWN);
        };
        self.tokens(client, issue, &scopes, None)
    }
}

/// Returns the requested scopes, if all of them were granted (RFC 6749 §6).
fn narrowed(granted: &[String], requested: &str) -> Result<Vec<String>, OAuthError> {
    let requested: Vec<_> = requested.split(' ').filter(|scope| !scope.is_empty()).map(str::to_owned).collect();
    if !requested.is_empty() && requested.iter().all(|scope| granted.contains(scope)) {
        Ok(requested)
    } else {
        Err(OAuthError::InvalidScope("the scope exceeds what was granted"))
    }
}
