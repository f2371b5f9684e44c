use thiserror::Error;

use crate::login::LoginError;
use crate::store::StoreError;
use crate::token::MintError;

/// An error of the endpoints below `/oauth/`, with the code that the response has as `error`.
#[derive(Debug, Error)]
pub enum OAuthError {
    /// A parameter is missing, malformed, repeated or unknown (RFC 6749 §5.2).
    #[error("{0}")]
    InvalidRequest(String),
    /// The client is unknown, or did not authenticate (RFC 6749 §5.2).
    #[error("{0}")]
    InvalidClient(&'static str),
    /// The code, device code or refresh token is invalid, used, expired, or of another client (RFC 6749 §5.2).
    #[error("{0}")]
    InvalidGrant(&'static str),
    /// The client may not use this grant (RFC 6749 §5.2).
    #[error("the client may not use this grant; add it to its grant_types")]
    UnauthorizedClient,
    /// The token is of another client (RFC 7009 §2.1).
    #[error("the token was issued to another client")]
    TokenOfAnother,
    /// The grant is not supported (RFC 6749 §5.2).
    #[error("this grant_type is not supported")]
    UnsupportedGrantType,
    /// The scope exceeds what was granted (RFC 6749 §5.2).
    #[error("{0}")]
    InvalidScope(&'static str),
    /// The user has not decided yet (RFC 8628 §3.5).
    #[error("the user has not decided yet")]
    AuthorizationPending,
    /// The device polls faster than its interval, which grows by 5 seconds (RFC 8628 §3.5).
    #[error("poll less often: at most once in {0} seconds")]
    SlowDown(u32),
    /// The user has rejected the login (RFC 8628 §3.5).
    #[error("the login was rejected")]
    AccessDenied,
    /// The device code has expired (RFC 8628 §3.5).
    #[error("the device code has expired")]
    ExpiredToken,
    /// The access token is missing, invalid, expired or revoked (RFC 6750 §3.1).
    #[error("the access token is invalid, expired or revoked")]
    InvalidToken,
    /// The access token lacks the scope `openid` (RFC 6750 §3.1).
    #[error("the access token lacks the scope openid")]
    InsufficientScope,
    /// The client sends too many requests. Holds the value of `Retry-After`.
    #[error("this address sends too many requests")]
    RateLimited(u64),
    /// The store failed. The request may have been carried out. It can be repeated at the same node.
    #[error("the server cannot answer at the moment; try again")]
    Unavailable,
    /// A token cannot be made. The server's log has the reason.
    #[error("the token cannot be made")]
    Internal,
}

impl OAuthError {
    /// Returns the value of `error`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::InvalidRequest(_) => "invalid_request",
            Self::InvalidClient(_) => "invalid_client",
            Self::InvalidGrant(_) => "invalid_grant",
            Self::UnauthorizedClient | Self::TokenOfAnother => "unauthorized_client",
            Self::UnsupportedGrantType => "unsupported_grant_type",
            Self::InvalidScope(_) => "invalid_scope",
            Self::AuthorizationPending => "authorization_pending",
            Self::SlowDown(_) => "slow_down",
            Self::AccessDenied => "access_denied",
            Self::ExpiredToken => "expired_token",
            Self::InvalidToken => "invalid_token",
            Self::InsufficientScope => "insufficient_scope",
            Self::RateLimited(_) | Self::Unavailable => "temporarily_unavailable",
            Self::Internal => "server_error",
        }
    }
}

impl From<StoreError> for OAuthError {
    fn from(error: StoreError) -> Self {
        Self::from(LoginError::from(error))
    }
}

impl From<MintError> for OAuthError {
    fn from(_: MintError) -> Self {
        Self::Internal
    }
}

impl From<LoginError> for OAuthError {
    fn from(error: LoginError) -> Self {
        match error {
            LoginError::NotFound | LoginError::Refused(_) => Self::InvalidGrant("it is unknown, used or expired"),
            LoginError::Store(_) | LoginError::Read(_) | LoginError::Contended => Self::Unavailable,
            LoginError::Mint(_) => Self::Internal,
        }
    }
}
