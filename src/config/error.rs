//! Errors in the settings.

use thiserror::Error;

/// An error in the settings. The text names the key and the source of its value, as far as they are known. It never
/// quotes the value.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// The file cannot be read, or is not TOML.
    #[error("{file}: {reason}")]
    File {
        /// Path of the file, with line and column if they are known.
        file: String,
        /// Description of the error.
        reason: String,
    },
    /// A key that is set does not exist.
    #[error("{origin}: unknown key '{key}'{}; known here: {known}", question(.nearest.as_deref()))]
    UnknownKey {
        /// Source that sets the key: a position in a file, an environment variable or a flag.
        origin: String,
        /// The unknown key, or a placeholder if it may be a value.
        key: String,
        /// Known key, or name of an environment variable, that is most like the unknown one.
        nearest: Option<String>,
        /// Known keys of the same section, separated by commas.
        known: String,
    },
    /// A value is of the wrong type, or its setting does not permit it.
    #[error("{origin}: {key} {reason}")]
    Value {
        /// Source that sets the key: a position in a file, an environment variable or a flag.
        origin: String,
        /// Key of the setting.
        key: String,
        /// Description of the error, as the predicate of a sentence about the key.
        reason: String,
    },
    /// A value is not permitted, by itself or together with another one. Its source is not known.
    #[error("{key}: {reason}")]
    Invalid {
        /// Key of the setting.
        key: &'static str,
        /// Description of the error, as the predicate of a sentence about the key.
        reason: String,
    },
}

impl ConfigError {
    pub(super) fn value(origin: &str, key: &str, reason: String) -> Self {
        Self::Value { origin: origin.to_owned(), key: key.to_owned(), reason }
    }
}

fn question(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |nearest| format!(" (did you mean {nearest}?)"))
}
