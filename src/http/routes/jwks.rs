//! The public keys of `web_token`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;

use super::openapi::ANYONE;
use crate::http::{Answer, App};
use crate::wire::types::JwkSet;

/// Returns the public keys of `web_token`, a JWK Set (RFC 7517).
#[utoipa::path(get, path = "/.well-known/jwks.json", tag = ANYONE,
    responses((status = 200, description = "The public keys of web_token.", body = JwkSet)))]
pub(crate) async fn jwks(State(app): State<Arc<App>>) -> impl IntoResponse {
    Answer(StatusCode::OK, app.logins.minter.jwks())
}
