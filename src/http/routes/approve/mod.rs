//! The page at the URL in the QR code, `/q/{code}`: it approves the login, or says where that is done.

mod app;
mod app_links;
mod login;
mod question;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Extension, FromRef, Path, RawQuery};
use axum::http::header::{LOCATION, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use maud::{Markup, html};
use url::{Host, Url, form_urlencoded};

use crate::approve::{Approval, Provider};
use crate::config::{AppLink, ApproveSettings, Settings};
use crate::http::cookies::Cookies;
use crate::http::layers::RequestChecks;
use crate::http::layers::base::BasePath;
use crate::http::layers::client::ClientAddress;
use crate::http::layers::host::OpenedHost;
use crate::http::pages::{Language, Page, STYLE_PATH, stylesheet};
use crate::http::problem::ApiError;
use crate::http::routes::phone::Phones;
use crate::limits::Call;
use crate::login::LoginError;
use crate::session::{Code, CodeUrl};
use crate::system::clock::Clock;
use crate::token::ClaimRules;
use crate::wire::types::ProblemCode;

pub(crate) use app_links::routes as app_link_routes;

/// Query of the URL to which a visitor under another host name is redirected. It marks the URL, so that this happens
/// once, even if a proxy replaces the host name.
const REDIRECTED: &str = "redirected";

/// State of the pages at `/q/`.
pub(crate) struct ApprovePages {
    way: Way,
    base: Arc<BasePath>,
    clock: Clock,
    phones: Arc<Phones>,
    /// Apps that open the URLs themselves.
    app_links: Vec<AppLink>,
}

/// Where logins are approved.
enum Way {
    /// At another URL, which is in the QR code.
    Elsewhere(CodeUrl),
    /// On these pages, by users of a provider.
    Provider(Box<Approver>),
    /// In an app with this name, which can be installed from these URLs.
    App { name: String, stores: Vec<String> },
}

/// What the approve page needs.
pub(crate) struct Approver {
    provider: Provider,
    cookies: Cookies,
    rules: ClaimRules,
    /// Origin of `public_url`.
    origin: String,
    /// Host of `public_url`.
    host: Option<Host>,
    /// `public_url` without slashes at its end.
    public_base: String,
}

impl ApprovePages {
    pub(crate) fn new(
        settings: &Settings,
        approval: Option<Approval>,
        base: Arc<BasePath>,
        clock: Clock,
        phones: Arc<Phones>,
    ) -> Self {
        let ApproveSettings { app_name, app_stores, url, .. } = &settings.approve;
        let way = match (CodeUrl::parse(url), approval) {
            (Some(url), _) => Way::Elsewhere(url),
            (None, Some(Approval { provider, sealer })) => Way::Provider(Box::new(Approver {
                provider,
                cookies: Cookies::of(settings, sealer),
                rules: ClaimRules {
                    issuer: None,
                    audience: None,
                    user_claim: settings.app_auth.user_claim.clone(),
                    max_age_seconds: settings.app_auth.max_age_seconds,
                    passed_on: settings.passed_on_claims(),
                },
                origin: settings.public_origin().unwrap_or_default(),
                host: Url::parse(&settings.public_url).ok().and_then(|url| url.host().map(|host| host.to_owned())),
                public_base: settings.public_base().to_owned(),
            })),
            (None, None) => Way::App { name: app_name.clone(), stores: app_stores.clone() },
        };
        let app_links = settings.approve.app_links.iter().filter_map(|text| AppLink::parse(text).ok()).collect();
        Self { way, base, clock, phones, app_links }
    }
}

impl Approver {
    /// Returns whether the visitor is new and at another host than that of `public_url`. The provider sends the visitor
    /// back to the latter, which would not receive the cookies of a login that began here.
    fn is_lost(&self, host: Option<&Host>, headers: &HeaderMap) -> bool {
        host.is_some_and(|host| self.host.as_ref() != Some(host)) && !self.cookies.are_sent(headers)
    }
}

/// Returns the routes under `/q/`.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>(pages: Arc<ApprovePages>) -> Router<S>
where
    Arc<RequestChecks>: FromRef<S>,
{
    Router::new()
        .route(STYLE_PATH, get(stylesheet))
        .route("/q/callback", get(callback))
        .route("/q/logout", post(log_out))
        .route("/q/logged-out", get(logged_out))
        .route("/q/{code}", get(show).post(act))
        .layer(Extension(pages))
}

type Pages = Extension<Arc<ApprovePages>>;

/// Answers with the page of a code. Decides nothing.
async fn show(
    Extension(pages): Pages,
    ClientAddress(address): ClientAddress,
    OpenedHost(host): OpenedHost,
    Path(code): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let language = Language::of(&headers);
    if Code::parse(&code).is_none() {
        return pages.refusal(language, "", &LoginError::NotFound.into());
    }
    match &pages.way {
        Way::Elsewhere(url) => redirect(StatusCode::FOUND, &url.with(&code)),
        Way::App { name, stores } => pages.page(language, app::page(language, name, stores)),
        Way::Provider(approver)
            if query.as_deref() != Some(REDIRECTED) && approver.is_lost(host.as_ref(), &headers) =>
        {
            redirect(StatusCode::FOUND, &format!("{}/q/{code}?{REDIRECTED}", approver.public_base))
        }
        Way::Provider(approver) => match pages.phones.limits.admit(Call::Scan, address) {
            Ok(()) => question::show(&pages, approver, address, &code, &headers).await,
            Err(exceeded) => pages.refusal(language, &code, &exceeded.into()),
        },
    }
}

/// Does what a button of the page asks for.
async fn act(
    Extension(pages): Pages,
    ClientAddress(address): ClientAddress,
    Path(code): Path<String>,
    headers: HeaderMap,
    body: String,
) -> Response {
    let Way::Provider(approver) = &pages.way else { return ApiError::MethodNotAllowed.into_response() };
    match pages.phones.limits.admit(Call::Scan, address) {
        Ok(()) => question::act(&pages, approver, address, &code, &headers, &body).await,
        Err(exceeded) => pages.refusal(Language::of(&headers), &code, &exceeded.into()),
    }
}

/// Answers the provider's redirect back (RFC 6749 §4.1.2).
async fn callback(
    Extension(pages): Pages,
    ClientAddress(address): ClientAddress,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let Way::Provider(approver) = &pages.way else { return ApiError::NotFound.into_response() };
    match pages.phones.limits.admit(Call::Scan, address) {
        Ok(()) => login::finish(&pages, approver, &headers, query.as_deref().unwrap_or_default()).await,
        Err(exceeded) => pages.refusal(Language::of(&headers), "", &exceeded.into()),
    }
}

/// Ends the user's session here and at the provider.
async fn log_out(Extension(pages): Pages, headers: HeaderMap) -> Response {
    let Way::Provider(approver) = &pages.way else { return ApiError::NotFound.into_response() };
    login::log_out(&pages, approver, &headers).await
}

/// Answers with the page to which the provider sends the user after a logout.
async fn logged_out(Extension(pages): Pages, headers: HeaderMap) -> Response {
    let language = Language::of(&headers);
    pages.page(language, Content::text(language, StatusCode::OK, "plain", "out"))
}

/// What a page shows.
struct Content {
    status: StatusCode,
    title: String,
    kind: &'static str,
    body: Markup,
    goes_on_to: Option<String>,
}

impl Content {
    /// Returns a page with the texts `{key}_title` and `{key}`.
    fn text(language: &Language, status: StatusCode, kind: &'static str, key: &str) -> Self {
        let title = language.text(&format!("{key}_title")).to_owned();
        Self { status, title, kind, body: html! { p role="status" { (language.text(key)) } }, goes_on_to: None }
    }

    /// Adds a link to the body.
    fn with_link(mut self, text: &str, to: &str) -> Self {
        self.body = html! { (self.body) p.actions { a.button.yes href=(to) { (text) } } };
        self
    }
}

impl ApprovePages {
    fn page(&self, language: &Language, content: Content) -> Response {
        let Content { status, title, kind, body, goes_on_to } = content;
        let page = Page::new(status, language, title, kind, body, self.base.path());
        Page { goes_on_to: goes_on_to.as_deref(), ..page }.into_response()
    }

    /// Returns the path of a code's page, as browsers request it.
    fn path_of(&self, code: &str) -> String {
        format!("{}/q/{code}", self.base.path())
    }

    /// Answers with the page for an error. Where trying again can help, the page has a link to that.
    fn refusal(&self, language: &Language, code: &str, error: &ApiError) -> Response {
        let kind = error.code();
        let (key, can_retry) = match kind {
            ProblemCode::NotFound => ("unknown", false),
            ProblemCode::Expired => ("expired", false),
            ProblemCode::Cancelled => ("cancelled", false),
            ProblemCode::AlreadyScanned | ProblemCode::AlreadyDecided | ProblemCode::WrongUser => ("taken", false),
            ProblemCode::NumberMismatch => ("number", false),
            ProblemCode::Risk => ("risk", false),
            ProblemCode::RateLimited => ("limit", true),
            ProblemCode::ForbiddenOrigin | ProblemCode::InvalidRequest => ("forbidden", false),
            _ => ("down", true),
        };
        let mut content = Content::text(language, kind.status(), "bad", key);
        if can_retry && !code.is_empty() {
            content = content.with_link(language.text("retry"), &self.path_of(code));
        }
        // The response of the API has the header fields that belong to the error, such as `Retry-After`.
        let fields = error.clone().into_response();
        let mut response = self.page(language, content);
        if let Some(seconds) = fields.headers().get(RETRY_AFTER) {
            response.headers_mut().insert(RETRY_AFTER, seconds.clone());
        }
        *response.extensions_mut() = fields.extensions().clone();
        response
    }
}

/// Returns the value of a field of a form, or of a parameter of a query (`application/x-www-form-urlencoded`).
fn form_value(text: &str, name: &str) -> Option<String> {
    form_urlencoded::parse(text.as_bytes()).find_map(|(key, value)| (key == name).then(|| value.into_owned()))
}

/// Returns a redirect. A URL with characters that a header field cannot hold is not found.
fn redirect(status: StatusCode, to: &str) -> Response {
    match HeaderValue::try_from(to) {
        Ok(to) => (status, [(LOCATION, to)]).into_response(),
        Err(_) => ApiError::NotFound.into_response(),
    }
}
