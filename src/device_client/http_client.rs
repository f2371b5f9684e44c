//! The requests of `openidconnect` to the authorization server.

use std::time::Duration;

use futures_util::future::BoxFuture;
use http::StatusCode;
use openidconnect::{AsyncHttpClient, HttpRequest, HttpResponse};
use reqwest::Client;
use thiserror::Error;
use url::Url;

use crate::config::is_loopback;
use crate::system::http_client::{HttpError, http_client, send};

/// Time limit of a request.
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// Sends requests to the authorization server.
pub(super) struct HttpClient(pub(super) Client);

/// An error of a request to the authorization server.
#[derive(Debug, Error)]
pub(super) enum RequestError {
    /// There is no complete response.
    #[error("{0}")]
    Http(#[from] HttpError),
    /// The server cannot answer at this time.
    #[error("the status of its answer is {0}")]
    Overloaded(StatusCode),
}

impl HttpClient {
    /// Returns a client for the server of an issuer.
    pub(super) fn new(issuer: &Url) -> Result<Self, reqwest::Error> {
        http_client(REQUEST_TIME, is_loopback(issuer)).map(Self)
    }
}

impl<'c> AsyncHttpClient<'c> for HttpClient {
    type Error = RequestError;
    type Future = BoxFuture<'c, Result<HttpResponse, RequestError>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(async move {
            let response = send(&self.0, request).await?;
            let status = response.status();
            // Polling goes on after an error of this type, more slowly, as after a connection timeout (RFC 8628 §3.5). A
            // restart of the server or of its proxy therefore does not end the login.
            if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
                return Err(RequestError::Overloaded(status));
            }
            Ok(response)
        })
    }
}
