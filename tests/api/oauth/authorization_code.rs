//! The authorization code flow (OpenID Connect Core §3.1).

use qrlogin_testing::harness::{claims_of, hash_secret};
use qrlogin_testing::services::Postgres;
use qrlogin_testing::test;
use serde_json::json;

use super::{
    CHALLENGE, REDIRECT_URI, VERIFIER, WEB, WEB_SECRET, code, error, half_sha256, opened, phone, post, received,
    redeemed, request, send, server, user_info, value, went_on, with_clients,
};
use crate::approve::visitor::{PUBLIC_URL, Visitor};
use qrlogin_testing::harness::Server;

#[test]
async fn user_logs_in_to_a_client_and_the_client_gets_its_tokens() {
    let server = server(|_| {}).await;
    let mut browser = Visitor::new();
    let page = opened(&server, &mut browser, &request(&[])).await;
    assert_eq!(page.shown.title(), "Log in to Web App");
    let mut waiting = server.browser(&page.session).await;
    waiting.frame("pending").await;
    let scanned = phone(&server).scan(&page.session).await.body;
    assert_eq!(scanned["application"], json!({ "name": "Web App", "scopes": ["openid", "profile", "email"] }));
    assert_eq!(scanned["client"]["origin"], "https://web.example");
    waiting.frame("scanned").await;
    phone(&server).confirm(&page.session).await;
    let frame = waiting.frame("confirmed").await;
    assert_eq!(frame, json!({ "status": "confirmed", "collect": true, "user": { "name": "Ann Example" } }));
    waiting.closed(1000).await;

    let response = went_on(&server, &mut browser, &page).await;
    assert_eq!((value(&response, "state"), value(&response, "iss")), ("a state", PUBLIC_URL));
    let tokens = redeemed(&server, value(&response, "code")).await;
    assert_eq!((tokens.status.as_u16(), tokens.header("cache-control")), (200, "no-store"));
    assert_eq!(tokens.body["token_type"], "Bearer");
    assert_eq!(tokens.body["refresh_token"], json!(null), "without offline_access");
    let id_token = claims_of(tokens.body["id_token"].as_str().unwrap());
    let now = server.clock.wall().as_seconds();
    let access_token = tokens.body["access_token"].as_str().unwrap();
    for (claim, expected) in [
        ("iss", json!(PUBLIC_URL)),
        ("aud", json!(WEB)),
        ("sub", json!("ann")),
        ("nonce", json!("a nonce")),
        ("auth_time", json!(now)),
        ("iat", json!(now)),
        ("amr", json!(["mca", "qr"])),
        ("acr", json!("urn:qrlogin:acr:qr")),
        ("at_hash", json!(half_sha256(access_token))),
        ("name", json!("Ann Example")),
        ("email", json!("ann@example.org")),
        ("secret", json!(null)),
    ] {
        assert_eq!(id_token[claim], expected, "{claim}");
    }
    let info = user_info(&server, &tokens.body["access_token"]).await;
    assert_eq!(
        info.body,
        json!({
            "sub": "ann", "name": "Ann Example", "preferred_username": "ann", "email": "ann@example.org",
            "email_verified": true,
        })
    );
    server.stop().await;
}

#[test]
async fn scopes_select_the_claims() {
    let server = server(|_| {}).await;
    for (scope, names) in [("openid", vec!["sub"]), ("openid email", vec!["email", "email_verified", "sub"])] {
        let tokens = redeemed(&server, &code(&server, &request(&[("scope", scope)])).await).await;
        let info = user_info(&server, &tokens.body["access_token"]).await;
        let mut found: Vec<_> = info.body.as_object().unwrap().keys().map(String::as_str).collect();
        found.sort_unstable();
        assert_eq!(found, names);
    }
    let tokens = redeemed(&server, &code(&server, &request(&[("scope", "profile")])).await).await;
    assert_eq!(tokens.body["id_token"], json!(null), "an ID token needs the scope openid");
    let info = user_info(&server, &tokens.body["access_token"]).await;
    assert_eq!(info.status, 403);
    assert_eq!(info.header("www-authenticate"), r#"Bearer error="insufficient_scope""#);
    server.stop().await;
}

#[test]
async fn replayed_code_is_refused_and_its_tokens_die() {
    let server = server(|_| {}).await;
    let code = code(&server, &request(&[])).await;
    let tokens = redeemed(&server, &code).await;
    assert_eq!(user_info(&server, &tokens.body["access_token"]).await.status, 200);
    assert_eq!(error(&redeemed(&server, &code).await), (400, "invalid_grant"));
    assert_eq!(user_info(&server, &tokens.body["access_token"]).await.status, 401);
    let token = tokens.body["access_token"].as_str().unwrap();
    let introspected = post(&server, "/oauth/introspect", &[("token", token)]).await;
    assert_eq!(introspected.body, json!({ "active": false }));
    server.stop().await;
}

#[test]
async fn code_is_refused_with_a_wrong_binding_and_stays_good() {
    let server = server(|_| {}).await;
    let code = code(&server, &request(&[])).await;
    let right = [
        ("grant_type", "authorization_code"),
        ("code", code.as_str()),
        ("redirect_uri", REDIRECT_URI),
        ("code_verifier", VERIFIER),
    ];
    for (changed, wrong, expected) in [
        ("code_verifier", CHALLENGE, "invalid_grant"),
        ("code_verifier", "", "invalid_grant"),
        ("redirect_uri", "https://web.example/callback/", "invalid_grant"),
        ("redirect_uri", "https://web.example:443/callback", "invalid_grant"),
        ("redirect_uri", "https://WEB.example/callback", "invalid_grant"),
        ("redirect_uri", "", "invalid_request"),
        ("code", "x", "invalid_grant"),
        ("code", "", "invalid_request"),
        ("grant_type", "password", "unsupported_grant_type"),
        ("grant_type", "", "invalid_request"),
    ] {
        let parameters = right.map(|(name, value)| (name, if name == changed { wrong } else { value }));
        let answer = post(&server, "/oauth/token", &parameters).await;
        assert_eq!(error(&answer), (400, expected), "{changed}={wrong}");
    }
    for credentials in [Some((WEB, "a wrong secret of enough length")), Some(("nobody", WEB_SECRET)), None] {
        let answer = send(&server, "/oauth/token", credentials, &right).await;
        assert_eq!(error(&answer), (401, "invalid_client"));
        assert_eq!(answer.header("www-authenticate"), r#"Basic realm="qrlogin""#);
    }
    let answer = send(&server, "/oauth/token", None, &[&right[..], &[("client_id", "tv")]].concat()).await;
    assert_eq!(error(&answer), (400, "unauthorized_client"));
    assert_eq!(redeemed(&server, &code).await.status, 200);
    server.stop().await;
}

#[test]
async fn code_expires_with_the_confirmation() {
    let server = server(|settings| settings.session.claim_seconds = 30).await;
    let code = code(&server, &request(&[])).await;
    server.hands.advance_seconds(30);
    assert_eq!(error(&redeemed(&server, &code).await), (400, "invalid_grant"));
    server.stop().await;
}

#[test]
async fn errors_go_to_the_client_with_its_state() {
    let server = server(|_| {}).await;
    for (changed, wrong, expected) in [
        ("response_type", "token", "unsupported_response_type"),
        ("response_type", "code id_token", "unsupported_response_type"),
        ("response_type", "", "invalid_request"),
        ("response_mode", "fragment", "invalid_request"),
        ("code_challenge", "", "invalid_request"),
        ("code_challenge", "short", "invalid_request"),
        ("code_challenge_method", "plain", "invalid_request"),
        ("code_challenge_method", "", "invalid_request"),
        ("scope", "admin", "invalid_scope"),
        ("prompt", "none", "login_required"),
        ("prompt", "none login", "invalid_request"),
        ("prompt", "maybe", "invalid_request"),
        ("max_age", "-1", "invalid_request"),
        ("request", "eyJhbGciOiJub25lIn0.e30.", "request_not_supported"),
        ("request_uri", "https://web.example/request", "request_uri_not_supported"),
        ("registration", "{}", "registration_not_supported"),
        ("id_token_hint", "eyJhbGciOiJub25lIn0.e30.", "invalid_request"),
    ] {
        let shown = Visitor::new().open(&server, &format!("/oauth/authorize?{}", request(&[(changed, wrong)]))).await;
        let response = received(&shown);
        assert_eq!(value(&response, "error"), expected, "{changed}={wrong}");
        assert_eq!((value(&response, "state"), value(&response, "iss")), ("a state", PUBLIC_URL));
    }
    server.stop().await;
}

#[test]
async fn repeated_or_too_long_parameter_is_an_error_that_the_client_gets() {
    let server = server(|_| {}).await;
    let long = format!("ui_locales={}", "x".repeat(9000));
    for more in ["scope=openid", "unknown=1&unknown=2", &long] {
        let shown = Visitor::new().open(&server, &format!("/oauth/authorize?{}&{more}", request(&[]))).await;
        let response = received(&shown);
        assert_eq!((value(&response, "error"), value(&response, "state")), ("invalid_request", "a state"), "{more}");
    }
    let shown = Visitor::new().open(&server, &format!("/oauth/authorize?{}&state=another", request(&[]))).await;
    assert_eq!((value(&received(&shown), "error"), value(&received(&shown), "state")), ("invalid_request", ""));
    // RFC 8707 §2 permits several resources.
    let more = "resource=https://a.example&resource=https://b.example";
    let shown = Visitor::new().open(&server, &format!("/oauth/authorize?{}&{more}", request(&[]))).await;
    assert_eq!(shown.status, 200);
    server.stop().await;
}

#[test]
async fn two_first_requests_of_a_browser_at_the_same_time_are_both_answered() {
    let server = server(|_| {}).await;
    let browser = Visitor::new();
    // Neither request has the cookie that the response to the other one sets.
    let (mut first, mut second) = (browser.clone(), browser);
    let pages = [opened(&server, &mut first, &request(&[])).await, opened(&server, &mut second, &request(&[])).await];
    first.cookies.extend(second.cookies);
    for page in pages {
        phone(&server).confirm(&page.session).await;
        assert!(!value(&went_on(&server, &mut first, &page).await, "code").is_empty());
    }
    server.stop().await;
}

#[test]
async fn error_without_a_checked_redirect_uri_is_a_page_in_the_visitors_language() {
    let server = server(|_| {}).await;
    for (changed, wrong, title) in [
        ("client_id", "nobody", "Unbekannte Anwendung"),
        ("client_id", "", "Unbekannte Anwendung"),
        ("redirect_uri", "", "Falsche Adresse"),
        ("redirect_uri", "https://web.example/callback/", "Falsche Adresse"),
        ("redirect_uri", "https://web.example/callback#x", "Falsche Adresse"),
        ("redirect_uri", "https://web.example/CALLBACK", "Falsche Adresse"),
        ("redirect_uri", "https://web.example:444/callback", "Falsche Adresse"),
        ("redirect_uri", "https://evil.example/callback", "Falsche Adresse"),
        ("redirect_uri", "https://web.example.evil.example/callback", "Falsche Adresse"),
    ] {
        let mut browser = Visitor::new();
        browser.language = "de";
        let shown = browser.open(&server, &format!("/oauth/authorize?{}", request(&[(changed, wrong)]))).await;
        assert_eq!((shown.status.as_u16(), shown.title()), (400, title), "{changed}={wrong}");
        assert_eq!(shown.elsewhere, None);
    }
    for repeated in ["client_id=web", "redirect_uri=https://evil.example/callback"] {
        let shown = Visitor::new().open(&server, &format!("/oauth/authorize?{}&{repeated}", request(&[]))).await;
        assert_eq!((shown.status.as_u16(), shown.elsewhere.as_deref()), (400, None), "{repeated}");
    }
    server.stop().await;
}

#[test]
async fn rejected_cancelled_and_expired_logins_are_access_denied() {
    let server = server(|_| {}).await;
    for end in ["reject", "cancel", "expire"] {
        let mut browser = Visitor::new();
        let page = opened(&server, &mut browser, &request(&[])).await;
        match end {
            "reject" => drop(phone(&server).reject(&page.session).await),
            "cancel" => drop(server.cancel(&page.session).await),
            _ => server.hands.advance_seconds(300),
        }
        let response = went_on(&server, &mut browser, &page).await;
        assert_eq!(value(&response, "error"), "access_denied", "{end}");
    }
    server.stop().await;
}

#[test]
async fn page_of_a_request_goes_on_in_its_own_browser_only() {
    let server = server(|_| {}).await;
    let mut browser = Visitor::new();
    let page = opened(&server, &mut browser, &request(&[])).await;
    phone(&server).confirm(&page.session).await;
    let mut other = Visitor::new();
    let shown = other.open(&server, &page.next).await;
    assert_eq!((shown.status.as_u16(), shown.title()), (400, "Cookies are blocked"));
    let shown = other.open(&server, "/oauth/wait/%ff").await;
    assert_eq!((shown.status.as_u16(), shown.title()), (400, "This login is no longer valid"));
    opened(&server, &mut other, &request(&[])).await;
    let shown = other.open(&server, &page.next).await;
    assert_eq!((shown.status.as_u16(), shown.title()), (400, "This login is no longer valid"));
    // An acknowledgement of the browser does not collect the tokens of the client, and a reload loses nothing.
    server.ack(&page.session).await;
    let first = went_on(&server, &mut browser, &page).await;
    let second = went_on(&server, &mut browser, &page).await;
    assert_eq!(redeemed(&server, value(&first, "code")).await.status, 200);
    assert_eq!(error(&redeemed(&server, value(&second, "code")).await), (400, "invalid_grant"));
    let shown = browser.open(&server, &page.next).await;
    assert_eq!(shown.title(), "This login is no longer valid");
    server.stop().await;
}

#[test]
async fn browser_without_scripts_sees_the_code_and_goes_on_by_itself() {
    let server = server(|settings| settings.session.number_matching = true).await;
    let mut browser = Visitor::new();
    let page = opened(&server, &mut browser, &request(&[])).await;
    let german = opened(&server, &mut browser, &request(&[("ui_locales", "de")])).await;
    assert!(browser.open(&server, &german.next).await.text.contains(r#"<html lang="de""#));
    let refresh = format!(r#"<noscript><meta http-equiv="refresh" content="0;url={}"></noscript>"#, page.next);
    assert!(page.shown.text.contains(&refresh), "{}", page.shown.text);
    let shown = browser.open(&server, &page.next).await;
    assert!(shown.text.contains(r#"<meta http-equiv="refresh" content="2">"#), "{}", shown.text);
    assert!(shown.text.contains("data:image/svg+xml") && !shown.text.contains("<script"), "{}", shown.text);
    let numbers = phone(&server).scan(&page.session).await.body["numbers"].clone();
    let shown = browser.open(&server, &page.next).await;
    let number = numbers.as_array().unwrap().iter().map(|number| number.as_str().unwrap());
    let number = number.filter(|number| shown.text.contains(&format!("<bdi>{number}</bdi>"))).collect::<Vec<_>>();
    assert_eq!(phone(&server).pick(&page.session, number[0]).await.status, 200);
    assert!(!value(&went_on(&server, &mut browser, &page).await, "code").is_empty());
    server.stop().await;
}

#[test]
async fn response_can_be_a_form_and_the_request_too() {
    let server = server(|_| {}).await;
    let mut browser = Visitor::new();
    let shown =
        browser.post(&server, "/oauth/authorize", request(&[("response_mode", "form_post")]), "https://web.example");
    let shown = shown.await;
    let (_, next) = shown.text.split_once("data-next=\"").unwrap();
    let next = next.split('"').next().unwrap().to_owned();
    let (_, code) = shown.text.split_once("&quot;code&quot;:&quot;").unwrap();
    let session = qrlogin_testing::harness::Session {
        id: String::new(),
        code: code.split('&').next().unwrap().to_owned(),
        ws_path: String::new(),
    };
    phone(&server).confirm(&session).await;
    let shown = browser.open(&server, &next).await;
    assert!(shown.text.contains(&format!(r#"method="post" action="{REDIRECT_URI}""#)), "{}", shown.text);
    assert!(shown.text.contains(r#"name="state" value="a state""#), "{}", shown.text);
    // The client may answer the form with a redirect to any site.
    let policy = shown.headers["content-security-policy"].to_str().unwrap();
    assert!(!policy.contains("form-action"), "{policy}");
    let (_, code) = shown.text.split_once(r#"name="code" value=""#).unwrap();
    assert_eq!(redeemed(&server, code.split('"').next().unwrap()).await.status, 200);
    server.stop().await;
}

#[test(needs(Postgres))]
async fn login_begun_at_one_node_is_collected_at_another() {
    let postgres = Postgres::shared().await;
    let url = postgres.database().await;
    let keys = tempfile::tempdir().unwrap();
    let node = async || Server::node_with(&url, None, keys.path().join("keys"), |bus| bus, with_clients).await;
    let (here, there) = (node().await, node().await);
    let mut browser = Visitor::new();
    let page = opened(&here, &mut browser, &request(&[])).await;
    phone(&there).confirm(&page.session).await;
    let response = went_on(&there, &mut browser, &page).await;
    let tokens = redeemed(&here, value(&response, "code")).await;
    assert_eq!(tokens.status, 200, "{tokens:?}");
    assert_eq!(user_info(&there, &tokens.body["access_token"]).await.status, 200);
    assert_eq!(error(&redeemed(&there, value(&response, "code")).await), (400, "invalid_grant"));
    assert_eq!(user_info(&here, &tokens.body["access_token"]).await.status, 401);
}

#[test]
async fn secret_is_accepted_in_the_header_encoded_or_not_and_in_the_body() {
    let secret = "a%41 secret+with/letters=that:are encoded";
    let server = server(|settings| settings.oauth.clients[0].secret_hashes = vec![hash_secret(secret).unwrap()]).await;
    let encoded: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let code = [("grant_type", "authorization_code"), ("code", "x")];
    for credentials in [(WEB, secret), (WEB, encoded.as_str())] {
        let answer = send(&server, "/oauth/token", Some(credentials), &code).await;
        assert_eq!(error(&answer), (400, "invalid_grant"));
    }
    let in_body = [&code[..], &[("client_id", WEB), ("client_secret", secret)]].concat();
    assert_eq!(error(&send(&server, "/oauth/token", None, &in_body).await), (400, "invalid_grant"));
    let in_both = send(&server, "/oauth/token", Some((WEB, secret)), &in_body).await;
    assert_eq!(error(&in_both), (400, "invalid_request"));
    server.stop().await;
}
