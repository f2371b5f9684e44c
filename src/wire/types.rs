//! The types of the wire: requests and answers over HTTP, and frames of the WebSocket. PROTOCOL.md documents each
//! field, and a test compares the two. The doc comments of schemas are their descriptions in the OpenAPI document.
//!
//! Types that hold a secret do not implement `Debug`, so that no secret is printed.

use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use crate::session::{Cancellation, PhoneUser};

/// Path of the WebSocket, up to the session id.
pub const WEBSOCKET_PATH: &str = "/v1/ws/qr";
/// Prefix of a Close reason that names the delay before a reconnect, in milliseconds.
pub const RETRY_AFTER: &str = "retry_after_ms=";
/// Maximum length of `client_info`, in characters.
pub const MAX_CLIENT_INFO_CHARS: usize = 256;
/// WebSocket subprotocol of a browser that acknowledges its token with [`ACK_MESSAGE`].
pub const ACK_SUBPROTOCOL: &str = "qrlogin.ack";
/// Text message with which a browser acknowledges its token.
pub const ACK_MESSAGE: &str = "ack";
/// Text message of a browser that the server answers with an empty binary message.
pub const PING_MESSAGE: &str = "ping";
/// Prefix of the subprotocol that carries the session id, for a browser that keeps the id out of the URL. The server
/// never selects this subprotocol.
pub const SESSION_SUBPROTOCOL: &str = "qrlogin.session.";
/// Header field that carries the session id to status and event streams, where the path does not.
pub const SESSION_HEADER: &str = "x-qr-session";

/// Maximum time for which a long poll waits, in seconds.
pub const MAX_WAIT_SECONDS: u32 = 25;
/// Name of the server-sent event that corresponds to the Close frame of a WebSocket.
pub const CLOSE_EVENT: &str = "close";
/// Id of the server-sent event `expired`. Other states have the session's version as their id, and `rotated` has none.
pub const EXPIRED_EVENT_ID: &str = "expired";
/// Media type of error answers (RFC 9457 §3).
pub const PROBLEM_MEDIA_TYPE: &str = "application/problem+json";

/// Close codes of WebSockets and event streams (RFC 6455 §7.4). Codes from 4000 on are private to this protocol.
pub mod close_code {
    /// The session is decided, cancelled or expired. The browser must not reconnect.
    pub const DONE: u16 = 1000;
    /// The browser violated the WebSocket protocol. It must not reconnect.
    pub const PROTOCOL_ERROR: u16 = 1002;
    /// The browser sent a text message that is not UTF-8. It must not reconnect.
    pub const INVALID_TEXT: u16 = 1007;
    /// The browser sent a message that is too long. It must not reconnect.
    pub const TOO_BIG: u16 = 1009;
    /// The token of a confirmed session cannot be made. The browser may reconnect with backoff.
    pub const INTERNAL: u16 = 1011;
    /// This node is restarting. The browser may reconnect after the delay in the reason.
    pub const RESTARTING: u16 = 1012;
    /// The store does not answer. The browser may reconnect with backoff.
    pub const UNAVAILABLE: u16 = 1013;
    /// The browser did not answer two heartbeats. It may reconnect.
    pub const HEARTBEAT: u16 = 4408;
    /// A newer connection superseded this one. The browser must not reconnect.
    pub const REPLACED: u16 = 4409;
}

/// A JWK Set (RFC 7517 §5).
#[derive(ToSchema)]
#[expect(dead_code, reason = "only a schema for OpenAPI: the signing keys serialize themselves")]
pub struct JwkSet {
    /// The public signing keys, of type Ed25519 (RFC 8037).
    keys: Vec<serde_json::Map<String, serde_json::Value>>,
}

/// The body of `POST /v1/qr-login/generate`.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct GenerateRequest {
    /// The browser's description of itself. It is shown to the phone as unverified.
    #[schema(max_length = 256)]
    pub client_info: Option<String>,
}

/// The answer to `POST /v1/qr-login/generate`.
#[derive(Serialize, ToSchema)]
pub struct GenerateResponse {
    /// The session id, which only the browser knows.
    #[schema(value_type = String)]
    pub session_id: Zeroizing<String>,
    /// The code in the QR code. It is public.
    pub code: String,
    /// The URL in the QR code.
    pub qr_url: String,
    /// The QR code as a `data:image/svg+xml` URL.
    pub qr_image: String,
    /// Time until the session expires, in seconds.
    pub expires_in: u64,
    /// Time at which the session expires, by the server's wall clock (RFC 3339).
    pub expires_at: String,
    /// Time between two heartbeats on the browser's connection, in seconds.
    pub heartbeat_seconds: u32,
    /// Path of the WebSocket, from the root of the host on.
    #[schema(value_type = String)]
    pub ws_path: Zeroizing<String>,
}

/// The body of `POST /v1/qr-login/ack` and of `POST /v1/qr-login/cancel`.
#[derive(Deserialize, ToSchema)]
pub struct SessionRequest {
    /// The session id, which only the browser knows.
    #[schema(value_type = String)]
    pub session_id: Zeroizing<String>,
}

/// The body of `POST /v1/qr-login/scan` and of `POST /v1/qr-login/reject`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct CodeRequest {
    /// The code, or the scanned URL that contains it.
    pub code: String,
}

/// The body of `POST /v1/qr-login/confirm`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ConfirmRequest {
    /// The code, or the scanned URL that contains it.
    pub code: String,
    /// The number that the user picked. Required with number matching.
    pub number: Option<String>,
}

/// The answer to `POST /v1/qr-login/scan`.
#[derive(Debug, Serialize, ToSchema)]
pub struct ScanResponse {
    /// The session's status, always `scanned`.
    pub status: &'static str,
    /// The browser that generated the session.
    pub client: ClientView,
    /// Time until the session expires, in seconds.
    pub expires_in: u64,
    /// With number matching, three numbers. The user picks the one that the browser shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numbers: Option<[String; 3]>,
    /// With a geolocation database, the signals in which the phone and the browser differ: `country`, `network`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub risk: Option<Vec<&'static str>>,
}

/// The browser that generated a session. Fields that the server does not know are `null`.
#[derive(Debug, Serialize, ToSchema)]
pub struct ClientView {
    /// IP address of the browser.
    pub ip: String,
    /// Name and major version of the browser, from `User-Agent`.
    pub browser: Option<String>,
    /// Name of the operating system, from `User-Agent`.
    pub os: Option<String>,
    /// Origin of the page.
    pub origin: Option<String>,
    /// The browser's description of itself, which is not verified.
    pub client_info: Option<String>,
    /// Time at which the session was generated (RFC 3339).
    pub time: String,
    /// Location of the address, with a location database that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<LocationView>,
    /// Network of the address, with a network database that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkView>,
}

/// The location of an address. Unknown fields are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct LocationView {
    /// English name of the city.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub city: Option<String>,
    /// English name of the first-level region, such as a state or province.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// English name of the country.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub country: Option<String>,
    /// Two-letter code of the country (ISO 3166-1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub country_code: Option<String>,
}

/// The network of an address. Unknown fields are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct NetworkView {
    /// Number of the autonomous system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asn: Option<u32>,
    /// Organization that operates the network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub organization: Option<String>,
}

/// The answer to `confirm`, `reject` and `cancel`.
#[derive(Debug, Serialize, ToSchema)]
pub struct StatusResponse {
    /// The session's status after the call.
    pub status: &'static str,
}

/// The user who scanned or confirmed, as the app token describes them.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct UserView {
    /// Display name of the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// URL of a picture of the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub picture: Option<String>,
}

/// Returns the delay that a Close reason names, in milliseconds.
#[must_use]
pub fn retry_after_millis(reason: &str) -> Option<u32> {
    reason.strip_prefix(RETRY_AFTER)?.parse().ok()
}

impl UserView {
    /// Returns the fields of `user` that the browser may see, or `None` if the app token has neither of them.
    #[must_use]
    pub fn of(user: PhoneUser) -> Option<Self> {
        (user.name.is_some() || user.picture.is_some()).then_some(Self { name: user.name, picture: user.picture })
    }
}

/// A frame from the server to the browser.
#[derive(Serialize, ToSchema)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum Frame {
    /// The session waits to be scanned.
    Pending {
        /// Version of the session.
        version: u32,
        /// Time until the session expires, in seconds.
        expires_in: u64,
    },
    /// A phone has scanned the code.
    Scanned {
        /// Version of the session.
        version: u32,
        /// The user who scanned.
        #[serde(skip_serializing_if = "Option::is_none")]
        user: Option<UserView>,
        /// With number matching, the number that the browser shows.
        #[serde(skip_serializing_if = "Option::is_none")]
        number: Option<String>,
    },
    /// The code has rotated. The browser shows the new one from now on.
    Rotated(CodeView),
    /// The login is confirmed.
    Confirmed(Confirmed),
    /// The user rejected the login.
    Rejected {
        /// Explanation for people.
        message: &'static str,
    },
    /// The session has expired.
    Expired {
        /// Explanation for people.
        message: &'static str,
    },
    /// The session was cancelled.
    Cancelled {
        /// `overload` if the server cancelled the session. Left out if the browser did.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'static str>,
    },
}

impl Frame {
    /// Returns the frame of a session that a phone user has rejected.
    #[must_use]
    pub const fn rejected() -> Self {
        Self::Rejected { message: "Login rejected by user" }
    }

    /// Returns the frame of a session that has expired.
    #[must_use]
    pub const fn expired() -> Self {
        Self::Expired { message: "QR code expired" }
    }

    /// Returns the frame of a session that was cancelled.
    #[must_use]
    pub const fn cancelled(by: Cancellation) -> Self {
        match by {
            Cancellation::Browser => Self::Cancelled { reason: None },
            Cancellation::Overload => Self::Cancelled { reason: Some("overload") },
        }
    }

    /// Returns the frame of a session whose token has been acknowledged.
    #[must_use]
    pub const fn claimed() -> Self {
        Self::Confirmed(Confirmed::Claimed { claimed: true })
    }

    /// Returns the value of the member `status`.
    #[must_use]
    pub const fn status(&self) -> &'static str {
        match self {
            Self::Pending { .. } => "pending",
            Self::Scanned { .. } => "scanned",
            Self::Rotated(_) => "rotated",
            Self::Confirmed(_) => "confirmed",
            Self::Rejected { .. } => "rejected",
            Self::Expired { .. } => "expired",
            Self::Cancelled { .. } => "cancelled",
        }
    }
}

/// The rest of a `confirmed` frame: the token, or that it was acknowledged before.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum Confirmed {
    /// The token has not been acknowledged, and is delivered.
    Token {
        /// The JWT, which is a secret.
        #[schema(value_type = String)]
        web_token: Zeroizing<String>,
        /// Type of the token, always `Bearer` (RFC 6750).
        token_type: &'static str,
        /// Time until the token expires, in seconds.
        expires_in: u64,
        /// The user who confirmed.
        #[serde(skip_serializing_if = "Option::is_none")]
        user: Option<UserView>,
    },
    /// The token has been acknowledged, and is not delivered again.
    Claimed {
        /// The constant `true`.
        claimed: bool,
    },
}

/// The answer to `GET /v1/qr-login/status/{session_id}`: the frame that a new WebSocket would begin with, and what a
/// page needs to show the code again.
#[derive(Serialize, ToSchema)]
pub struct SessionView {
    /// The frame that a new WebSocket would begin with.
    #[serde(flatten)]
    pub frame: Frame,
    /// Version of the session, if the frame does not have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// Time until the session expires, in seconds, if the frame has no `expires_in`. 0 once the session has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<u64>,
    /// The code in the QR code. This field and the next two are left out once the code cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The URL in the QR code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qr_url: Option<String>,
    /// The QR code as a `data:image/svg+xml` URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qr_image: Option<String>,
    /// Time between two heartbeats on the browser's connection, in seconds. Left out once the session has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat_seconds: Option<u32>,
}

/// A code as text, as a URL and as a picture.
#[derive(Debug, Serialize, ToSchema)]
pub struct CodeView {
    /// The code in the QR code. It is public.
    pub code: String,
    /// The URL in the QR code.
    pub qr_url: String,
    /// The QR code as a `data:image/svg+xml` URL.
    pub qr_image: String,
}

/// The data of the server-sent event `close`.
#[derive(Debug, Serialize)]
pub struct CloseView<'a> {
    /// Close code, one of [`close_code`].
    pub code: u16,
    /// Close reason, which may be empty.
    pub reason: &'a str,
}

/// The kind of an error answer. It determines the HTTP status and the stable `code` of a [`Problem`].
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

impl Problem {
    /// Creates an error answer of the kind `code`.
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

/// An error answer (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// Problem type, always `about:blank`. The member `code` has the kind of the error.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Reason phrase of the HTTP status.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// Kind of the error, stable and for programs.
    pub code: &'static str,
    /// Explanation of the error, for people.
    pub detail: String,
    /// Maximum age of the user's login on the phone, in seconds. Present only with `insufficient_user_authentication`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<u32>,
}
