//! The question on the approve page: who asks, and whether the user confirms.
//!
//! A GET changes nothing for a visitor whom a link of another site brought here, because a scan shows the user's name to
//! the browser with the code. Such a visitor presses a button first. A camera opens the URL by itself, which browsers
//! tell by `Sec-Fetch-Site: none` (W3C Fetch Metadata).

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::Response;
use maud::{Markup, html};
use serde::{Deserialize, Serialize};

use super::{ApprovePages, Approver, Content, form_value, login, redirect};
use crate::approve::{Opened, Visit};
use crate::http::cookies::with_cookies;
use crate::http::layers::origin::is_same_origin;
use crate::http::pages::Language;
use crate::http::problem::ApiError;
use crate::http::routes::phone::Scanned;
use crate::login::Verdict;
use crate::session::Timestamp;
use crate::token::{AppUser, AuthError, Kept};
use crate::wire::types::{ApplicationView, ScanResponse};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_PURPOSE: HeaderName = HeaderName::from_static("sec-purpose");

/// The value in each form, which another site cannot have: it is sealed for this user and this code.
#[derive(Serialize, Deserialize)]
struct FormToken {
    user: String,
    code: String,
}

impl Kept for FormToken {
    const PURPOSE: &'static str = "form";
    const SECONDS: u32 = 3600;
}

/// Answers a GET of the code's page.
pub(super) async fn show(
    pages: &Arc<ApprovePages>,
    approver: &Approver,
    address: IpAddr,
    code: &str,
    headers: &HeaderMap,
) -> Response {
    let language = Language::of(headers);
    let now = pages.clock.now();
    let is_direct =
        headers.get(SEC_FETCH_SITE).is_some_and(|site| site == "none") && !headers.contains_key(SEC_PURPOSE);
    let known = approver.cookies.read::<Opened>(headers, "", now).filter(|opened| opened.code == code);
    let opened =
        known.clone().or_else(|| is_direct.then(|| Opened { code: code.to_owned(), at_millis: now.as_millis() }));
    let user = match user_of(pages, approver, headers) {
        Ok(Some(user)) => user,
        no_user => {
            let asks_again = matches!(no_user, Err(AuthError::TooOld { .. }));
            return login::begin(pages, approver, code, asks_again, language, opened.as_ref()).await;
        }
    };
    let form = form_token(pages, approver, &user, code);
    let Some(opened) = opened else { return pages.page(language, link_page(language, &form, &user)) };
    let scanned = scanned(code, Some(&opened));
    match pages.phones.scan(address, user.user.clone(), scanned).await {
        Ok(scan) => {
            let kept = known.is_none().then(|| approver.cookies.keep(&opened, "", now)).flatten();
            let logout = format!("{}/q/logout", pages.base.path());
            with_cookies(pages.page(language, question(language, &form, &user, &scan, &logout)), [kept])
        }
        Err(error) => pages.refusal(language, code, &error),
    }
}

/// Answers a POST of a form of the code's page.
pub(super) async fn act(
    pages: &Arc<ApprovePages>,
    approver: &Approver,
    address: IpAddr,
    code: &str,
    headers: &HeaderMap,
    body: &str,
) -> Response {
    let language = Language::of(headers);
    let field = |name: &str| form_value(body, name);
    let now = pages.clock.now();
    let forbidden = || pages.refusal(language, "", &ApiError::ForbiddenOrigin("of another page".to_owned()));
    if !is_same_origin(headers, &approver.origin) {
        return forbidden();
    }
    let Ok(Some(user)) = user_of(pages, approver, headers) else {
        // The session has ended while the page was open. The page of the code asks the user to log in again.
        return redirect(StatusCode::SEE_OTHER, &pages.path_of(code));
    };
    let form = field("form").and_then(|form| approver.cookies.sealer.kept(&form, now));
    if !form.is_some_and(|form: FormToken| form.user == user.user.id && form.code == code) {
        return forbidden();
    }
    let number = field("number");
    let verdict = match field("action").as_deref() {
        None if number.is_some() => Verdict::Confirm(number),
        Some("continue") => {
            let opened = Opened { code: code.to_owned(), at_millis: now.as_millis() };
            let kept = approver.cookies.keep(&opened, "", now);
            return with_cookies(redirect(StatusCode::SEE_OTHER, &pages.path_of(code)), [kept]);
        }
        Some("switch") => return login::switch(pages, approver, code, language).await,
        Some("confirm") => Verdict::Confirm(None),
        Some("reject") => Verdict::Reject,
        _ => return forbidden(),
    };
    let opened = approver.cookies.read::<Opened>(headers, "", now).filter(|opened| opened.code == code);
    let key = if verdict == Verdict::Reject { "rejected" } else { "confirmed" };
    let name = display_name(&user).to_owned();
    match pages.phones.decide(address, user, scanned(code, opened.as_ref()), verdict).await {
        Ok(()) => {
            let mut content =
                Content::text(language, StatusCode::OK, if key == "confirmed" { "good" } else { "plain" }, key);
            content.body = html! { p role="status" { (language.text_with(key, "{name}", &name)) } };
            pages.page(language, content)
        }
        Err(error) => pages.refusal(language, code, &error),
    }
}

fn scanned<'a>(code: &'a str, opened: Option<&Opened>) -> Scanned<'a> {
    Scanned { text: code, opened_at: opened.map(|opened| Timestamp::from_millis(opened.at_millis)) }
}

/// Returns the user who has logged in, or `None`.
///
/// # Errors
/// Returns an error if the login is too old.
fn user_of(pages: &ApprovePages, approver: &Approver, headers: &HeaderMap) -> Result<Option<AppUser>, AuthError> {
    let visit = approver.cookies.read::<Visit>(headers, "", pages.clock.now());
    visit.map(|visit| approver.rules.check(visit.claims, pages.clock.wall())).transpose()
}

fn form_token(pages: &ApprovePages, approver: &Approver, user: &AppUser, code: &str) -> String {
    let token = FormToken { user: user.user.id.clone(), code: code.to_owned() };
    approver.cookies.sealer.keep(&token, pages.clock.now()).unwrap_or_default()
}

/// Returns the user's name, or the id of a user without a name.
fn display_name(user: &AppUser) -> &str {
    user.user.name.as_deref().unwrap_or(&user.user.id)
}

/// Returns the page for a visitor whom a link brought here.
fn link_page(language: &Language, form: &str, user: &AppUser) -> Content {
    let body = html! {
        p { (language.text("continue_lead")) }
        p { (language.text_with("you", "{name}", display_name(user))) }
        form.actions method="post" {
            (hidden(form))
            button.yes name="action" value="continue" { (language.text("continue")) }
        }
    };
    let title = language.text("continue_title").to_owned();
    Content { status: StatusCode::OK, title, kind: "ask", body, goes_on_to: None }
}

/// Returns the page that describes the browser, and asks for the decision.
fn question(language: &Language, form: &str, user: &AppUser, scan: &ScanResponse, logout: &str) -> Content {
    let name = display_name(user);
    let is_risky = scan.risk.as_ref().is_some_and(|signals| !signals.is_empty());
    let body = html! {
        @if let Some(picture) = &user.user.picture {
            p.who { img src=(picture) alt="" referrerpolicy="no-referrer"; }
        }
        @if let Some(application) = &scan.application { (asks(language, application)) }
        p { (language.text_with("ask_lead", "{name}", name)) }
        (facts(language, scan))
        @if is_risky { p.risk role="alert" { (language.text("risk_warning")) } }
        p.warning { (language.text("check")) }
        form.actions method="post" {
            (hidden(form))
            @match &scan.numbers {
                Some(numbers) => {
                    p { (language.text("numbers")) }
                    div.numbers {
                        // A button has one value, so the number stands for the confirmation.
                        @for number in numbers { button name="number" value=(number) { (number) } }
                    }
                }
                None => { button.yes name="action" value="confirm" { (language.text("yes")) } }
            }
            button.no name="action" value="reject" { (language.text("no")) }
        }
        form.other method="post" {
            (hidden(form))
            button name="action" value="switch" { (language.text_with("switch", "{name}", name)) }
        }
        form.other method="post" action=(logout) { button { (language.text("logout")) } }
    };
    Content { status: StatusCode::OK, title: language.text("asking").to_owned(), kind: "ask", body, goes_on_to: None }
}

fn hidden(form: &str) -> Markup {
    html! { input type="hidden" name="form" value=(form); }
}

/// Returns the name and logo of an OAuth client, and what it asks for.
fn asks(language: &Language, application: &ApplicationView) -> Markup {
    let scope = |scope: &String| {
        let text = language.text(&format!("scope_{scope}"));
        if text.is_empty() { scope.clone() } else { text.to_owned() }
    };
    let scopes = application.scopes.iter().map(scope).collect::<Vec<_>>().join("; ");
    let asks = language.text("asks").replace("{scopes}", &scopes).replace("{name}", &application.name);
    html! {
        @if let Some(logo) = &application.logo { p.who { img.logo src=(logo) alt="" referrerpolicy="no-referrer"; } }
        p { (asks) }
    }
}

/// Returns what is known of the browser that shows the code.
fn facts(language: &Language, scan: &ScanResponse) -> Markup {
    let client = &scan.client;
    let place = client.location.as_ref().map(|place| {
        let parts = [&place.city, &place.region, &place.country];
        parts.into_iter().flatten().cloned().collect::<Vec<_>>().join(", ")
    });
    let network = client.network.as_ref().and_then(|network| network.organization.clone());
    // The time is shown in UTC, because the server does not know the visitor's zone.
    let time = client.time.get(..16).map(|time| format!("{} UTC", time.replace('T', " ")));
    let rows = [
        ("site", client.origin.clone()),
        ("browser", client.browser.clone()),
        ("system", client.os.clone()),
        ("place", place),
        ("network", network),
        ("address", Some(client.ip.clone())),
        ("time", time),
        ("says", client.client_info.clone()),
    ];
    html! {
        dl.facts {
            @for (key, value) in rows {
                @if let Some(value) = value.filter(|value| !value.is_empty()) {
                    dt { (language.text(key)) }
                    dd { bdi { (value) } }
                }
            }
        }
    }
}
