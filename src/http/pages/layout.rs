//! What all pages have in common: the frame, the style sheet and the header fields.

use axum::http::StatusCode;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY,
};
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};

use super::Language;

/// Path of the style sheet of the pages.
pub(crate) const STYLE_PATH: &str = "/q/style.css";

const CROSS_ORIGIN_OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");

/// A page: one card with a title.
pub(crate) struct Page<'a> {
    pub(crate) status: StatusCode,
    pub(crate) language: &'a Language,
    pub(crate) title: String,
    /// Kind of the page, for the style: `ask`, `good`, `bad`, `plain` or `wide`.
    pub(crate) kind: &'static str,
    pub(crate) body: Markup,
    /// Base path of the server, in front of the paths of its files.
    pub(crate) base: &'a str,
    /// URL to which the browser goes on by itself.
    pub(crate) goes_on_to: Option<&'a str>,
    /// URL to which a browser without scripts goes on.
    pub(crate) without_scripts: Option<&'a str>,
    /// Time after which the browser loads the page again, in seconds.
    pub(crate) refresh_seconds: Option<u32>,
    /// Paths of the page's modules.
    pub(crate) scripts: &'a [&'a str],
    /// Whether the page's form goes to another site, or is answered with a redirect to one. Some browsers apply
    /// `form-action` to redirects too.
    pub(crate) posts_elsewhere: bool,
}

impl<'a> Page<'a> {
    /// Returns a page without scripts that stays.
    pub(crate) fn new(
        status: StatusCode,
        language: &'a Language,
        title: impl Into<String>,
        kind: &'static str,
        body: Markup,
        base: &'a str,
    ) -> Self {
        Self {
            status,
            language,
            title: title.into(),
            kind,
            body,
            base,
            goes_on_to: None,
            without_scripts: None,
            refresh_seconds: None,
            scripts: &[],
            posts_elsewhere: false,
        }
    }

    /// Returns `Content-Security-Policy`: no framing, and no scripts but those of the page. Pictures can be on any host.
    fn policy(&self) -> String {
        let scripts = if self.scripts.is_empty() { "" } else { "script-src 'self'; connect-src 'self'; " };
        let forms = if self.posts_elsewhere { "" } else { "form-action 'self'; " };
        format!(
            "default-src 'none'; {scripts}style-src 'self'; img-src https: http: data:; {forms}\
             base-uri 'none'; frame-ancestors 'none'"
        )
    }
}

impl IntoResponse for Page<'_> {
    fn into_response(self) -> Response {
        let policy = self.policy();
        let Self { status, language, title, kind, body, base, .. } = self;
        let text = html! {
            (DOCTYPE)
            html lang=(language.tag) dir=(language.text("dir")) {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    meta name="robots" content="noindex";
                    // A redirect to another site would be refused by `form-action`.
                    @if let Some(url) = self.goes_on_to { meta http-equiv="refresh" content={ "0;url=" (url) }; }
                    @if let Some(seconds) = self.refresh_seconds { meta http-equiv="refresh" content=(seconds); }
                    @if let Some(url) = self.without_scripts {
                        noscript { meta http-equiv="refresh" content={ "0;url=" (url) }; }
                    }
                    title { (title) }
                    // Without an icon, browsers request one from the root of the host.
                    link rel="icon" href="data:,";
                    link rel="stylesheet" href={ (base) (STYLE_PATH) };
                    @for path in self.scripts { script type="module" src={ (base) (path) } {} }
                }
                body {
                    main class={ "card " (kind) } {
                        h1 { (title) }
                        (body)
                    }
                }
            }
        };
        let mut response = (status, text.into_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        // With `no-referrer`, browsers would send `Origin: null` with the forms.
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
        // A client may have opened a page with scripts in a window that it waits for.
        if self.scripts.is_empty() {
            headers.insert(CROSS_ORIGIN_OPENER_POLICY, HeaderValue::from_static("same-origin"));
        }
        if let Ok(policy) = HeaderValue::try_from(policy) {
            headers.insert(CONTENT_SECURITY_POLICY, policy);
        }
        response
    }
}

/// Answers with the style sheet of the pages.
pub(crate) async fn stylesheet() -> impl IntoResponse {
    let fields = [(CONTENT_TYPE, "text/css; charset=utf-8"), (CACHE_CONTROL, "no-cache")];
    (fields, include_str!("../../../web/approve.css"))
}
