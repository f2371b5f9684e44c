//! Which pages may use the browser routes. "Same origin" is that of `public_url`, never of `Host`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::Method;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, ORIGIN, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::middleware::Next;
use axum::response::Response;
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::App;
use super::problem::ApiError;
use super::upgrade::Fields;
use crate::config::{AllowedOrigin, Settings};
use crate::protocol::SESSION_HEADER;

pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Who may ask.
pub(super) struct OriginPolicy {
    allowed: Vec<AllowedOrigin>,
    allow_missing: bool,
}

impl OriginPolicy {
    pub(super) fn of(settings: &Settings) -> Self {
        Self { allowed: settings.origins(), allow_missing: settings.allow_missing_origin }
    }

    pub(super) fn check(&self, fields: &(impl Fields + ?Sized)) -> Result<(), ApiError> {
        match fields.line(&ORIGIN) {
            Some(origin) if self.allows(origin) => Ok(()),
            Some(origin) => Err(ApiError::ForbiddenOrigin(String::from_utf8_lossy(origin).into_owned())),
            None if !self.allow_missing => Err(ApiError::MissingOrigin),
            // A browser that sends no Origin says with this header from where the request comes.
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

/// Refuses a foreign page before anything is done for it.
pub(super) async fn check(State(app): State<Arc<App>>, request: Request, next: Next) -> Result<Response, ApiError> {
    app.origins.check(request.headers())?;
    Ok(next.run(request).await)
}

/// Says the same to browsers that ask beforehand (Fetch standard, CORS protocol).
pub(super) fn cors(app: &Arc<App>) -> CorsLayer {
    let app = app.clone();
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin, _| app.origins.allows(origin.as_bytes())))
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([AUTHORIZATION, CONTENT_TYPE, LAST_EVENT_ID, HeaderName::from_static(SESSION_HEADER)])
        .expose_headers([RETRY_AFTER, WWW_AUTHENTICATE])
}
