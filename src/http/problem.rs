//! Every refusal of the HTTP API, and how it looks from outside (RFC 9457).

use axum::http::StatusCode;
use axum::http::header::{
    CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE, WWW_AUTHENTICATE,
};
use axum::response::{IntoResponse, Response};
use thiserror::Error;
use tracing::error;

use crate::limits::{Exceeded, Full};
use crate::login::LoginError;
use crate::protocol::{PROBLEM_MEDIA_TYPE, Problem};
use crate::qr::TooLong;
use crate::random;
use crate::session::Refusal;
use crate::token::{AuthError, InvalidToken};

/// When to come back to a store that does not answer, at most: those who were refused together are not to come back
/// together.
const MAX_RETRY_AFTER_SECONDS: u32 = 4;

/// Why a request was refused.
#[derive(Debug, Error)]
pub(super) enum ApiError {
    #[error("{0}")]
    InvalidRequest(String),
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error("the origin {0} may not use this server; to allow it, add it to the setting allowed_origins")]
    ForbiddenOrigin(String),
    #[error("a request without an Origin header may not use this server (setting allow_missing_origin)")]
    MissingOrigin,
    #[error("public_url is too long for a QR code")]
    TooLong,
    #[error("there is nothing here")]
    NotFound,
    #[error("this method is not known here")]
    MethodNotAllowed,
    #[error("the request did not arrive in time")]
    RequestTimeout,
    #[error("the body is longer than {0} bytes")]
    PayloadTooLarge(usize),
    #[error("the body must be JSON, sent with Content-Type: application/json")]
    UnsupportedMediaType,
    #[error("this is a WebSocket: send an upgrade request of version 13 (RFC 6455)")]
    UpgradeRequired,
    #[error("too much from this address or user ({key}); come back in {retry_after_seconds} s", key = .0.key, retry_after_seconds = .0.retry_after_seconds)]
    RateLimited(Exceeded),
    #[error("the server has as many connections as it takes (limits.sockets); come back")]
    Full,
    #[error("the server is stopping; come back")]
    Stopping,
    #[error(transparent)]
    Login(#[from] LoginError),
}

impl From<Exceeded> for ApiError {
    fn from(exceeded: Exceeded) -> Self {
        Self::RateLimited(exceeded)
    }
}

impl From<Full> for ApiError {
    fn from(full: Full) -> Self {
        match full {
            Full::Address(exceeded) => exceeded.into(),
            Full::All => Self::Full,
        }
    }
}

impl From<TooLong> for ApiError {
    fn from(_: TooLong) -> Self {
        Self::TooLong
    }
}

impl ApiError {
    /// Status, stable code, and what to say.
    fn parts(&self) -> (StatusCode, &'static str, String) {
        let (status, code) = match self {
            Self::InvalidRequest(_) => (StatusCode::BAD_REQUEST, "invalid_request"),
            Self::Auth(AuthError::Invalid(_)) => (StatusCode::UNAUTHORIZED, "invalid_token"),
            Self::Auth(AuthError::TooOld { .. }) => (StatusCode::UNAUTHORIZED, "insufficient_user_authentication"),
            Self::Auth(AuthError::Unavailable) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Self::ForbiddenOrigin(_) | Self::MissingOrigin => (StatusCode::FORBIDDEN, "forbidden_origin"),
            Self::TooLong => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, "request_timeout"),
            Self::PayloadTooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large"),
            Self::UnsupportedMediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"),
            Self::UpgradeRequired => (StatusCode::UPGRADE_REQUIRED, "upgrade_required"),
            Self::RateLimited(_) => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
            Self::Full | Self::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Self::Login(error) => return login_parts(error),
        };
        (status, code, self.to_string())
    }
}

impl ApiError {
    fn problem(&self) -> (StatusCode, Vec<u8>) {
        let (status, code, detail) = self.parts();
        let title = status.canonical_reason().unwrap_or("Error");
        let max_age = match self {
            Self::Auth(AuthError::TooOld { max_age_seconds }) => Some(*max_age_seconds),
            _ => None,
        };
        let problem = Problem { kind: "about:blank", title, status: status.as_u16(), code, detail, max_age };
        (status, serde_json::to_vec(&problem).unwrap_or_default())
    }

    fn retry_after_seconds(&self) -> Option<u64> {
        match self {
            Self::RateLimited(exceeded) => Some(exceeded.retry_after_seconds),
            _ if self.parts().0 == StatusCode::SERVICE_UNAVAILABLE => {
                Some(u64::from(1 + random::below(MAX_RETRY_AFTER_SECONDS)))
            }
            _ => None,
        }
    }

    /// All that is said on a connection on which no request has arrived.
    pub(super) fn as_last_answer(&self) -> Vec<u8> {
        let (status, body) = self.problem();
        let retry_after = self.retry_after_seconds().map(|seconds| format!("Retry-After: {seconds}\r\n"));
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {PROBLEM_MEDIA_TYPE}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
             {}Connection: close\r\n\r\n",
            body.len(),
            retry_after.unwrap_or_default(),
        );
        [head.into_bytes(), body].concat()
    }
}

/// What went wrong inside stays in the log.
fn login_parts(error: &LoginError) -> (StatusCode, &'static str, String) {
    let (status, code, detail) = match error {
        LoginError::NotFound => (StatusCode::NOT_FOUND, "not_found", "there is no such session or code"),
        LoginError::Refused(refusal) => match refusal {
            Refusal::Expired => (StatusCode::GONE, "expired", "the session has expired"),
            Refusal::OldCode => {
                (StatusCode::GONE, "expired", "this code is no longer the one that is shown; scan anew")
            }
            Refusal::Cancelled => (StatusCode::GONE, "cancelled", "the session has been cancelled"),
            Refusal::NotScanned => {
                (StatusCode::CONFLICT, "not_scanned", "scan first, and pick the number that is shown")
            }
            Refusal::WrongNumber => (
                StatusCode::FORBIDDEN,
                "number_mismatch",
                "this is not the number that is shown; the login is rejected",
            ),
            Refusal::WrongUser => (StatusCode::FORBIDDEN, "wrong_user", "another user scanned this code"),
            Refusal::AlreadyScanned => {
                (StatusCode::CONFLICT, "already_scanned", "another user scanned this code first")
            }
            Refusal::AlreadyDecided => (StatusCode::CONFLICT, "already_decided", "the session has been decided"),
            Refusal::NotDecided => (StatusCode::CONFLICT, "not_decided", "the session has not been decided"),
        },
        LoginError::Risk => {
            (StatusCode::FORBIDDEN, "risk", "the phone and the browser lie in different countries or networks")
        }
        LoginError::Store(_) | LoginError::Read(_) | LoginError::Contended => {
            error!(event = "store unavailable", %error);
            (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the store does not answer; try again")
        }
        LoginError::Mint(_) => {
            error!(event = "token not minted", %error);
            (StatusCode::INTERNAL_SERVER_ERROR, "internal", "the token could not be made; the server's log says why")
        }
    };
    (status, code, detail.to_owned())
}

/// RFC 6750 §3, and for a login that is too old RFC 9470 §3.
fn challenge(refused: &AuthError) -> Option<HeaderValue> {
    match refused {
        // RFC 6750 §3.1: no error code where no token was sent.
        AuthError::Invalid(InvalidToken::Missing) => Some(HeaderValue::from_static("Bearer")),
        AuthError::Invalid(_) => Some(HeaderValue::from_static(r#"Bearer error="invalid_token""#)),
        AuthError::TooOld { max_age_seconds } => HeaderValue::try_from(format!(
            r#"Bearer error="insufficient_user_authentication", error_description="{refused}", max_age="{max_age_seconds}""#
        ))
        .ok(),
        AuthError::Unavailable => None,
    }
}

impl From<InvalidToken> for ApiError {
    fn from(invalid: InvalidToken) -> Self {
        Self::Auth(invalid.into())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, body) = self.problem();
        let mut response = (status, [(CONTENT_TYPE, PROBLEM_MEDIA_TYPE)], body).into_response();
        let mut set = |name: HeaderName, value: HeaderValue| response.headers_mut().insert(name, value);
        if let Some(seconds) = self.retry_after_seconds() {
            set(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Self::Auth(refused) = &self
            && let Some(challenge) = challenge(refused)
        {
            set(WWW_AUTHENTICATE, challenge);
        }
        if matches!(self, Self::UpgradeRequired) {
            set(UPGRADE, HeaderValue::from_static("websocket"));
            set(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        response
    }
}
