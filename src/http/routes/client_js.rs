//! The JavaScript client: `<qr-login>` and `<qr-approve>`, and their cores without the elements, each as one ES module,
//! and the languages that the elements load. The modules are built from `clients/js` into its `dist`, and embedded.

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

/// Path of the modules of this version.
pub(crate) const MODULES_PATH: &str = concat!("/js/", env!("CARGO_PKG_VERSION"));

/// A file of the client.
struct Module {
    name: &'static str,
    text: &'static str,
    /// Digest of the text, in the format of the attribute `integrity` (W3C Subresource Integrity). It is also the
    /// `ETag`.
    tag: LazyLock<String>,
}

/// Embeds a file of `clients/js/dist`.
macro_rules! module {
    ($name:literal) => {{
        const TEXT: &str = include_str!(concat!("../../../clients/js/dist/", $name));
        Module { name: $name, text: TEXT, tag: LazyLock::new(|| integrity(TEXT)) }
    }};
}

static MODULES: [Module; 9] = [
    module!("qr-login.js"),
    module!("qr-approve.js"),
    module!("core.js"),
    module!("approve-core.js"),
    module!("keep-code.js"),
    module!("languages/en.json"),
    module!("languages/zh-CN.json"),
    module!("languages/de.json"),
    module!("languages/es.json"),
];

fn integrity(text: &str) -> String {
    format!("sha384-{}", STANDARD.encode(digest::digest(&digest::SHA384, text.as_bytes())))
}

pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/js/{module}", get(async |Path(name): Path<String>, headers| serve(&name, ASK_AGAIN, &headers)))
        .route("/js/{version}/{module}", get(of_version))
        .route(
            "/js/languages/{file}",
            get(async |Path(file): Path<String>, headers| serve(&language(&file), ASK_AGAIN, &headers)),
        )
        .route("/js/{version}/languages/{file}", get(language_of_version))
}

/// Returns the name of the file of a language.
fn language(file: &str) -> String {
    format!("languages/{file}")
}

async fn language_of_version(
    Path((version, file)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    of_version(Path((version, language(&file))), headers).await
}

async fn of_version(Path((version, name)): Path<(String, String)>, headers: HeaderMap) -> Result<Response, ApiError> {
    if version == env!("CARGO_PKG_VERSION") { serve(&name, FOR_EVER, &headers) } else { Err(ApiError::NotFound) }
}

/// Answers with a file of the client, for pages of every origin.
fn serve(name: &str, caching: &'static str, headers: &HeaderMap) -> Result<Response, ApiError> {
    let module = MODULES.iter().find(|module| module.name == name).ok_or(ApiError::NotFound)?;
    let tag = format!("\"{}\"", *module.tag);
    let content_type = if name.ends_with(".json") { "application/json" } else { "text/javascript; charset=utf-8" };
    let fields = [
        (CONTENT_TYPE, content_type),
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
