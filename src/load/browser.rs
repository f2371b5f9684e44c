//! A browser that waits.

use std::net::{IpAddr, SocketAddr};

use futures_util::{SinkExt as _, StreamExt as _};
use thiserror::Error;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::Shared;
use super::api::Target;
use crate::metrics::Stopwatch;

/// Most of what a browser costs this tool.
const BUFFER_BYTES: usize = 1024;

/// See the module.
pub(super) struct Browser(WebSocketStream<TcpStream>);

/// A browser that could not be opened.
#[derive(Debug, Error)]
pub(super) enum OpenFailure {
    #[error("a browser cannot connect: {0}")]
    Connect(#[from] std::io::Error),
    #[error("a browser was refused: {0}")]
    Handshake(#[source] Box<Error>),
}

impl Browser {
    /// Opens a WebSocket from `source`.
    pub(super) async fn open(target: &Target, id: &str, source: Option<IpAddr>) -> Result<Self, OpenFailure> {
        let socket = if target.address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if let Some(source) = source {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        let stream = socket.connect(target.address).await?;
        stream.set_nodelay(true)?;
        let url = format!("ws://{}/v1/ws/qr/{id}", target.authority);
        let config =
            WebSocketConfig::default().read_buffer_size(BUFFER_BYTES).write_buffer_size(0).max_write_buffer_size(16384);
        let upgraded = client_async_with_config(url, stream, Some(config)).await;
        let (socket, _) = upgraded.map_err(|error| OpenFailure::Handshake(Box::new(error)))?;
        Ok(Self(socket))
    }

    /// Waits to the end; says when the token arrived, if anybody wants to know.
    pub(super) async fn wait(self, shared: &Shared, mut arrived: Option<oneshot::Sender<Stopwatch>>) {
        let mut socket = self.0;
        let ending = loop {
            let message = tokio::select! {
                message = socket.next() => message,
                () = shared.goodbye.cancelled() => {
                    let close = CloseFrame { code: CloseCode::Away, reason: "".into() };
                    drop(socket.send(Message::Close(Some(close))).await);
                    break "closed by the tool".to_owned();
                }
            };
            match message {
                Some(Ok(Message::Text(text))) if text.contains(r#""status":"confirmed""#) => {
                    if let Some(arrived) = arrived.take() {
                        let _ = arrived.send(Stopwatch::start());
                    }
                }
                Some(Ok(Message::Close(frame))) => {
                    // Reading on sends the Close back.
                    while let Some(Ok(_)) = socket.next().await {}
                    break frame.map_or_else(|| "no code".to_owned(), |frame| u16::from(frame.code).to_string());
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => break "cut".to_owned(),
            }
        };
        shared.count(|tally| *tally.closed.entry(ending).or_default() += 1);
    }
}
