//! The response to an authorization request: parameters for the redirect URI, in its query or in a form.

use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use maud::html;
use url::Url;

use super::OAuthPages;
use crate::http::pages::{Language, Page};
use crate::oauth::ErrorRedirect;
use crate::session::{Redirect, ResponseMode};

/// Path of the script that posts the form.
pub(super) const SCRIPT_PATH: &str = "/oauth/post.js";

/// Answers with the script that posts the form.
pub(super) async fn script() -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/javascript; charset=utf-8")], include_str!("../../../../web/post.js"))
}

impl OAuthPages {
    /// Sends an authorization code to the client (RFC 6749 §4.1.2, RFC 9207 §2).
    pub(super) fn answer(&self, language: &Language, redirect: &Redirect, code: &str) -> Response {
        self.send(language, &redirect.uri, redirect.mode, &[("code", code)], redirect.state.as_deref())
    }

    /// Sends an error to the client (RFC 6749 §4.1.2.1).
    pub(super) fn answer_error(&self, language: &Language, error: &ErrorRedirect) -> Response {
        let parameters = [("error", error.error), ("error_description", error.description)];
        self.send(language, &error.uri, error.mode, &parameters, error.state.as_deref())
    }

    fn send(
        &self,
        language: &Language,
        uri: &str,
        mode: ResponseMode,
        parameters: &[(&str, &str)],
        state: Option<&str>,
    ) -> Response {
        let Ok(mut url) = Url::parse(uri) else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
        let all = parameters.iter().copied().chain(state.map(|state| ("state", state)));
        let all: Vec<_> = all.chain([("iss", self.oauth.issuer.as_str())]).collect();
        match mode {
            ResponseMode::Query => {
                url.query_pairs_mut().extend_pairs(all);
                match HeaderValue::try_from(String::from(url)) {
                    Ok(to) => (StatusCode::SEE_OTHER, [(LOCATION, to)]).into_response(),
                    Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
                }
            }
            ResponseMode::FormPost => {
                let body = html! {
                    form.actions method="post" action=(uri) {
                        @for (name, value) in &all { input type="hidden" name=(name) value=(value); }
                        button.yes { (language.text("continue")) }
                    }
                };
                let title = language.text("continue_title");
                let page = Page::new(StatusCode::OK, language, title, "plain", body, self.base.path());
                Page { scripts: &[SCRIPT_PATH], posts_elsewhere: true, ..page }.into_response()
            }
        }
    }
}
