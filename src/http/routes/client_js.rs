//! The JavaScript client: `<qr-login>`, and its core without the element, each as one ES module. They are built from
//! `clients/js` into its `dist`, and embedded.

use std::sync::LazyLock;

use aws_lc_rs::digest;
use axum::Router;
use axum::extract::Path;
use axum::http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderName, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::http::problem::ApiError;

const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
/// `Cache-Control` of the path with a version, whose content never changes.
const FOR_EVER: &str = "public, max-age=31536000, immutable";
/// `Cache-Control` of the path without a version, whose content changes with the server.
const ASK_AGAIN: &str = "no-cache";

struct Module {
    name: &'static str,
    text: &'static str,
    /// Digest of the text, in the format of the attribute `integrity` (W3C Subresource Integrity). It is also the
    /// `ETag`.
    tag: LazyLock<String>,
}

static MODULES: [Module; 2] = [
    Module {
        name: "qr-login.js",
        text: include_str!("../../../clients/js/dist/qr-login.js"),
        tag: LazyLock::new(|| integrity(MODULES[0].text)),
    },
    Module {
        name: "core.js",
        text: include_str!("../../../clients/js/dist/core.js"),
        tag: LazyLock::new(|| integrity(MODULES[1].text)),
    },
];

fn integrity(text: &str) -> String {
    format!("sha384-{}", STANDARD.encode(digest::digest(&digest::SHA384, text.as_bytes())))
}

pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/js/{module}", get(async |Path(name): Path<String>, headers| serve(&name, ASK_AGAIN, &headers)))
        .route("/js/{version}/{module}", get(of_version))
}

async fn of_version(Path((version, name)): Path<(String, String)>, headers: HeaderMap) -> Result<Response, ApiError> {
    if version == env!("CARGO_PKG_VERSION") { serve(&name, FOR_EVER, &headers) } else { Err(ApiError::NotFound) }
}

/// Answers with a module, for pages of every origin.
fn serve(name: &str, caching: &'static str, headers: &HeaderMap) -> Result<Response, ApiError> {
    let module = MODULES.iter().find(|module| module.name == name).ok_or(ApiError::NotFound)?;
    let tag = format!("\"{}\"", *module.tag);
    let fields = [
        (CONTENT_TYPE, "text/javascript; charset=utf-8"),
        (CACHE_CONTROL, caching),
        (ETAG, &tag),
        (ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (CROSS_ORIGIN_RESOURCE_POLICY, "cross-origin"),
    ];
    if headers.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return Ok((StatusCode::NOT_MODIFIED, fields).into_response());
    }
    Ok((fields, module.text).into_response())
}
