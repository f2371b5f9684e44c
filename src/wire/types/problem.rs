//! Error responses (RFC 9457).

use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

/// An error response (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// Problem type, always `about:blank`. The member `code` has the kind of the error.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Reason phrase of the HTTP status.
    pub title: &'static str,
    /// Status code of the HTTP response.
    pub status: u16,
    /// Kind of the error, stable and for programs.
    pub code: &'static str,
    /// Explanation of the error, for people.
    pub detail: String,
    /// Maximum age of the user's login on the phone, in seconds. Present only with `insufficient_user_authentication`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<u32>,
}

impl Problem {
    /// Creates an error response of the kind `code`.
    #[must_use]
    pub fn new(code: ProblemCode, detail: String) -> Self {
        let status = code.status();
        Self {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            code: code.as_str(),
            detail,
            max_age: None,
        }
    }
}

/// The kind of an error response. It determines the HTTP status and the stable `code` of a [`Problem`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemCode {
    /// 400: the body, a header field or a parameter is missing or malformed.
    InvalidRequest,
    /// 401: the app token is missing or invalid (RFC 6750).
    InvalidToken,
    /// 401: the user's login on the phone is too old (RFC 9470).
    InsufficientUserAuthentication,
    /// 403: another user scanned, and only that user may decide.
    WrongUser,
    /// 403: the number is not the one that the browser shows.
    NumberMismatch,
    /// 403: the phone and the browser differ in country or network, and `risk.policy` is `deny`.
    Risk,
    /// 403: the origin of the page is not allowed, or is missing where required.
    ForbiddenOrigin,
    /// 403: the demo was requested under a host name that is not its own.
    ForbiddenHost,
    /// 404: there is no such session, code or path.
    NotFound,
    /// 405: the path does not support the method.
    MethodNotAllowed,
    /// 408: the head or the body of the request did not arrive in time.
    RequestTimeout,
    /// 409: another user scanned first.
    AlreadyScanned,
    /// 409: the session has been decided otherwise or by another user.
    AlreadyDecided,
    /// 409: the browser acknowledged a token before the decision.
    NotDecided,
    /// 409: a newer connection superseded the long poll.
    Replaced,
    /// 409: the phone confirmed before it scanned, with number matching.
    NotScanned,
    /// 410: the session or the code has expired.
    Expired,
    /// 410: the session was cancelled.
    Cancelled,
    /// 413: the body is longer than `limits.body_bytes`.
    PayloadTooLarge,
    /// 415: the body is not `application/json`.
    UnsupportedMediaType,
    /// 426: the request for the WebSocket is not an upgrade of version 13 (RFC 6455).
    UpgradeRequired,
    /// 429: the client exceeds a limit.
    RateLimited,
    /// 500: the server cannot make the token, or the QR code.
    Internal,
    /// 503: the store or the source of app tokens does not answer, or the server is full or stopping.
    Unavailable,
}

impl ProblemCode {
    /// All kinds, in the order of their statuses.
    #[cfg(feature = "internals")]
    pub const ALL: [Self; 24] = [
        Self::InvalidRequest,
        Self::InvalidToken,
        Self::InsufficientUserAuthentication,
        Self::WrongUser,
        Self::NumberMismatch,
        Self::Risk,
        Self::ForbiddenOrigin,
        Self::ForbiddenHost,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::AlreadyScanned,
        Self::AlreadyDecided,
        Self::NotDecided,
        Self::Replaced,
        Self::NotScanned,
        Self::Expired,
        Self::Cancelled,
        Self::PayloadTooLarge,
        Self::UnsupportedMediaType,
        Self::UpgradeRequired,
        Self::RateLimited,
        Self::Internal,
        Self::Unavailable,
    ];

    const fn parts(self) -> (StatusCode, &'static str) {
        match self {
            Self::InvalidRequest => (StatusCode::BAD_REQUEST, "invalid_request"),
            Self::InvalidToken => (StatusCode::UNAUTHORIZED, "invalid_token"),
            Self::InsufficientUserAuthentication => (StatusCode::UNAUTHORIZED, "insufficient_user_authentication"),
            Self::WrongUser => (StatusCode::FORBIDDEN, "wrong_user"),
            Self::NumberMismatch => (StatusCode::FORBIDDEN, "number_mismatch"),
            Self::Risk => (StatusCode::FORBIDDEN, "risk"),
            Self::ForbiddenOrigin => (StatusCode::FORBIDDEN, "forbidden_origin"),
            Self::ForbiddenHost => (StatusCode::FORBIDDEN, "forbidden_host"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, "request_timeout"),
            Self::AlreadyScanned => (StatusCode::CONFLICT, "already_scanned"),
            Self::AlreadyDecided => (StatusCode::CONFLICT, "already_decided"),
            Self::NotDecided => (StatusCode::CONFLICT, "not_decided"),
            Self::Replaced => (StatusCode::CONFLICT, "replaced"),
            Self::NotScanned => (StatusCode::CONFLICT, "not_scanned"),
            Self::Expired => (StatusCode::GONE, "expired"),
            Self::Cancelled => (StatusCode::GONE, "cancelled"),
            Self::PayloadTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large"),
            Self::UnsupportedMediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"),
            Self::UpgradeRequired => (StatusCode::UPGRADE_REQUIRED, "upgrade_required"),
            Self::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        }
    }

    /// Returns the HTTP status.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        self.parts().0
    }

    /// Returns the `code` of a [`Problem`].
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.parts().1
    }
}
