//! The public keys of `web_token`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;

use super::tags::ANYONE;
use crate::http::JsonResponse;
use crate::token::Minter;
use crate::wire::types::JwkSet;

/// Returns the public keys of `web_token`, a JWK Set (RFC 7517).
#[utoipa::path(get, path = "/.well-known/jwks.json", tag = ANYONE,
    responses((status = 200, description = "The public keys of web_token.", body = JwkSet)))]
pub(crate) async fn jwks(State(minter): State<Arc<Minter>>) -> impl IntoResponse {
    JsonResponse(StatusCode::OK, minter.jwks())
}
