//! The calls of the phone: scan, confirm, reject. Each request carries an app token.

use std::sync::Arc;

use axum::extract::{FromRequestParts, State};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use tracing::debug;

use crate::http::layers::body::Json;
use crate::http::layers::client::ClientAddress;
use crate::http::problem::ApiError;
use crate::http::routes::openapi::PHONE;
use crate::http::{Answer, App};
use crate::limits::Call;
use crate::login::{LoginError, Verdict};
use crate::session::{Client, Code};
use crate::token::{AppUser, InvalidToken};
use crate::wire::types::{ClientView, CodeRequest, ConfirmRequest, ScanResponse, StatusResponse};

/// The phone that sent a request. Extracting it counts the request and verifies the app token.
pub(crate) struct Phone {
    address: ClientAddress,
    /// The user whose app token came with the request.
    user: AppUser,
}

impl FromRequestParts<Arc<App>> for Phone {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let address = ClientAddress::from_request_parts(parts, app)
            .await
            .map_err(|_| ApiError::InvalidRequest("the connection has no address".to_owned()))?;
        app.limits.admit(Call::Scan, address.0)?;
        let verified = match bearer_token(&parts.headers) {
            Some(token) => app.app_auth.verify(token, address.0, app.logins.clock.wall()).await,
            None => Err(InvalidToken::Missing.into()),
        };
        let user = verified.inspect_err(|refused| {
            app.metrics.app_token_refused(refused.as_str());
            // The text of the error never quotes the token.
            debug!(event = "app token refused", reason = refused.as_str(), detail = %refused);
        })?;
        Ok(Self { address, user })
    }
}

/// Returns the token in the header field `Authorization` (RFC 6750 §2.1).
fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim())
}

/// Scans a code, and returns the browser that generated the session.
#[utoipa::path(post, path = "/v1/qr-login/scan", tag = PHONE, request_body = CodeRequest, security(("app_token" = [])),
    responses((status = 200, description = "Who is asking.", body = ScanResponse)))]
pub(crate) async fn scan(
    State(app): State<Arc<App>>,
    Phone { address, user: by }: Phone,
    Json(request): Json<CodeRequest>,
) -> Result<Answer<ScanResponse>, ApiError> {
    let user = by.user.id.clone();
    let is_safe = safety(&app, address);
    let scan = async |code| app.logins.scan(&code, by.user, is_safe).await;
    let scan = with_code(&app, address, &user, &request.code, scan).await?;
    let client = scan.client;
    let risk = app.geo.is_set().then(|| app.risks.of(&app.geo, &client, address.0));
    let place = client.ip.parse().ok();
    let view = ClientView {
        ip: client.ip,
        browser: client.browser,
        os: client.os,
        origin: client.origin,
        client_info: client.client_info,
        time: app.logins.clock.date_of(scan.asked_at).to_string(),
        location: place.and_then(|address| app.geo.location(address)),
        network: place.and_then(|address| app.geo.network(address)),
    };
    let expires_in = scan.expires_in_seconds;
    let response = ScanResponse { status: "scanned", client: view, expires_in, numbers: scan.numbers, risk };
    Ok(Answer(StatusCode::OK, response))
}

/// Confirms the login of the browser that shows a code.
#[utoipa::path(post, path = "/v1/qr-login/confirm", tag = PHONE, request_body = ConfirmRequest,
    security(("app_token" = [])), responses((status = 200, description = "The browser is logged in.", body = StatusResponse)))]
pub(crate) async fn confirm(
    State(app): State<Arc<App>>,
    Phone { address, user: by }: Phone,
    Json(request): Json<ConfirmRequest>,
) -> Result<Answer<StatusResponse>, ApiError> {
    if app.logins.codes.compares_numbers && request.number.is_none() {
        let reason = "the number that the browser shows is missing: one of the three that scan answers with";
        return Err(ApiError::InvalidRequest(reason.to_owned()));
    }
    decide(&app, address, by, &request.code, Verdict::Confirm(request.number)).await?;
    Ok(Answer(StatusCode::OK, StatusResponse { status: "confirmed" }))
}

/// Rejects the login of the browser that shows a code.
#[utoipa::path(post, path = "/v1/qr-login/reject", tag = PHONE, request_body = CodeRequest,
    security(("app_token" = [])), responses((status = 200, description = "The browser is told no.", body = StatusResponse)))]
pub(crate) async fn reject(
    State(app): State<Arc<App>>,
    Phone { address, user: by }: Phone,
    Json(request): Json<CodeRequest>,
) -> Result<Answer<StatusResponse>, ApiError> {
    decide(&app, address, by, &request.code, Verdict::Reject).await?;
    Ok(Answer(StatusCode::OK, StatusResponse { status: "rejected" }))
}

/// Returns a function that tells whether `risk.policy` lets a phone at `address` log in a given browser.
fn safety(app: &Arc<App>, address: ClientAddress) -> impl Fn(&Client) -> bool + Send + Sync + use<> {
    let app = app.clone();
    move |client| app.risks.is_safe(&app.geo, client, address.0)
}

async fn decide(
    app: &Arc<App>,
    address: ClientAddress,
    by: AppUser,
    code: &str,
    verdict: Verdict,
) -> Result<(), ApiError> {
    let user = by.user.id.clone();
    let is_safe = safety(app, address);
    with_code(app, address, &user, code, async |code| app.logins.decide(&code, by, verdict, is_safe).await).await
}

/// Parses a code and calls `what` with it, unless the user or the address has sent too many wrong codes. A malformed
/// code counts as a wrong one, and is refused with the same error as an unknown one.
async fn with_code<T>(
    app: &App,
    address: ClientAddress,
    user: &str,
    code: &str,
    what: impl AsyncFnOnce(Code) -> Result<T, LoginError>,
) -> Result<T, ApiError> {
    let rates = app.limits.rates.as_ref();
    if let Some(rates) = rates {
        rates.may_try_code(user, address.0)?;
    }
    let done = match Code::from_scan(code) {
        Some(code) => what(code).await,
        None => Err(LoginError::NotFound),
    };
    if let (Some(rates), Err(LoginError::NotFound)) = (rates, &done) {
        rates.count_wrong_code(user, address.0);
    }
    Ok(done?)
}
