//! The wire types: what is said over HTTP and the WebSocket, field by field. PROTOCOL.md documents each; a test ties
//! the two together.
//!
//! Types that hold a secret have no `Debug`, so that none is ever printed.

use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use crate::session::PhoneUser;

/// The longest `client_info`, in characters.
pub const MAX_CLIENT_INFO_CHARS: usize = 256;
/// The subprotocol of a browser that acknowledges its token itself.
pub const ACK_SUBPROTOCOL: &str = "qrlogin.ack";
/// The text message with which such a browser acknowledges its token.
pub const ACK_MESSAGE: &str = "ack";
/// The text message that is answered with a heartbeat.
pub const PING_MESSAGE: &str = "ping";
/// What a subprotocol begins with that is no protocol: the session id follows, which then need not stand in the URL.
pub const SESSION_SUBPROTOCOL: &str = "qrlogin.session.";
/// The header in which status takes the session id on the path without it.
pub const SESSION_HEADER: &str = "x-qr-session";

/// The longest that a long poll waits, in seconds.
pub const MAX_WAIT_SECONDS: u32 = 25;
/// The server-sent event that says what a WebSocket's Close says.
pub const CLOSE_EVENT: &str = "close";
/// The id of the event that says that the session has expired; all others have its version.
pub const EXPIRED_EVENT_ID: &str = "expired";
/// The media type of RFC 9457.
pub const PROBLEM_MEDIA_TYPE: &str = "application/problem+json";

/// Close codes of the WebSocket (RFC 6455 §7.4; 4000 and up are our own), and of event streams.
pub mod close_code {
    /// Decided, cancelled or expired: do not come back.
    pub const DONE: u16 = 1000;
    /// The protocol was broken.
    pub const PROTOCOL_ERROR: u16 = 1002;
    /// A text frame that is not UTF-8.
    pub const INVALID_TEXT: u16 = 1007;
    /// A frame that is too long.
    pub const TOO_BIG: u16 = 1009;
    /// The token of a confirmed login cannot be made; come back with backoff.
    pub const INTERNAL: u16 = 1011;
    /// This node is restarting; come back after the delay in the reason.
    pub const RESTARTING: u16 = 1012;
    /// The store is unreachable; come back with backoff.
    pub const UNAVAILABLE: u16 = 1013;
    /// Two heartbeats went unanswered; come back.
    pub const HEARTBEAT: u16 = 4408;
    /// A newer connection took over: do not come back.
    pub const REPLACED: u16 = 4409;
}

/// A JWK Set (RFC 7517 §5).
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what the signing keys write themselves")]
pub struct JwkSet {
    /// Ed25519 keys (RFC 8037).
    keys: Vec<serde_json::Map<String, serde_json::Value>>,
}

/// `POST /v1/qr-login/generate`.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct GenerateRequest {
    /// The browser's own word on itself.
    #[schema(max_length = 256)]
    pub client_info: Option<String>,
}

/// Its answer.
#[derive(Serialize, ToSchema)]
pub struct GenerateResponse {
    /// The browser's secret.
    #[schema(value_type = String)]
    pub session_id: Zeroizing<String>,
    /// What the QR holds, public.
    pub code: String,
    /// The URL in the QR.
    pub qr_url: String,
    /// The QR, as a `data:image/svg+xml` URL.
    pub qr_image: String,
    /// Seconds until expiry.
    pub expires_in: u64,
    /// The instant of expiry, RFC 3339.
    pub expires_at: String,
    /// Seconds between two heartbeats on the connection on which the browser waits.
    pub heartbeat_seconds: u32,
    /// The path of the WebSocket.
    #[schema(value_type = String)]
    pub ws_path: Zeroizing<String>,
}

/// `POST /v1/qr-login/ack` and `/cancel`.
#[derive(Deserialize, ToSchema)]
pub struct SessionRequest {
    /// The browser's secret.
    #[schema(value_type = String)]
    pub session_id: Zeroizing<String>,
}

/// `POST /v1/qr-login/scan` and `/reject`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct CodeRequest {
    /// What the phone scanned: the code, or the URL that holds it.
    pub code: String,
}

/// `POST /v1/qr-login/confirm`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ConfirmRequest {
    /// What the phone scanned: the code, or the URL that holds it.
    pub code: String,
    /// The number that the phone's owner picked, where numbers are compared.
    pub number: Option<String>,
}

/// The answer to a scan.
#[derive(Debug, Serialize, ToSchema)]
pub struct ScanResponse {
    /// Always `scanned`.
    pub status: &'static str,
    /// Who is asking.
    pub client: ClientView,
    /// Seconds until expiry.
    pub expires_in: u64,
    /// Where numbers are compared, the three of which one must be picked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numbers: Option<[String; 3]>,
    /// Where addresses can be placed, in which respects the phone and the browser lie apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub risk: Option<Vec<&'static str>>,
}

/// Who is asking; `null` where the server does not know.
#[derive(Debug, Serialize, ToSchema)]
pub struct ClientView {
    /// The browser's address.
    pub ip: String,
    /// The browser's name and version.
    pub browser: Option<String>,
    /// Its operating system.
    pub os: Option<String>,
    /// The page's origin.
    pub origin: Option<String>,
    /// The browser's own unverified word.
    pub client_info: Option<String>,
    /// When it asked, RFC 3339.
    pub time: String,
    /// Where it is, as far as its address tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<LocationView>,
    /// In whose network it is, as far as its address tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkView>,
}

/// A place; what is not known is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct LocationView {
    /// The city's English name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub city: Option<String>,
    /// The English name of the state, province or the like.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The country's English name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub country: Option<String>,
    /// ISO 3166-1, two letters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub country_code: Option<String>,
}

/// A network; what is not known is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct NetworkView {
    /// The number of the autonomous system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asn: Option<u32>,
    /// Who runs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub organization: Option<String>,
}

/// The answer to a decision, and to `cancel`.
#[derive(Debug, Serialize, ToSchema)]
pub struct StatusResponse {
    /// What the session is now.
    pub status: &'static str,
}

/// Who scanned or confirmed, as far as the app token says.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct UserView {
    /// Display name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Picture URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub picture: Option<String>,
}

impl UserView {
    /// What may be shown of this user; `None` if the app token named neither.
    #[must_use]
    pub fn of(user: PhoneUser) -> Option<Self> {
        (user.name.is_some() || user.picture.is_some()).then_some(Self { name: user.name, picture: user.picture })
    }
}

/// A frame from the server to the browser.
#[derive(Serialize, ToSchema)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum Frame {
    /// Waiting for a phone.
    Pending {
        /// The session's version.
        version: u32,
        /// Seconds until expiry.
        expires_in: u64,
    },
    /// A phone has scanned.
    Scanned {
        /// The session's version.
        version: u32,
        /// Whose.
        #[serde(skip_serializing_if = "Option::is_none")]
        user: Option<UserView>,
        /// Where numbers are compared, the one to show.
        #[serde(skip_serializing_if = "Option::is_none")]
        number: Option<String>,
    },
    /// The code that is shown from now on.
    Rotated(CodeView),
    /// Logged in.
    Confirmed(Confirmed),
    /// The phone's owner said no.
    Rejected {
        /// For people.
        message: &'static str,
    },
    /// Out of time.
    Expired {
        /// For people.
        message: &'static str,
    },
    /// It was given up.
    Cancelled {
        /// Why, if not by the browser.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'static str>,
    },
}

/// The two forms of a confirmed login.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum Confirmed {
    /// With the token.
    Token {
        /// The JWT; a secret.
        #[schema(value_type = String)]
        web_token: Zeroizing<String>,
        /// Always `Bearer` (RFC 6750).
        token_type: &'static str,
        /// Seconds until the token's end.
        expires_in: u64,
        /// Who.
        #[serde(skip_serializing_if = "Option::is_none")]
        user: Option<UserView>,
    },
    /// The token was received before.
    Claimed {
        /// Always true.
        claimed: bool,
    },
}

/// `GET /v1/qr-login/status/{session_id}`: the frame that the WebSocket would begin with, and what a page needs to
/// show the code again.
#[derive(Serialize, ToSchema)]
pub struct SessionView {
    /// As on the WebSocket.
    #[serde(flatten)]
    pub frame: Frame,
    /// The session's version, where the frame does not have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// Seconds until expiry, where the frame has no `expires_in` of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<u64>,
    /// What the QR holds, while it can be used; as the next two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The URL in the QR.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qr_url: Option<String>,
    /// The QR, as a `data:image/svg+xml` URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qr_image: Option<String>,
    /// Seconds between two heartbeats on the connection on which the browser waits, until the session has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat_seconds: Option<u32>,
}

/// A code, in its three forms.
#[derive(Debug, Serialize, ToSchema)]
pub struct CodeView {
    /// What the QR holds, public.
    pub code: String,
    /// The URL in the QR.
    pub qr_url: String,
    /// The QR, as a `data:image/svg+xml` URL.
    pub qr_image: String,
}

/// The data of the event `close`.
#[derive(Debug, Serialize)]
pub struct CloseView<'a> {
    /// A close code, as of the WebSocket.
    pub code: u16,
    /// As of the WebSocket; it may be empty.
    pub reason: &'a str,
}

/// The kind of a refusal: its HTTP status and its code, which is stable and for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemCode {
    /// 400
    InvalidRequest,
    /// 401
    InvalidToken,
    /// 401 (RFC 9470)
    InsufficientUserAuthentication,
    /// 403
    WrongUser,
    /// 403
    NumberMismatch,
    /// 403
    Risk,
    /// 403
    ForbiddenOrigin,
    /// 403
    ForbiddenHost,
    /// 404
    NotFound,
    /// 405
    MethodNotAllowed,
    /// 408
    RequestTimeout,
    /// 409
    AlreadyScanned,
    /// 409
    AlreadyDecided,
    /// 409
    NotDecided,
    /// 409
    Replaced,
    /// 409
    NotScanned,
    /// 410
    Expired,
    /// 410
    Cancelled,
    /// 413
    PayloadTooLarge,
    /// 415
    UnsupportedMediaType,
    /// 426
    UpgradeRequired,
    /// 429
    RateLimited,
    /// 500
    Internal,
    /// 503
    Unavailable,
}

impl ProblemCode {
    /// All of them.
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

    /// Its HTTP status.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        self.parts().0
    }

    /// As it stands in a [`Problem`].
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.parts().1
    }
}

impl Problem {
    /// A refusal of this kind.
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

/// An error (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// Always `about:blank`: `code` says what it is.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The status in words.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// What it is, for programs; stable.
    pub code: &'static str,
    /// What it is, for people.
    pub detail: String,
    /// Of a login on the phone that is too old: how many seconds ago it may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<u32>,
}
