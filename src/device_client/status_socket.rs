//! The WebSocket on which a qrlogin server delivers the states of a login. With it, the client collects the tokens as soon
//! as the user has decided, instead of with its next poll.

use futures_util::StreamExt as _;
use http::StatusCode;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use reqwest::Upgraded;
use serde::Deserialize;
use thiserror::Error;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use url::Url;

use super::http_client::HttpClient;
use crate::system::http_client::HttpError;

/// Maximum length of a message, in bytes. That with a picture of a code is the longest.
const MAX_MESSAGE_BYTES: usize = 256 * 1024;
/// States in which the user has not decided. Each other state is the last one.
const UNDECIDED: [&str; 3] = ["pending", "scanned", "rotated"];

/// An open WebSocket.
pub(super) struct StatusSocket(WebSocketStream<Upgraded>);

/// The reason for which a WebSocket is not waited on any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The server has delivered the last state of the login.
    Decided,
    /// The connection was closed before.
    Lost,
}

/// An error of the handshake.
#[derive(Debug, Error)]
pub(super) enum HandshakeError {
    #[error("the URL of the WebSocket is not valid: {0}")]
    Url(#[from] url::ParseError),
    #[error("the URL of the WebSocket has no scheme ws or wss")]
    Scheme,
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("the server does not accept the WebSocket: status {0}")]
    Refused(StatusCode),
}

/// A message of the server.
#[derive(Deserialize)]
struct Delivered {
    status: String,
}

impl StatusSocket {
    /// Opens the WebSocket, as an upgrade of a request (RFC 6455 §4.1). It has the settings of all requests: trusted
    /// certificates, proxies, https unless the server is on this machine.
    pub(super) async fn open(http: &HttpClient, url: &str) -> Result<Self, HandshakeError> {
        let mut url = Url::parse(url)?;
        let scheme = match url.scheme() {
            "wss" => "https",
            "ws" => "http",
            _ => return Err(HandshakeError::Scheme),
        };
        url.set_scheme(scheme).map_err(|()| HandshakeError::Scheme)?;
        let key = generate_key();
        let request = http
            .0
            .get(url)
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_KEY, &key);
        let response = request.send().await.map_err(HttpError::from)?;
        let accept = response.headers().get(SEC_WEBSOCKET_ACCEPT).map(|value| value.as_bytes());
        let is_accepted = accept == Some(derive_accept_key(key.as_bytes()).as_bytes());
        if response.status() != StatusCode::SWITCHING_PROTOCOLS || !is_accepted {
            return Err(HandshakeError::Refused(response.status()));
        }
        let stream = response.upgrade().await.map_err(HttpError::from)?;
        let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE_BYTES));
        Ok(Self(WebSocketStream::from_raw_socket(stream, Role::Client, Some(config)).await))
    }

    /// Reads messages until the login has ended, or until the connection is closed.
    pub(super) async fn ended(mut self) -> Ending {
        while let Some(Ok(message)) = self.0.next().await {
            let Message::Text(text) = message else { continue };
            if serde_json::from_str(&text).is_ok_and(|Delivered { status }| !UNDECIDED.contains(&status.as_str())) {
                return Ending::Decided;
            }
        }
        Ending::Lost
    }
}
