//! The routes of the demo's OpenID provider.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use maud::{Markup, html};
use serde_json::json;
use url::form_urlencoded;

use super::DemoPages;
use crate::demo::{AuthorizationError, Logout, PROVIDER_PATH, TokenError, USERS};
use crate::http::JsonResponse;
use crate::http::layers::origin::is_same_origin;
use crate::http::pages::{Language, Page};

type Pages = State<Arc<DemoPages>>;

pub(super) fn routes() -> Router<Arc<DemoPages>> {
    let path = |path: &str| format!("{PROVIDER_PATH}{path}");
    Router::new()
        .route(&path("/.well-known/openid-configuration"), get(metadata))
        .route(&path("/authorize"), get(ask).post(answer))
        .route(&path("/token"), post(exchange))
        // ID tokens are signed with the client secret.
        .route(&path("/jwks.json"), get(async || JsonResponse(StatusCode::OK, json!({ "keys": [] }))))
        .route(&path("/logout"), get(log_out))
}

async fn metadata(State(pages): Pages) -> impl IntoResponse {
    JsonResponse(StatusCode::OK, pages.demo.provider().metadata())
}

/// Answers an authorization request with the page that asks who the user is. The form posts to the URL of the page, so
/// the request is repeated in the answer.
async fn ask(State(pages): Pages, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    let language = Language::of(&headers);
    match pages.demo.provider().authorization_request(query.as_deref().unwrap_or_default()) {
        Ok(_) => pages.provider_page(StatusCode::OK, language, "demo_title", question(language)),
        Err(error) => refusal(&pages, language, error),
    }
}

/// Sends the user back with the chosen user's code, or with the error that the user has cancelled.
async fn answer(State(pages): Pages, RawQuery(query): RawQuery, headers: HeaderMap, body: Bytes) -> Response {
    let (language, provider) = (Language::of(&headers), pages.demo.provider());
    if !is_same_origin(&headers, provider.origin()) {
        let body = html! { p role="status" { (language.text("forbidden")) } };
        return pages.provider_page(StatusCode::FORBIDDEN, language, "forbidden_title", body);
    }
    let request = match provider.authorization_request(query.as_deref().unwrap_or_default()) {
        Ok(request) => request,
        Err(error) => return refusal(&pages, language, error),
    };
    let user = form_urlencoded::parse(&body).find_map(|(name, value)| (name == "user").then_some(value));
    let Some(user) = user else { return redirect(&provider.cancel(&request)) };
    match provider.log_in(request, &user, pages.clock.now()) {
        Some(url) => redirect(&url),
        None => refusal(&pages, language, AuthorizationError::Client("there is no such user")),
    }
}

/// Answers a token request.
async fn exchange(State(pages): Pages, headers: HeaderMap, body: Bytes) -> Response {
    let is_form = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|value| {
        let essence = value.split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case("application/x-www-form-urlencoded")
    });
    let authorization = headers.get(AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
    let exchanged = if is_form {
        pages.demo.provider().exchange(authorization, &body, pages.clock.now(), pages.clock.wall())
    } else {
        Err(TokenError { error: "invalid_request", error_description: "the body is not a form" })
    };
    match exchanged {
        Ok(tokens) => JsonResponse(StatusCode::OK, tokens).into_response(),
        Err(error) if error.error == "invalid_client" => {
            let response = JsonResponse(StatusCode::UNAUTHORIZED, error);
            ([(WWW_AUTHENTICATE, "Basic realm=\"qrlogin demo\"")], response).into_response()
        }
        Err(error) => JsonResponse(StatusCode::BAD_REQUEST, error).into_response(),
    }
}

/// Answers a logout request.
async fn log_out(State(pages): Pages, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    let language = Language::of(&headers);
    match pages.demo.provider().log_out(query.as_deref().unwrap_or_default()) {
        Logout::Back(url) => redirect(&url),
        Logout::Stay => {
            let body = html! { p role="status" { (language.text("out")) } };
            pages.provider_page(StatusCode::OK, language, "out_title", body)
        }
        Logout::Refused(reason) => refusal(&pages, language, AuthorizationError::Client(reason)),
    }
}

fn question(language: &Language) -> Markup {
    html! {
        p { (language.text("demo_lead")) }
        form.actions method="post" {
            @for user in USERS { button name="user" value=(user.id) { (user.name) } }
        }
        form.other method="post" { button name="cancel" value="" { (language.text("demo_cancel")) } }
    }
}

/// Sends the user back with an error, or shows the error where there is no URL to which the user may be sent. The
/// reason is for a developer, so it is in English.
fn refusal(pages: &DemoPages, language: &Language, error: AuthorizationError) -> Response {
    match error {
        AuthorizationError::Sent(url) => redirect(&url),
        AuthorizationError::Client(reason) => {
            let body = html! { p role="status" lang="en" { (reason) } };
            pages.provider_page(StatusCode::BAD_REQUEST, language, "forbidden_title", body)
        }
    }
}

/// Returns a redirect that a browser follows with a GET.
fn redirect(to: &str) -> Response {
    (StatusCode::SEE_OTHER, [(LOCATION, to)]).into_response()
}

impl DemoPages {
    fn provider_page(&self, status: StatusCode, language: &Language, title: &str, body: Markup) -> Response {
        let kind = if status.is_success() { "ask" } else { "bad" };
        let (title, base) = (language.text(title).to_owned(), self.base.path());
        Page::new(status, language, title, kind, body, base).into_response()
    }
}
