//! A browser with an open WebSocket.

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Error, Message, http};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::Server;
use crate::real_time::within;

/// What a browser received next.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    /// A text message, as JSON.
    Frame(Value),
    /// A Close with its code and its reason.
    Close(u16, String),
    /// A ping.
    Ping,
    /// The connection ended without a Close.
    Cut,
}

/// A browser with an open WebSocket.
pub struct Browser {
    /// The WebSocket.
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// The subprotocol that the server has chosen.
    pub subprotocol: Option<String>,
}

impl Browser {
    /// Opens a WebSocket. Returns the HTTP status if the server refuses it.
    pub async fn open(server: &Server, path: &str, subprotocol: Option<&str>) -> Result<Self, u16> {
        Self::send(Self::request(server, path, subprotocol)).await
    }

    /// Builds the handshake request of a WebSocket.
    pub fn request(server: &Server, path: &str, subprotocol: Option<&str>) -> http::Request<()> {
        let mut request = format!("{}{path}", server.base.replace("http", "ws")).into_client_request().unwrap();
        if let Some(subprotocol) = subprotocol {
            request.headers_mut().insert("sec-websocket-protocol", subprotocol.parse().unwrap());
        }
        request
    }

    /// Sends a handshake request. Returns the HTTP status if the server refuses it.
    pub async fn send(request: http::Request<()>) -> Result<Self, u16> {
        match within("the server answers a handshake", tokio_tungstenite::connect_async(request)).await {
            Ok((socket, response)) => {
                let subprotocol = response.headers().get("sec-websocket-protocol");
                let subprotocol = subprotocol.map(|value| value.to_str().unwrap().to_owned());
                Ok(Self { socket, subprotocol })
            }
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    /// Returns what the browser receives next. Answers pings and Closes, as browsers do.
    pub async fn next(&mut self) -> Seen {
        within("the browser receives a message or the end of its connection", self.read()).await
    }

    async fn read(&mut self) -> Seen {
        match self.socket.next().await {
            Some(Ok(Message::Text(text))) => Seen::Frame(serde_json::from_str(&text).unwrap()),
            Some(Ok(Message::Close(frame))) => {
                let frame = frame.expect("the server's Close has a code");
                // Reading to the end makes the WebSocket library answer the Close.
                while let Some(Ok(_)) = self.socket.next().await {}
                Seen::Close(frame.code.into(), frame.reason.to_string())
            }
            Some(Ok(Message::Ping(_))) => {
                self.socket.flush().await.unwrap();
                Seen::Ping
            }
            Some(Ok(other)) => panic!("unexpected: {other:?}"),
            Some(Err(_)) | None => Seen::Cut,
        }
    }

    /// Returns the next frame, skipping pings. Panics if its status is another.
    pub async fn frame(&mut self, status: &str) -> Value {
        match within(&format!("the browser receives {status}"), self.skip_pings()).await {
            Seen::Frame(frame) if frame["status"] == status => frame,
            other => panic!("expected {status}, received {other:?}"),
        }
    }

    /// Returns what the browser receives next other than a ping.
    pub(super) async fn skip_pings(&mut self) -> Seen {
        loop {
            match self.read().await {
                Seen::Ping => {}
                other => return other,
            }
        }
    }

    /// Asserts that the browser has received nothing but pings, by a ping of its own and the server's pong. On return,
    /// the server has also read everything that the browser sent before.
    pub async fn received_nothing(&mut self) {
        let asking = async {
            self.socket.send(Message::Ping("anything?".into())).await.unwrap();
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Ping(_))) => {}
                    other => return other,
                }
            }
        };
        match within("the server answers the browser's ping", asking).await {
            Some(Ok(Message::Pong(payload))) if payload == "anything?" => {}
            other => panic!("expected nothing but pings, received {other:?}"),
        }
    }

    /// Waits for a Close with this code, skipping pings. Panics if anything else is received.
    pub async fn closed(&mut self, code: u16) {
        match within(&format!("the browser receives Close {code}"), self.skip_pings()).await {
            Seen::Close(seen, _) if seen == code => {}
            other => panic!("expected Close {code}, received {other:?}"),
        }
    }

    /// Returns everything that the browser receives, up to the Close or the end of the connection.
    pub async fn rest(mut self) -> Vec<Seen> {
        let mut seen = Vec::new();
        loop {
            let next = self.next().await;
            let is_last = matches!(next, Seen::Close(..) | Seen::Cut);
            seen.push(next);
            if is_last {
                return seen;
            }
        }
    }

    /// Sends a Close with this code, as a page does, and reads until the connection ends.
    pub async fn close(mut self, code: u16) {
        let frame = CloseFrame { code: CloseCode::from(code), reason: "".into() };
        let closing = async {
            drop(self.socket.close(Some(frame)).await);
            while let Some(Ok(_)) = self.socket.next().await {}
        };
        within("the connection ends after the browser's Close", closing).await;
    }

    /// Resets the connection (TCP RST), as a failing network does.
    pub fn reset(self) {
        let stream = self.into_tcp();
        stream.set_zero_linger().unwrap();
    }

    /// Returns the TCP connection, which a test then reads and writes itself.
    pub fn into_tcp(self) -> TcpStream {
        match self.socket.into_inner() {
            MaybeTlsStream::Plain(stream) => stream,
            _ => unreachable!("no TLS here"),
        }
    }

    /// Returns the same connection as a WebSocket stream on which the test sends and reads single messages.
    pub async fn raw(self) -> WebSocketStream<TcpStream> {
        WebSocketStream::from_raw_socket(self.into_tcp(), Role::Client, None).await
    }
}
