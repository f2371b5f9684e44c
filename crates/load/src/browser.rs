//! A browser that waits for its login, on one of the transports.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures_util::{SinkExt as _, StreamExt as _};
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::api::Target;
use crate::{Shared, Transport};

/// Subprotocol of a browser that acknowledges its token (PROTOCOL.md).
const ACK_SUBPROTOCOL: &str = "qrlogin.ack";
/// Message that acknowledges the token.
const ACK_MESSAGE: &str = "ack";
/// Header field with the session id of an event stream or a long poll.
const SESSION_HEADER: &str = "x-qr-session";
/// Time that a long poll waits for a change, in seconds. It is the longest that the server accepts.
const POLL_SECONDS: u32 = 25;
/// Size of a browser's read buffer, in bytes. It is most of the memory that a browser costs this tool.
const BUFFER_BYTES: usize = 1024;

/// Maximum length of the head of an answer, in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Ending, in the report, of a connection that this tool closed.
const CLOSED_BY_TOOL: &str = "closed by the tool";
/// Part of the frame that delivers the token.
const CONFIRMED: &str = r#""status":"confirmed""#;

/// A browser with an open connection.
pub(super) enum Browser {
    /// A WebSocket, and whether the browser acknowledges its token.
    WebSocket(Box<WebSocketStream<TcpStream>>, bool),
    Events(Events),
    Polls(Polls),
}

/// A browser that reads a stream of events.
pub(super) struct Events {
    stream: TcpStream,
    /// Bytes that have been read since the last complete event.
    text: Vec<u8>,
}

/// A browser that uses long polls.
pub(super) struct Polls {
    target: Arc<Target>,
    id: String,
    source: Option<IpAddr>,
    /// Connection of the pending poll.
    stream: TcpStream,
}

/// An error of opening a browser.
#[derive(Debug, Error)]
pub(super) enum OpenFailure {
    #[error("a browser cannot connect: {0}")]
    Connect(#[from] std::io::Error),
    #[error("a browser was refused: {0}")]
    Handshake(#[source] Box<Error>),
    #[error("a browser was refused: {0}")]
    Refused(String),
}

impl Browser {
    /// Opens the connection on which the browser waits, from the address `source` if there is one.
    ///
    /// # Errors
    /// Returns an error if the connection cannot be opened, or if the server refuses it.
    pub(super) async fn open(
        transport: Transport,
        target: &Arc<Target>,
        id: &str,
        source: Option<IpAddr>,
    ) -> Result<Self, OpenFailure> {
        match transport {
            Transport::Websocket | Transport::WebsocketAck => {
                let stream = connect(target, source).await?;
                let url = format!("ws://{}/v1/ws/qr/{id}", target.authority);
                let mut request = url.into_client_request().map_err(|error| OpenFailure::Handshake(Box::new(error)))?;
                let acknowledges = transport == Transport::WebsocketAck;
                if acknowledges {
                    let subprotocol = HeaderValue::from_static(ACK_SUBPROTOCOL);
                    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, subprotocol);
                }
                let config = WebSocketConfig::default()
                    .read_buffer_size(BUFFER_BYTES)
                    .write_buffer_size(0)
                    .max_write_buffer_size(16384);
                let upgraded = client_async_with_config(request, stream, Some(config)).await;
                let (socket, _) = upgraded.map_err(|error| OpenFailure::Handshake(Box::new(error)))?;
                Ok(Self::WebSocket(Box::new(socket), acknowledges))
            }
            Transport::Sse => Ok(Self::Events(Events::open(target, id, source).await?)),
            Transport::Poll => Ok(Self::Polls(Polls::open(target.clone(), id.to_owned(), source).await?)),
        }
    }

    /// Waits until the connection ends. Sends the time at which the token arrived to `arrived`.
    pub(super) async fn wait(self, shared: &Shared, arrived: Option<oneshot::Sender<Instant>>) {
        match self {
            Self::WebSocket(socket, acknowledges) => wait_on_websocket(*socket, acknowledges, shared, arrived).await,
            Self::Events(events) => events.wait(shared, arrived).await,
            Self::Polls(polls) => polls.wait(shared, arrived).await,
        }
    }
}

async fn connect(target: &Target, source: Option<IpAddr>) -> std::io::Result<TcpStream> {
    let socket = if target.address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    let stream = socket.connect(target.address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn ask(target: &Target, source: Option<IpAddr>, path: &str, id: &str) -> std::io::Result<TcpStream> {
    let mut stream = connect(target, source).await?;
    // `Connection: close` makes the server close the connection after the answer, so its end marks the end of the
    // answer.
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{SESSION_HEADER}: {id}\r\n\r\n",
        target.authority
    );
    stream.write_all(request.as_bytes()).await?;
    Ok(stream)
}

impl Events {
    async fn open(target: &Target, id: &str, source: Option<IpAddr>) -> Result<Self, OpenFailure> {
        let mut stream = ask(target, source, "/v1/sse/qr", id).await?;
        let mut text = Vec::with_capacity(BUFFER_BYTES);
        loop {
            let read = stream.read_buf(&mut text).await?;
            let head = text.windows(4).position(|bytes| bytes == b"\r\n\r\n");
            if let Some(length) = head.filter(|_| text.starts_with(b"HTTP/1.1 200 ")) {
                text.drain(..length + 4);
                return Ok(Self { stream, text });
            }
            if head.is_some() || read == 0 || text.len() > MAX_HEAD_BYTES {
                return Err(OpenFailure::Refused(status_of(&text)));
            }
        }
    }

    async fn wait(mut self, shared: &Shared, mut arrived: Option<oneshot::Sender<Instant>>) {
        let ending = loop {
            let said = String::from_utf8_lossy(&self.text);
            note_arrival(&said, &mut arrived);
            if let Some((_, close)) = said.split_once("event: close\ndata: {\"code\":") {
                break digits(close);
            }
            if said.ends_with("\n\n") {
                self.text.clear();
            }
            tokio::select! {
                read = self.stream.read_buf(&mut self.text) => if !matches!(read, Ok(1..)) { break "cut".to_owned() },
                () = shared.goodbye.cancelled() => break CLOSED_BY_TOOL.to_owned(),
            }
        };
        shared.count_ending(ending);
    }
}

impl Polls {
    async fn open(target: Arc<Target>, id: String, source: Option<IpAddr>) -> Result<Self, OpenFailure> {
        let stream = Self::ask(&target, &id, source, "1").await?;
        Ok(Self { target, id, source, stream })
    }

    async fn ask(target: &Target, id: &str, source: Option<IpAddr>, version: &str) -> std::io::Result<TcpStream> {
        let path = format!("/v1/qr-login/status?wait={POLL_SECONDS}&version={version}");
        ask(target, source, &path, id).await
    }

    async fn wait(mut self, shared: &Shared, mut arrived: Option<oneshot::Sender<Instant>>) {
        let ending = loop {
            let mut answer = Vec::with_capacity(BUFFER_BYTES);
            tokio::select! {
                read = self.stream.read_to_end(&mut answer) => if read.is_err() { break "cut".to_owned() },
                () = shared.goodbye.cancelled() => break CLOSED_BY_TOOL.to_owned(),
            }
            let said = String::from_utf8_lossy(&answer);
            note_arrival(&said, &mut arrived);
            let is_waiting = [r#""status":"pending""#, r#""status":"scanned""#].iter().any(|word| said.contains(word));
            let Some((_, version)) = said.split_once("\"version\":").filter(|_| is_waiting) else {
                break status_of(&answer);
            };
            match Self::ask(&self.target, &self.id, self.source, &digits(version)).await {
                Ok(stream) => self.stream = stream,
                Err(error) => break error.to_string(),
            }
        };
        shared.count_ending(ending);
    }
}

fn note_arrival(said: &str, arrived: &mut Option<oneshot::Sender<Instant>>) {
    if said.contains(CONFIRMED)
        && let Some(arrived) = arrived.take()
    {
        let _ = arrived.send(Instant::now());
    }
}

fn status_of(answer: &[u8]) -> String {
    let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = line.strip_prefix(b"HTTP/1.1 ").unwrap_or(line);
    if line.is_empty() { "cut".to_owned() } else { String::from_utf8_lossy(line).into_owned() }
}

fn digits(text: &str) -> String {
    text.chars().take_while(char::is_ascii_digit).collect()
}

async fn wait_on_websocket(
    mut socket: WebSocketStream<TcpStream>,
    acknowledges: bool,
    shared: &Shared,
    mut arrived: Option<oneshot::Sender<Instant>>,
) {
    let ending = loop {
        let message = tokio::select! {
            message = socket.next() => message,
            () = shared.goodbye.cancelled() => {
                let close = CloseFrame { code: CloseCode::Away, reason: "".into() };
                drop(socket.send(Message::Close(Some(close))).await);
                break CLOSED_BY_TOOL.to_owned();
            }
        };
        match message {
            Some(Ok(Message::Text(text))) => {
                note_arrival(&text, &mut arrived);
                // If this fails, the next read fails too.
                if acknowledges && text.contains(CONFIRMED) {
                    drop(socket.send(Message::text(ACK_MESSAGE)).await);
                }
            }
            Some(Ok(Message::Close(frame))) => {
                // Further reads make tungstenite answer the Close.
                while let Some(Ok(_)) = socket.next().await {}
                break frame.map_or_else(|| "no code".to_owned(), |frame| u16::from(frame.code).to_string());
            }
            Some(Ok(_)) => {}
            Some(Err(_)) | None => break "cut".to_owned(),
        }
    };
    shared.count_ending(ending);
}
