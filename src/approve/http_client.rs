//! HTTP requests to the OpenID provider.

use std::time::Duration;

use futures_util::future::BoxFuture;
use openidconnect::{AsyncHttpClient, HttpRequest, HttpResponse};
use reqwest::redirect;
use thiserror::Error;

use crate::telemetry::cause::explain;

/// Time limit of a request to the provider. The user waits for its response.
const REQUEST_TIME: Duration = Duration::from_secs(5);
/// Maximum length of a response's body, in bytes.
const MAX_BYTES: usize = 512 * 1024;

/// Sends the requests of `openidconnect` to the provider.
pub(super) struct HttpClient(reqwest::Client);

impl HttpClient {
    /// Returns a client. A provider on this machine may be plain http, and no proxy is used for it.
    pub(super) fn new(is_loopback: bool) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .timeout(REQUEST_TIME)
            // A redirect could lead the client secret to another host (OAuth 2.0 Security BCP §4.12).
            .redirect(redirect::Policy::none())
            .user_agent(concat!("qrlogin/", env!("CARGO_PKG_VERSION")));
        let http = if is_loopback { http.no_proxy() } else { http.https_only(true) };
        Ok(Self(http.build()?))
    }
}

impl<'c> AsyncHttpClient<'c> for HttpClient {
    type Error = SendError;
    type Future = BoxFuture<'c, Result<HttpResponse, SendError>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(async move {
            let mut response = self.0.execute(request.try_into()?).await?;
            let mut answer = http::Response::builder().status(response.status());
            if let Some(headers) = answer.headers_mut() {
                headers.clone_from(response.headers());
            }
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await? {
                body.extend_from_slice(&chunk);
                if body.len() > MAX_BYTES {
                    return Err(SendError::TooLong);
                }
            }
            answer.body(body).map_err(|_| SendError::TooLong)
        })
    }
}

/// An error of a request to the provider.
#[derive(Debug, Error)]
pub(super) enum SendError {
    #[error("{0}")]
    NoResponse(String),
    #[error("its answer is longer than {MAX_BYTES} bytes")]
    TooLong,
}

impl From<reqwest::Error> for SendError {
    fn from(error: reqwest::Error) -> Self {
        Self::NoResponse(explain(&error.without_url()))
    }
}
