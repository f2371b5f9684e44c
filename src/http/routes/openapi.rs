//! The OpenAPI document (version 3.1), which is generated from the handlers and the types of the wire.

use std::sync::{Arc, OnceLock};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder, Server};
use utoipa::{Modify, OpenApi};

use crate::config::Settings;
use crate::http::routes::{browser, event_stream, jwks, phone};
use crate::wire::types::{PROBLEM_MEDIA_TYPE, Problem};

#[derive(OpenApi)]
#[openapi(
    info(title = "qrlogin", description = "Log in on a web page by scanning a QR code with a phone. The WebSocket on which the page waits is at \
                       the ws_path of a generated session. PROTOCOL.md describes it, because OpenAPI cannot."),
    paths(
        browser::generate,
        browser::status,
        browser::status_by_header,
        event_stream::open,
        event_stream::open_by_header,
        browser::ack,
        browser::cancel,
        phone::scan,
        phone::confirm,
        phone::reject,
        jwks::jwks
    ),
    components(schemas(Problem)),
    tags(
        (name = "browser", description = "Calls of the page that shows the code."),
        (name = "phone", description = "Calls of the app, with its app token."),
        (name = "anyone", description = "Calls of every client, such as a server that verifies tokens.")
    ),
    modifiers(&AppToken, &Refusals)
)]
struct Described;

struct AppToken;

impl Modify for AppToken {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme =
            HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("The app's access token.")).build();
        document.components.get_or_insert_default().add_security_scheme("app_token", SecurityScheme::Http(scheme));
    }
}

/// Adds the error responses of each call, all with the schema `Problem`.
struct Refusals;

impl Modify for Refusals {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        for (path, item) in &mut document.paths.paths {
            for operation in [&mut item.get, &mut item.post].into_iter().flatten() {
                for status in refusals(path) {
                    refuse(operation, *status);
                }
            }
        }
    }
}

fn refusals(path: &str) -> &'static [u16] {
    match path {
        "/v1/qr-login/generate" => &[400, 403, 408, 413, 415, 429, 500, 503],
        "/v1/qr-login/ack" | "/v1/qr-login/cancel" => &[400, 403, 404, 408, 409, 410, 413, 415, 429, 503],
        "/.well-known/jwks.json" => &[408, 413, 429, 503],
        _ if path.starts_with("/v1/qr-login/status") => &[400, 403, 404, 408, 409, 413, 429, 500, 503],
        _ if path.starts_with("/v1/sse/qr") => &[400, 403, 404, 408, 413, 429, 503],
        _ => &[400, 401, 403, 404, 408, 409, 410, 413, 415, 429, 503],
    }
}

fn refuse(operation: &mut Operation, status: u16) {
    let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Refused");
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    let response: Response = ResponseBuilder::new().description(reason).content(PROBLEM_MEDIA_TYPE, content).build();
    operation.responses.responses.insert(status.to_string(), RefOr::T(response));
}

/// The OpenAPI document, which the first request for it creates.
pub(crate) struct ApiDescription {
    /// `public_url` without trailing slashes. Paths in the document are relative to it, so it includes the base path.
    public_base: String,
    json: OnceLock<Bytes>,
}

impl ApiDescription {
    pub(crate) fn of(settings: &Settings) -> Self {
        Self { public_base: settings.public_base().to_owned(), json: OnceLock::new() }
    }

    fn json(&self) -> Bytes {
        let describe = || {
            let mut document = Described::openapi();
            document.servers = Some(vec![Server::new(&self.public_base)]);
            Bytes::from(document.to_json().unwrap_or_default())
        };
        self.json.get_or_init(describe).clone()
    }
}

/// Returns the OpenAPI document.
pub(crate) async fn document(State(description): State<Arc<ApiDescription>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], description.json())
}

/// Returns the paths that the document describes.
#[cfg(test)]
pub(crate) fn paths() -> Vec<String> {
    Described::openapi().paths.paths.into_keys().collect()
}
