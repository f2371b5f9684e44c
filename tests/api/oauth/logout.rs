//! RP-initiated logout, as the conformance suite of the OpenID Foundation tests it, and as attackers try it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use qrlogin_testing::harness::{Server, claims_of};
use qrlogin_testing::test;
use serde_json::json;

use super::single_sign_on::{asked, logged_in};
use super::{code, opened, redeemed, request, server, value, went_on};
use crate::approve::provider::query;
use crate::approve::visitor::{PUBLIC_URL, Shown, Visitor};
use crate::provider_keys::Key;

const OUT: &str = "https://web.example/out";
const QUESTION: &str = "Log out?";

async fn sso_server() -> Server {
    server(|settings| settings.sso.ttl_seconds = 600).await
}

async fn log_out(server: &Server, browser: &mut Visitor, parameters: &[(&str, &str)]) -> Shown {
    browser.open(server, &format!("/oauth/logout?{}", query(parameters))).await
}

/// Presses the button of the page that asks whether to log out.
async fn confirmed(server: &Server, browser: &mut Visitor, question: &Shown) -> Shown {
    assert_eq!(question.title(), QUESTION);
    let inputs = question.text.split(r#"type="hidden" name=""#).skip(1).map(|input| {
        let (name, rest) = input.split_once(r#"" value=""#).unwrap();
        (name, rest.split('"').next().unwrap())
    });
    browser.post(server, "/oauth/logout", query(&inputs.collect::<Vec<_>>()), PUBLIC_URL).await
}

async fn is_logged_in(server: &Server, browser: &mut Visitor) -> bool {
    let response = asked(server, browser, &[("prompt", "none")]).await.unwrap();
    value(&response, "error").is_empty()
}

#[test]
async fn logout_leads_back_with_and_without_a_state() {
    let server = sso_server().await;
    for (state, expected) in [("x y", "https://web.example/out?state=x+y"), ("", OUT)] {
        let mut browser = Visitor::new();
        let hint = logged_in(&server, &mut browser).await;
        let parameters = [("id_token_hint", hint.as_str()), ("post_logout_redirect_uri", OUT), ("state", state)];
        let shown = log_out(&server, &mut browser, &parameters).await;
        assert_eq!(shown.elsewhere.as_deref(), Some(expected));
        assert!(!is_logged_in(&server, &mut browser).await);
    }
    server.stop().await;
}

#[test]
async fn logout_without_a_redirect_uri_ends_on_a_page() {
    let server = sso_server().await;
    let mut browser = Visitor::new();
    let hint = logged_in(&server, &mut browser).await;
    let shown = log_out(&server, &mut browser, &[("id_token_hint", &hint)]).await;
    assert_eq!((shown.status.as_u16(), shown.title()), (200, "You are logged out"));
    assert!(!is_logged_in(&server, &mut browser).await);
    server.stop().await;
}

#[test]
async fn logout_without_parameters_or_with_a_state_only_asks_the_user_and_logs_out() {
    let server = sso_server().await;
    for parameters in [&[][..], &[("state", "x")]] {
        let mut browser = Visitor::new();
        logged_in(&server, &mut browser).await;
        let question = log_out(&server, &mut browser, parameters).await;
        assert!(is_logged_in(&server, &mut browser).await, "a GET without an ID token logs out");
        let shown = confirmed(&server, &mut browser, &question).await;
        assert_eq!((shown.title(), shown.elsewhere.as_deref()), ("You are logged out", None));
        assert!(!is_logged_in(&server, &mut browser).await);
    }
    server.stop().await;
}

#[test]
async fn logout_leads_to_registered_uris_only() {
    let server = sso_server().await;
    let mut browser = Visitor::new();
    let hint = logged_in(&server, &mut browser).await;
    for uri in [
        "https://evil.example/",
        "https://web.example/out?foo=bar",
        "https://web.example/out/",
        "https://web.example/out#x",
        "https://WEB.example/out",
        "https://web.example:443/out",
        "https://web.example/out/../out",
        "//evil.example",
        "javascript:alert(1)",
    ] {
        for known in [("id_token_hint", hint.as_str()), ("client_id", "web"), ("client_id", "tv"), ("state", "x")] {
            let shown = log_out(&server, &mut browser, &[known, ("post_logout_redirect_uri", uri)]).await;
            assert_eq!((shown.status.as_u16(), shown.title()), (400, "Logout refused"), "{uri}");
        }
    }
    // Without an ID token and a client, it is not known whose URI it is.
    let shown = log_out(&server, &mut browser, &[("post_logout_redirect_uri", OUT)]).await;
    assert_eq!((shown.status.as_u16(), shown.elsewhere), (400, None));
    assert!(is_logged_in(&server, &mut browser).await);
    server.stop().await;
}

#[test]
async fn logout_with_a_forged_hint_is_refused() {
    let server = sso_server().await;
    let mut browser = Visitor::new();
    let hint = logged_in(&server, &mut browser).await;
    let claims = claims_of(&hint);
    let parts: Vec<_> = hint.split('.').collect();
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
    let foreign = Key::rsa();
    let header: serde_json::Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[0]).unwrap()).unwrap();
    let page = opened(&server, &mut Visitor::new(), &request(&[])).await;
    for (what, forged) in [
        ("none", format!("{none}.{}.", parts[1])),
        ("none, with the signature", format!("{none}.{}.{}", parts[1], parts[2])),
        ("of another key", foreign.token_of(header, claims)),
        ("of an unknown key", foreign.token_of(json!({ "alg": "RS256", "kid": "x", "typ": "JWT" }), json!({}))),
        ("no token", page.session.code),
    ] {
        let parameters = [("id_token_hint", forged.as_str()), ("post_logout_redirect_uri", OUT)];
        let shown = log_out(&server, &mut browser, &parameters).await;
        assert_eq!((shown.status.as_u16(), shown.title()), (400, "Logout refused"), "{what}");
    }
    assert!(is_logged_in(&server, &mut browser).await);
    server.stop().await;
}

#[test]
async fn another_site_cannot_log_the_user_out_with_an_id_token_of_its_own() {
    let server = sso_server().await;
    let mut browser = Visitor::new();
    logged_in(&server, &mut browser).await;
    // The attacker has an account, too.
    let mut attacker = Visitor::new();
    let page = opened(&server, &mut attacker, &request(&[])).await;
    server.phone("mallory").confirm(&page.session).await;
    let response = went_on(&server, &mut attacker, &page).await;
    let tokens = redeemed(&server, value(&response, "code")).await;
    let hint = tokens.body["id_token"].as_str().unwrap();
    let parameters = [("id_token_hint", hint), ("post_logout_redirect_uri", OUT), ("state", "x")];
    let question = log_out(&server, &mut browser, &parameters).await;
    assert_eq!(question.title(), QUESTION);
    let posted = browser.post(&server, "/oauth/logout", query(&parameters), "https://evil.example").await;
    assert_eq!(posted.title(), QUESTION);
    assert!(is_logged_in(&server, &mut browser).await);
    let shown = confirmed(&server, &mut browser, &question).await;
    assert_eq!(shown.elsewhere.as_deref(), Some("https://web.example/out?state=x"));
    assert!(!is_logged_in(&server, &mut browser).await);
    server.stop().await;
}

#[test]
async fn access_token_is_no_hint_of_an_id_token() {
    let server = sso_server().await;
    let tokens = redeemed(&server, &code(&server, &request(&[])).await).await;
    let access_token = tokens.body["access_token"].as_str().unwrap();
    let shown = log_out(&server, &mut Visitor::new(), &[("id_token_hint", access_token)]).await;
    assert_eq!((shown.status.as_u16(), shown.title()), (400, "Logout refused"));
    let response = asked(&server, &mut Visitor::new(), &[("id_token_hint", access_token)]).await.unwrap();
    assert_eq!(value(&response, "error"), "invalid_request");
    server.stop().await;
}
