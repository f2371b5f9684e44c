//! Logout that a client begins (OpenID Connect RP-Initiated Logout 1.0).

use axum::body::Bytes;
use axum::extract::{Extension, RawQuery};
use axum::http::header::{HeaderValue, LOCATION};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use maud::html;
use url::Url;

use super::{OAuthPages, Pages, form_of};
use crate::http::cookies::with_cookies;
use crate::http::layers::origin::is_same_origin;
use crate::http::pages::{Language, Page};
use crate::oauth::{OAuthClient, Parameters, SsoCookie};

/// Answers a logout request.
pub(super) async fn show(Extension(pages): Pages, headers: HeaderMap, RawQuery(query): RawQuery) -> Response {
    log_out(&pages, &headers, query.as_deref().unwrap_or_default(), false).await
}

/// Answers a logout request in a form, of the client or of the page that asks the user.
pub(super) async fn from_form(Extension(pages): Pages, headers: HeaderMap, body: Bytes) -> Response {
    let form = form_of(&headers, &body).unwrap_or_default();
    let is_confirmed = is_same_origin(&headers, &pages.origin);
    log_out(&pages, &headers, form, is_confirmed).await
}

async fn log_out(pages: &OAuthPages, headers: &HeaderMap, text: &str, is_confirmed: bool) -> Response {
    let Ok(parameters) = Parameters::parse(text) else {
        return pages.text_page(Language::of(headers), StatusCode::BAD_REQUEST, "bad", "no_request");
    };
    let language = Language::preferred(parameters.get("ui_locales"), headers);
    let hinted = parameters.get("id_token_hint").map(|hint| pages.oauth.hinted(hint));
    let client_id = parameters.get("client_id");
    let client_of_hint = hinted.iter().flatten().map(|(_, client)| client.as_str()).next();
    let is_contradiction = client_id.is_some() && client_of_hint.is_some() && client_id != client_of_hint;
    if is_contradiction || matches!(hinted, Some(None)) {
        return pages.text_page(language, StatusCode::BAD_REQUEST, "bad", "no_logout");
    }
    let client = client_of_hint.or(client_id).and_then(|id| pages.oauth.clients.find(id));
    let back_to = match parameters.get("post_logout_redirect_uri") {
        None => None,
        Some(uri) => {
            let is_known =
                client.is_some_and(|client| client.settings.post_logout_redirect_uris.iter().any(|it| it == uri));
            if !is_known {
                return pages.text_page(language, StatusCode::BAD_REQUEST, "bad", "no_logout");
            }
            Some(uri)
        }
    };
    let cookie = pages.cookies.read::<SsoCookie>(headers, "", pages.clock.now());
    let sso = match &cookie {
        Some(cookie) => pages.oauth.sso(cookie).await,
        None => Ok(None),
    };
    let sso = match sso {
        Ok(sso) => sso,
        Err(error) => return pages.error_page(language, &error),
    };
    // Another site could send the user here. Without an ID token of this user, the user is asked (OpenID Connect
    // RP-Initiated Logout §2).
    let hinted_user = hinted.iter().flatten().map(|(user, _)| user.as_str()).next();
    if !is_confirmed && sso.is_some_and(|sso| hinted_user != Some(sso.sub.as_str())) {
        return pages.logout_question(language, client, &parameters);
    }
    if let Some(cookie) = &cookie
        && let Err(error) = pages.oauth.end_sso(cookie).await
    {
        return pages.error_page(language, &error);
    }
    let response = match back_to.and_then(|uri| with_state(uri, parameters.get("state"))) {
        Some(to) => (StatusCode::SEE_OTHER, [(LOCATION, to)]).into_response(),
        None => pages.text_page(language, StatusCode::OK, "plain", "ended"),
    };
    with_cookies(response, [cookie.and_then(|_| pages.cookies.forget::<SsoCookie>(""))])
}

fn with_state(uri: &str, state: Option<&str>) -> Option<HeaderValue> {
    let mut url = Url::parse(uri).ok()?;
    if let Some(state) = state {
        url.query_pairs_mut().append_pair("state", state);
    }
    HeaderValue::try_from(String::from(url)).ok()
}

impl OAuthPages {
    /// Returns the page that asks the user. Its form repeats the request, without the ID token of another user.
    fn logout_question(&self, language: &Language, client: Option<&OAuthClient>, parameters: &Parameters) -> Response {
        let client_id = client.map(|client| client.settings.id.as_str());
        let repeated = [
            ("client_id", client_id),
            ("post_logout_redirect_uri", parameters.get("post_logout_redirect_uri")),
            ("state", parameters.get("state")),
        ];
        let body = html! {
            p { (language.text("end_lead")) }
            form.actions method="post" action={ (self.base.path()) "/oauth/logout" } {
                @for (name, value) in repeated {
                    @if let Some(value) = value { input type="hidden" name=(name) value=(value); }
                }
                button.yes { (language.text("end")) }
            }
        };
        let page = Page::new(StatusCode::OK, language, language.text("end_title"), "ask", body, self.base.path());
        Page { posts_elsewhere: true, ..page }.into_response()
    }
}
