//! The token endpoint (RFC 6749 §3.2) and the device authorization endpoint (RFC 8628 §3.1).

use std::time::Duration;

use axum::extract::Extension;
use axum::http::header::{AUTHORIZATION, HeaderValue, PRAGMA};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;

use super::{OAuthPages, Pages, error_response, form_of};
use crate::config::DEVICE_CODE_GRANT;
use crate::http::JsonResponse;
use crate::http::layers::client::{ClientAddress, describe};
use crate::limits::Call;
use crate::oauth::{OAuthClient, OAuthError, Parameters, TokenResponse};

/// Time for which a request is repeated while the store does not answer. Most clients give up after 10 seconds or more.
const REPEAT: Duration = Duration::from_secs(8);
/// Pause between two repetitions, in seconds.
const PAUSE_SECONDS: u32 = 1;

/// Exchanges a code, a device code or a refresh token for tokens.
pub(super) async fn token(
    Extension(pages): Pages,
    ClientAddress(address): ClientAddress,
    headers: HeaderMap,
    body: String,
) -> Response {
    let answer = async {
        let parameters = Parameters::parse(form_of(&headers, &body)?)?;
        let client = pages.client(address, &headers, &parameters).await?;
        let began = pages.clock.steady();
        loop {
            match pages.exchange(client, &parameters).await {
                Err(OAuthError::Unavailable) if pages.clock.steady() < began + REPEAT => {
                    pages.clock.sleep_seconds(PAUSE_SECONDS).await;
                }
                answer => return answer,
            }
        }
    };
    respond(answer.await)
}

/// Begins a login of a device.
pub(super) async fn device_authorization(
    Extension(pages): Pages,
    address: ClientAddress,
    headers: HeaderMap,
    body: String,
) -> Response {
    let answer = async {
        let parameters = Parameters::parse(form_of(&headers, &body)?)?;
        let client = pages.client(address.0, &headers, &parameters).await?;
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
    /// Returns the client that sent a request. Requests that prove nothing are limited: those of public clients, and those
    /// with wrong credentials.
    pub(super) async fn client(
        &self,
        address: std::net::IpAddr,
        headers: &HeaderMap,
        parameters: &Parameters,
    ) -> Result<&OAuthClient, OAuthError> {
        let authorization = headers.get(AUTHORIZATION).map(|field| field.to_str().unwrap_or_default());
        let authenticated = self.oauth.authenticate(authorization, parameters).await;
        if !authenticated.as_ref().is_ok_and(|client| !client.is_public()) {
            self.admit(Call::Status, address)?;
        }
        authenticated
    }

    async fn exchange(&self, client: &OAuthClient, parameters: &Parameters) -> Result<TokenResponse, OAuthError> {
        match parameters.need("grant_type")? {
            "authorization_code" => self.oauth.redeem_code(client, parameters).await,
            "refresh_token" => self.oauth.refresh(client, parameters).await,
            DEVICE_CODE_GRANT => self.oauth.poll_device(client, parameters).await,
            _ => Err(OAuthError::UnsupportedGrantType),
        }
    }
}
