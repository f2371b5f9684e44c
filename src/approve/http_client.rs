//! The requests of `openidconnect` to the provider.

use std::time::Duration;

use futures_util::future::BoxFuture;
use openidconnect::{AsyncHttpClient, HttpRequest, HttpResponse};

use crate::system::http_client::{HttpError, http_client, send};

/// Time limit of a request to the provider. The user waits for its response.
const REQUEST_TIME: Duration = Duration::from_secs(5);

/// Sends the requests of `openidconnect` to the provider.
pub(super) struct HttpClient(reqwest::Client);

impl HttpClient {
    /// Returns a client. `is_loopback` says whether the provider is on this machine, so may be plain http.
    pub(super) fn new(is_loopback: bool) -> Result<Self, reqwest::Error> {
        http_client(REQUEST_TIME, is_loopback).map(Self)
    }
}

impl<'c> AsyncHttpClient<'c> for HttpClient {
    type Error = HttpError;
    type Future = BoxFuture<'c, Result<HttpResponse, HttpError>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(send(&self.0, request))
    }
}
