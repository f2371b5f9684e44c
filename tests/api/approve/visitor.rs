//! The browser of a phone, without scripts: it keeps cookies, and follows redirects to the server.

use std::collections::BTreeMap;

use qrlogin_testing::harness::Server;
use reqwest::header::{COOKIE, HeaderMap, LOCATION, SET_COOKIE};
use reqwest::{Method, StatusCode, redirect};

use super::provider::query;

/// URL of the server in the tests of the approve page.
pub const PUBLIC_URL: &str = "https://login.example";

/// A browser with its cookies.
#[derive(Clone)]
pub struct Visitor {
    http: reqwest::Client,
    /// Values of the cookies.
    pub cookies: BTreeMap<String, String>,
    /// Value of `Sec-Fetch-Site` of navigations.
    pub site: Option<&'static str>,
    /// Value of `Accept-Language`.
    pub language: &'static str,
    /// Value of `Host`, also after redirects, as behind a proxy that replaces it.
    pub host: &'static str,
}

/// A page that the browser shows.
#[derive(Debug)]
pub struct Shown {
    /// The status.
    pub status: StatusCode,
    /// The header fields.
    pub headers: HeaderMap,
    /// URLs to which the browser was redirected on its way.
    pub redirects: Vec<String>,
    /// URL of another host, to which the browser was sent.
    pub elsewhere: Option<String>,
    /// The text.
    pub text: String,
}

impl Visitor {
    /// Returns a browser that opens URLs by itself, as a camera makes it.
    pub fn new() -> Self {
        let http = reqwest::Client::builder().no_proxy().redirect(redirect::Policy::none()).build().unwrap();
        Self { http, cookies: BTreeMap::new(), site: Some("none"), language: "en", host: "login.example" }
    }

    /// Opens a path of the server.
    pub async fn open(&mut self, server: &Server, path: &str) -> Shown {
        self.request(server, Method::GET, path, None, &[]).await
    }

    /// Presses a button of the page of a code that the browser shows.
    pub async fn press(&mut self, server: &Server, shown: &Shown, code: &str, button: (&str, &str)) -> Shown {
        let form = shown.form_token();
        let body = query(&[("form", &form), button]);
        self.post(server, &format!("/q/{code}"), body, PUBLIC_URL).await
    }

    /// Posts a form from a page of this origin.
    pub async fn post(&mut self, server: &Server, path: &str, body: String, origin: &str) -> Shown {
        self.request(server, Method::POST, path, Some(body), &[("origin", origin)]).await
    }

    async fn request(
        &mut self,
        server: &Server,
        method: Method,
        path: &str,
        body: Option<String>,
        fields: &[(&str, &str)],
    ) -> Shown {
        let (mut method, mut path, mut body, mut redirects) = (method, path.to_owned(), body, Vec::new());
        for _ in 0..5 {
            let mut request = self.http.request(method, format!("{}{path}", server.base));
            let cookies = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
            request = request
                .header(COOKIE, cookies.join("; "))
                .header("accept-language", self.language)
                .header("host", self.host);
            if let Some(site) = self.site {
                request = request.header("sec-fetch-site", site);
            }
            for (name, value) in fields {
                request = request.header(*name, *value);
            }
            if let Some(body) = body.take() {
                request = request.header("content-type", "application/x-www-form-urlencoded").body(body);
            }
            let response = request.send().await.unwrap();
            self.keep(response.headers());
            let location = response.headers().get(LOCATION).map(|to| to.to_str().unwrap().to_owned());
            let (status, headers) = (response.status(), response.headers().clone());
            redirects.extend(location.clone());
            match location.map(|to| to.strip_prefix(PUBLIC_URL).map_or(to.clone(), ToOwned::to_owned)) {
                Some(to) if to.starts_with('/') => (method, path) = (Method::GET, to),
                elsewhere => {
                    return Shown { status, headers, redirects, elsewhere, text: response.text().await.unwrap() };
                }
            }
        }
        panic!("more than five redirects")
    }

    fn keep(&mut self, headers: &HeaderMap) {
        for field in headers.get_all(SET_COOKIE) {
            let field = field.to_str().unwrap();
            for part in ["; HttpOnly", "; SameSite=Lax", "; Secure", "; Path=/;"] {
                assert!(field.contains(part), "{field}");
            }
            let (name, value) = field.split(';').next().unwrap().split_once('=').unwrap();
            assert!(name.starts_with("__Host-"), "{field}");
            if value.is_empty() {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
    }
}

impl Shown {
    /// Returns the token in the page's forms.
    pub fn form_token(&self) -> String {
        let (_, rest) = self.text.split_once(r#"name="form" value=""#).unwrap_or_else(|| panic!("no form: {self:?}"));
        rest.split('"').next().unwrap().to_owned()
    }

    /// Returns the title.
    pub fn title(&self) -> &str {
        let (_, rest) = self.text.split_once("<title>").unwrap_or_else(|| panic!("no title: {self:?}"));
        rest.split("</title>").next().unwrap()
    }
}
