//! The WebSocket's opening handshake, server side (RFC 6455 §4.2).

use axum::http::header::{
    CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Version};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::upgrade::OnUpgrade;

use super::problem::ApiError;
use crate::protocol::ACK_SUBPROTOCOL;
use crate::websocket::accept_key;

/// A request that may become a WebSocket.
pub(super) struct Handshake {
    accept: String,
    /// The browser acknowledges its token itself.
    pub(super) acknowledges: bool,
    /// Resolves to the connection once the answer is written.
    pub(super) upgrade: OnUpgrade,
}

impl Handshake {
    /// Whether this request asks for a WebSocket.
    ///
    /// # Errors
    /// It does not, or in a form that cannot be answered.
    pub(super) fn of(parts: &mut Parts) -> Result<Self, ApiError> {
        let headers = &parts.headers;
        let asks = parts.version >= Version::HTTP_11
            && tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"))
            && tokens(headers, &UPGRADE).any(|token| token.eq_ignore_ascii_case("websocket"))
            && headers.get(SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
        if !asks {
            return Err(ApiError::UpgradeRequired);
        }
        let key = headers.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
        if STANDARD.decode(key).map(|nonce| nonce.len()) != Ok(16) {
            return Err(ApiError::InvalidRequest("Sec-WebSocket-Key is not 16 bytes in base64".to_owned()));
        }
        let accept = accept_key(key);
        let acknowledges = tokens(headers, &SEC_WEBSOCKET_PROTOCOL).any(|token| token == ACK_SUBPROTOCOL);
        let upgrade = parts.extensions.remove::<OnUpgrade>().ok_or(ApiError::UpgradeRequired)?;
        Ok(Self { accept, acknowledges, upgrade })
    }

    /// The answer that makes it one.
    pub(super) fn response(&self) -> Result<Response, ApiError> {
        let accept = HeaderValue::from_str(&self.accept).map_err(|_| ApiError::UpgradeRequired)?;
        let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        if self.acknowledges {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(ACK_SUBPROTOCOL));
        }
        Ok(response)
    }
}

/// The comma-separated items of a header, over all its lines.
fn tokens<'a>(headers: &'a HeaderMap, name: &'a HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}
