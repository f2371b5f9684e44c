use std::collections::BTreeMap;

use super::OAuthError;

/// Maximum length of all parameters together, in bytes, so that the row of a session stays small.
const MAX_BYTES: usize = 8192;

/// The parameters of a request, each of which occurs at most once (RFC 6749 §3.1).
#[derive(Default)]
pub struct Parameters(BTreeMap<String, String>);

impl Parameters {
    /// Parses `application/x-www-form-urlencoded`. A parameter without a value counts as missing (RFC 6749 §3.1).
    ///
    /// # Errors
    /// [`OAuthError::InvalidRequest`] if a parameter is repeated, or the text is too long.
    pub fn parse(text: &str) -> Result<Self, OAuthError> {
        if text.len() > MAX_BYTES {
            return Err(OAuthError::InvalidRequest(format!("the parameters are longer than {MAX_BYTES} bytes")));
        }
        let mut parameters = BTreeMap::new();
        for (name, value) in url::form_urlencoded::parse(text.as_bytes()) {
            if !value.is_empty() && parameters.insert(name.to_string(), value.into_owned()).is_some() {
                let shown: String =
                    name.chars().filter(|letter| letter.is_ascii_alphanumeric() || *letter == '_').collect();
                return Err(OAuthError::InvalidRequest(format!("the parameter {shown} is repeated")));
            }
        }
        Ok(Self(parameters))
    }

    /// Returns the value of a parameter.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Returns the value of a parameter.
    ///
    /// # Errors
    /// [`OAuthError::InvalidRequest`] if it is missing.
    pub fn need(&self, name: &str) -> Result<&str, OAuthError> {
        self.get(name).ok_or_else(|| OAuthError::InvalidRequest(format!("the parameter {name} is missing")))
    }
}
