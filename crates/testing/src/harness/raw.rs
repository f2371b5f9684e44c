//! A TCP connection on which a test writes and reads bytes.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Server;
use crate::real_time::within;

/// Value of `Sec-WebSocket-Key`: the example of RFC 6455.
pub const WEBSOCKET_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// A TCP connection to a server.
pub struct RawConnection(
    /// The connection.
    pub TcpStream,
);

impl RawConnection {
    /// Connects to the server's public port.
    pub async fn connect(server: &Server) -> Self {
        let stream = TcpStream::connect(server.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    /// Writes these bytes.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within("the server reads", self.0.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Reads the head of the next answer and returns it in lower case.
    pub async fn head(&mut self) -> String {
        let reading = async {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(self.0.read_u8().await.unwrap());
            }
            String::from_utf8(head).unwrap().to_lowercase()
        };
        within("the server sends the head of an answer", reading).await
    }

    /// Reads the next answer to its end and returns its status.
    pub async fn status(&mut self) -> u16 {
        let head = self.head().await;
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        within("the server sends the body of an answer", self.0.read_exact(&mut body)).await.unwrap();
        head[9..12].parse().unwrap()
    }

    /// Reads the next frame, which must be shorter than 126 bytes. Returns its first byte and its payload.
    pub async fn frame(&mut self) -> (u8, Vec<u8>) {
        let reading = async {
            let first = self.0.read_u8().await.unwrap();
            let length = self.0.read_u8().await.unwrap();
            assert!(length < 126);
            let mut payload = vec![0; length.into()];
            self.0.read_exact(&mut payload).await.unwrap();
            (first, payload)
        };
        within("the server sends a frame", reading).await
    }

    /// Returns all bytes up to the end of the connection, or up to its reset.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        drop(within("the connection ends", self.0.read_to_end(&mut rest)).await);
        rest
    }
}

/// Returns the upgrade request of a WebSocket.
pub fn upgrade_request(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {WEBSOCKET_KEY}\r\n\r\n"
    )
}

/// Returns a masked frame with this first byte and payload, which must be shorter than 126 bytes. The mask is zero.
pub fn masked_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    assert!(length < 126);
    [&[first, 0x80 | length, 0, 0, 0, 0], payload].concat()
}
