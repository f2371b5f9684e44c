//! The HTTP calls, over one kept-alive connection each.

use std::net::SocketAddr;

use axum::body::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::net::TcpStream;

/// The server.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    /// For `Host`.
    pub(super) authority: String,
}

/// See the module.
pub(super) struct Api {
    sender: SendRequest<Full<Bytes>>,
    authority: String,
}

/// What `generate` gave.
pub(super) struct Generated {
    pub(super) id: String,
    pub(super) code: String,
}

/// A call that failed.
#[derive(Debug, Error)]
pub enum ApiFailure {
    /// No connection.
    #[error("cannot connect to the server: {0}")]
    Connect(std::io::Error),
    /// The connection broke.
    #[error("{call}: the connection broke: {source}")]
    Broken {
        /// Which.
        call: &'static str,
        /// How.
        source: hyper::Error,
    },
    /// Another answer than there should be.
    #[error("{call}: the server answered {status}: {code}")]
    Refused {
        /// Which.
        call: &'static str,
        /// With what.
        status: u16,
        /// Its stable code, or the beginning of what it said.
        code: String,
    },
    /// The tool itself is being torn down.
    #[error("stopped")]
    Stopped,
}

impl Api {
    pub(super) async fn connect(target: &Target) -> Result<Self, ApiFailure> {
        let stream = TcpStream::connect(target.address).await.map_err(ApiFailure::Connect)?;
        stream.set_nodelay(true).map_err(ApiFailure::Connect)?;
        let connected = handshake(TokioIo::new(stream)).await;
        let (sender, connection) = connected.map_err(|source| ApiFailure::Broken { call: "connect", source })?;
        // Its failure is the failure of the call that is under way.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, authority: target.authority.clone() })
    }

    /// A browser asks for a code.
    pub(super) async fn generate(&mut self) -> Result<Generated, ApiFailure> {
        let answer = self.call("generate", None, &json!({}), StatusCode::CREATED).await?;
        let text = |field: &str| answer[field].as_str().unwrap_or_default().to_owned();
        Ok(Generated { id: text("session_id"), code: text("code") })
    }

    /// A phone scans or decides.
    pub(super) async fn phone(&mut self, call: &'static str, code: &str, token: &str) -> Result<(), ApiFailure> {
        self.call(call, Some(token), &json!({ "code": code }), StatusCode::OK).await.map(drop)
    }

    /// A browser says that it has its token.
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
