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

/// `Content-Security-Policy` of the pages: no scripts, no framing. The user's picture can be on any host.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src https: http: data:; form-action 'self'; \
                      base-uri 'none'; frame-ancestors 'none'";

/// A page: one card with a title.
pub(crate) struct Page<'a> {
    pub(crate) status: StatusCode,
    pub(crate) language: &'a Language,
    pub(crate) title: String,
    /// Kind of the page, for the style: `ask`, `good`, `bad` or `plain`.
    pub(crate) kind: &'static str,
    pub(crate) body: Markup,
    /// Base path of the server, in front of the style sheet's path.
    pub(crate) base: &'a str,
    /// URL to which the browser goes on by itself.
    pub(crate) goes_on_to: Option<&'a str>,
}

impl IntoResponse for Page<'_> {
    fn into_response(self) -> Response {
        let Self { status, language, title, kind, body, base, goes_on_to } = self;
        let text = html! {
            (DOCTYPE)
            html lang=(language.tag) dir=(language.text("dir")) {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    meta name="robots" content="noindex";
                    // A redirect to another site would be refused by `form-action`.
                    @if let Some(url) = goes_on_to { meta http-equiv="refresh" content={ "0;url=" (url) }; }
                    title { (title) }
                    // Without an icon, browsers request one from the root of the host.
                    link rel="icon" href="data:,";
                    link rel="stylesheet" href={ (base) (STYLE_PATH) };
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
        headers.insert(CROSS_ORIGIN_OPENER_POLICY, HeaderValue::from_static("same-origin"));
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        response
    }
}

/// Answers with the style sheet of the pages.
pub(crate) async fn stylesheet() -> impl IntoResponse {
    let fields = [(CONTENT_TYPE, "text/css; charset=utf-8"), (CACHE_CONTROL, "no-cache")];
    (fields, include_str!("../../../web/approve.css"))
}
