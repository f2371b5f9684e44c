//! HTTP requests to the hosts that the settings name: a JWK Set, an introspection endpoint, an OpenID provider.

use std::time::Duration;

use reqwest::{Client, Response, redirect};
use thiserror::Error;

use crate::telemetry::cause::explain;

/// Maximum length of a response's body, in bytes.
const MAX_BYTES: usize = 512 * 1024;

/// An error of a request. The text contains nothing of the request.
#[derive(Debug, Error)]
pub enum HttpError {
    /// There is no response, or it broke off.
    #[error("{0}")]
    NoResponse(String),
    /// The body of the response is too long.
    #[error("its answer is longer than {MAX_BYTES} bytes")]
    TooLong,
}

impl From<reqwest::Error> for HttpError {
    fn from(error: reqwest::Error) -> Self {
        // The URL may contain a secret. The log names the setting instead.
        Self::NoResponse(explain(&error.without_url()))
    }
}

/// Returns a client whose requests take at most `timeout`. It follows no redirect, because only the configured host may
/// answer, and get a secret. A host on this machine may be plain http, and no proxy is used for it.
///
/// # Errors
/// Returns an error if the system's trusted certificates cannot be used.
pub fn http_client(timeout: Duration, is_loopback: bool) -> Result<Client, reqwest::Error> {
    let builder = Client::builder()
        .timeout(timeout)
        .redirect(redirect::Policy::none())
        .user_agent(concat!("qrlogin/", env!("CARGO_PKG_VERSION")));
    if is_loopback { builder.no_proxy().build() } else { builder.https_only(true).build() }
}

/// Sends a request, and returns the response with its whole body.
///
/// # Errors
/// Returns an error if the request cannot be sent, or if the response cannot be read (see [`read_body`]).
pub async fn send(client: &Client, request: http::Request<Vec<u8>>) -> Result<http::Response<Vec<u8>>, HttpError> {
    let received = client.execute(request.try_into()?).await?;
    let mut response = http::Response::new(Vec::new());
    *response.status_mut() = received.status();
    response.headers_mut().clone_from(received.headers());
    *response.body_mut() = read_body(received).await?;
    Ok(response)
}

/// Reads the body of a response.
///
/// # Errors
/// Returns an error if the body breaks off or is longer than 512 KiB.
pub async fn read_body(mut response: Response) -> Result<Vec<u8>, HttpError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_BYTES {
            return Err(HttpError::TooLong);
        }
    }
    Ok(body)
}
