//! The opening handshake of the WebSocket, server side (RFC 6455 §4.2).

use axum::http::Version;
use axum::http::header::{
    CONNECTION, HeaderName, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use axum::http::{HeaderMap, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::problem::ApiError;
use crate::session::SessionId;
use crate::wire::types::{ACK_SUBPROTOCOL, SESSION_SUBPROTOCOL};
use crate::wire::websocket::accept_key;

/// Path of the WebSocket, up to the session id.
pub(super) const WEBSOCKET_PATH: &str = "/v1/ws/qr";

/// The header fields of a request, parsed by hyper or by the acceptor.
pub(super) trait Fields {
    /// Returns the values of all field lines of a name, in order.
    fn lines<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]>;

    /// Returns the value of the first field line of a name.
    fn line<'a>(&'a self, name: &'a HeaderName) -> Option<&'a [u8]> {
        self.lines(name).next()
    }

    /// Returns the comma-separated items of a field, of all its lines (RFC 9110 §5.3).
    fn items<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        self.lines(name).flat_map(|line| line.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
    }
}

impl Fields for HeaderMap {
    fn lines<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        self.get_all(name).iter().map(HeaderValue::as_bytes)
    }
}

impl Fields for [httparse::Header<'_>] {
    fn lines<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(move |field| field.name.eq_ignore_ascii_case(name.as_str())).map(|field| field.value)
    }
}

/// Returns the session id that a browser offers as a subprotocol, to keep it out of the URL. `Sec-WebSocket-Protocol`
/// is the only header field of the handshake that a page can set.
pub(super) fn offered_id(fields: &(impl Fields + ?Sized)) -> Option<SessionId> {
    let mut offered = fields.items(&SEC_WEBSOCKET_PROTOCOL);
    let id = offered.find_map(|item| item.strip_prefix(SESSION_SUBPROTOCOL.as_bytes()))?;
    SessionId::parse(std::str::from_utf8(id).ok()?)
}

/// A valid opening handshake.
#[derive(Debug)]
pub(super) struct Handshake {
    accept: String,
    /// The browser offers [`ACK_SUBPROTOCOL`], so it acknowledges its token with a message.
    pub(super) acknowledges: bool,
}

impl Handshake {
    /// Reads the opening handshake in the header fields of a request (RFC 6455 §4.2.1).
    ///
    /// # Errors
    /// Returns an error if the request is not an upgrade to a WebSocket of version 13, or if its `Sec-WebSocket-Key` is
    /// malformed.
    pub(super) fn of(version: Version, fields: &(impl Fields + ?Sized)) -> Result<Self, ApiError> {
        let asks = version >= Version::HTTP_11
            && fields.items(&CONNECTION).any(|item| item.eq_ignore_ascii_case(b"upgrade"))
            && fields.items(&UPGRADE).any(|item| item.eq_ignore_ascii_case(b"websocket"))
            && fields.line(&SEC_WEBSOCKET_VERSION) == Some(b"13");
        if !asks {
            return Err(ApiError::UpgradeRequired);
        }
        let key = fields.line(&SEC_WEBSOCKET_KEY).unwrap_or_default();
        let mut nonce = [0; 18];
        if STANDARD.decode_slice(key, &mut nonce) != Ok(16) {
            return Err(ApiError::InvalidRequest("Sec-WebSocket-Key is not 16 bytes in base64".to_owned()));
        }
        let acknowledges = fields.items(&SEC_WEBSOCKET_PROTOCOL).any(|item| item == ACK_SUBPROTOCOL.as_bytes());
        Ok(Self { accept: accept_key(key), acknowledges })
    }

    /// Returns the header fields of the answer 101 (RFC 6455 §4.2.2).
    pub(super) fn answer(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let subprotocol = self.acknowledges.then_some(("Sec-WebSocket-Protocol", ACK_SUBPROTOCOL));
        let always =
            [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Accept", self.accept.as_str())];
        always.into_iter().chain(subprotocol)
    }
}
