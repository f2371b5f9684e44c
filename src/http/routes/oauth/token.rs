//! The token endpoint (RFC 6749 §3.2) and the device authorization endpoint (RFC 8628 §3.1).

use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Extension;
use axum::http::header::{AUTHORIZATION, HeaderValue, PRAGMA};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use hyper::body::{Frame, SizeHint};
use serde::Serialize;
use tokio::runtime::Handle;

use super::{OAuthPages, Pages, error_response, form_of};
use crate::config::DEVICE_CODE_GRANT;
use crate::http::JsonResponse;
use crate::http::layers::client::{ClientAddress, describe};
use crate::limits::Call;
use crate::oauth::{Issue, OAuthClient, OAuthError, Parameters, Tokens};

/// Interval that a device is told whose address exceeds its limit, in seconds.
const PAUSE_OF_DEVICES_SECONDS: u32 = 30;

/// Exchanges a code, a device code or a refresh token for tokens.
pub(super) async fn token(
    Extension(pages): Pages,
    ClientAddress(address): ClientAddress,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let answer = async {
        let (client, parameters) = pages.received(address, &headers, &body).await?;
        pages.oauth.repeated(|| pages.exchange(client, &parameters)).await
    };
    match answer.await {
        Ok(Tokens { response, issue }) => delivering(respond(Ok(response)), issue),
        Err(error) => error_response(&error),
    }
}

/// Returns a response that marks the issue as delivered when it has been sent.
fn delivering(response: Response, issue: Issue) -> Response {
    let (parts, body) = response.into_parts();
    Response::from_parts(parts, Body::new(Delivering { body, issue: Some(issue) }))
}

/// A body that marks an issue as delivered when the server has read it to its end, and so has sent it.
struct Delivering {
    body: Body,
    issue: Option<Issue>,
}

impl HttpBody for Delivering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Delivering {
    fn drop(&mut self) {
        // Without a runtime, the process ends.
        if let (Some(issue), Ok(runtime)) = (self.issue.take(), Handle::try_current())
            && self.body.is_end_stream()
        {
            issue.delivered(&runtime);
        }
    }
}

/// Begins a login of a device.
pub(super) async fn device_authorization(
    Extension(pages): Pages,
    address: ClientAddress,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let answer = async {
        let (client, parameters) = pages.received(address.0, &headers, &body).await?;
        pages.admit(Call::Generate, address.0)?;
        pages.oauth.begin_device(client, &parameters, describe(address, &headers, None)).await
    };
    respond(answer.await)
}

/// Returns the response of an endpoint that issues tokens.
pub(super) fn respond(answer: Result<impl Serialize, OAuthError>) -> Response {
    match answer {
        Ok(body) => {
            let mut response = JsonResponse(StatusCode::OK, body).into_response();
            response.headers_mut().insert(PRAGMA, HeaderValue::from_static("no-cache"));
            response
        }
        Err(error) => error_response(&error),
    }
}

impl OAuthPages {
    /// Returns the client that sent a form to an endpoint, and the parameters in it. Requests that prove nothing are
    /// limited: those of public clients, and those with wrong credentials.
    pub(super) async fn received(
        &self,
        address: IpAddr,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<(&OAuthClient, Parameters), OAuthError> {
        let parameters = Parameters::parse(form_of(headers, body)?)?;
        let authorization = headers.get(AUTHORIZATION).map(|field| field.to_str().unwrap_or_default());
        let authenticated = self.oauth.authenticate(authorization, &parameters).await;
        if !authenticated.as_ref().is_ok_and(|client| !client.is_public()) {
            let admitted = self.admit(Call::Status, address);
            // Devices behind one address share its limit. Most give up after another error than this one.
            if admitted.is_err() && parameters.get("grant_type") == Some(DEVICE_CODE_GRANT) {
                return Err(OAuthError::SlowDown(PAUSE_OF_DEVICES_SECONDS));
            }
            admitted?;
        }
        Ok((authenticated?, parameters))
    }

    async fn exchange(&self, client: &OAuthClient, parameters: &Parameters) -> Result<Tokens, OAuthError> {
        match parameters.need("grant_type")? {
            "authorization_code" => self.oauth.redeem_code(client, parameters).await,
            "refresh_token" => self.oauth.refresh(client, parameters).await,
            DEVICE_CODE_GRANT => self.oauth.poll_device(client, parameters).await,
            _ => Err(OAuthError::UnsupportedGrantType),
        }
    }
}
