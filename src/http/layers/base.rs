//! The base path: the path of `public_url`, if it has one. Clients put it in front of every path. A proxy either strips
//! it from requests or keeps it, and the server answers both forms.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::Uri;
use axum::http::uri::PathAndQuery;
use tower::ServiceExt as _;
use url::Url;

use crate::config::Settings;
use crate::wire::types::WEBSOCKET_PATH;

/// Prefixes of the paths of all routes. Tests compare them with the OpenAPI document and with the metadata of the OAuth
/// server.
const ROUTES: [&str; 8] = ["/v1/", "/q/", "/js/", "/demo/", "/.well-known/", "/openapi.json", "/oauth/", "/device"];

/// The path of `public_url`.
pub(crate) struct BasePath {
    /// The path without trailing slashes, which is empty for a URL without a path.
    path: String,
    /// First bytes of a request for a WebSocket, without and with the base path.
    websocket_beginnings: [Vec<u8>; 2],
}

impl BasePath {
    pub(crate) fn of(settings: &Settings) -> Self {
        // A parsed URL has the path as clients send it: dot segments resolved, other scripts percent-encoded.
        let url = Url::parse(&settings.public_url);
        let path = url.map(|url| url.path().trim_end_matches('/').to_owned()).unwrap_or_default();
        let websocket_beginnings = ["", &path].map(|path| format!("GET {path}{WEBSOCKET_PATH}").into_bytes());
        Self { path, websocket_beginnings }
    }

    /// Returns the path of `public_url`, without trailing slashes.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Returns the path of a request as the route table has it. The base is removed if the rest begins like a route.
    ///
    /// A route can begin like the base, for example with the base `/v1`. If a proxy has stripped the base from such a
    /// path, the path is returned unchanged.
    pub(crate) fn within<'a>(&self, path: &'a str) -> &'a str {
        match path.strip_prefix(&*self.path) {
            Some("" | "/") => "/",
            Some(rest) if ROUTES.iter().any(|route| rest.starts_with(route)) => rest,
            _ => path,
        }
    }

    /// Returns the HTML of `page` with the base in front of each attribute value that begins with a slash.
    pub(crate) fn links_in(&self, page: &str) -> String {
        page.replace("=\"/", &format!("=\"{}/", self.path.replace('&', "&amp;")))
    }

    /// Returns the first bytes of a request for a WebSocket, without and with the base. The second is the longest.
    pub(crate) fn websocket_beginnings(&self) -> &[Vec<u8>; 2] {
        &self.websocket_beginnings
    }
}

/// Returns a router that answers requests for `routes` with and without the base in front of the path.
pub(crate) fn under_base(base: Arc<BasePath>, routes: Router) -> Router {
    if base.path.is_empty() {
        return routes;
    }
    let within = routes.map_request(move |mut request: Request| {
        if let Some(uri) = without_base(&base, request.uri()) {
            *request.uri_mut() = uri;
        }
        request
    });
    Router::new().fallback_service(within)
}

fn without_base(base: &BasePath, uri: &Uri) -> Option<Uri> {
    let path = base.within(uri.path());
    if path == uri.path() {
        return None;
    }
    let mut parts = uri.clone().into_parts();
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    parts.path_and_query = Some(PathAndQuery::try_from(format!("{path}{query}")).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::routes::openapi;

    fn base(public_url: &str) -> BasePath {
        BasePath::of(&Settings { public_url: public_url.to_owned(), ..Settings::default() })
    }

    #[test]
    fn base_is_removed_only_in_front_of_a_route() {
        for (public_url, path, within) in [
            ("https://host", "/v1/qr-login/scan", "/v1/qr-login/scan"),
            ("https://host/", "/", "/"),
            ("https://host", "//v1/qr-login/scan", "//v1/qr-login/scan"),
            ("https://host/login", "/login/v1/qr-login/scan", "/v1/qr-login/scan"),
            ("https://host/login/", "/login/v1/qr-login/scan", "/v1/qr-login/scan"),
            ("https://host/login//", "/login/openapi.json", "/openapi.json"),
            ("https://host/login", "/v1/qr-login/scan", "/v1/qr-login/scan"),
            ("https://host/login", "/login", "/"),
            ("https://host/login", "/login/", "/"),
            ("https://host/login", "/loginv1/qr-login/scan", "/loginv1/qr-login/scan"),
            ("https://host/login", "/login2/v1/qr-login/scan", "/login2/v1/qr-login/scan"),
            ("https://host/login", "/login/login/v1/qr-login/scan", "/login/login/v1/qr-login/scan"),
            ("https://host/login", "/login/other", "/login/other"),
            ("https://host/login", "/LOGIN/v1/qr-login/scan", "/LOGIN/v1/qr-login/scan"),
            ("https://host/a/b", "/a/b/q/x", "/q/x"),
            ("https://host/a/../b", "/b/q/x", "/q/x"),
            ("https://host/\u{fc}", "/%C3%BC/q/x", "/q/x"),
            // Bases with which a route begins.
            ("https://host/v1", "/v1/v1/qr-login/scan", "/v1/qr-login/scan"),
            ("https://host/v1", "/v1/qr-login/scan", "/v1/qr-login/scan"),
            ("https://host/v1/ws/qr", "/v1/ws/qr/x", "/v1/ws/qr/x"),
            ("https://host/v1/ws/qr", "/v1/ws/qr/v1/ws/qr/x", "/v1/ws/qr/x"),
            ("https://host/q", "/q/x", "/q/x"),
            ("https://host/q", "/q/q/x", "/q/x"),
            ("https://host/js", "/js/0.1.0/core.js", "/js/0.1.0/core.js"),
            ("https://host/js", "/js/js/0.1.0/core.js", "/js/0.1.0/core.js"),
            ("https://host/demo", "/demo/gallery", "/demo/gallery"),
            ("https://host/demo", "/demo/openapi.json", "/openapi.json"),
        ] {
            assert_eq!(base(public_url).within(path), within, "{public_url}, {path}");
        }
    }

    #[test]
    fn every_path_of_the_api_is_found_with_the_base() {
        let base = base("https://host/login");
        let paths = openapi::paths();
        assert!(paths.len() > 8);
        for path in paths {
            assert_eq!(base.within(&format!("/login{path}")), path);
        }
    }

    #[test]
    fn query_is_kept_when_the_base_is_removed() {
        let uri = |text: &str| text.parse::<Uri>().unwrap();
        let base = base("https://host/login");
        for (asked, answered) in [
            ("/login/v1/qr-login/status?wait=1&version=/login/v1/", "/v1/qr-login/status?wait=1&version=/login/v1/"),
            ("/login?x", "/?x"),
            ("http://host:8080/login/openapi.json", "http://host:8080/openapi.json"),
        ] {
            assert_eq!(without_base(&base, &uri(asked)), Some(uri(answered)));
        }
        assert_eq!(without_base(&base, &uri("/openapi.json?/login/")), None);
    }

    #[test]
    fn links_of_a_page_are_prefixed_with_the_base() {
        let page = r#"<a href="/demo/gallery" title="/"><img src="/demo/icon.svg"><a href="https://x/">"#;
        let expected = r#"<a href="/a&amp;b/demo/gallery" title="/a&amp;b/"><img src="/a&amp;b/demo/icon.svg"><a href="https://x/">"#;
        assert_eq!(base("https://host/a&b").links_in(page), expected);
        assert_eq!(base("https://host").links_in(page), page);
    }
}
