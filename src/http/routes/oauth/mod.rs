//! The endpoints of OpenID Connect and OAuth, and their pages.

mod access;
mod answer;
mod authorize;
mod device_page;
mod logout;
mod metadata;
mod token;
mod wait;

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Extension, FromRef};
use axum::http::header::{CONTENT_TYPE, HeaderValue, PRAGMA, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use maud::{Markup, html};

use crate::http::JsonResponse;
use crate::http::cookies::Cookies;
use crate::http::layers::RequestChecks;
use crate::http::layers::base::BasePath;
use crate::http::layers::limit::ClientLimits;
use crate::http::pages::{Language, Page};
use crate::limits::Call;
use crate::login::{Codes, Logins};
use crate::oauth::{AUTHORIZATION_SERVER_METADATA, OAuth, OAuthError, OPENID_CONFIGURATION};
use crate::system::clock::Clock;

/// State of the endpoints and their pages.
pub(crate) struct OAuthPages {
    pub(crate) oauth: OAuth,
    pub(crate) logins: Arc<Logins>,
    pub(crate) codes: Arc<Codes>,
    pub(crate) cookies: Cookies,
    pub(crate) base: Arc<BasePath>,
    pub(crate) clock: Clock,
    pub(crate) limits: Arc<ClientLimits>,
    /// Time between two heartbeats on a connection, in seconds.
    pub(crate) heartbeat_seconds: u32,
    /// Origin of `public_url`.
    pub(crate) origin: String,
}

type Pages = Extension<Arc<OAuthPages>>;

/// Returns the routes.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>(pages: Arc<OAuthPages>) -> Router<S>
where
    Arc<RequestChecks>: FromRef<S>,
{
    // RFC 8414 §3.1: the path of the issuer comes behind the well-known path.
    let inserted = format!("{AUTHORIZATION_SERVER_METADATA}{}", pages.base.path());
    let mut routes = Router::new()
        .route(OPENID_CONFIGURATION, get(metadata::show))
        .route(AUTHORIZATION_SERVER_METADATA, get(metadata::show))
        .route("/oauth/authorize", get(authorize::show).post(authorize::from_form))
        .route(authorize::SCRIPT_PATH, get(authorize::script))
        .route(answer::SCRIPT_PATH, get(answer::script))
        .route("/oauth/wait/{ticket}", get(wait::show))
        .route("/oauth/token", post(token::token))
        .route("/oauth/device_authorization", post(token::device_authorization))
        .route("/oauth/userinfo", get(access::user_info).post(access::user_info_by_form))
        .route("/oauth/introspect", post(access::introspect))
        .route("/oauth/revoke", post(access::revoke))
        .route("/oauth/logout", get(logout::show).post(logout::from_form))
        .route("/device", get(device_page::show).post(device_page::enter));
    if inserted != AUTHORIZATION_SERVER_METADATA {
        routes = routes.route(&inserted, get(metadata::show));
    }
    routes.layer(Extension(pages))
}

impl OAuthPages {
    /// Counts a request of a client that has not proved who it is.
    fn admit(&self, call: Call, address: IpAddr) -> Result<(), OAuthError> {
        self.limits.admit(call, address).map_err(|exceeded| OAuthError::RateLimited(exceeded.retry_after_seconds))
    }

    /// Returns a page with the texts `{key}_title` and `{key}`.
    fn text_page(&self, language: &Language, status: StatusCode, kind: &'static str, key: &str) -> Response {
        let body = html! { p role="status" { (language.text(key)) } };
        Page::new(status, language, language.text(&format!("{key}_title")), kind, body, self.base.path())
            .into_response()
    }

    /// Returns the page for an error of the server.
    fn error_page(&self, language: &Language, error: &OAuthError) -> Response {
        let (key, status) = match error {
            OAuthError::RateLimited(_) => ("limit", StatusCode::TOO_MANY_REQUESTS),
            OAuthError::Unavailable | OAuthError::Internal => ("down", StatusCode::SERVICE_UNAVAILABLE),
            _ => ("stale", StatusCode::BAD_REQUEST),
        };
        let mut response = self.text_page(language, status, "bad", key);
        set_retry_after(&mut response, error);
        response
    }
}

/// Returns the logo of a client.
fn logo_of(logo: &str) -> Markup {
    html! { @if !logo.is_empty() { p.who { img.logo src=(logo) alt="" referrerpolicy="no-referrer"; } } }
}

/// Returns the response of an endpoint for an error (RFC 6749 §5.2, RFC 6750 §3).
fn error_response(error: &OAuthError) -> Response {
    let code = error.code();
    let status = match error {
        OAuthError::InvalidClient(_) | OAuthError::InvalidToken => StatusCode::UNAUTHORIZED,
        OAuthError::InsufficientScope => StatusCode::FORBIDDEN,
        OAuthError::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
        OAuthError::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        OAuthError::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    };
    let body = serde_json::json!({ "error": code, "error_description": error.to_string() });
    let mut response = JsonResponse(status, body).into_response();
    let challenge = match error {
        OAuthError::InvalidClient(_) => Some(r#"Basic realm="qrlogin""#.to_owned()),
        OAuthError::InvalidToken | OAuthError::InsufficientScope => Some(format!(r#"Bearer error="{code}""#)),
        _ => None,
    };
    if let Some(challenge) = challenge.and_then(|text| HeaderValue::try_from(text).ok()) {
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    response.headers_mut().insert(PRAGMA, HeaderValue::from_static("no-cache"));
    set_retry_after(&mut response, error);
    response
}

fn set_retry_after(response: &mut Response, error: &OAuthError) {
    let seconds = match error {
        OAuthError::RateLimited(seconds) => *seconds,
        OAuthError::Unavailable => 1,
        _ => return,
    };
    response.headers_mut().insert(RETRY_AFTER, seconds.into());
}

/// Returns the body of a form.
///
/// # Errors
/// [`OAuthError::InvalidRequest`] if the body has another type, or is not UTF-8.
fn form_of<'a>(headers: &HeaderMap, body: &'a Bytes) -> Result<&'a str, OAuthError> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err(OAuthError::InvalidRequest("the body must be application/x-www-form-urlencoded".to_owned()));
    }
    std::str::from_utf8(body).map_err(|_| OAuthError::InvalidRequest("the body is not UTF-8".to_owned()))
}
