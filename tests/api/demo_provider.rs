//! The demo's OpenID provider, and a login with it by a client that is no browser.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use qrlogin_testing::demo::DemoServer;
use qrlogin_testing::harness::{START, claims_of};
use qrlogin_testing::test;
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use url::form_urlencoded;

use crate::demo_visitor::{Shown, Visitor, with_form};

/// A PKCE verifier and its challenge (RFC 7636 appendix B).
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

/// The demo, and the URLs of its provider.
struct Provider {
    demo: DemoServer,
    authorize: String,
    token: String,
    logout: String,
    callback: String,
}

impl Provider {
    async fn start() -> Self {
        let demo = DemoServer::start_with(|_| {}).await;
        let metadata = Visitor::new().get(&format!("{}/.well-known/openid-configuration", demo.issuer())).await;
        let metadata: Value = serde_json::from_str(&metadata.text).unwrap();
        assert_eq!(metadata["issuer"], demo.issuer());
        let keys = Visitor::new().get(metadata["jwks_uri"].as_str().unwrap()).await;
        assert_eq!(serde_json::from_str::<Value>(&keys.text).unwrap(), json!({ "keys": [] }));
        let url = |name: &str| metadata[name].as_str().unwrap().to_owned();
        let callback = format!("{}/q/callback", demo.public_url());
        let [authorize, token, logout] = ["authorization_endpoint", "token_endpoint", "end_session_endpoint"].map(url);
        Self { demo, authorize, token, logout, callback }
    }

    /// Returns the URL of a valid authorization request, in which `change` replaces, adds and, without a value, removes
    /// parameters.
    fn request(&self, change: &[(&str, Option<&str>)]) -> String {
        let mut parameters = BTreeMap::from([
            ("response_type", "code"),
            ("client_id", self.demo.client().0),
            ("redirect_uri", &self.callback),
            ("scope", "openid profile"),
            ("state", "a state"),
            ("nonce", "a nonce"),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
        ]);
        for (name, value) in change {
            match value {
                Some(value) => parameters.insert(name, value),
                None => parameters.remove(name),
            };
        }
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
        format!("{}?{query}", self.authorize)
    }

    async fn open(&self, url: &str) -> Shown {
        Visitor::new().get(url).await
    }

    /// Chooses Ada, and returns the authorization code.
    async fn code(&self) -> String {
        let shown = Visitor::new().post(&self.request(&[]), self.demo.public_url(), &[("user", "ada")]).await;
        assert_eq!(shown.status, 303, "{}", shown.text);
        assert!(shown.location.as_ref().unwrap().starts_with(&self.callback));
        assert_eq!(shown.parameter("state").as_deref(), Some("a state"));
        assert_eq!(shown.parameter("iss").as_deref(), Some(self.demo.issuer()));
        shown.parameter("code").unwrap()
    }

    /// Sends a token request with the client's credentials. Returns the status and the body.
    async fn exchange(&self, form: &[(&str, &str)]) -> (u16, Value) {
        let (id, secret) = self.demo.client();
        self.exchange_as(Some((id, secret)), form).await
    }

    async fn exchange_as(&self, client: Option<(&str, &str)>, form: &[(&str, &str)]) -> (u16, Value) {
        let mut request = Visitor::new().http.post(&self.token);
        if let Some((id, secret)) = client {
            request = request.basic_auth(id, Some(secret));
        }
        answer(with_form(request, form)).await
    }

    /// Returns the form of a valid token request for this code.
    fn form<'a>(&'a self, code: &'a str) -> Vec<(&'a str, &'a str)> {
        vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &self.callback),
            ("code_verifier", VERIFIER),
        ]
    }
}

async fn answer(request: RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["cache-control"], "no-store");
    let status = response.status().as_u16();
    assert_eq!(response.headers().contains_key("www-authenticate"), status == 401);
    (status, serde_json::from_str(&response.text().await.unwrap()).unwrap())
}

/// Replaces the value of a form's field.
fn with<'a>(mut form: Vec<(&'a str, &'a str)>, name: &'a str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    form.retain(|(known, _)| *known != name);
    form.push((name, value));
    form
}

#[test]
async fn demo_logs_a_browser_in_by_a_client_that_logs_in_at_its_provider() {
    let mut provider = Provider::start().await;
    let base = provider.demo.public_url().to_owned();
    let mut phone = Visitor::new();
    let generate = phone.http.post(format!("{base}/v1/qr-login/generate")).send().await.unwrap();
    let session: Value = serde_json::from_str(&generate.text().await.unwrap()).unwrap();
    let url = session["qr_url"].as_str().unwrap();

    let confirmed = phone.approve(&base, url, ("grace", "Grace Hopper")).await;
    assert!(confirmed.text.contains("The login as Grace Hopper is confirmed"), "{}", confirmed.text);

    let status = phone.http.get(format!("{base}/v1/qr-login/status"));
    let status = status.header("x-qr-session", session["session_id"].as_str().unwrap()).send().await.unwrap();
    let status: Value = serde_json::from_str(&status.text().await.unwrap()).unwrap();
    let claims = claims_of(status["web_token"].as_str().unwrap());
    assert_eq!((&claims["sub"], &status["user"]["name"]), (&json!("grace"), &json!("Grace Hopper")));

    let logout = phone.post(&format!("{base}/q/logout"), &base, &[]).await.text;
    let to = logout.split(r#"content="0;url="#).nth(1).unwrap().split('"').next().unwrap().replace("&amp;", "&");
    assert_eq!(phone.get(&to).await.location, Some(format!("{base}/q/logged-out")), "{to}");
    provider.demo.stop().await;
}

#[test]
async fn demo_provider_sends_nobody_to_a_url_that_is_not_its_clients() {
    let mut provider = Provider::start().await;
    let long = format!("{}/", provider.callback);
    let with_query = format!("{}?x", provider.callback);
    let elsewhere = provider.callback.replace("localhost", "127.0.0.1");
    for change in [
        ("client_id", None),
        ("client_id", Some("another")),
        ("redirect_uri", None),
        ("redirect_uri", Some("https://evil.example/q/callback")),
        ("redirect_uri", Some(&*long)),
        ("redirect_uri", Some(&*with_query)),
        ("redirect_uri", Some(&*elsewhere)),
    ] {
        // Also with a fault that would be sent back to the client.
        for more in [("state", Some("x")), ("response_type", Some("token"))] {
            let url = provider.request(&[change, more]);
            let asked = provider.open(&url).await;
            assert_eq!((asked.status.as_u16(), asked.location), (400, None), "{change:?}");
            let answered = Visitor::new().post(&url, provider.demo.public_url(), &[("user", "ada")]).await;
            assert_eq!((answered.status.as_u16(), answered.location), (400, None), "{change:?}");
        }
    }
    let repeated = format!("{}&redirect_uri=https%3A%2F%2Fevil.example", provider.request(&[]));
    assert_eq!(provider.open(&repeated).await.location, None);
    provider.demo.stop().await;
}

#[test]
async fn demo_provider_sends_errors_of_an_authorization_request_back_to_its_client() {
    let mut provider = Provider::start().await;
    for (change, error) in [
        (("response_type", None), "invalid_request"),
        (("response_type", Some("token")), "unsupported_response_type"),
        (("response_type", Some("code id_token")), "unsupported_response_type"),
        (("response_mode", Some("fragment")), "invalid_request"),
        (("scope", None), "invalid_scope"),
        (("scope", Some("profile openid2")), "invalid_scope"),
        (("prompt", Some("none")), "login_required"),
        (("request", Some("e30.e30.")), "request_not_supported"),
        (("request_uri", Some("https://evil.example/")), "request_uri_not_supported"),
        (("registration", Some("{}")), "registration_not_supported"),
        (("code_challenge", None), "invalid_request"),
        (("code_challenge", Some("too short")), "invalid_request"),
        (("code_challenge_method", None), "invalid_request"),
        (("code_challenge_method", Some("plain")), "invalid_request"),
    ] {
        let url = provider.request(&[change]);
        for shown in
            [provider.open(&url).await, Visitor::new().post(&url, provider.demo.public_url(), &[("user", "ada")]).await]
        {
            assert!(shown.location.as_ref().unwrap().starts_with(&provider.callback), "{change:?}");
            assert_eq!(shown.parameter("error").as_deref(), Some(error), "{change:?}");
            assert_eq!(shown.parameter("state").as_deref(), Some("a state"));
            assert_eq!(shown.parameter("iss").as_deref(), Some(provider.demo.issuer()));
            assert_eq!(shown.parameter("code"), None);
        }
    }
    let repeated = provider.open(&format!("{}&nonce=another", provider.request(&[]))).await;
    assert_eq!(repeated.parameter("error").as_deref(), Some("invalid_request"));

    let base = provider.demo.public_url();
    let cancelled = Visitor::new().post(&provider.request(&[]), base, &[("cancel", "")]).await;
    assert_eq!(cancelled.parameter("error").as_deref(), Some("access_denied"));
    let unknown = Visitor::new().post(&provider.request(&[]), base, &[("user", "eve")]).await;
    assert_eq!((unknown.status.as_u16(), unknown.location), (400, None));
    let foreign = Visitor::new().post(&provider.request(&[]), "https://evil.example", &[("user", "ada")]).await;
    assert_eq!((foreign.status.as_u16(), foreign.location), (403, None));
    provider.demo.stop().await;
}

#[test]
async fn demo_provider_exchanges_a_code_once_within_a_minute() {
    let mut provider = Provider::start().await;
    let code = provider.code().await;
    provider.demo.hands.advance_seconds(59);
    let (status, tokens) = provider.exchange(&provider.form(&code)).await;
    assert_eq!(status, 200, "{tokens}");
    let now = START.as_seconds() + 59;
    assert_eq!(
        claims_of(tokens["id_token"].as_str().unwrap()),
        json!({
            "iss": provider.demo.issuer(), "aud": provider.demo.client().0, "sub": "ada", "name": "Ada Lovelace",
            "nonce": "a nonce", "iat": now, "exp": now + 600, "auth_time": now - 59,
        })
    );
    assert_eq!(tokens["token_type"], "Bearer");
    let again = provider.exchange(&provider.form(&code)).await;
    assert_eq!((again.0, &again.1["error"]), (400, &json!("invalid_grant")), "used");

    let code = provider.code().await;
    provider.demo.hands.advance_seconds(60);
    let late = provider.exchange(&provider.form(&code)).await;
    assert_eq!((late.0, &late.1["error"]), (400, &json!("invalid_grant")), "expired");

    // Other pairs of verifier and code, and a try with each before the right one.
    for (name, value) in [
        ("code_verifier", ""),
        ("code_verifier", CHALLENGE),
        ("redirect_uri", ""),
        ("redirect_uri", "https://evil.example/q/callback"),
    ] {
        let code = provider.code().await;
        let wrong = provider.exchange(&with(provider.form(&code), name, value)).await;
        assert_eq!((wrong.0, &wrong.1["error"]), (400, &json!("invalid_grant")), "{name}={value}");
        let right = provider.exchange(&provider.form(&code)).await;
        assert_eq!((right.0, &right.1["error"]), (400, &json!("invalid_grant")), "{name}={value}, then the right one");
    }
    provider.demo.stop().await;
}

#[test]
async fn demo_provider_refuses_token_requests_that_are_not_of_its_client() {
    let mut provider = Provider::start().await;
    let (id, secret) = provider.demo.client();
    let code = provider.code().await;
    let form = || provider.form(&code);
    for client in [None, Some((id, "")), Some((id, "wrong")), Some(("another", secret)), Some((secret, id))] {
        let (status, body) = provider.exchange_as(client, &form()).await;
        assert_eq!((status, &body["error"]), (401, &json!("invalid_client")), "{client:?}");
        let (client_id, client_secret) = client.unwrap_or_default();
        let form = with(with(form(), "client_id", client_id), "client_secret", client_secret);
        let (status, body) = provider.exchange_as(None, &form).await;
        assert_eq!((status, &body["error"]), (401, &json!("invalid_client")), "{client:?} in the form");
    }
    let http = Visitor::new().http;
    for field in ["Bearer x", "Basic", "Basic ?", "Basic eA==", ""] {
        let request = with_form(http.post(&provider.token).header("authorization", field), &form());
        assert_eq!(answer(request).await.0, 401, "{field}");
    }
    let twice = with(form(), "client_secret", secret);
    for (form, error) in [
        (twice, "invalid_request"),
        (with(form(), "client_id", "another"), "invalid_client"),
        (with(form(), "grant_type", "password"), "unsupported_grant_type"),
        (with(form(), "grant_type", ""), "invalid_request"),
        (with(form(), "code", ""), "invalid_request"),
        (with(form(), "code", "unknown"), "invalid_grant"),
        ([form(), vec![("code", "another")]].concat(), "invalid_request"),
    ] {
        assert_eq!(provider.exchange(&form).await.1["error"], error, "{form:?}");
    }
    let json = http.post(&provider.token).basic_auth(id, Some(secret)).json(&json!({ "code": code }));
    assert_eq!(answer(json).await.1["error"], "invalid_request", "a body that is not a form");
    // None of these was a request of the client for this code.
    let form = with(with(form(), "client_id", id), "client_secret", secret);
    assert_eq!(provider.exchange_as(None, &form).await.0, 200, "credentials in the form");
    provider.demo.stop().await;
}

#[test]
async fn demo_provider_forgets_the_oldest_of_too_many_codes() {
    let mut provider = Provider::start().await;
    let first = provider.code().await;
    let second = provider.code().await;
    for _ in 0..999 {
        provider.code().await;
    }
    assert_eq!(provider.exchange(&provider.form(&first)).await.1["error"], "invalid_grant");
    assert_eq!(provider.exchange(&provider.form(&second)).await.0, 200);
    provider.demo.stop().await;
}

#[test]
async fn demo_provider_goes_back_from_a_logout_to_its_client_only() {
    let mut provider = Provider::start().await;
    let code = provider.code().await;
    let tokens = provider.exchange(&provider.form(&code)).await.1;
    let token = tokens["id_token"].as_str().unwrap();
    let (head, signature) = token.rsplit_once('.').unwrap();
    let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    bytes[0] ^= 1;
    let forged = format!("{head}.{}", URL_SAFE_NO_PAD.encode(bytes));
    let (id, back) = (provider.demo.client().0, format!("{}/q/logged-out", provider.demo.public_url()));
    let longer = format!("{back}?x");
    for (parameters, to) in [
        (vec![("client_id", id), ("post_logout_redirect_uri", &*back)], Some(back.clone())),
        (vec![("id_token_hint", token), ("post_logout_redirect_uri", &back)], Some(back.clone())),
        (vec![("client_id", id), ("post_logout_redirect_uri", &back), ("state", "s")], Some(format!("{back}?state=s"))),
        (vec![("client_id", id)], None),
        (vec![("post_logout_redirect_uri", &back)], None),
        (vec![("client_id", id), ("post_logout_redirect_uri", &longer)], None),
        (vec![("client_id", id), ("post_logout_redirect_uri", "https://evil.example/")], None),
        (vec![("client_id", "another"), ("post_logout_redirect_uri", &back)], None),
        (vec![("id_token_hint", &forged), ("post_logout_redirect_uri", &back)], None),
        (vec![("id_token_hint", "x"), ("client_id", id), ("post_logout_redirect_uri", &back)], None),
    ] {
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(&parameters).finish();
        let shown = provider.open(&format!("{}?{query}", provider.logout)).await;
        assert_eq!(shown.location, to, "{parameters:?}");
        let is_valid = to.is_some() || parameters.len() == 1 && parameters[0].0 == "client_id";
        assert_eq!(shown.status == 400, !is_valid, "{parameters:?}");
    }
    provider.demo.stop().await;
}
