//! The checks of an app token's claims, and the user that they describe.

use serde_json::{Map, Value};

use super::{AuthError, InvalidToken};
use crate::session::{PhoneUser, Timestamp, printable};

/// Leeway for `nbf`, in seconds, as the issuer's clock may be ahead of this server's.
const NOT_BEFORE_LEEWAY_SECONDS: i64 = 5;
/// Maximum length of a user's id, in bytes.
const MAX_ID_BYTES: usize = 256;
/// Maximum length of a display name, in characters. A longer name is truncated.
const MAX_NAME_CHARS: usize = 128;
/// Maximum length of a picture's URL, in bytes. A longer URL is left out.
const MAX_PICTURE_BYTES: usize = 2048;

/// A phone user, with the claims of the app token.
#[derive(Debug, Clone, PartialEq)]
pub struct AppUser {
    /// Id, name and picture of the user.
    pub user: PhoneUser,
    /// All claims of the token. `token.claims` names those that are copied into `web_token`.
    pub claims: Map<String, Value>,
}

/// The requirements on the claims of an app token.
pub struct ClaimRules {
    /// Required value of `iss`. `None` accepts any.
    pub issuer: Option<String>,
    /// Required value of `aud`. `None` accepts any.
    pub audience: Option<String>,
    /// Name of the claim with the user's id.
    pub user_claim: String,
    /// Maximum time since `auth_time`, in seconds. 0 means no maximum.
    pub max_age_seconds: u32,
    /// Names of the claims that are copied into `web_token`.
    pub passed_on: Vec<String>,
}

impl ClaimRules {
    /// Checks the claims of a token whose signature or introspection is valid. Returns its user.
    ///
    /// # Errors
    /// Returns an error if a claim is missing, invalid or out of time.
    pub fn check(&self, claims: Map<String, Value>, now: Timestamp) -> Result<AppUser, AuthError> {
        self.check_standard(&claims, now)?;
        let has_control = |name: &&String| claims.get(*name).is_some_and(has_control_character);
        if let Some(name) = self.passed_on.iter().find(has_control) {
            return Err(InvalidToken::ControlCharacter(name.clone()).into());
        }
        let user = PhoneUser { id: self.user_id(&claims)?, name: name(&claims), picture: picture(&claims) };
        Ok(AppUser { user, claims })
    }

    /// Checks issuer, audience, `exp`, `nbf` and `auth_time`.
    fn check_standard(&self, claims: &Map<String, Value>, now: Timestamp) -> Result<(), AuthError> {
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
