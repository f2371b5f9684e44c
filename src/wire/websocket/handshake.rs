//! The opening handshake of the WebSocket, server side (RFC 6455 §4.2).

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Version;
use http::header::{CONNECTION, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE};
use thiserror::Error;

use crate::session::SessionId;
use crate::wire::fields::Fields;
use crate::wire::types::{ACK_SUBPROTOCOL, SESSION_SUBPROTOCOL};

/// Appended to the browser's key before hashing (RFC 6455 §1.3).
const HANDSHAKE_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Returns the `Sec-WebSocket-Accept` for this `Sec-WebSocket-Key` (RFC 6455 §4.2.2).
#[must_use]
pub fn accept_key(key: &[u8]) -> String {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key);
    hash.update(HANDSHAKE_GUID.as_bytes());
    STANDARD.encode(hash.finish())
}

/// Returns the session id that a browser offers as a subprotocol, to keep it out of the URL. `Sec-WebSocket-Protocol`
/// is the only header field of the handshake that a page can set.
pub fn offered_id(fields: &(impl Fields + ?Sized)) -> Option<SessionId> {
    let mut offered = fields.items(&SEC_WEBSOCKET_PROTOCOL);
    let id = offered.find_map(|item| item.strip_prefix(SESSION_SUBPROTOCOL.as_bytes()))?;
    SessionId::parse(std::str::from_utf8(id).ok()?)
}

/// The reason for which a request is no valid opening handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HandshakeError {
    /// The request is not an upgrade to a WebSocket of version 13.
    #[error("this path is a WebSocket; send an upgrade request of version 13 (RFC 6455)")]
    NoUpgrade,
    /// `Sec-WebSocket-Key` is missing, or is not 16 bytes in base64.
    #[error("Sec-WebSocket-Key is not 16 bytes in base64")]
    MalformedKey,
}

/// A valid opening handshake.
///
/// ```
/// use http::{HeaderMap, HeaderValue, Version};
/// use qrlogin::websocket::{Handshake, HandshakeError};
///
/// let mut fields = HeaderMap::new();
/// for (name, value) in [
///     ("connection", "Upgrade"),
///     ("upgrade", "websocket"),
///     ("sec-websocket-version", "13"),
///     ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
/// ] {
///     fields.insert(name, HeaderValue::from_static(value));
/// }
/// let handshake = Handshake::of(Version::HTTP_11, &fields)?;
/// let accept = handshake.response_fields().find(|(name, _)| *name == "Sec-WebSocket-Accept");
/// assert_eq!(accept, Some(("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")));
/// # Ok::<(), HandshakeError>(())
/// ```
#[derive(Debug)]
pub struct Handshake {
    accept: String,
    /// The browser offers the subprotocol `qrlogin.ack`, so it acknowledges its token with a message.
    pub acknowledges: bool,
}

impl Handshake {
    /// Reads the opening handshake in the header fields of a request (RFC 6455 §4.2.1).
    ///
    /// # Errors
    /// See [`HandshakeError`].
    pub fn of(version: Version, fields: &(impl Fields + ?Sized)) -> Result<Self, HandshakeError> {
        let asks = version >= Version::HTTP_11
            && fields.items(&CONNECTION).any(|item| item.eq_ignore_ascii_case(b"upgrade"))
            && fields.items(&UPGRADE).any(|item| item.eq_ignore_ascii_case(b"websocket"))
            && fields.line(&SEC_WEBSOCKET_VERSION) == Some(b"13");
        if !asks {
            return Err(HandshakeError::NoUpgrade);
        }
        let key = fields.line(&SEC_WEBSOCKET_KEY).unwrap_or_default();
        let mut nonce = [0; 18];
        if STANDARD.decode_slice(key, &mut nonce) != Ok(16) {
            return Err(HandshakeError::MalformedKey);
        }
        let acknowledges = fields.items(&SEC_WEBSOCKET_PROTOCOL).any(|item| item == ACK_SUBPROTOCOL.as_bytes());
        Ok(Self { accept: accept_key(key), acknowledges })
    }

    /// Returns the header fields of the response 101 (RFC 6455 §4.2.2).
    pub fn response_fields(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let subprotocol = self.acknowledges.then_some(("Sec-WebSocket-Protocol", ACK_SUBPROTOCOL));
        let always =
            [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Accept", self.accept.as_str())];
        always.into_iter().chain(subprotocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_key_matches_the_example_of_rfc_6455_section_1_3() {
        assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
