//! Attacks on the clients, on their users and on the tokens. SECURITY.md names these tests.

use qrlogin_testing::harness::{OAuthClientSettings, Server, Settings};
use qrlogin_testing::test;
use serde_json::json;

use super::single_sign_on::{asked, logged_in};
use super::{
    CHALLENGE, DEVICE_CODE, REDIRECT_URI, VERIFIER, WEB_SECRET, client, code, device, error, opened, phone, redeemed,
    request, send, server, value, with_clients,
};
use crate::approve::provider::{TestProvider, query};
use crate::approve::visitor::{PUBLIC_URL, Visitor};
use crate::approve::{self, with_provider};
use crate::token_source::{Signer, Source, scan};

/// Adds a client with the grants and the secret of `web`.
fn add_other(settings: &mut Settings) {
    let web = settings.oauth.clients[0].clone();
    let (id, name) = ("other".to_owned(), "Other App".to_owned());
    let redirect_uris = vec!["https://other.example/callback".to_owned(), REDIRECT_URI.to_owned()];
    settings.oauth.clients.push(OAuthClientSettings { id, name, redirect_uris, ..web });
}

#[test]
async fn code_of_one_client_is_refused_to_another_and_stays_good() {
    let server = server(add_other).await;
    let code = code(&server, &request(&[])).await;
    let form = [
        ("grant_type", "authorization_code"),
        ("code", code.as_str()),
        ("redirect_uri", REDIRECT_URI),
        ("code_verifier", VERIFIER),
    ];
    let answer = send(&server, "/oauth/token", Some(("other", WEB_SECRET)), &form).await;
    assert_eq!(error(&answer), (400, "invalid_grant"));
    assert_eq!(redeemed(&server, &code).await.status, 200);
    // Nor is a device code good for another client.
    let begun = send(&server, "/oauth/device_authorization", Some(("other", WEB_SECRET)), &[]).await.body;
    phone(&server).confirm(&device::session(&begun)).await;
    let form = [("grant_type", DEVICE_CODE), ("device_code", begun["device_code"].as_str().unwrap())];
    assert_eq!(error(&super::post(&server, "/oauth/token", &form).await), (400, "invalid_grant"));
    let answer = send(&server, "/oauth/token", Some(("other", WEB_SECRET)), &form).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    server.stop().await;
}

#[test]
async fn approver_sees_the_client_for_which_a_phished_code_is() {
    let server = server(add_other).await;
    let redirect = ("redirect_uri", "https://other.example/callback");
    let page = opened(&server, &mut Visitor::new(), &request(&[("client_id", "other"), redirect])).await;
    let scanned = phone(&server).scan(&page.session).await.body;
    assert_eq!(scanned["application"]["name"], "Other App");
    assert_eq!(scanned["client"]["origin"], "https://other.example");
    server.stop().await;
}

#[test]
async fn session_id_of_the_page_is_no_device_code() {
    let server = server(|settings| {
        settings.oauth.clients[0].id = "tv".to_owned();
        settings.oauth.clients.remove(1);
    })
    .await;
    let page = opened(&server, &mut Visitor::new(), &request(&[("client_id", "tv")])).await;
    phone(&server).confirm(&page.session).await;
    let form = [("grant_type", DEVICE_CODE), ("device_code", page.session.id.as_str())];
    let answer = send(&server, "/oauth/token", Some(("tv", WEB_SECRET)), &form).await;
    assert_eq!(error(&answer), (400, "invalid_grant"));
    assert_eq!(server.status(&page.session).await.body.get("web_token"), None);
    server.stop().await;
}

#[test]
async fn tokens_of_clients_are_no_app_tokens_even_if_the_server_trusts_its_own_keys() {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    let (source, address) = Source::start().await;
    let signer = Signer::new();
    let own = server(|settings| settings.token.key_dir = keys.clone()).await;
    let mut set = own.get("/.well-known/jwks.json").await.body;
    assert_eq!(set["keys"].as_array().unwrap().len(), 2);
    own.stop().await;
    set["keys"].as_array_mut().unwrap().push(signer.public.clone());
    source.set_json(set);
    // The worst possible configuration: app tokens are verified with the keys that sign the tokens of clients.
    let server = Server::start_with(|settings| {
        with_clients(settings);
        settings.token.key_dir = keys;
        settings.app_auth.hmac_secret = Default::default();
        settings.app_auth.jwks_url = format!("http://{address}/").into();
    })
    .await;
    let mut phone = server.phone("ann");
    phone.token = signer.sign(&json!({ "sub": "ann", "exp": server.clock.now().as_seconds() + 600 }));
    let mut browser = Visitor::new();
    let page = opened(&server, &mut browser, &request(&[])).await;
    assert_eq!(phone.confirm(&page.session).await.status, 200);
    let response = super::went_on(&server, &mut browser, &page).await;
    let by_rsa = redeemed(&server, value(&response, "code")).await;
    let begun = device::begun(&server).await;
    phone.confirm(&device::session(&begun)).await;
    let by_ed = device::polled(&server, &begun).await;
    let session = server.generate().await;
    for tokens in [by_rsa, by_ed] {
        for name in ["id_token", "access_token"] {
            let answer = scan(&server, &session, tokens.body[name].as_str().unwrap()).await;
            assert_eq!(answer.refusal(), "401 invalid_token", "{name}");
        }
    }
    assert_eq!(server.status(&session).await.body["status"], "pending");
    let refused = server.metric(r#"qrlogin_app_tokens_refused_total{reason="own_token"}"#).await;
    assert_eq!(refused, 4);
    server.stop().await;
}

#[test]
async fn single_sign_on_gives_no_code_to_a_program_that_claims_to_be_a_public_client() {
    let server = server(|settings| {
        settings.sso.ttl_seconds = 600;
        for (id, uri) in [("cli", "http://127.0.0.1/cb"), ("app", "com.example.app:/cb"), ("spa", REDIRECT_URI)] {
            let text = format!("id = '{id}'\nname = 'C'\nauth_method = 'none'\nredirect_uris = ['{uri}']");
            settings.oauth.clients.push(client(&text));
        }
    })
    .await;
    let mut browser = Visitor::new();
    logged_in(&server, &mut browser).await;
    for (id, uri) in [("cli", "http://127.0.0.1:49152/cb"), ("app", "com.example.app:/cb")] {
        let asked = request(&[("client_id", id), ("redirect_uri", uri)]);
        let page = opened(&server, &mut browser, &asked).await;
        assert!(page.shown.text.contains("<qr-login"), "{id}");
        let silent = request(&[("client_id", id), ("redirect_uri", uri), ("prompt", "none")]);
        let shown = browser.open(&server, &format!("/oauth/authorize?{silent}")).await;
        assert!(shown.elsewhere.unwrap().contains("error=login_required"), "{id}");
    }
    // The address of a site is proof enough.
    assert!(asked(&server, &mut browser, &[("client_id", "spa")]).await.is_some());
    server.stop().await;
}

#[test]
async fn code_of_a_public_client_needs_the_verifier_of_the_program_that_began() {
    let server = server(|settings| {
        let text = "id = 'cli'\nname = 'C'\nauth_method = 'none'\nredirect_uris = ['http://127.0.0.1/cb']";
        settings.oauth.clients.push(client(text));
    })
    .await;
    let uri = "http://127.0.0.1:49152/cb";
    let mut browser = Visitor::new();
    let page = opened(&server, &mut browser, &request(&[("client_id", "cli"), ("redirect_uri", uri)])).await;
    phone(&server).confirm(&page.session).await;
    let to = browser.open(&server, &page.next).await.elsewhere.unwrap();
    let (base, answer) = to.split_once('?').unwrap();
    assert_eq!(base, uri);
    let answer: Vec<_> = url::form_urlencoded::parse(answer.as_bytes()).into_owned().collect();
    let form = |redirect_uri, verifier| {
        vec![
            ("client_id", "cli"),
            ("grant_type", "authorization_code"),
            ("code", value(&answer, "code")),
            ("redirect_uri", redirect_uri),
            ("code_verifier", verifier),
        ]
    };
    for (redirect_uri, verifier) in [(uri, ""), (uri, CHALLENGE), ("http://127.0.0.1:49153/cb", VERIFIER)] {
        let refused = send(&server, "/oauth/token", None, &form(redirect_uri, verifier)).await;
        assert_eq!(error(&refused), (400, "invalid_grant"), "{redirect_uri} {verifier}");
    }
    assert_eq!(send(&server, "/oauth/token", None, &form(uri, VERIFIER)).await.status, 200);
    server.stop().await;
}

#[test]
async fn silent_request_gets_no_refresh_token() {
    let server = server(|settings| settings.sso.ttl_seconds = 600).await;
    let mut browser = Visitor::new();
    logged_in(&server, &mut browser).await;
    let silent = [("prompt", "none"), ("scope", "openid offline_access")];
    let response = asked(&server, &mut browser, &silent).await.unwrap();
    let tokens = redeemed(&server, value(&response, "code")).await;
    assert_eq!((tokens.status.as_u16(), &tokens.body["scope"]), (200, &json!("openid")));
    assert_eq!(tokens.body.get("refresh_token"), None);
    let silent = [("prompt", "none"), ("scope", "offline_access")];
    let response = asked(&server, &mut browser, &silent).await.unwrap();
    assert_eq!(value(&response, "error"), "consent_required");
    server.stop().await;
}

#[test]
async fn user_code_of_a_link_or_of_another_site_is_asked_about_before_the_scan() {
    let provider = TestProvider::start().await;
    let server = Server::start_with(|settings| {
        with_clients(settings);
        with_provider(settings, &provider);
    })
    .await;
    let mut visitor = Visitor::new();
    for (is_linked, origin, is_asked) in
        [(false, PUBLIC_URL, false), (true, PUBLIC_URL, true), (false, "https://evil.example", true)]
    {
        let begun = device::begun(&server).await;
        let user_code = begun["user_code"].as_str().unwrap();
        let path = if is_linked { format!("/device?user_code={user_code}") } else { "/device".to_owned() };
        visitor.site = Some("none");
        let form = visitor.open(&server, &path).await;
        assert_eq!(form.text.contains(r#"name="linked""#), is_linked, "{form:?}");
        let linked = if is_linked { "1" } else { "" };
        let posted = query(&[("user_code", user_code), ("linked", linked)]);
        let shown = visitor.post(&server, "/device", posted, origin).await;
        let (_, path) = begun["verification_uri_complete"].as_str().unwrap().split_once(PUBLIC_URL).unwrap();
        assert!(shown.text.contains(path), "{shown:?}");
        visitor.site = Some("same-origin");
        let shown = approve::opened(&server, &provider, &mut visitor, path.strip_prefix("/q/").unwrap()).await;
        let (title, status) = if is_asked { ("Continue to the login", "pending") } else { ("Log in?", "scanned") };
        assert_eq!(shown.title(), title, "{is_linked} {origin}");
        assert_eq!(server.status(&device::session(&begun)).await.body["status"], status);
        if !is_asked {
            assert!(shown.text.contains("TV"), "the approver sees the client: {}", shown.text);
        }
    }
    server.stop().await;
}

#[test]
async fn pages_of_clients_are_framed_by_none_and_cached_by_none() {
    let server = server(|settings| settings.sso.ttl_seconds = 600).await;
    let mut browser = Visitor::new();
    logged_in(&server, &mut browser).await;
    let page = opened(&server, &mut browser, &request(&[("prompt", "login")])).await;
    let waiting = browser.open(&server, &page.next).await;
    let question = browser.open(&server, "/oauth/logout").await;
    let form = browser.open(&server, "/device").await;
    let refused = browser.open(&server, "/oauth/authorize").await;
    let form_post = request(&[("response_mode", "form_post")]);
    let posted = browser.open(&server, &format!("/oauth/authorize?{form_post}")).await;
    assert!(posted.text.contains(r#"name="code""#), "{posted:?}");
    for shown in [page.shown, waiting, question, form, refused, posted] {
        let policy = shown.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(shown.headers["x-frame-options"], "DENY");
        assert_eq!(shown.headers["cache-control"], "no-store");
        // The paths and queries of these pages reach no other site.
        assert_eq!(shown.headers["referrer-policy"], "same-origin");
    }
    server.stop().await;
}
