//! Refresh tokens (RFC 6749 §6). Each use gives a new one, and a second use of an old one ends the family (RFC 9700
//! §4.14.2).

use super::authorization::parse_sid;
use super::tokens::RefreshToken;
use super::{OAuth, OAuthClient, OAuthError, Parameters, TokenResponse, Unsettled};
use crate::config::GrantType;

const UNKNOWN: OAuthError = OAuthError::InvalidGrant("the refresh token is unknown, used, revoked or expired");

impl OAuth {
    /// Exchanges a refresh token for new tokens.
    ///
    /// # Errors
    /// See [`OAuthError`].
    pub async fn refresh(&self, client: &OAuthClient, parameters: &Parameters) -> Result<TokenResponse, OAuthError> {
        if !client.settings.may_use(GrantType::RefreshToken) {
            return Err(OAuthError::UnauthorizedClient);
        }
        let token = parameters.need("refresh_token")?;
        let token: RefreshToken = self.sealer.kept(token, self.clock.now()).ok_or(UNKNOWN)?;
        let id = parse_sid(&token.sid).ok_or(UNKNOWN)?;
        let Some((authorization, generation)) = self.authorization(&id).await? else { return Err(UNKNOWN) };
        if authorization.client_id != client.settings.id {
            return Err(UNKNOWN);
        }
        let scopes = match parameters.get("scope") {
            None => authorization.scopes.clone(),
            Some(requested) => narrowed(&authorization.scopes, requested)?,
        };
        let unsettled = Unsettled::Refresh(id, token.generation);
        let next = token.generation + 1;
        let is_repeated = generation == next && self.unsettled.remove(&unsettled).is_some();
        if !is_repeated {
            let is_current = generation == token.generation;
            let record = self.record(id, next, &authorization);
            let is_first = is_current
                && self.store.replace_record(&record).await.inspect_err(|_| self.unsettled.insert(unsettled, ()))?;
            if !is_first {
                self.store.delete_record(&id).await?;
                return Err(UNKNOWN);
            }
        }
        self.issue(client, (id, &authorization), &scopes, None, next)
    }
}

/// Returns the requested scopes, if all of them were granted (RFC 6749 §6).
fn narrowed(granted: &[String], requested: &str) -> Result<Vec<String>, OAuthError> {
    let requested: Vec<_> = requested.split(' ').filter(|scope| !scope.is_empty()).map(str::to_owned).collect();
    if requested.iter().all(|scope| granted.contains(scope)) {
        Ok(requested)
    } else {
        Err(OAuthError::InvalidScope("the scope exceeds what was granted"))
    }
}
