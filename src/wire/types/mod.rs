//! The types of the wire: requests and responses over HTTP, and frames of the WebSocket. PROTOCOL.md documents each
//! field, and a test compares the two. The doc comments of schemas are their descriptions in the OpenAPI document.
//!
//! Types that hold a secret do not implement `Debug`, so that no secret is printed.

mod browser;
pub mod close_code;
mod frame;
mod phone;
mod problem;

use utoipa::ToSchema;

pub use browser::{GenerateRequest, GenerateResponse, SessionRequest, SessionView};
pub use frame::{CloseView, CodeView, Confirmed, Frame, UserView};
pub use phone::{
    ApplicationView, ClientView, CodeRequest, ConfirmRequest, LocationView, NetworkView, ScanResponse, StatusResponse,
};
pub use problem::{Problem, ProblemCode};

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
/// Media type of error responses (RFC 9457 §3).
pub const PROBLEM_MEDIA_TYPE: &str = "application/problem+json";

/// Returns the delay that a Close reason names, in milliseconds.
#[must_use]
pub fn retry_after_millis(reason: &str) -> Option<u32> {
    reason.strip_prefix(RETRY_AFTER)?.parse().ok()
}

/// A JWK Set (RFC 7517 §5).
#[derive(ToSchema)]
#[expect(dead_code, reason = "only a schema for OpenAPI: the signing keys serialize themselves")]
pub struct JwkSet {
    /// The public signing keys, of type Ed25519 (RFC 8037).
    keys: Vec<serde_json::Map<String, serde_json::Value>>,
}
