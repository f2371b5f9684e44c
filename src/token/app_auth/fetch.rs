//! HTTP requests to the source of app tokens: a JWK Set or an introspection endpoint.

use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Method, StatusCode};
use serde::de::DeserializeOwned;
use thiserror::Error;
use url::Url;

use crate::system::http_client::{HttpError, http_client, read_body};

/// Time limit of a request. Phones wait for its response.
const REQUEST_TIME: Duration = Duration::from_secs(3);
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
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("it answered {0}")]
    Status(StatusCode),
}

impl HttpSource {
    /// Returns the source at this URL. A source on this machine may be plain http, and no proxy is used for it.
    pub(super) fn new(url: Url, is_loopback: bool) -> Result<Self, reqwest::Error> {
        Ok(Self { http: http_client(REQUEST_TIME, is_loopback)?, url })
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
        let response = request.send().await.map_err(HttpError::from)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        Ok(read_body(response).await?)
    }
}

/// Parses a response's body as JSON. Skips a byte order mark before it (RFC 8259 §8.1).
pub(super) fn json_of<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    serde_json::from_slice(body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body)).ok()
}
