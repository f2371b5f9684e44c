//! Requests of a browser, and the responses to them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use super::Frame;

/// The body of `POST /v1/qr-login/generate`.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct GenerateRequest {
    /// The browser's description of itself. It is shown to the phone as unverified.
    #[schema(max_length = 256)]
    pub client_info: Option<String>,
}

/// The response to `POST /v1/qr-login/generate`.
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

/// The response to `GET /v1/qr-login/status/{session_id}`: the frame that a new WebSocket would begin with, and what a
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
