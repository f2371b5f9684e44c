//! The origins whose pages may use the browser routes. The server's own origin is that of `public_url`, never that of
//! `Host`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::Method;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, ORIGIN, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::middleware::Next;
use axum::response::Response;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::config::{AllowedOrigin, Settings};
use crate::http::layers::RequestChecks;
use crate::http::problem::ApiError;
use crate::wire::fields::Fields;
use crate::wire::types::SESSION_HEADER;

pub(crate) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The allowed origins, and whether a request without `Origin` is allowed.
pub(crate) struct OriginPolicy {
    allowed: Vec<AllowedOrigin>,
    allow_missing: bool,
}

impl OriginPolicy {
    pub(crate) fn of(settings: &Settings) -> Self {
        Self { allowed: settings.origins(), allow_missing: settings.allow_missing_origin }
    }

    pub(crate) fn check(&self, fields: &(impl Fields + ?Sized)) -> Result<(), ApiError> {
        match fields.line(&ORIGIN) {
            Some(origin) if self.allows(origin) => Ok(()),
            Some(origin) => Err(ApiError::ForbiddenOrigin(String::from_utf8_lossy(origin).into_owned())),
            None if !self.allow_missing => Err(ApiError::MissingOrigin),
            // Browsers send no Origin with some requests, but say with this field where the request comes from (W3C
            // Fetch Metadata).
            None if fields.line(&SEC_FETCH_SITE).is_some_and(|site| site != b"same-origin") => {
                Err(ApiError::ForbiddenOrigin("of another site".to_owned()))
            }
            None => Ok(()),
        }
    }

    fn allows(&self, origin: &[u8]) -> bool {
        self.allowed.iter().any(|allowed| allowed.matches(origin))
    }
}

/// Returns whether a form was sent by a page of this origin. Browsers that send no `Origin` say it by `Sec-Fetch-Site`.
pub(crate) fn is_same_origin(fields: &(impl Fields + ?Sized), origin: &str) -> bool {
    match fields.line(&ORIGIN) {
        Some(sent) => sent == origin.as_bytes(),
        None => fields.line(&SEC_FETCH_SITE).is_some_and(|site| site == b"same-origin"),
    }
}

/// Refuses a request of a page whose origin is not allowed, before its handler runs.
pub(crate) async fn check(
    State(checks): State<Arc<RequestChecks>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    checks.origins.check(request.headers())?;
    Ok(next.run(request).await)
}

/// Returns whether pages of every origin may call this path: the endpoints of OAuth that use no cookies.
fn is_for_every_origin(path: &str) -> bool {
    const PATHS: [&str; 4] = ["/oauth/token", "/oauth/userinfo", "/oauth/revoke", "/oauth/device_authorization"];
    PATHS.contains(&path) || path.starts_with("/.well-known/")
}

/// Returns the layer that answers preflight requests, and adds the CORS header fields to responses for allowed origins
/// (Fetch Standard, CORS protocol).
pub(crate) fn cors(checks: &Arc<RequestChecks>) -> CorsLayer {
    let checks = checks.clone();
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin, request| {
            checks.origins.allows(origin.as_bytes()) || is_for_every_origin(request.uri.path())
        }))
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([AUTHORIZATION, CONTENT_TYPE, LAST_EVENT_ID, HeaderName::from_static(SESSION_HEADER)])
        .expose_headers([RETRY_AFTER, WWW_AUTHENTICATE])
}
