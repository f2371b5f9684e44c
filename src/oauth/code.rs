//! Authorization codes (RFC 6749 §4.1.3, RFC 7636 §4.6).

use aws_lc_rs::constant_time;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::clients::sha256;
use super::{Authorization, OAuth, OAuthClient, OAuthError, Parameters, Tokens};
use crate::config::GrantType;
use crate::session::{Redirect, Session, SessionKey};
use crate::token::Kept;

/// Permitted lengths of a code verifier (RFC 7636 §4.1).
const VERIFIER_CHARS: std::ops::RangeInclusive<usize> = 43..=128;

/// What an authorization code seals.
#[derive(Serialize, Deserialize)]
struct AuthorizationCode {
    session: SessionKey,
}

impl Kept for AuthorizationCode {
    const PURPOSE: &'static str = "authorization code";
    /// The code ends with its session's `claimable_until`. It is recognized for longer, because a replay revokes tokens.
    const SECONDS: u32 = 86_400;
}

const UNKNOWN: OAuthError = OAuthError::InvalidGrant("the code is unknown, used or expired");

impl OAuth {
    /// Returns the authorization code of a confirmed session.
    #[must_use]
    pub fn code_of(&self, session: &Session) -> Option<String> {
        self.sealer.keep(&AuthorizationCode { session: session.key }, self.clock.now())
    }

    /// Exchanges an authorization code for tokens. A code that was used before revokes the tokens that it was exchanged
    /// for (RFC 6749 §4.1.2).
    ///
    /// # Errors
    /// See [`OAuthError`].
    pub async fn redeem_code(&self, client: &OAuthClient, parameters: &Parameters) -> Result<Tokens, OAuthError> {
        if !client.settings.may_use(GrantType::AuthorizationCode) {
            return Err(OAuthError::UnauthorizedClient);
        }
        let code = parameters.need("code")?;
        let code: AuthorizationCode = self.sealer.kept(code, self.clock.now()).ok_or(UNKNOWN)?;
        let (session, now) = self.session(code.session).await?;
        let request = session.request.as_deref().filter(|request| request.client_id == client.settings.id);
        let redirect = request.and_then(|request| request.redirect.as_ref()).ok_or(UNKNOWN)?;
        check_binding(redirect, parameters)?;
        let Some(issue) = self.collect(&session, now).await? else {
            self.warn_of_replayed_code(session.key, &client.settings.id);
            self.end(Authorization::id(session.key)).await?;
            return Err(UNKNOWN);
        };
        let scopes = issue.stored.authorization.scopes.clone();
        self.tokens(client, issue, &scopes, redirect.nonce.as_deref())
    }
}

/// Checks that the token request belongs to the authorization request.
fn check_binding(redirect: &Redirect, parameters: &Parameters) -> Result<(), OAuthError> {
    if parameters.need("redirect_uri")? != redirect.uri {
        return Err(OAuthError::InvalidGrant("redirect_uri is not that of the authorization request"));
    }
    match (&redirect.code_challenge, parameters.get("code_verifier")) {
        (None, None) => Ok(()),
        // A verifier without a challenge is a sign of a downgrade (RFC 9700 §2.1.1).
        (None, Some(_)) => Err(OAuthError::InvalidGrant("the authorization request had no code_challenge")),
        (Some(_), None) => Err(OAuthError::InvalidGrant("the parameter code_verifier is missing")),
        (Some(challenge), Some(verifier)) => {
            let ours = URL_SAFE_NO_PAD.encode(sha256(verifier.as_bytes()));
            let is_equal = constant_time::verify_slices_are_equal(ours.as_bytes(), challenge.as_bytes()).is_ok();
            if is_equal && VERIFIER_CHARS.contains(&verifier.len()) {
                Ok(())
            } else {
                Err(OAuthError::InvalidGrant("code_verifier does not fit the code_challenge"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::ResponseMode;

    #[test]
    fn token_request_needs_the_redirect_uri_and_the_verifier_of_the_authorization_request() {
        // RFC 7636, appendix B.
        let (verifier, challenge) =
            ("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
        let redirect = |challenge: Option<&str>| Redirect {
            uri: "https://a.example/cb".to_owned(),
            mode: ResponseMode::Query,
            state: None,
            nonce: None,
            code_challenge: challenge.map(str::to_owned),
            browser: String::new(),
            expected_user: None,
        };
        let code = |text: &str, challenge: Option<&str>| {
            check_binding(&redirect(challenge), &Parameters::parse(text).unwrap()).map_err(|error| error.code())
        };
        let uri = "redirect_uri=https://a.example/cb";
        assert_eq!(code(&format!("{uri}&code_verifier={verifier}"), Some(challenge)), Ok(()));
        assert_eq!(code(uri, None), Ok(()));
        for (text, challenge) in [
            (format!("{uri}&code_verifier={verifier}"), None),
            (uri.to_owned(), Some(challenge)),
            (format!("{uri}&code_verifier={verifier}x"), Some(challenge)),
            (format!("{uri}&code_verifier={challenge}"), Some(challenge)),
            (format!("{uri}/&code_verifier={verifier}"), Some(challenge)),
            (format!("redirect_uri=https://A.example/cb&code_verifier={verifier}"), Some(challenge)),
        ] {
            assert_eq!(code(&text, challenge), Err("invalid_grant"), "{text}");
        }
        assert_eq!(code("", None), Err("invalid_request"));
    }
}
