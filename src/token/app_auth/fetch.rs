//! HTTP requests to the source of app tokens: a JWK Set or an introspection endpoint.

use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Method, StatusCode, redirect};
use serde::de::DeserializeOwned;
use thiserror::Error;
use url::Url;

use crate::telemetry::cause::explain;

/// Time limit of a request. Phones wait for its response.
const REQUEST_TIME: Duration = Duration::from_secs(3);
/// Maximum length of a response's body, in bytes.
const MAX_BYTES: usize = 512 * 1024;
/// The byte order mark, U+FEFF, in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// An HTTP source outside this server, at a fixed URL.
pub(super) struct HttpSource {
    http: Client,
    url: Url,
}

/// An error of a request. The text contains nothing of the request.
#[derive(Debug, Error)]
pub(super) enum FetchError {
    #[error("{0}")]
    NoResponse(String),
    #[error("it answered {0}")]
    Status(StatusCode),
    #[error("its answer is longer than {MAX_BYTES} bytes")]
    TooLong,
}

impl From<reqwest::Error> for FetchError {
    fn from(error: reqwest::Error) -> Self {
        // The URL may contain a secret. The log names the setting instead.
        Self::NoResponse(explain(&error.without_url()))
    }
}

impl HttpSource {
    /// Returns the source at this URL. A source on this machine may be plain http, and no proxy is used for it.
    pub(super) fn new(url: Url, is_loopback: bool) -> Result<Self, reqwest::Error> {
        let http = Client::builder()
            .timeout(REQUEST_TIME)
            // Only the configured host may answer.
            .redirect(redirect::Policy::none())
            .user_agent(concat!("qrlogin/", env!("CARGO_PKG_VERSION")));
        let http = if is_loopback { http.no_proxy() } else { http.https_only(true) };
        Ok(Self { http: http.build()?, url })
    }

    /// Requests the URL with GET. Returns the body of the response.
    pub(super) async fn get(&self) -> Result<Vec<u8>, FetchError> {
        self.request(Method::GET, None, None).await
    }

    /// Posts a form (`application/x-www-form-urlencoded`). Returns the body of the response.
    pub(super) async fn post(&self, form: String, authorization: Option<&HeaderValue>) -> Result<Vec<u8>, FetchError> {
        self.request(Method::POST, Some(form), authorization).await
    }

    async fn request(
        &self,
        method: Method,
        form: Option<String>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Vec<u8>, FetchError> {
        let mut request = self.http.request(method, self.url.clone()).header(ACCEPT, "application/json");
        if let Some(form) = form {
            request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form);
        }
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let mut response = request.send().await?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_BYTES {
                return Err(FetchError::TooLong);
            }
        }
        Ok(body)
    }
}

/// Parses a response's body as JSON. Skips a byte order mark before it (RFC 8259 §8.1).
pub(super) fn json_of<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    serde_json::from_slice(body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body)).ok()
}
