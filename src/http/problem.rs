//! All errors of the HTTP API, and their responses (RFC 9457).

use std::sync::Arc;

use axum::http::header::{
    CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE, WWW_AUTHENTICATE,
};
use axum::response::{IntoResponse, Response};
use thiserror::Error;

use crate::hub::Closing;
use crate::limits::{Exceeded, QuotaExceeded};
use crate::login::LoginError;
use crate::qr::TooLong;
use crate::session::Refusal;
use crate::system::random;
use crate::token::{AuthError, InvalidToken};
use crate::wire::types::{PROBLEM_MEDIA_TYPE, Problem, ProblemCode};
use crate::wire::websocket::HandshakeError;

/// Maximum value of `Retry-After` of a response 503, in seconds. The value is random, so that clients which were
/// refused together do not retry together.
const MAX_RETRY_AFTER_SECONDS: u32 = 4;

/// The reason for which a request is refused.
#[derive(Debug, Clone, Error)]
pub(crate) enum ApiError {
    #[error("{0}")]
    InvalidRequest(String),
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error("the origin {0} is not allowed; to allow it, add it to the setting allowed_origins")]
    ForbiddenOrigin(String),
    #[error("requests without an Origin header are not allowed (setting allow_missing_origin)")]
    MissingOrigin,
    #[error("{0} is not a host name of this server; set public_url to it, or add its origin to allowed_origins")]
    ForbiddenHost(String),
    #[error("public_url is too long for a QR code")]
    TooLong,
    #[error("there is no such path")]
    NotFound,
    #[error("the path does not support this method")]
    MethodNotAllowed,
    #[error("the request did not arrive in time")]
    RequestTimeout,
    #[error("the body is longer than {0} bytes")]
    PayloadTooLarge(usize),
    #[error("the body must be JSON, sent with Content-Type: application/json")]
    UnsupportedMediaType,
    #[error("{}", HandshakeError::NoUpgrade)]
    UpgradeRequired,
    #[error("this address or user exceeds a limit ({key}); retry in {retry_after_seconds} s", key = .0.key, retry_after_seconds = .0.retry_after_seconds)]
    RateLimited(Exceeded),
    #[error("the server has the maximum number of connections (limits.sockets); retry later")]
    QuotaExceeded,
    #[error("too many browsers wait for the store; retry later")]
    TooManyHandshakes,
    #[error("the server is stopping; retry later")]
    Stopping,
    #[error(transparent)]
    Login(Arc<LoginError>),
}

/// The reason for which the acceptor refuses a request. It is an extension of the request: the route table responds, so
/// the response has the same header fields as all others.
#[derive(Clone)]
pub(crate) struct Refused(pub(crate) ApiError);

impl From<LoginError> for ApiError {
    fn from(error: LoginError) -> Self {
        Self::Login(Arc::new(error))
    }
}

impl From<Exceeded> for ApiError {
    fn from(exceeded: Exceeded) -> Self {
        Self::RateLimited(exceeded)
    }
}

impl From<QuotaExceeded> for ApiError {
    fn from(full: QuotaExceeded) -> Self {
        match full {
            QuotaExceeded::Address(exceeded) => exceeded.into(),
            QuotaExceeded::All => Self::QuotaExceeded,
        }
    }
}

impl From<Closing> for ApiError {
    fn from(_: Closing) -> Self {
        Self::Stopping
    }
}

impl From<HandshakeError> for ApiError {
    fn from(error: HandshakeError) -> Self {
        match error {
            HandshakeError::NoUpgrade => Self::UpgradeRequired,
            HandshakeError::MalformedKey => Self::InvalidRequest(error.to_string()),
        }
    }
}

impl From<TooLong> for ApiError {
    fn from(_: TooLong) -> Self {
        Self::TooLong
    }
}

impl ApiError {
    /// Returns the kind of the error.
    pub(crate) fn code(&self) -> ProblemCode {
        self.parts().0
    }

    /// Returns the kind of the error, and its text for people.
    fn parts(&self) -> (ProblemCode, String) {
        let code = match self {
            Self::InvalidRequest(_) => ProblemCode::InvalidRequest,
            Self::Auth(AuthError::Invalid(_)) => ProblemCode::InvalidToken,
            Self::Auth(AuthError::TooOld { .. }) => ProblemCode::InsufficientUserAuthentication,
            Self::ForbiddenOrigin(_) | Self::MissingOrigin => ProblemCode::ForbiddenOrigin,
            Self::ForbiddenHost(_) => ProblemCode::ForbiddenHost,
            Self::TooLong => ProblemCode::Internal,
            Self::NotFound => ProblemCode::NotFound,
            Self::MethodNotAllowed => ProblemCode::MethodNotAllowed,
            Self::RequestTimeout => ProblemCode::RequestTimeout,
            Self::PayloadTooLarge(_) => ProblemCode::PayloadTooLarge,
            Self::UnsupportedMediaType => ProblemCode::UnsupportedMediaType,
            Self::UpgradeRequired => ProblemCode::UpgradeRequired,
            Self::RateLimited(_) => ProblemCode::RateLimited,
            Self::Auth(AuthError::Unavailable) | Self::QuotaExceeded | Self::TooManyHandshakes | Self::Stopping => {
                ProblemCode::Unavailable
            }
            Self::Login(error) => return login_parts(error),
        };
        (code, self.to_string())
    }

    fn retry_after_seconds(&self, code: ProblemCode) -> Option<u64> {
        match (self, code) {
            (Self::RateLimited(exceeded), _) => Some(exceeded.retry_after_seconds),
            (_, ProblemCode::Unavailable) => Some(u64::from(1 + random::below(MAX_RETRY_AFTER_SECONDS))),
            _ => None,
        }
    }
}

/// Returns the kind and the text of an error of a use case. Causes inside the server are logged ([`Fault`]), and not in
/// the text.
fn login_parts(error: &LoginError) -> (ProblemCode, String) {
    let (code, detail) = match error {
        LoginError::NotFound => (ProblemCode::NotFound, "there is no such session or code"),
        LoginError::Refused(refusal) => match refusal {
            Refusal::Expired => (ProblemCode::Expired, "the session has expired"),
            Refusal::OldCode => (ProblemCode::Expired, "the code has rotated; scan the current one"),
            Refusal::Cancelled => (ProblemCode::Cancelled, "the session has been cancelled"),
            Refusal::NotScanned => (ProblemCode::NotScanned, "scan first, and pick the browser's number"),
            Refusal::NoNumber => (
                ProblemCode::InvalidRequest,
                "number is missing; send the number that the user picked from the numbers of the scan",
            ),
            Refusal::WrongNumber => {
                (ProblemCode::NumberMismatch, "this is not the number that the browser shows; the session is rejected")
            }
            Refusal::WrongUser => (ProblemCode::WrongUser, "another user scanned this code"),
            Refusal::AlreadyScanned => (ProblemCode::AlreadyScanned, "another user scanned this code first"),
            Refusal::AlreadyDecided => (ProblemCode::AlreadyDecided, "the session has been decided"),
            Refusal::NotDecided => (ProblemCode::NotDecided, "the session has not been decided"),
            Refusal::Risk => (ProblemCode::Risk, "the phone and the browser are in different countries or networks"),
        },
        LoginError::Store(_) | LoginError::Read(_) | LoginError::Contended => {
            (ProblemCode::Unavailable, "the store does not answer; try again")
        }
        LoginError::Mint(_) => (ProblemCode::Internal, "the token cannot be made; the server's log has the reason"),
    };
    (code, detail.to_owned())
}

/// Returns the value of `WWW-Authenticate` (RFC 6750 §3; for a login that is too old, RFC 9470 §3).
fn challenge(refused: &AuthError) -> Option<HeaderValue> {
    match refused {
        // A request without a token gets no error code (RFC 6750 §3.1).
        AuthError::Invalid(InvalidToken::Missing) => Some(HeaderValue::from_static("Bearer")),
        AuthError::Invalid(_) => Some(HeaderValue::from_static(r#"Bearer error="invalid_token""#)),
        AuthError::TooOld { max_age_seconds } => HeaderValue::try_from(format!(
            r#"Bearer error="insufficient_user_authentication", error_description="{refused}", max_age="{max_age_seconds}""#
        ))
        .ok(),
        AuthError::Unavailable => None,
    }
}

/// A fault of the server or of what it depends on. It is an extension of the response that it causes, because only the
/// layers have the state that limits its warnings.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// An error of a use case.
    Login(Arc<LoginError>),
    /// Too many browsers wait for the store.
    TooManyHandshakes,
}

impl From<InvalidToken> for ApiError {
    fn from(invalid: InvalidToken) -> Self {
        Self::Auth(invalid.into())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (code, detail) = self.parts();
        let mut problem = Problem::new(code, detail);
        if let Self::Auth(AuthError::TooOld { max_age_seconds }) = &self {
            problem.max_age = Some(*max_age_seconds);
        }
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = (code.status(), [(CONTENT_TYPE, PROBLEM_MEDIA_TYPE)], body).into_response();
        let mut set = |name: HeaderName, value: HeaderValue| response.headers_mut().insert(name, value);
        if let Some(seconds) = self.retry_after_seconds(code) {
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
        let fault = match self {
            Self::Login(error) if matches!(*error, LoginError::NotFound | LoginError::Refused(_)) => None,
            Self::Login(error) => Some(Fault::Login(error)),
            Self::TooManyHandshakes => Some(Fault::TooManyHandshakes),
            _ => None,
        };
        if let Some(fault) = fault {
            response.extensions_mut().insert(fault);
        }
        response
    }
}
