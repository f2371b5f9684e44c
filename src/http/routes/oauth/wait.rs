//! The page that goes on to the client when the login is decided. Without scripts it waits for that too: it refreshes
//! itself.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use maud::html;
use serde::{Deserialize, Serialize};

use super::{OAuthPages, Pages, logo_of};
use crate::http::cookies::with_cookies;
use crate::http::layers::client::ClientAddress;
use crate::http::pages::{Language, Page};
use crate::limits::Call;
use crate::oauth::{BrowserCookie, ErrorRedirect, OAuthError};
use crate::session::{Redirect, Session, SessionKey, Status, Timestamp};
use crate::token::Kept;
use crate::wire::types::Frame;

/// Time between two refreshes of the page without scripts, in seconds.
const REFRESH_SECONDS: u32 = 2;

/// The part of the page's path that names its session. It is of use in the browser with the right cookie only.
#[derive(Serialize, Deserialize)]
pub(super) struct Ticket {
    session: SessionKey,
    /// Tag of the language of the page.
    language: String,
}

impl Kept for Ticket {
    const PURPOSE: &'static str = "ticket";
    const SECONDS: u32 = 2 * 3600;
}

impl Ticket {
    /// Returns the path of a session's page, as browsers request it.
    pub(super) fn path(pages: &OAuthPages, key: SessionKey, language: &Language) -> Option<String> {
        let ticket = Self { session: key, language: language.tag.to_owned() };
        let sealed = pages.cookies.sealer.keep(&ticket, pages.clock.now())?;
        Some(format!("{}/oauth/wait/{sealed}", pages.base.path()))
    }

    fn open(pages: &OAuthPages, sealed: &str) -> Option<Self> {
        pages.cookies.sealer.kept(sealed, pages.clock.now())
    }
}

/// Answers with the client's redirect if the login is decided, and with the QR code until then.
pub(super) async fn show(
    Extension(pages): Pages,
    ClientAddress(address): ClientAddress,
    ticket: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Response {
    let ticket = ticket.ok().and_then(|Path(sealed)| Ticket::open(&pages, &sealed));
    let language = Language::preferred(ticket.as_ref().map(|ticket| ticket.language.as_str()), &headers);
    let stale = || pages.text_page(language, StatusCode::BAD_REQUEST, "bad", "stale");
    if let Err(error) = pages.admit(Call::Status, address) {
        return pages.error_page(language, &error);
    }
    let Some(ticket) = ticket else { return stale() };
    let (session, now) = match pages.oauth.session(ticket.session).await {
        Ok(found) => found,
        Err(error) => return pages.error_page(language, &error),
    };
    let Some(redirect) = session.request.as_deref().and_then(|request| request.redirect.as_ref()) else {
        return stale();
    };
    let cookies = pages.cookies.read_all::<BrowserCookie>(&headers, now);
    if !cookies.iter().any(|cookie| cookie.hash() == redirect.browser) {
        let key = if pages.cookies.are_sent(&headers) { "stale" } else { "cookies" };
        return pages.text_page(language, StatusCode::BAD_REQUEST, "bad", key);
    }
    match answer(&pages, language, &session, redirect, now).await {
        Ok(response) => response,
        Err(error) => pages.error_page(language, &error),
    }
}

async fn answer(
    pages: &Arc<OAuthPages>,
    language: &Language,
    session: &Session,
    redirect: &Redirect,
    now: Timestamp,
) -> Result<Response, OAuthError> {
    let denied = |error, description| {
        let (uri, state) = (redirect.uri.clone(), redirect.state.clone());
        pages.answer_error(language, &ErrorRedirect { uri, mode: redirect.mode, state, error, description })
    };
    match session.status(now) {
        Status::Pending | Status::Scanned => waiting(pages, language, session, now),
        Status::Confirmed => {
            let user = session.user().map(|user| user.id.as_str());
            if redirect.expected_user.as_deref().is_some_and(|expected| user != Some(expected)) {
                return Ok(denied("login_required", "another user has logged in than id_token_hint names"));
            }
            let code = pages.oauth.code_of(session).ok_or(OAuthError::Internal)?;
            let sso = pages.oauth.begin_sso(session).await?;
            let cookie = sso.and_then(|cookie| pages.cookies.keep(&cookie, "", now));
            Ok(with_cookies(pages.answer(language, redirect, &code), [cookie]))
        }
        Status::Rejected | Status::Cancelled => Ok(denied("access_denied", "the login was rejected")),
        Status::Expired if session.is_undecided() => Ok(denied("access_denied", "the code was not scanned in time")),
        Status::Expired | Status::Claimed => Ok(pages.text_page(language, StatusCode::BAD_REQUEST, "bad", "stale")),
    }
}

/// Returns the page for a browser without scripts.
fn waiting(
    pages: &Arc<OAuthPages>,
    language: &Language,
    session: &Session,
    now: Timestamp,
) -> Result<Response, OAuthError> {
    let code = pages.codes.current(session, now).map_err(|_| OAuthError::Internal)?;
    let client = session.request.as_ref().and_then(|request| pages.oauth.clients.find(&request.client_id));
    let (name, logo) = client.map_or(("", ""), |client| (&client.settings.name, &client.settings.logo));
    let number = match pages.logins.frame(session, now).map_err(|_| OAuthError::Internal)? {
        Frame::Scanned { number, .. } => number,
        _ => None,
    };
    let is_scanned = session.status(now) == Status::Scanned;
    let body = html! {
        (logo_of(logo))
        @if is_scanned {
            p role="status" { (language.text("wait_scanned")) }
            @if let Some(number) = number { p.number { bdi { (number) } } }
        } @else {
            div.scan {
                p { (language.text("wait_lead")) }
                p { img.code src=(code.qr_image) alt=(language.text("wait_picture")); }
                p.here { a.button href=(code.qr_url) target="_blank" rel="noopener" { (language.text("wait_here")) } }
            }
        }
    };
    let title = language.text_with("authorize_title", "{app}", name);
    let page = Page::new(StatusCode::OK, language, title, "plain", body, pages.base.path());
    Ok(Page { refresh_seconds: Some(REFRESH_SECONDS), ..page }.into_response())
}
