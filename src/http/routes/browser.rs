//! The calls of the browser: generate, status and long poll, ack, cancel.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use utoipa::IntoParams;
use zeroize::Zeroizing;

use super::tags::BROWSER;
use crate::demo::Demo;
use crate::http::JsonResponse;
use crate::http::arrive::{Admitted, Arrivals, Arrived, Arriving};
use crate::http::layers::base::BasePath;
use crate::http::layers::body::{Json, OptionalJson};
use crate::http::layers::client::{ClientAddress, describe};
use crate::http::layers::limit::SharedPermit;
use crate::http::problem::ApiError;
use crate::http::waiting_response::{WaitKind, WaitingResponse};
use crate::login::{Codes, LoginError, Logins};
use crate::session::{Session, SessionId, Status, Timestamp};
use crate::system::clock::Clock;
use crate::wire::types::WEBSOCKET_PATH;
use crate::wire::types::{
    GenerateRequest, GenerateResponse, MAX_CLIENT_INFO_CHARS, MAX_WAIT_SECONDS, SESSION_HEADER, SessionRequest,
    SessionView, StatusResponse,
};

/// State of the calls of browsers.
pub(crate) struct Browsers {
    pub(crate) logins: Arc<Logins>,
    pub(crate) codes: Arc<Codes>,
    pub(crate) clock: Clock,
    pub(crate) base: Arc<BasePath>,
    /// Time between two heartbeats on a connection, in seconds.
    pub(crate) heartbeat_seconds: u32,
    /// The demo, which shows each new code in its terminal. `None` in `serve`.
    pub(crate) demo: Option<Demo>,
}

/// Generates a session, and returns its session id and its code.
#[utoipa::path(post, path = "/v1/qr-login/generate", tag = BROWSER, request_body = Option<GenerateRequest>,
    responses((status = 201, description = "The generated session, with its session id and its code.", body = GenerateResponse)))]
pub(crate) async fn generate(
    State(browsers): State<Arc<Browsers>>,
    address: ClientAddress,
    headers: HeaderMap,
    OptionalJson(request): OptionalJson<GenerateRequest>,
) -> Result<JsonResponse<GenerateResponse>, ApiError> {
    if request.client_info.as_ref().is_some_and(|info| info.chars().count() > MAX_CLIENT_INFO_CHARS) {
        return Err(ApiError::InvalidRequest(format!("client_info is longer than {MAX_CLIENT_INFO_CHARS} characters")));
    }
    let generated = browsers.logins.generate(describe(address, &headers, request.client_info)).await?;
    let code = browsers.codes.current(&generated.session, generated.session.created_at)?;
    if let Some(demo) = &browsers.demo {
        demo.show(&code.qr_url);
    }
    let session = &generated.session;
    let session_id = generated.id.expose();
    Ok(JsonResponse(
        StatusCode::CREATED,
        GenerateResponse {
            ws_path: Zeroizing::new(format!("{}{WEBSOCKET_PATH}/{}", browsers.base.path(), *session_id)),
            session_id,
            code: code.code,
            qr_url: code.qr_url,
            qr_image: code.qr_image,
            expires_in: session.expires_at.seconds_since(session.created_at),
            expires_at: browsers.clock.date_of(session.expires_at).to_string(),
            heartbeat_seconds: browsers.heartbeat_seconds,
        },
    ))
}

/// Returns the state of a session, at once or when it changes (long poll).
#[utoipa::path(get, path = "/v1/qr-login/status/{session_id}", tag = BROWSER,
    params(("session_id" = String, Path, description = "Session id."), LongPoll),
    responses((status = 200, description = "State of the session.", body = SessionView)))]
pub(crate) async fn status(
    State(arrivals): State<Arc<Arrivals>>,
    address: ClientAddress,
    Extension(permit): Extension<SharedPermit>,
    path: Result<Path<String>, PathRejection>,
    asked: LongPoll,
) -> Result<Response, ApiError> {
    let Ok(Path(id)) = path else { return Err(ApiError::NotFound) };
    status_of(&arrivals, address, &permit, &session_id(&id)?, &asked).await
}

/// Returns the state of the session in the header field `X-QR-Session`, at once or when it changes (long poll).
#[utoipa::path(get, path = "/v1/qr-login/status", tag = BROWSER,
    params(("x-qr-session" = String, Header, description = "Session id. In this header, it is kept out of the path."), LongPoll),
    responses((status = 200, description = "State of the session.", body = SessionView)))]
pub(crate) async fn status_by_header(
    State(arrivals): State<Arc<Arrivals>>,
    address: ClientAddress,
    Extension(permit): Extension<SharedPermit>,
    headers: HeaderMap,
    asked: LongPoll,
) -> Result<Response, ApiError> {
    status_of(&arrivals, address, &permit, &id_in_header(&headers)?, &asked).await
}

/// The query parameters of a long poll.
#[derive(Debug, Default, PartialEq, Eq, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct LongPoll {
    /// Maximum time until the response, in seconds. The response comes as soon as the session's version is not
    /// `version`.
    #[param(maximum = 25)]
    wait: Option<u32>,
    /// The version of the session that the browser has.
    version: Option<u32>,
}

impl LongPoll {
    fn of(query: &str) -> Result<Self, ApiError> {
        let mut asked = Self::default();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let number = || value.parse().map_err(|_| ApiError::InvalidRequest(format!("{name} is not a number")));
            match &*name {
                "wait" => asked.wait = Some(number()?),
                "version" => asked.version = Some(number()?),
                _ => {}
            }
        }
        if asked.wait > Some(MAX_WAIT_SECONDS) {
            return Err(ApiError::InvalidRequest(format!("wait is more than {MAX_WAIT_SECONDS} seconds")));
        }
        Ok(asked)
    }
}

impl<S: Sync> FromRequestParts<S> for LongPoll {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let asked = Self::of(parts.uri.query().unwrap_or_default())?;
        // A HEAD request has no body to wait for, so it is answered at once.
        Ok(if parts.method == Method::GET { asked } else { Self::default() })
    }
}

async fn status_of(
    arrivals: &Arrivals,
    ClientAddress(address): ClientAddress,
    permit: &SharedPermit,
    id: &SessionId,
    asked: &LongPoll,
) -> Result<Response, ApiError> {
    let (key, logins) = (id.key(), &arrivals.logins);
    let (Some(wait_seconds @ 1..), Some(version)) = (asked.wait, asked.version) else {
        arrivals.hub.wait_for_ack(key).await;
        let (session, now) = logins.current(key).await?;
        return view(logins, &session, now);
    };
    let is_awaited = |session: &Session, now| {
        session.version == version && matches!(session.status(now), Status::Pending | Status::Scanned)
    };
    // The layer of the route has counted the call.
    match arrivals.arrive_if(Arriving { key, address, call: None, permit }, is_awaited).await? {
        Admitted::Immediate(current) => view(logins, &current.0, current.1),
        Admitted::Waits(arrived) => {
            let Arrived { registration, found, permit } = *arrived;
            let kind = WaitKind::Poll { version, wait_seconds };
            Ok(WaitingResponse { registration, found, permit: permit.keep(), kind }.into_response())
        }
    }
}

fn view(logins: &Logins, session: &Session, now: Timestamp) -> Result<Response, ApiError> {
    let frame = logins.frame(session, now).map_err(LoginError::from)?;
    Ok(JsonResponse(StatusCode::OK, logins.view(frame, session, now)).into_response())
}

/// Acknowledges the token, which is not delivered again.
#[utoipa::path(post, path = "/v1/qr-login/ack", tag = BROWSER, request_body = SessionRequest,
    responses((status = 204, description = "The token is acknowledged, and is not delivered again.")))]
pub(crate) async fn ack(
    State(browsers): State<Arc<Browsers>>,
    Json(request): Json<SessionRequest>,
) -> Result<StatusCode, ApiError> {
    browsers.logins.acknowledge(session_id(&request.session_id)?.key()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Cancels a session that has not been decided.
#[utoipa::path(post, path = "/v1/qr-login/cancel", tag = BROWSER, request_body = SessionRequest,
    responses((status = 200, description = "The session is cancelled.", body = StatusResponse)))]
pub(crate) async fn cancel(
    State(browsers): State<Arc<Browsers>>,
    Json(request): Json<SessionRequest>,
) -> Result<JsonResponse<StatusResponse>, ApiError> {
    browsers.logins.cancel(session_id(&request.session_id)?.key()).await?;
    Ok(JsonResponse(StatusCode::OK, StatusResponse { status: "cancelled" }))
}

/// Returns the session id in the header field `X-QR-Session`.
pub(crate) fn id_in_header(headers: &HeaderMap) -> Result<SessionId, ApiError> {
    let missing = || ApiError::InvalidRequest(format!("the header {SESSION_HEADER} is missing"));
    let id = headers.get(SESSION_HEADER).ok_or_else(missing)?;
    session_id(id.to_str().unwrap_or_default())
}

/// Parses a session id. A malformed id is refused with the same error as an unknown one.
pub(crate) fn session_id(text: &str) -> Result<SessionId, ApiError> {
    Ok(SessionId::parse(text).ok_or(LoginError::NotFound)?)
}
