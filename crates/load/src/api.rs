//! HTTP calls of browsers and phones, each client over one kept-alive connection.

use std::net::SocketAddr;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap};
use hyper::http::request::Builder;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::net::TcpStream;

use crate::oauth::{AuthorizePage, OAuthClient};

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

/// The session that the server has generated for a browser.
pub(super) struct Generated {
    pub(super) id: String,
    pub(super) code: String,
    /// Page that shows the code, if the session is that of an authorization request.
    pub(super) page: Option<AuthorizePage>,
}

/// An answer of the server.
pub(super) struct Answer {
    call: &'static str,
    status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
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
        /// Error code of the answer (`code` or `error`), or the first 100 characters of its body.
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

    /// Generates a session, as a browser: by an authorization request if there is an OAuth client.
    pub(super) async fn generate(&mut self, client: Option<&OAuthClient>) -> Result<Generated, ApiFailure> {
        if let Some(client) = client {
            return self.authorize(client).await;
        }
        let answer = self.call("generate", None, &json!({}), StatusCode::CREATED).await?;
        let text = |field: &str| answer[field].as_str().unwrap_or_default().to_owned();
        Ok(Generated { id: text("session_id"), code: text("code"), page: None })
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
        let mut request = Request::post(format!("/v1/qr-login/{call}")).header(CONTENT_TYPE, "application/json");
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        Ok(self.send(call, request, body.to_string()).await?.expect(expected)?.json())
    }

    /// Sends a request and reads the answer. `call` is its name in errors.
    pub(super) async fn send(
        &mut self,
        call: &'static str,
        request: Builder,
        body: String,
    ) -> Result<Answer, ApiFailure> {
        let broken = |source| ApiFailure::Broken { call, source };
        let request = request.header(HOST, &self.authority).body(Full::new(Bytes::from(body))).map_err(|error| {
            ApiFailure::Refused { call, status: StatusCode::BAD_REQUEST.as_u16(), code: error.to_string() }
        })?;
        self.sender.ready().await.map_err(broken)?;
        let (head, body) = self.sender.send_request(request).await.map_err(broken)?.into_parts();
        let body = body.collect().await.map_err(broken)?.to_bytes();
        Ok(Answer { call, status: head.status, headers: head.headers, body })
    }
}

impl Answer {
    /// Returns the answer if it has this status.
    pub(super) fn expect(self, status: StatusCode) -> Result<Self, ApiFailure> {
        if self.status == status { Ok(self) } else { Err(self.refused()) }
    }

    /// Returns the failure that the answer means if it is not the expected one.
    pub(super) fn refused(&self) -> ApiFailure {
        let answer = self.json();
        // `error` is the error code of OAuth (RFC 6749 §5.2).
        let code = answer["code"].as_str().or_else(|| answer["error"].as_str());
        let text = String::from_utf8_lossy(&self.body);
        let code = code.unwrap_or(&text).chars().take(100).collect();
        ApiFailure::Refused { call: self.call, status: self.status.as_u16(), code }
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}
