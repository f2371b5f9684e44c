//! The endpoints that take tokens: UserInfo, introspection and revocation.

use axum::body::Bytes;
use axum::extract::Extension;
use axum::http::header::{HeaderValue, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};

use super::token::respond;
use super::{OAuthPages, Pages, error_response, form_of};
use crate::http::layers::client::ClientAddress;
use crate::http::routes::phone::bearer_token;
use crate::oauth::{OAuthError, Parameters};

/// Returns the claims about the user (OpenID Connect Core §5.3).
pub(super) async fn user_info(Extension(pages): Pages, headers: HeaderMap) -> Response {
    user_info_of(&pages, bearer_token(&headers)).await
}

/// Returns the claims about the user. The token can be in the body (RFC 6750 §2.2).
pub(super) async fn user_info_by_form(Extension(pages): Pages, headers: HeaderMap, body: Bytes) -> Response {
    // A client that sends the token in the header need not send a form.
    let form = match form_of(&headers, &body).map(Parameters::parse) {
        Ok(Ok(form)) => form,
        Ok(Err(error)) => return refused_as_bearer(&error),
        Err(_) => Parameters::default(),
    };
    match (bearer_token(&headers), form.get("access_token")) {
        (Some(_), Some(_)) => {
            refused_as_bearer(&OAuthError::InvalidRequest("the token is in the header and in the body".to_owned()))
        }
        (in_header, in_body) => user_info_of(&pages, in_header.or(in_body)).await,
    }
}

/// Returns the response for a request with more than one token (RFC 6750 §3).
fn refused_as_bearer(error: &OAuthError) -> Response {
    let mut response = error_response(error);
    let challenge = HeaderValue::from_static(r#"Bearer error="invalid_request""#);
    response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    response
}

async fn user_info_of(pages: &OAuthPages, token: Option<&str>) -> Response {
    match token {
        // A client that has new tokens and gets an error here may lose them.
        Some(token) => respond(pages.oauth.repeated(|| pages.oauth.user_info(token)).await),
        None => {
            // A request without a token gets no error code (RFC 6750 §3.1).
            (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")]).into_response()
        }
    }
}

/// Returns whether a token is active (RFC 7662). The client must authenticate, because it learns about tokens of others.
pub(super) async fn introspect(
    Extension(pages): Pages,
    ClientAddress(address): ClientAddress,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let answer = async {
        let (client, parameters) = pages.received(address, &headers, &body).await?;
        if client.is_public() {
            return Err(OAuthError::InvalidClient("the client must authenticate"));
        }
        pages.oauth.introspect(client, parameters.need("token")?).await
    };
    respond(answer.await)
}

/// Revokes a token (RFC 7009).
pub(super) async fn revoke(
    Extension(pages): Pages,
    ClientAddress(address): ClientAddress,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let answer = async {
        let (client, parameters) = pages.received(address, &headers, &body).await?;
        pages.oauth.revoke(client, parameters.need("token")?).await
    };
    match answer.await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(error) => error_response(&error),
    }
}
