//! The calls of the phone: scan, confirm, reject. Each request carries an app token.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts, State};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use tracing::debug;

use super::tags::PHONE;
use crate::http::JsonResponse;
use crate::http::layers::RequestChecks;
use crate::http::layers::body::Json;
use crate::http::layers::client::ClientAddress;
use crate::http::layers::limit::ClientLimits;
use crate::http::layers::risk::Risks;
use crate::http::problem::ApiError;
use crate::limits::Call;
use crate::login::{LoginError, Logins, ScannedCode, Verdict};
use crate::metrics::Metrics;
use crate::oauth::Clients;
use crate::session::{Client, CodeUrl, OAuthRequest, PhoneUser, Timestamp};
use crate::system::clock::Clock;
use crate::token::{AppAuth, AppUser, InvalidToken};
use crate::wire::types::{ApplicationView, ClientView, CodeRequest, ConfirmRequest, ScanResponse, StatusResponse};

/// State of the calls of phones.
pub(crate) struct Phones {
    pub(crate) logins: Arc<Logins>,
    pub(crate) app_auth: Arc<AppAuth>,
    pub(crate) limits: Arc<ClientLimits>,
    /// Registered clients of OAuth, which a session can be for.
    pub(crate) clients: Arc<Clients>,
    pub(crate) risks: Risks,
    /// Form of the URL in a QR code.
    pub(crate) code_url: CodeUrl,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
}

/// The phone that sent a request. Extracting it counts the request and verifies the app token.
pub(crate) struct Phone {
    address: IpAddr,
    /// The user whose app token came with the request.
    user: AppUser,
}

impl<S: Sync> FromRequestParts<S> for Phone
where
    Arc<Phones>: FromRef<S>,
    Arc<RequestChecks>: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let ClientAddress(address) = ClientAddress::from_request_parts(parts, state)
            .await
            .map_err(|_| ApiError::InvalidRequest("the connection has no address".to_owned()))?;
        let phones = Arc::<Phones>::from_ref(state);
        phones.limits.admit(Call::Scan, address)?;
        let verified = match bearer_token(&parts.headers) {
            Some(token) => phones.app_auth.verify(token, address, phones.clock.wall()).await,
            None => Err(InvalidToken::Missing.into()),
        };
        let user = verified.inspect_err(|refused| {
            phones.metrics.app_token_refused(refused.as_str());
            // The text of the error never quotes the token.
            debug!(event = "app token refused", reason = refused.as_str(), detail = %refused);
        })?;
        Ok(Self { address, user })
    }
}

/// Returns the token in the header field `Authorization` (RFC 6750 §2.1).
pub(crate) fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim())
}

/// Scans a code, and returns the browser that generated the session.
#[utoipa::path(post, path = "/v1/qr-login/scan", tag = PHONE, request_body = CodeRequest, security(("app_token" = [])),
    responses((status = 200, description = "The session is scanned. The response describes the browser that requested it.", body = ScanResponse)))]
pub(crate) async fn scan(
    State(phones): State<Arc<Phones>>,
    Phone { address, user: by }: Phone,
    Json(request): Json<CodeRequest>,
) -> Result<JsonResponse<ScanResponse>, ApiError> {
    let response = phones.scan(address, by.user, Scanned { text: &request.code, opened_at: None }).await?;
    Ok(JsonResponse(StatusCode::OK, response))
}

/// Confirms the login of the browser that shows a code.
#[utoipa::path(post, path = "/v1/qr-login/confirm", tag = PHONE, request_body = ConfirmRequest,
    security(("app_token" = [])), responses((status = 200, description = "The session is confirmed.", body = StatusResponse)))]
pub(crate) async fn confirm(
    State(phones): State<Arc<Phones>>,
    Phone { address, user: by }: Phone,
    Json(request): Json<ConfirmRequest>,
) -> Result<JsonResponse<StatusResponse>, ApiError> {
    let scanned = Scanned { text: &request.code, opened_at: None };
    phones.decide(address, by, scanned, Verdict::Confirm(request.number)).await?;
    Ok(JsonResponse(StatusCode::OK, StatusResponse { status: "confirmed" }))
}

/// Rejects the login of the browser that shows a code.
#[utoipa::path(post, path = "/v1/qr-login/reject", tag = PHONE, request_body = CodeRequest,
    security(("app_token" = [])), responses((status = 200, description = "The session is rejected.", body = StatusResponse)))]
pub(crate) async fn reject(
    State(phones): State<Arc<Phones>>,
    Phone { address, user: by }: Phone,
    Json(request): Json<CodeRequest>,
) -> Result<JsonResponse<StatusResponse>, ApiError> {
    let scanned = Scanned { text: &request.code, opened_at: None };
    phones.decide(address, by, scanned, Verdict::Reject).await?;
    Ok(JsonResponse(StatusCode::OK, StatusResponse { status: "rejected" }))
}

/// A code as a phone sent it: the code, or the URL from the QR code.
#[derive(Clone, Copy)]
pub(crate) struct Scanned<'a> {
    pub(crate) text: &'a str,
    /// See [`ScannedCode::opened_at`].
    pub(crate) opened_at: Option<Timestamp>,
}

impl Phones {
    /// Scans a code for a user whose phone is at `address`, and describes the browser that generated the session.
    pub(crate) async fn scan(
        self: &Arc<Self>,
        address: IpAddr,
        user: PhoneUser,
        scanned: Scanned<'_>,
    ) -> Result<ScanResponse, ApiError> {
        let id = user.id.clone();
        let is_safe = self.safety(address);
        let scan = async |code| self.logins.scan(code, user, is_safe).await;
        let scan = self.with_code(address, &id, scanned, scan).await?;
        let application = scan.request.map(|request| self.application(*request));
        let client = scan.client;
        let risk = self.risks.geo().is_set().then(|| self.risks.of(&client, address));
        let place = client.ip.parse().ok();
        let view = ClientView {
            ip: client.ip,
            browser: client.browser,
            os: client.os,
            origin: client.origin,
            client_info: client.client_info,
            time: self.clock.date_of(scan.created_at).to_string(),
            location: place.and_then(|address| self.risks.geo().location(address)),
            network: place.and_then(|address| self.risks.geo().network(address)),
        };
        let expires_in = scan.expires_in_seconds;
        Ok(ScanResponse { status: "scanned", client: view, application, expires_in, numbers: scan.numbers, risk })
    }

    /// Describes the OAuth client that a session is for. Of a client that is no longer registered, the id is shown.
    fn application(&self, request: OAuthRequest) -> ApplicationView {
        let known = self.clients.find(&request.client_id).map(|client| &client.settings);
        ApplicationView {
            name: known.map_or(request.client_id, |client| client.name.clone()),
            logo: known.map(|client| client.logo.clone()).filter(|logo| !logo.is_empty()),
            scopes: request.scopes,
        }
    }

    /// Stores the decision of a user whose phone is at `address`.
    pub(crate) async fn decide(
        self: &Arc<Self>,
        address: IpAddr,
        by: AppUser,
        scanned: Scanned<'_>,
        verdict: Verdict,
    ) -> Result<(), ApiError> {
        let user = by.user.id.clone();
        let is_safe = self.safety(address);
        let decide = async |code| self.logins.decide(code, by, verdict, is_safe).await;
        self.with_code(address, &user, scanned, decide).await
    }

    /// Returns a function that tells whether `risk.policy` lets a phone at `address` log in a given browser.
    fn safety(self: &Arc<Self>, address: IpAddr) -> impl Fn(&Client) -> bool + Send + Sync + use<> {
        let phones = self.clone();
        move |client| phones.risks.is_safe(client, address)
    }

    /// Parses a code and calls `what` with it, unless the user or the address has sent too many wrong codes. A
    /// malformed code counts as a wrong one, and is refused with the same error as an unknown one.
    async fn with_code<T>(
        &self,
        address: IpAddr,
        user: &str,
        scanned: Scanned<'_>,
        what: impl AsyncFnOnce(ScannedCode) -> Result<T, LoginError>,
    ) -> Result<T, ApiError> {
        let rates = self.limits.rates.as_ref();
        if let Some(rates) = rates {
            rates.may_try_code(user, address)?;
        }
        let done = match self.code_url.code_in(scanned.text) {
            Some(code) => what(ScannedCode { code, opened_at: scanned.opened_at }).await,
            None => Err(LoginError::NotFound),
        };
        if let (Some(rates), Err(LoginError::NotFound)) = (rates, &done) {
            rates.count_wrong_code(user, address);
        }
        Ok(done?)
    }
}
