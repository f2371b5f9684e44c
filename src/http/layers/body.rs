//! Request bodies. A body is read whole, within bounds of size and time, before the request is handled. Otherwise a
//! refused request would leave unread data, and the client would read a reset of the connection instead of the
//! response.

use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;

use crate::config::Settings;
use crate::http::grace::closed_for_grace;
use crate::http::problem::ApiError;
use crate::system::clock::Clock;
use crate::system::shutdown::Shutdown;

/// Maximum number of bytes of a too long body that are read and discarded.
const DRAIN_BYTES: usize = 4 * 1024 * 1024;

/// The limits of request bodies.
pub(crate) struct BodyLimits {
    /// Maximum length of a body, in bytes.
    max_bytes: usize,
    /// Time in which a body must arrive, in seconds.
    seconds: u32,
    clock: Clock,
    shutdown: Shutdown,
}

impl BodyLimits {
    pub(crate) fn of(settings: &Settings, clock: Clock, shutdown: Shutdown) -> Self {
        let limits = &settings.limits;
        Self { max_bytes: limits.body_bytes, seconds: limits.header_seconds, clock, shutdown }
    }

    /// Reads the body of a request, and returns the request with the body in memory.
    ///
    /// # Errors
    /// Returns an error if the body is longer than `limits.body_bytes`, does not arrive within `limits.header_seconds`,
    /// breaks off, or has not arrived a second after the server has begun to close.
    pub(crate) async fn read(&self, request: Request) -> Result<Request, ApiError> {
        let (parts, body) = request.into_parts();
        if is_announced(&parts.headers, self.max_bytes) {
            return Err(ApiError::PayloadTooLarge(self.max_bytes));
        }
        let reading = self.clock.timeout(self.seconds, collect(body, self.max_bytes));
        let bytes = tokio::select! {
            biased;
            bytes = reading => bytes.ok_or(ApiError::RequestTimeout)??,
            () = closed_for_grace(&self.shutdown) => return Err(ApiError::Stopping),
        };
        Ok(Request::from_parts(parts, Body::from(bytes)))
    }
}

/// Returns whether a client that sends `Expect` (RFC 9110 §10.1.1) announces a body longer than `limit`. Such a client
/// waits for the response before it sends the body.
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

/// Extracts a JSON body of type `T`.
pub(crate) struct Json<T>(pub(crate) T);

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

/// Extracts a JSON body as [`Json`] does, or the default value from a request without a body. The `Content-Type` of an
/// empty body is ignored, because some clients send one (`curl -d ''`, aiohttp).
pub(crate) struct OptionalJson<T>(pub(crate) T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for OptionalJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        if request.body().is_end_stream() {
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

/// Parses a JSON body. The error never quotes the body, which can hold a secret.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    // serde also reads a struct from an array of its fields in the order of declaration, which the API does not allow.
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
