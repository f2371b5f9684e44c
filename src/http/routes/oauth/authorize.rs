//! The authorization endpoint (RFC 6749 §3.1): its page shows the QR code.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Extension, RawQuery};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use axum::response::{IntoResponse, Response};
use maud::html;
use serde_json::json;
use url::Url;

use super::{OAuthPages, Pages, form_of, logo_of};
use crate::http::cookies::with_cookies;
use crate::http::layers::client::{ClientAddress, describe};
use crate::http::pages::{Language, Page};
use crate::http::routes::client_js::MODULES_PATH;
use crate::http::routes::oauth::wait::Ticket;
use crate::limits::Call;
use crate::login::NewSession;
use crate::oauth::{
    Authorize, AuthorizeError, BrowserCookie, ErrorRedirect, OAuthError, PageError, Parameters, Prompt, Sso, SsoCookie,
};
use crate::session::{Client, OAuthRequest, Redirect};
use crate::wire::types::WEBSOCKET_PATH;

/// Path of the page's script.
pub(super) const SCRIPT_PATH: &str = "/oauth/authorize.js";

/// Answers with the page's script.
pub(super) async fn script() -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/javascript; charset=utf-8")], include_str!("../../../../web/authorize.js"))
}

/// Answers an authorization request.
pub(super) async fn show(
    Extension(pages): Pages,
    address: ClientAddress,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let parameters = Parameters::read(query.as_deref().unwrap_or_default());
    let language = Language::preferred(parameters.get("ui_locales"), &headers);
    let now = pages.clock.now();
    let known = pages.cookies.read_all::<BrowserCookie>(&headers, now).into_iter().next();
    let browser = known.unwrap_or_else(BrowserCookie::random);
    let authorize = match pages.oauth.authorize(&parameters, &browser.hash()) {
        Ok(authorize) => authorize,
        Err(error) => return refused(&pages, language, &error),
    };
    let cookie = pages.cookies.keep(&browser, &browser.part(), now);
    let redirect = authorize.request.redirect.clone();
    let request = Request { pages: &pages, language, address, headers: &headers };
    match (request.answer(authorize).await, redirect) {
        (Ok(response), _) => with_cookies(response, [cookie]),
        (Err(error @ (OAuthError::Unavailable | OAuthError::Internal)), Some(redirect)) => {
            pages.answer_error(language, &error_redirect(&redirect, error.code(), "the server cannot answer"))
        }
        // A client that begins again by itself would be sent back and forth, so the limit is shown to the user.
        (Err(error), _) => pages.error_page(language, &error),
    }
}

/// Answers an authorization request in a form (OpenID Connect Core §3.1.2.1). A cross-site POST has no cookies with
/// `SameSite=Lax`, so the browser repeats the request as a GET.
pub(super) async fn from_form(Extension(pages): Pages, headers: HeaderMap, body: Bytes) -> Response {
    match form_of(&headers, &body).ok().and_then(|form| {
        let url = format!("{}/oauth/authorize?{}", pages.base.path(), form.trim());
        HeaderValue::try_from(url).ok()
    }) {
        Some(to) => (StatusCode::SEE_OTHER, [(LOCATION, to)]).into_response(),
        None => refused(&pages, Language::of(&headers), &AuthorizeError::Page(PageError::Parameters)),
    }
}

fn refused(pages: &OAuthPages, language: &Language, error: &AuthorizeError) -> Response {
    match error {
        AuthorizeError::Redirect(error) => pages.answer_error(language, error),
        AuthorizeError::Page(error) => {
            let key = match error {
                PageError::Client => "no_client",
                PageError::RedirectUri => "no_redirect",
                PageError::Parameters => "no_request",
            };
            pages.text_page(language, StatusCode::BAD_REQUEST, "bad", key)
        }
    }
}

fn error_redirect(redirect: &Redirect, error: &'static str, description: &'static str) -> ErrorRedirect {
    ErrorRedirect { uri: redirect.uri.clone(), mode: redirect.mode, state: redirect.state.clone(), error, description }
}

/// A request, with what its answer depends on.
struct Request<'a> {
    pages: &'a Arc<OAuthPages>,
    language: &'static Language,
    address: ClientAddress,
    headers: &'a HeaderMap,
}

impl Request<'_> {
    async fn answer(&self, authorize: Authorize<'_>) -> Result<Response, OAuthError> {
        let Authorize { client, request, prompt, max_age_seconds } = authorize;
        let sso = match self.pages.cookies.read::<SsoCookie>(self.headers, "", self.pages.clock.now()) {
            Some(cookie) => self.pages.oauth.sso(&cookie).await?,
            None => None,
        };
        let oldest = max_age_seconds.map(|seconds| self.pages.clock.wall().as_seconds() - seconds);
        let expected = request.redirect.as_ref().and_then(|redirect| redirect.expected_user.as_ref());
        let is_known = |sso: &Sso| {
            oldest.is_none_or(|oldest| sso.auth_time > oldest) && expected.is_none_or(|user| *user == sso.sub)
        };
        let is_assured = request.redirect.as_ref().is_some_and(|redirect| client.is_assured_by(&redirect.uri));
        match sso.filter(|sso| prompt != Prompt::Always && is_assured && is_known(sso)) {
            Some(sso) => self.answer_known(request, sso).await,
            None if prompt == Prompt::Never => Ok(self.login_required(&request)),
            None => {
                let (name, logo) = (client.settings.name.clone(), client.settings.logo.clone());
                let generated = self.generate(request).await?;
                self.page(&name, &logo, &generated)
            }
        }
    }

    /// Makes a session for the request. The approver sees the origin to which the result goes.
    async fn generate(&self, request: OAuthRequest) -> Result<NewSession, OAuthError> {
        let ClientAddress(address): ClientAddress = self.address;
        self.pages.admit(Call::Generate, address)?;
        let uri = request.redirect.as_ref().and_then(|redirect| Url::parse(&redirect.uri).ok());
        let origin =
            uri.map(|uri| uri.origin()).filter(url::Origin::is_tuple).map(|origin| origin.ascii_serialization());
        let browser = Client { origin, ..describe(self.address, self.headers, None) };
        Ok(self.pages.logins.generate_for(browser, Some(request)).await?)
    }

    /// Answers at once, for a user with a single sign-on session.
    async fn answer_known(&self, request: OAuthRequest, sso: Sso) -> Result<Response, OAuthError> {
        let generated = self.generate(request).await?;
        let session = self.pages.oauth.confirm_by_sso(generated.session.key, sso).await?;
        let redirect = session.request.as_deref().and_then(|request| request.redirect.as_ref());
        let (Some(redirect), Some(code)) = (redirect, self.pages.oauth.code_of(&session)) else {
            return Err(OAuthError::Internal);
        };
        Ok(self.pages.answer(self.language, redirect, &code))
    }

    fn login_required(&self, request: &OAuthRequest) -> Response {
        let Some(redirect) = &request.redirect else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
        let error = error_redirect(redirect, "login_required", "the user must scan a code");
        self.pages.answer_error(self.language, &error)
    }

    /// Returns the page with the QR code. Without scripts, the browser goes to a page that refreshes itself.
    fn page(&self, name: &str, logo: &str, generated: &NewSession) -> Result<Response, OAuthError> {
        let (pages, language, session) = (self.pages, self.language, &generated.session);
        let code = pages.codes.current(session, session.created_at).map_err(|_| OAuthError::Internal)?;
        let base = pages.base.path();
        let next = Ticket::path(pages, session.key, language).ok_or(OAuthError::Internal)?;
        let session_id = generated.id.expose();
        let view = json!({
            "session_id": *session_id,
            "ws_path": format!("{base}{WEBSOCKET_PATH}/{}", *session_id),
            "code": code.code,
            "qr_url": code.qr_url,
            "qr_image": code.qr_image,
            "expires_in": session.expires_at.seconds_since(session.created_at),
            "heartbeat_seconds": pages.heartbeat_seconds,
        });
        let body = html! {
            (logo_of(logo))
            qr-login #login lang=(language.tag) endpoint={ (base) "/" } session=(view.to_string()) data-next=(next) {}
        };
        let title = language.text_with("authorize_title", "{app}", name);
        let page = Page::new(StatusCode::OK, language, title, "wide", body, base);
        let element = format!("{MODULES_PATH}/qr-login.js");
        let scripts = [SCRIPT_PATH, element.as_str()];
        Ok(Page { scripts: &scripts, without_scripts: Some(&next), ..page }.into_response())
    }
}
