//! A browser that logs in at the demo's OpenID provider and confirms on the approve page.

use std::collections::BTreeMap;

use reqwest::header::{COOKIE, LOCATION, SET_COOKIE};
use reqwest::{RequestBuilder, StatusCode, redirect};
use url::{Url, form_urlencoded};

/// A client that follows no redirects and sends the cookies that it has received.
pub struct Visitor {
    pub http: reqwest::Client,
    cookies: BTreeMap<String, String>,
}

/// A response to the browser.
pub struct Shown {
    pub status: StatusCode,
    /// URL to which the response redirects.
    pub location: Option<String>,
    pub text: String,
}

impl Visitor {
    pub fn new() -> Self {
        let http = reqwest::Client::builder().no_proxy().redirect(redirect::Policy::none()).build().unwrap();
        Self { http, cookies: BTreeMap::new() }
    }

    pub async fn get(&mut self, url: &str) -> Shown {
        let request = self.http.get(url).header("sec-fetch-site", "none");
        self.send(request).await
    }

    /// Posts a form from a page of this origin.
    pub async fn post(&mut self, url: &str, origin: &str, form: &[(&str, &str)]) -> Shown {
        let request = self.http.post(url).header("origin", origin);
        self.send(with_form(request, form)).await
    }

    /// Opens the URL of a QR code, logs in at the demo's provider as the user with this id and name, and confirms. Returns
    /// the last page.
    pub async fn approve(&mut self, base: &str, url: &str, (user, name): (&str, &str)) -> Shown {
        let authorize = self.get(url).await.location.unwrap();
        let question = self.get(&authorize).await;
        assert_eq!(question.status, 200);
        for text in ["Who are you?", "Ada Lovelace", "Grace Hopper", "Alan Turing"] {
            assert!(question.text.contains(text), "{}", question.text);
        }
        assert!(!question.text.contains("<script"));
        let callback = self.post(&authorize, base, &[("user", user)]).await.location.unwrap();
        let back = self.get(&callback).await.location.unwrap();
        assert!(url.ends_with(&back), "{url}, {back}");
        let asking = self.get(url).await;
        assert!(asking.text.contains(&format!("You are {name}.")), "{}", asking.text);
        let form = asking.text.split(r#"name="form" value=""#).nth(1).unwrap().split('"').next().unwrap();
        self.post(url, base, &[("form", form), ("action", "confirm")]).await
    }

    async fn send(&mut self, request: RequestBuilder) -> Shown {
        let cookies = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
        let response = request.header(COOKIE, cookies.join("; ")).send().await.unwrap();
        for field in response.headers().get_all(SET_COOKIE) {
            let (name, value) = field.to_str().unwrap().split(';').next().unwrap().split_once('=').unwrap();
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
        let location = response.headers().get(LOCATION).map(|to| to.to_str().unwrap().to_owned());
        Shown { status: response.status(), location, text: response.text().await.unwrap() }
    }
}

impl Shown {
    /// Returns a parameter of the URL to which the response redirects.
    pub fn parameter(&self, name: &str) -> Option<String> {
        let url = Url::parse(self.location.as_deref()?).unwrap();
        url.query_pairs().find_map(|(key, value)| (key == name).then(|| value.into_owned()))
    }
}

/// Adds a form to a request.
pub fn with_form(request: RequestBuilder, form: &[(&str, &str)]) -> RequestBuilder {
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    request.header("content-type", "application/x-www-form-urlencoded").body(body)
}
