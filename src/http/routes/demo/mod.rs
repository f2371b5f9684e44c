//! The routes of the demo: its pages, and its OpenID provider.

mod provider;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::demo::Demo;
use crate::http::layers::base::BasePath;
use crate::http::problem::ApiError;
use crate::system::clock::Clock;

const CROSS_ORIGIN_OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// `Content-Security-Policy` of the demo's pages: no inline code, nothing from other origins, no framing.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// State of the demo's routes.
pub(crate) struct DemoPages {
    pub(crate) demo: Demo,
    pub(crate) base: Arc<BasePath>,
    pub(crate) clock: Clock,
}

pub(crate) fn routes<S>(pages: &Arc<DemoPages>) -> Router<S> {
    let html = |text: &'static str| get(async move |State(pages): State<Arc<DemoPages>>| html(&pages, text));
    Router::new()
        .route("/", html(include_str!("../../../../web/index.html")))
        .route("/demo/gallery", html(include_str!("../../../../web/gallery.html")))
        .route("/demo/{file}", get(file))
        .merge(provider::routes())
        .with_state(pages.clone())
}

async fn file(Path(file): Path<String>) -> Result<impl IntoResponse, ApiError> {
    match file.as_str() {
        "demo.css" => Ok(page("text/css", include_str!("../../../../web/demo.css"))),
        "index.js" => Ok(page("text/javascript", include_str!("../../../../web/index.js"))),
        "gallery.js" => Ok(page("text/javascript", include_str!("../../../../web/gallery.js"))),
        "api.js" => Ok(page("text/javascript", include_str!("../../../../web/api.js"))),
        "icon.svg" => Ok(page("image/svg+xml", include_str!("../../../../web/icon.svg"))),
        _ => Err(ApiError::NotFound),
    }
}

fn html(pages: &DemoPages, text: &str) -> Response {
    page("text/html", pages.base.links_in(text))
}

fn page(kind: &'static str, text: impl IntoResponse) -> Response {
    let headers = [
        (CONTENT_TYPE, format!("{kind}; charset=utf-8")),
        (CONTENT_SECURITY_POLICY, POLICY.to_owned()),
        // The page holds no secret. With `no-store`, browsers would not restore it when the user navigates back.
        (CACHE_CONTROL, "no-cache".to_owned()),
        (CROSS_ORIGIN_OPENER_POLICY, "same-origin".to_owned()),
        (CROSS_ORIGIN_RESOURCE_POLICY, "same-origin".to_owned()),
    ];
    (headers, text).into_response()
}
