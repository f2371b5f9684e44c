//! The errors of app tokens, and of the settings of their verification.

use std::path::PathBuf;

use thiserror::Error;

use super::public_key_file::MAX_FILE_KEYS;
use crate::secret::shown_path;

/// The reason why an app token was refused. The text is for the app's developer, and never quotes the token.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidToken {
    /// The request has no `Authorization: Bearer` header.
    #[error("the request has no app token; send it as 'Authorization: Bearer'")]
    Missing,
    /// The token is not a well-formed JWT (RFC 7519).
    #[error("the app token is not a well-formed JWT")]
    Malformed,
    /// No configured key has made the signature with the algorithm that the header names.
    #[error("the app token is not signed with the configured key and its algorithm")]
    Signature,
    /// The time is at or past the token's `exp`.
    #[error("the app token has expired")]
    Expired,
    /// The time is before the token's `nbf`, by more than the leeway.
    #[error("the app token is not yet valid")]
    NotYetValid,
    /// The token's `iss` is not `app_auth.issuer`.
    #[error("the app token's 'iss' is not the configured issuer")]
    Issuer,
    /// The token's `aud` does not name `app_auth.audience`.
    #[error("the app token's 'aud' does not name the configured audience")]
    Audience,
    /// A required claim is missing, or a claim is of the wrong type or length.
    #[error("the app token has no usable '{0}' claim")]
    Claim(String),
    /// The user's id, or a claim that is passed on, has a control character. Postgres, for example, does not store
    /// U+0000.
    #[error("the app token's '{0}' claim has a control character")]
    ControlCharacter(String),
    /// The token is a `web_token`, which a server like this minted for a browser.
    #[error("a web_token is not an app token")]
    WebToken,
    /// The token names a signing key of this server, which signs tokens for browsers and clients.
    #[error("a token of this server is not an app token")]
    OwnToken,
    /// The header has a `crit` (RFC 7515 §4.1.11), of which no extension is supported.
    #[error("the app token's header has a 'crit' that is not supported")]
    Critical,
    /// The token names a key that the JWK Set does not contain.
    #[error("the app token is signed with a key that its source does not publish")]
    UnknownKey,
    /// The introspection endpoint answered that the token is not active.
    #[error("the app token is not active")]
    Inactive,
}

/// An error of [`super::AppAuth::verify`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AuthError {
    /// The token is not valid.
    #[error(transparent)]
    Invalid(#[from] InvalidToken),
    /// The user's login on the phone is too long ago, or its time is not known (RFC 9470).
    #[error("the login on the phone is older than {max_age_seconds} s; log in on the phone again")]
    TooOld {
        /// Maximum time since the login, in seconds.
        max_age_seconds: u32,
    },
    /// The source that app tokens are verified with does not answer, or gives no valid answer.
    #[error("the source that app tokens are verified with does not answer; try again")]
    Unavailable,
}

impl InvalidToken {
    /// Returns the label of the metric `qrlogin_app_tokens_refused_total`.
    const fn as_str(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Claim(_) | Self::ControlCharacter(_) => "claim",
            Self::WebToken => "web_token",
            Self::OwnToken => "own_token",
            Self::Critical => "critical",
            Self::UnknownKey => "unknown_key",
            Self::Inactive => "inactive",
        }
    }
}

impl AuthError {
    /// Returns the label of the metric `qrlogin_app_tokens_refused_total`.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Invalid(invalid) => invalid.as_str(),
            Self::TooOld { .. } => "too_old",
            Self::Unavailable => "unavailable",
        }
    }
}

/// An error in the settings of `app_auth`.
#[derive(Debug, Error)]
pub enum AppAuthError {
    /// The key file cannot be read.
    #[error("app_auth.public_key_file: {}: {source}", shown_path(.path))]
    Io {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// The HTTP client for a source cannot be created.
    #[error("{key}: {reason}")]
    Source {
        /// Key of the setting.
        key: &'static str,
        /// Description of the error.
        reason: String,
    },
    /// A block of the key file is not a public key that can be used.
    #[error(
        "app_auth.public_key_file: {}: not an RSA (2,048 to 8,192 bits), P-256, P-384, P-521 or Ed25519 public key \
         in PEM form (block {number})",
        shown_path(.path)
    )]
    NotAKey {
        /// Path of the file.
        path: PathBuf,
        /// Number of the PEM block in the file, from 1.
        number: usize,
    },
    /// Other users of the machine can write the key file, and so log in as any user.
    #[error(
        "app_auth.public_key_file: {path}: other users can write it (mode {mode:03o}), and so log in as any user; run \
         chmod o-w on it"
    )]
    Writable {
        /// Path of the file.
        path: PathBuf,
        /// Mode bits of the file.
        mode: u32,
    },
    /// The key file has too many keys, each of which is tried on each token.
    #[error("app_auth.public_key_file: {}: more than {MAX_FILE_KEYS} keys", shown_path(.path))]
    TooManyKeys {
        /// Path of the file.
        path: PathBuf,
    },
}
