use axum::extract::Extension;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, HeaderValue};
use axum::response::{IntoResponse as _, Response};

use super::{Pages, error_response};
use crate::http::JsonResponse;
use crate::oauth::OAuthError;

/// Answers with the metadata of the server (OpenID Connect Discovery §4.2, RFC 8414 §3.2).
pub(super) async fn show(Extension(pages): Pages) -> Response {
    match pages.oauth.metadata() {
        Ok(metadata) => {
            let mut response = JsonResponse(StatusCode::OK, metadata).into_response();
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
            response
        }
        Err(_) => error_response(&OAuthError::Internal),
    }
}
