//! Discovery, and what pages of other origins may read.

use qrlogin_testing::harness::Server;
use qrlogin_testing::test;
use serde_json::json;

use super::device::begun;
use super::{opened, phone, redeemed, request, server, value, went_on, with_clients};
use crate::approve::provider::query;
use crate::approve::visitor::{PUBLIC_URL, Visitor};

#[test]
async fn metadata_name_the_endpoints_and_claim_nothing_that_is_not_there() {
    let server = server(|_| {}).await;
    let openid = server.get("/.well-known/openid-configuration").await;
    let oauth = server.get("/.well-known/oauth-authorization-server").await;
    assert_eq!(openid.body, oauth.body);
    let metadata = openid.body;
    assert_eq!(metadata["issuer"], PUBLIC_URL);
    for (name, path) in [
        ("authorization_endpoint", "/oauth/authorize"),
        ("token_endpoint", "/oauth/token"),
        ("userinfo_endpoint", "/oauth/userinfo"),
        ("device_authorization_endpoint", "/oauth/device_authorization"),
        ("introspection_endpoint", "/oauth/introspect"),
        ("revocation_endpoint", "/oauth/revoke"),
        ("end_session_endpoint", "/oauth/logout"),
        ("jwks_uri", "/.well-known/jwks.json"),
    ] {
        assert_eq!(metadata[name], format!("{PUBLIC_URL}{path}"));
        assert_ne!(server.get(path).await.status, 404, "{path}");
    }
    assert_eq!(metadata["response_types_supported"], json!(["code"]));
    assert_eq!(metadata["authorization_response_iss_parameter_supported"], true);
    for absent in
        ["registration_endpoint", "pushed_authorization_request_endpoint", "dpop_signing_alg_values_supported"]
    {
        assert_eq!(metadata[absent], json!(null));
    }
    for (name, value) in [("request_parameter_supported", false), ("claims_parameter_supported", false)] {
        assert_eq!(metadata[name], value);
    }
    server.stop().await;
}

#[test]
async fn metadata_have_what_the_conformance_suite_looks_for() {
    let server = server(|_| {}).await;
    let answer = server.get("/.well-known/openid-configuration").await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, "application/json"));
    let metadata = answer.body;
    let lists = |name: &str, value: &str| metadata[name].as_array().is_some_and(|list| list.contains(&json!(value)));
    for (name, value) in [
        ("response_types_supported", "code"),
        ("response_modes_supported", "query"),
        ("response_modes_supported", "form_post"),
        ("subject_types_supported", "public"),
        ("id_token_signing_alg_values_supported", "RS256"),
        ("grant_types_supported", "authorization_code"),
        ("scopes_supported", "openid"),
        ("claims_supported", "sub"),
        ("claims_supported", "email"),
        ("code_challenge_methods_supported", "S256"),
        ("token_endpoint_auth_methods_supported", "client_secret_basic"),
        ("token_endpoint_auth_methods_supported", "client_secret_post"),
        ("ui_locales_supported", "zh-CN"),
    ] {
        assert!(lists(name, value), "{name}: {value}: {metadata}");
    }
    assert!(!lists("id_token_signing_alg_values_supported", "none"));
    assert_eq!(metadata["end_session_endpoint"], format!("{PUBLIC_URL}/oauth/logout"));
    // A missing value would mean that request_uri is supported (OpenID Connect Discovery §3).
    for name in ["request_parameter_supported", "request_uri_parameter_supported", "claims_parameter_supported"] {
        assert_eq!(metadata[name], false);
    }
    for (name, value) in metadata.as_object().unwrap() {
        let is_url = name.ends_with("_endpoint") || name.ends_with("_uri");
        assert!(!is_url || value.as_str().unwrap().starts_with("https://"), "{name}: {value}");
    }
    let keys = server.get("/.well-known/jwks.json").await.body;
    let keys = keys["keys"].as_array().unwrap();
    let kids: std::collections::BTreeSet<_> = keys.iter().map(|key| key["kid"].as_str().unwrap()).collect();
    assert_eq!(kids.len(), keys.len(), "each key has an id of its own");
    for key in keys {
        assert_eq!((&key["use"], key.get("d")), (&json!("sig"), None), "{key}");
    }
    server.stop().await;
}

#[test]
async fn endpoints_without_cookies_are_open_to_pages_of_every_origin() {
    let server = server(|_| {}).await;
    for (path, is_open) in [
        ("/oauth/token", true),
        ("/oauth/userinfo", true),
        ("/.well-known/openid-configuration", true),
        ("/.well-known/jwks.json", true),
        ("/oauth/authorize", false),
        ("/oauth/introspect", false),
        ("/v1/qr-login/generate", false),
    ] {
        let request = server.http.request(reqwest::Method::OPTIONS, format!("{}{path}", server.base));
        let request = request.header("origin", "https://spa.example").header("access-control-request-method", "POST");
        let answer = request.send().await.unwrap();
        let allowed = answer.headers().get("access-control-allow-origin").map(|origin| origin.to_str().unwrap());
        assert_eq!(allowed, is_open.then_some("https://spa.example"), "{path}");
        assert_eq!(answer.headers().get("access-control-allow-credentials"), None);
    }
    server.stop().await;
}

#[test]
async fn server_without_clients_has_no_endpoints() {
    let server = Server::start().await;
    for path in ["/.well-known/openid-configuration", "/oauth/authorize", "/oauth/token", "/device"] {
        assert_eq!(server.get(path).await.status, 404, "{path}");
    }
    server.stop().await;
}

#[test]
async fn endpoints_of_an_issuer_with_a_path_are_answered_below_it() {
    let server = Server::start_with(|settings| {
        with_clients(settings);
        settings.public_url = "https://login.example/sign/in".to_owned();
    })
    .await;
    let metadata = server.get("/.well-known/openid-configuration").await.body;
    let endpoints: Vec<_> =
        metadata.as_object().unwrap().iter().filter(|(name, _)| name.ends_with("_endpoint")).collect();
    assert_eq!(endpoints.len(), 7);
    for (name, url) in endpoints {
        let path = url.as_str().unwrap().strip_prefix("https://login.example").unwrap();
        assert!(path.starts_with("/sign/in/oauth/"), "{path}");
        for path in [path, path.strip_prefix("/sign/in").unwrap()] {
            assert_ne!(server.post(path, json!({})).await.status, 404, "{name}: {path}");
        }
    }
    // The page goes on to a path below the issuer.
    let mut browser = Visitor::new();
    let page = opened(&server, &mut browser, &request(&[])).await;
    assert!(page.next.starts_with("/sign/in/oauth/wait/"), "{}", page.next);
    phone(&server).confirm(&page.session).await;
    let code = value(&went_on(&server, &mut browser, &page).await, "code").to_owned();
    assert_eq!(redeemed(&server, &code).await.status, 200);
    // So does a device.
    let device = begun(&server).await;
    assert_eq!(device["verification_uri"], "https://login.example/sign/in/device");
    let form = query(&[("user_code", device["user_code"].as_str().unwrap())]);
    let shown = browser.post(&server, "/sign/in/device", form, "https://login.example").await;
    assert_eq!(shown.title(), "Continue to the login", "{shown:?}");
    server.stop().await;
}

#[test]
async fn issuer_with_a_path_has_its_metadata_at_both_places() {
    let server = Server::start_with(|settings| {
        with_clients(settings);
        settings.public_url = "https://login.example/sign/in".to_owned();
    })
    .await;
    for path in ["/sign/in/.well-known/openid-configuration", "/.well-known/oauth-authorization-server/sign/in"] {
        let answer = server.get(path).await;
        assert_eq!(answer.body["issuer"], "https://login.example/sign/in", "{path}");
    }
    server.stop().await;
}
