//! Request bodies: read whole before anything else is looked at, within bounds. So a request that is refused, for
//! whatever reason, has been read, and its sender reads the answer instead of a reset connection.

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;

use super::App;
use super::problem::ApiError;
use super::server::closed_for_grace;

/// How much of a body that is too long is read and thrown away.
const DRAIN_BYTES: usize = 4 * 1024 * 1024;

/// Reads the body, or refuses it. One that does not arrive is not waited for while the server stops.
pub(super) async fn read(app: &App, request: Request) -> Result<Request, ApiError> {
    let (parts, body) = request.into_parts();
    let limit = app.body_bytes;
    if is_announced(&parts.headers, limit) {
        return Err(ApiError::PayloadTooLarge(limit));
    }
    let reading = app.logins.clock.timeout(app.header_seconds, collect(body, limit));
    let bytes = tokio::select! {
        biased;
        bytes = reading => bytes.ok_or(ApiError::RequestTimeout)??,
        () = closed_for_grace(&app.shutdown) => return Err(ApiError::Stopping),
    };
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

/// A client that asks before it sends (RFC 9110 §10.1.1) is told at once.
fn is_announced(headers: &HeaderMap, limit: usize) -> bool {
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    headers.contains_key(EXPECT) && length.is_some_and(|length| length > limit)
}

async fn collect(mut body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let mut bytes = Vec::new();
    let mut seen = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ApiError::InvalidRequest("the body broke off".to_owned()))?;
        if let Some(data) = frame.data_ref() {
            seen += data.len();
            if seen <= limit {
                bytes.extend_from_slice(data);
            } else if seen > DRAIN_BYTES {
                break;
            }
        }
    }
    if seen <= limit { Ok(bytes.into()) } else { Err(ApiError::PayloadTooLarge(limit)) }
}

/// A JSON body of type `T`.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let is_json = is_json(request.headers());
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|_| ApiError::InvalidRequest("the body cannot be read".to_owned()))?;
        if !is_json {
            return Err(ApiError::UnsupportedMediaType);
        }
        parse(&bytes).map(Self)
    }
}

/// As [`Json`], but a request with no body at all is the default. Clients that send nothing may name a type all the same
/// (`curl -d ''`, aiohttp).
pub(super) struct OptionalJson<T>(pub(super) T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for OptionalJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        if http_body::Body::is_end_stream(request.body()) {
            return Ok(Self(T::default()));
        }
        Json::from_request(request, state).await.map(|Json(value): Json<Option<T>>| Self(value.unwrap_or_default()))
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(content_type) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

const WRONG_FIELDS: &str = "the body does not have the fields this call takes, each of its type";

/// The error never quotes the body, which may hold a secret.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    // (Fields without their names, in the order in which we happen to have them, would do for serde.)
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Err(ApiError::InvalidRequest(WRONG_FIELDS.to_owned()));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        let what = match error.classify() {
            serde_json::error::Category::Data => WRONG_FIELDS,
            _ => "the body is not JSON",
        };
        ApiError::InvalidRequest(format!("{what} (line {}, column {})", error.line(), error.column()))
    })
}
