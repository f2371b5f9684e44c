//! The browser's calls.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use zeroize::Zeroizing;

use super::body::{Json, OptionalJson};
use super::client::{ClientAddress, describe};
use super::openapi::BROWSER;
use super::problem::ApiError;
use super::{Answer, App, view};
use crate::login::LoginError;
use crate::protocol::{
    GenerateRequest, GenerateResponse, MAX_CLIENT_INFO_CHARS, SESSION_HEADER, SessionRequest, SessionView,
    StatusResponse,
};
use crate::session::SessionId;

/// `POST /v1/qr-login/generate`
#[utoipa::path(post, path = "/v1/qr-login/generate", tag = BROWSER, request_body = Option<GenerateRequest>,
    responses((status = 201, description = "A session: its secret, and its code to show.", body = GenerateResponse)))]
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
            ws_path: Zeroizing::new(format!("/v1/ws/qr/{}", *session_id)),
            session_id,
            code: code.code,
            qr_url: code.qr_url,
            qr_image: code.qr_image,
            expires_in: session.expires_at.seconds_since(session.created_at),
            expires_at: session.expires_at.to_string(),
        },
    ))
}

/// `GET /v1/qr-login/status/{session_id}`
#[utoipa::path(get, path = "/v1/qr-login/status/{session_id}", tag = BROWSER,
    params(("session_id" = String, Path, description = "The browser's secret.")),
    responses((status = 200, description = "How the session stands.", body = SessionView)))]
pub(super) async fn status(
    State(app): State<Arc<App>>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Answer<SessionView>, ApiError> {
    let Ok(Path(id)) = path else { return Err(ApiError::NotFound) };
    status_of(&app, &session_id(&id)?).await
}

/// `GET /v1/qr-login/status`, with the header `X-QR-Session`.
#[utoipa::path(get, path = "/v1/qr-login/status", tag = BROWSER,
    params(("x-qr-session" = String, Header, description = "The browser's secret, kept out of the path.")),
    responses((status = 200, description = "How the session stands.", body = SessionView)))]
pub(super) async fn status_by_header(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
) -> Result<Answer<SessionView>, ApiError> {
    let missing = || ApiError::InvalidRequest(format!("the header {SESSION_HEADER} is missing"));
    let id = headers.get(SESSION_HEADER).ok_or_else(missing)?;
    status_of(&app, &session_id(id.to_str().unwrap_or_default())?).await
}

async fn status_of(app: &App, id: &SessionId) -> Result<Answer<SessionView>, ApiError> {
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
#[utoipa::path(post, path = "/v1/qr-login/ack", tag = BROWSER, request_body = SessionRequest,
    responses((status = 204, description = "The token is not given again.")))]
pub(super) async fn ack(
    State(app): State<Arc<App>>,
    Json(request): Json<SessionRequest>,
) -> Result<StatusCode, ApiError> {
    app.logins.claim(session_id(&request.session_id)?.key()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/qr-login/cancel`
#[utoipa::path(post, path = "/v1/qr-login/cancel", tag = BROWSER, request_body = SessionRequest,
    responses((status = 200, description = "It is cancelled.", body = StatusResponse)))]
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
