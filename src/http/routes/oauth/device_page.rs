//! The page on which a user types the code that a device shows (RFC 8628 §3.3).

use axum::body::Bytes;
use axum::extract::{Extension, RawQuery};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use maud::html;

use super::{OAuthPages, Pages, form_of};
use crate::approve::Opened;
use crate::http::cookies::with_cookies;
use crate::http::layers::client::ClientAddress;
use crate::http::layers::origin::is_same_origin;
use crate::http::pages::{Language, Page};
use crate::oauth::{OAuthError, Parameters, UserCode};
use crate::session::network_of;
use crate::wire::types::CodeView;

/// Name of the form's field that says that a link has filled it in.
const LINKED: &str = "linked";

/// Answers with the form. A link can fill it in.
pub(super) async fn show(Extension(pages): Pages, headers: HeaderMap, RawQuery(query): RawQuery) -> Response {
    let parameters = Parameters::parse(query.as_deref().unwrap_or_default()).unwrap_or_default();
    let typed = parameters.get("user_code").unwrap_or_default();
    pages.device_page(
        Language::of(&headers),
        StatusCode::OK,
        typed,
        Filled { is_linked: !typed.is_empty(), is_wrong: false },
    )
}

/// Goes on to the page of the QR code that belongs to the typed code. A wrong code counts against the address.
pub(super) async fn enter(
    Extension(pages): Pages,
    ClientAddress(address): ClientAddress,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let language = Language::of(&headers);
    let form = form_of(&headers, &body).and_then(Parameters::parse).unwrap_or_default();
    let typed = form.get("user_code").unwrap_or_default();
    let is_linked = form.get(LINKED).is_some();
    let (rates, guesser) = (pages.limits.rates.as_ref(), network_of(address).to_string());
    if let Some(exceeded) = rates.and_then(|rates| rates.may_try_code(&guesser, address).err()) {
        return pages.error_page(language, &OAuthError::RateLimited(exceeded.retry_after_seconds));
    }
    let found = match UserCode::parse(typed) {
        Some(user_code) => pages.oauth.device_code(&user_code).await,
        None => Ok(None),
    };
    match found {
        // Another site may have sent the form, or a link with the code.
        Ok(Some(code)) => pages.go_on(language, &code, !is_linked && is_same_origin(&headers, &pages.origin)),
        Ok(None) => {
            if let Some(rates) = rates {
                rates.count_wrong_code(&guesser, address);
            }
            pages.device_page(language, StatusCode::NOT_FOUND, typed, Filled { is_linked, is_wrong: true })
        }
        Err(error) => pages.error_page(language, &error),
    }
}

/// How the form comes to have a code.
struct Filled {
    /// A link has filled it in.
    is_linked: bool,
    /// The code was sent, and is wrong.
    is_wrong: bool,
}

impl OAuthPages {
    /// Goes on to the page of a code, by a page of its own: the target may redirect to another origin, which the policy of
    /// the form would refuse. A user who has typed the code need not say again that it is on a screen in front of them.
    fn go_on(&self, language: &Language, code: &CodeView, is_typed: bool) -> Response {
        let body = html! { p.actions { a.button.yes href=(code.qr_url) { (language.text("continue")) } } };
        let title = language.text("continue_title");
        let page = Page::new(StatusCode::OK, language, title, "plain", body, self.base.path());
        let response = Page { goes_on_to: Some(&code.qr_url), ..page }.into_response();
        let opened = Opened { code: code.code.clone(), at_millis: self.clock.now().as_millis() };
        let kept = is_typed.then(|| self.cookies.keep(&opened, "", self.clock.now()));
        with_cookies(response, kept)
    }

    fn device_page(&self, language: &Language, status: StatusCode, typed: &str, filled: Filled) -> Response {
        let Filled { is_linked, is_wrong } = filled;
        let body = html! {
            form.actions method="post" {
                label for="user_code" { (language.text("device_lead")) }
                input #user_code name="user_code" value=(typed) required autofocus autocomplete="one-time-code"
                    autocapitalize="characters" spellcheck="false" placeholder="XXXX-XXXX" maxlength="32"
                    aria-invalid=[is_wrong.then_some("true")] aria-describedby=[is_wrong.then_some("wrong")];
                @if is_linked { input type="hidden" name=(LINKED) value="1"; }
                @if is_wrong { p #wrong .risk role="alert" { (language.text("device_wrong")) } }
                button.yes { (language.text("continue")) }
            }
        };
        Page::new(status, language, language.text("device_title"), "ask", body, self.base.path()).into_response()
    }
}
