//! The login at the provider: the way there, the way back, and the logout.

use aws_lc_rs::constant_time;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use serde_json::{Map, Value};
use tracing::warn;

use super::{ApprovePages, Approver, Content, form_value, redirect};
use crate::approve::{Flow, Opened, ProviderError, Visit};
use crate::http::cookies::with_cookies;
use crate::http::layers::origin::is_same_origin;
use crate::http::pages::Language;
use crate::http::problem::ApiError;
use crate::token::AuthError;

/// Claims of the ID token that are kept in the session, besides the user's id and those that are passed on.
const KEPT_CLAIMS: [&str; 3] = ["name", "picture", "auth_time"];
/// Number of characters of `state` that name the cookie of a flow, so that logins in two tabs are kept apart.
const FLOW_NAME_CHARS: usize = 8;

/// Sends the user to the provider, from a GET of a code's page.
pub(super) async fn begin(
    pages: &ApprovePages,
    approver: &Approver,
    code: &str,
    asks_again: bool,
    language: &Language,
    opened: Option<&Opened>,
) -> Response {
    match flow(pages, approver, code, asks_again, language).await {
        Ok((url, cookie)) => {
            let opened = opened.and_then(|opened| approver.cookies.keep(opened, "", pages.clock.now()));
            with_cookies(redirect(StatusCode::FOUND, &url), [cookie, opened])
        }
        Err(error) => unavailable(pages, language, code, &error),
    }
}

/// Ends the session here, and sends the user to the provider to log in as another user.
pub(super) async fn switch(pages: &ApprovePages, approver: &Approver, code: &str, language: &Language) -> Response {
    let forgotten = approver.cookies.forget::<Visit>("");
    match flow(pages, approver, code, true, language).await {
        Ok((url, cookie)) => with_cookies(onward(pages, language, "log_in", &url), [cookie, forgotten]),
        Err(error) => with_cookies(unavailable(pages, language, code, &error), [forgotten]),
    }
}

/// Begins a login. Returns the URL of the provider, and the cookie that keeps the secrets of the login.
async fn flow(
    pages: &ApprovePages,
    approver: &Approver,
    code: &str,
    asks_again: bool,
    language: &Language,
) -> Result<(String, Option<HeaderValue>), ProviderError> {
    let begun = approver.provider.begin(asks_again, language.tag).await?;
    let name = flow_name(&begun.flow.state);
    let flow = Flow { login: begun.flow, code: code.to_owned() };
    Ok((begun.url.into(), approver.cookies.keep(&flow, &name, pages.clock.now())))
}

/// Finishes a login: verifies the provider's response, keeps the user in a cookie, and goes back to the code's page.
pub(super) async fn finish(pages: &ApprovePages, approver: &Approver, headers: &HeaderMap, query: &str) -> Response {
    let language = Language::of(headers);
    let parameter = |name: &str| form_value(query, name);
    let state = parameter("state").unwrap_or_default();
    let (now, name) = (pages.clock.now(), flow_name(&state));
    let flow = approver
        .cookies
        .read::<Flow>(headers, &name, now)
        .filter(|flow| constant_time::verify_slices_are_equal(flow.login.state.as_bytes(), state.as_bytes()).is_ok());
    let Some(flow) = flow else {
        let key = if approver.cookies.are_sent(headers) { "stale" } else { "cookies" };
        return pages.page(language, Content::text(language, StatusCode::BAD_REQUEST, "bad", key));
    };
    let code = flow.code.clone();
    // The secrets of a login are used once.
    let used = approver.cookies.forget::<Flow>(&name);
    if let Err(error) = approver.provider.check_issuer(parameter("iss").as_deref()).await {
        return with_cookies(unavailable(pages, language, &code, &error), [used]);
    }
    let response = match (parameter("code"), parameter("error")) {
        (Some(answer), None) => match approver.provider.finish(answer, flow.login).await {
            Ok(finished) => signed_in(pages, approver, language, &code, finished.claims, finished.id_token),
            Err(error) => unavailable(pages, language, &code, &error),
        },
        (_, Some(error)) if error == "access_denied" => denied(pages, language, &code),
        (_, error) => {
            let reason = error.unwrap_or_else(|| "a response without a code".to_owned());
            unavailable(pages, language, &code, &ProviderError::Client(reason))
        }
    };
    with_cookies(response, [used])
}

/// Keeps the user in a cookie, and goes back to the code's page.
fn signed_in(
    pages: &ApprovePages,
    approver: &Approver,
    language: &Language,
    code: &str,
    claims: Map<String, Value>,
    id_token: String,
) -> Response {
    let is_kept = |name: &String| {
        *name == approver.rules.user_claim
            || KEPT_CLAIMS.contains(&name.as_str())
            || approver.rules.passed_on.contains(name)
    };
    let claims: Map<_, _> = claims.into_iter().filter(|(name, _)| is_kept(name)).collect();
    match approver.rules.check(claims.clone(), pages.clock.wall()) {
        Ok(_) => {}
        // The provider did not let the user log in again.
        Err(AuthError::TooOld { .. }) => return denied(pages, language, code),
        Err(error) => return unavailable(pages, language, code, &ProviderError::Refused(error.to_string())),
    }
    let now = pages.clock.now();
    let visit = Visit { claims, id_token: Some(id_token) };
    let kept = approver.cookies.keep(&visit, "", now).or_else(|| {
        // Without the ID token, the provider asks the user in a logout.
        approver.cookies.keep(&Visit { id_token: None, ..visit }, "", now)
    });
    if kept.is_none() {
        let error = ProviderError::Refused("the claims of the user are too long for a cookie".to_owned());
        return unavailable(pages, language, code, &error);
    }
    with_cookies(redirect(StatusCode::SEE_OTHER, &pages.path_of(code)), [kept])
}

/// Ends the session here, and goes on to the provider to end it there.
pub(super) async fn log_out(pages: &ApprovePages, approver: &Approver, headers: &HeaderMap) -> Response {
    let language = Language::of(headers);
    if !is_same_origin(headers, &approver.origin) {
        return pages.refusal(language, "", &ApiError::ForbiddenOrigin("of another page".to_owned()));
    }
    let visit = approver.cookies.read::<Visit>(headers, "", pages.clock.now());
    let back_to = format!("{}/q/logged-out", approver.public_base);
    let id_token = visit.and_then(|visit| visit.id_token);
    let forgotten = approver.cookies.forget::<Visit>("");
    let response = match approver.provider.logout_url(id_token.as_deref(), &back_to).await {
        Some(url) => onward(pages, language, "logout", url.as_str()),
        None => pages.page(language, Content::text(language, StatusCode::OK, "plain", "out")),
    };
    with_cookies(response, [forgotten])
}

/// Answers a form with a page that goes on to the provider.
fn onward(pages: &ApprovePages, language: &Language, link: &str, url: &str) -> Response {
    let content = Content::text(language, StatusCode::OK, "plain", "out").with_link(language.text(link), url);
    pages.page(language, Content { goes_on_to: Some(url.to_owned()), ..content })
}

fn denied(pages: &ApprovePages, language: &Language, code: &str) -> Response {
    let content = Content::text(language, StatusCode::OK, "plain", "denied");
    pages.page(language, content.with_link(language.text("log_in"), &pages.path_of(code)))
}

/// Answers with the page for a failed login at the provider, and logs why it failed.
fn unavailable(pages: &ApprovePages, language: &Language, code: &str, error: &ProviderError) -> Response {
    let (status, key) = match error {
        ProviderError::Unavailable(_) | ProviderError::Client(_) => (StatusCode::SERVICE_UNAVAILABLE, "provider"),
        ProviderError::Refused(_) => (StatusCode::BAD_REQUEST, "stale"),
    };
    warn!(event = "login at the provider failed", setting = "approve.issuer", reason = %error);
    let content = Content::text(language, status, "bad", key);
    pages.page(language, content.with_link(language.text("retry"), &pages.path_of(code)))
}

fn flow_name(state: &str) -> String {
    format!("-{}", state.chars().take(FLOW_NAME_CHARS).filter(char::is_ascii_alphanumeric).collect::<String>())
}
