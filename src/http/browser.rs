//! The browser's calls.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};

use super::body::{Json, OptionalJson};
use super::client::{ClientAddress, describe};
use super::problem::ApiError;
use super::{Answer, App, view};
use crate::login::LoginError;
use crate::protocol::{
    GenerateRequest, GenerateResponse, MAX_CLIENT_INFO_CHARS, SESSION_HEADER, SessionRequest, SessionView,
    StatusResponse,
};
use crate::session::SessionId;

/// `POST /v1/qr-login/generate`
pub(super) async fn generate(
    State(app): State<Arc<App>>,
    address: ClientAddress,
    headers: HeaderMap,
    OptionalJson(request): OptionalJson<GenerateRequest>,
) -> Result<Answer<GenerateResponse>, ApiError> {
    if request.client_info.as_ref().is_some_and(|info| info.chars().count() > MAX_CLIENT_INFO_CHARS) {
        return Err(ApiError::InvalidRequest(format!("client_info is longer than {MAX_CLIENT_INFO_CHARS} characters")));
    }
    let generated = app.logins.generate(describe(address, &headers, request.client_info)).await?;
    let code = app.logins.codes.shown(&generated.session, generated.session.created_at)?;
    if let Some(demo) = &app.demo {
        demo.show(&code.qr_url);
    }
    let session = &generated.session;
    let session_id = generated.id.expose();
    Ok(Answer(
        StatusCode::CREATED,
        GenerateResponse {
            ws_path: format!("/v1/ws/qr/{session_id}"),
            session_id,
            code: code.code,
            qr_url: code.qr_url,
            qr_image: code.qr_image,
            expires_in: session.expires_at.seconds_since(session.created_at),
            expires_at: session.expires_at.to_string(),
        },
    ))
}

/// `GET /v1/qr-login/status/{session_id}`, or without it and with the header `X-QR-Session`.
pub(super) async fn status(
    State(app): State<Arc<App>>,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Answer<SessionView>, ApiError> {
    let id = match (&path, headers.get(SESSION_HEADER)) {
        (Ok(Path(id)), _) => id.as_str(),
        (Err(_), Some(id)) => id.to_str().unwrap_or_default(),
        (Err(_), None) => return Err(ApiError::NotFound),
    };
    let id = session_id(id)?;
    app.hub.receipt_settled(id.key()).await;
    let (session, now) = app.logins.current(id.key()).await?;
    let told = app.logins.tell(&session, now).map_err(LoginError::from)?;
    let code = if session.is_undecided() && now < session.expires_at {
        Some(app.logins.codes.shown(&session, now)?)
    } else {
        None
    };
    Ok(Answer(StatusCode::OK, view::session(told, &session, now, code)))
}

/// `POST /v1/qr-login/ack`
pub(super) async fn ack(
    State(app): State<Arc<App>>,
    Json(request): Json<SessionRequest>,
) -> Result<StatusCode, ApiError> {
    app.logins.claim(session_id(&request.session_id)?.key()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/qr-login/cancel`
pub(super) async fn cancel(
    State(app): State<Arc<App>>,
    Json(request): Json<SessionRequest>,
) -> Result<Answer<StatusResponse>, ApiError> {
    app.logins.cancel(session_id(&request.session_id)?.key()).await?;
    Ok(Answer(StatusCode::OK, StatusResponse { status: "cancelled" }))
}

/// What has not the form of an id is answered as an id that never was.
fn session_id(text: &str) -> Result<SessionId, ApiError> {
    SessionId::parse(text).ok_or(ApiError::Login(LoginError::NotFound))
}
