//! HTTP calls of browsers and phones, each client over one kept-alive connection.

use std::net::SocketAddr;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::net::TcpStream;

/// The server that is measured.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    /// Value of the `Host` header.
    pub(super) authority: String,
}

/// A client of the server's HTTP API, with one connection.
pub(super) struct Api {
    sender: SendRequest<Full<Bytes>>,
    authority: String,
}

/// The session that a call of `generate` returned.
pub(super) struct Generated {
    pub(super) id: String,
    pub(super) code: String,
}

/// An error of an HTTP call.
#[derive(Debug, Error)]
pub enum ApiFailure {
    /// The connection cannot be opened.
    #[error("cannot connect to the server: {0}")]
    Connect(std::io::Error),
    /// The connection failed during the call.
    #[error("{call}: the connection broke: {source}")]
    Broken {
        /// Name of the call.
        call: &'static str,
        /// Error of the HTTP client.
        source: hyper::Error,
    },
    /// The server answered with another status than the expected one.
    #[error("{call}: the server answered {status}: {code}")]
    Refused {
        /// Name of the call.
        call: &'static str,
        /// Status of the answer.
        status: u16,
        /// Error code of the answer (`code`), or the first 100 characters of its body.
        code: String,
    },
    /// A task of the load test panicked or was cancelled.
    #[error("stopped")]
    Stopped,
}

impl Api {
    pub(super) async fn connect(target: &Target) -> Result<Self, ApiFailure> {
        let stream = TcpStream::connect(target.address).await.map_err(ApiFailure::Connect)?;
        stream.set_nodelay(true).map_err(ApiFailure::Connect)?;
        let connected = handshake(TokioIo::new(stream)).await;
        let (sender, connection) = connected.map_err(|source| ApiFailure::Broken { call: "connect", source })?;
        // The call that is under way reports a failure of the connection.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, authority: target.authority.clone() })
    }

    /// Generates a session, as a browser.
    pub(super) async fn generate(&mut self) -> Result<Generated, ApiFailure> {
        let answer = self.call("generate", None, &json!({}), StatusCode::CREATED).await?;
        let text = |field: &str| answer[field].as_str().unwrap_or_default().to_owned();
        Ok(Generated { id: text("session_id"), code: text("code") })
    }

    /// Scans or decides, as a phone. `call` is `scan`, `confirm` or `reject`.
    pub(super) async fn phone(&mut self, call: &'static str, code: &str, token: &str) -> Result<(), ApiFailure> {
        self.call(call, Some(token), &json!({ "code": code }), StatusCode::OK).await.map(drop)
    }

    /// Acknowledges the token, as a browser without a WebSocket.
    pub(super) async fn acknowledge(&mut self, id: &str) -> Result<(), ApiFailure> {
        self.call("ack", None, &json!({ "session_id": id }), StatusCode::NO_CONTENT).await.map(drop)
    }

    async fn call(
        &mut self,
        call: &'static str,
        token: Option<&str>,
        body: &Value,
        expected: StatusCode,
    ) -> Result<Value, ApiFailure> {
        let broken = |source| ApiFailure::Broken { call, source };
        let mut request = Request::post(format!("/v1/qr-login/{call}"))
            .header("Host", &self.authority)
            .header("Content-Type", "application/json");
        if let Some(token) = token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let refused = |status: StatusCode, code: &str| ApiFailure::Refused {
            call,
            status: status.as_u16(),
            code: code.chars().take(100).collect(),
        };
        let request = request
            .body(Full::new(Bytes::from(body.to_string())))
            .map_err(|error| refused(StatusCode::BAD_REQUEST, &error.to_string()))?;
        self.sender.ready().await.map_err(broken)?;
        let response = self.sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let bytes = response.into_body().collect().await.map_err(broken)?.to_bytes();
        let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if status == expected {
            Ok(answer)
        } else {
            Err(refused(status, answer["code"].as_str().unwrap_or(&String::from_utf8_lossy(&bytes))))
        }
    }
}
