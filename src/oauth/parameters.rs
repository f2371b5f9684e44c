use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::OAuthError;

/// Maximum length of all parameters together, in bytes, so that the row of a session stays small.
const MAX_BYTES: usize = 8192;
/// Parameters that may be repeated (RFC 8707 §2, RFC 8693 §2.1). The server ignores them.
const REPEATABLE: [&str; 2] = ["resource", "audience"];

/// The parameters of a request, each of which occurs at most once (RFC 6749 §3.1).
#[derive(Debug, Default)]
pub struct Parameters {
    values: BTreeMap<String, String>,
    fault: Option<ParametersFault>,
}

/// The reason why parameters are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParametersFault {
    /// A parameter of this name is repeated.
    Repeated(String),
    /// They are too long.
    TooLong,
}

impl Parameters {
    /// Parses `application/x-www-form-urlencoded`. A parameter without a value counts as missing (RFC 6749 §3.1).
    ///
    /// # Errors
    /// [`OAuthError::InvalidRequest`] if a parameter is repeated, or the text is too long.
    pub fn parse(text: &str) -> Result<Self, OAuthError> {
        let parameters = Self::read(text);
        match &parameters.fault {
            None => Ok(parameters),
            Some(ParametersFault::TooLong) => {
                Err(OAuthError::InvalidRequest(format!("the parameters are longer than {MAX_BYTES} bytes")))
            }
            Some(ParametersFault::Repeated(name)) => {
                let shown: String =
                    name.chars().filter(|letter| letter.is_ascii_alphanumeric() || *letter == '_').collect();
                Err(OAuthError::InvalidRequest(format!("the parameter {shown} is repeated")))
            }
        }
    }

    /// Reads parameters that may have a fault, which [`Parameters::fault`] returns. A parameter that is repeated has no
    /// value.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let (mut values, mut fault) = (BTreeMap::new(), None);
        for (name, value) in url::form_urlencoded::parse(text.as_bytes()) {
            if value.is_empty() || REPEATABLE.contains(&&*name) {
                continue;
            }
            match values.entry(name.into_owned()) {
                Entry::Vacant(entry) => drop(entry.insert(value.into_owned())),
                Entry::Occupied(mut entry) => {
                    fault.get_or_insert_with(|| ParametersFault::Repeated(entry.key().clone()));
                    entry.get_mut().clear();
                }
            }
        }
        if text.len() > MAX_BYTES {
            fault = Some(ParametersFault::TooLong);
        }
        Self { values, fault }
    }

    /// Returns the reason why the parameters are refused.
    #[must_use]
    pub const fn fault(&self) -> Option<&ParametersFault> {
        self.fault.as_ref()
    }

    /// Returns the value of a parameter.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Returns the value of a parameter.
    ///
    /// # Errors
    /// [`OAuthError::InvalidRequest`] if it is missing.
    pub fn need(&self, name: &str) -> Result<&str, OAuthError> {
        self.get(name).ok_or_else(|| OAuthError::InvalidRequest(format!("the parameter {name} is missing")))
    }
}
