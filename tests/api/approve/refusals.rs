//! What the approve page refuses: responses of the provider that are not its own, and requests of other sites.

use qrlogin_testing::harness::{START, Server, Session};
use qrlogin_testing::test;
use serde_json::json;

use super::provider::{CLIENT_ID, query};
use super::{PUBLIC_URL, TestProvider, Visitor, back, opened, server};

/// Changes the claims of an ID token.
type ClaimsChange = fn(&mut serde_json::Value);

/// Opens a code, and returns the URL of the provider to which the user was sent.
async fn begun(server: &Server, phone: &mut Visitor) -> (Session, String) {
    let session = server.generate().await;
    let shown = phone.open(server, &format!("/q/{}", session.code)).await;
    (session, shown.elsewhere.unwrap())
}

fn has_visit(phone: &Visitor) -> bool {
    phone.cookies.contains_key("__Host-qrlogin-visit")
}

#[test]
async fn replayed_or_foreign_state_is_refused() {
    let provider = TestProvider::start().await;
    let server = server(&provider, |_| {}).await;
    let (mut phone, mut thief) = (Visitor::new(), Visitor::new());
    let (_, authorize) = begun(&server, &mut phone).await;
    let answer = provider.log_in(&authorize);
    // The response of one browser is sent to another one: login CSRF.
    let (_, other) = begun(&server, &mut thief).await;
    let shown = back(&server, &mut thief, &answer).await;
    assert_eq!((shown.status.as_u16(), shown.title()), (400, "This login is no longer valid"));
    assert!(!has_visit(&thief));
    // A browser without any cookie is told so.
    let shown = back(&server, &mut Visitor::new(), &answer).await;
    assert_eq!((shown.status.as_u16(), shown.title()), (400, "Cookies are blocked"));
    // The code of another response with the own state.
    let own_state = super::provider::parameters(&other)["state"].clone();
    let foreign_code = query(&[("code", "code 99"), ("state", &own_state)]);
    assert_eq!(back(&server, &mut thief, &foreign_code).await.status, 400);
    assert_eq!(back(&server, &mut phone, &answer).await.title(), "Log in?");
    // Once more.
    let mut again = phone.clone();
    again.cookies.remove("__Host-qrlogin-visit");
    assert_eq!(back(&server, &mut again, &answer).await.status, 400);
    assert!(!has_visit(&again));
    server.stop().await;
}

#[test]
async fn stale_flow_is_refused() {
    let provider = TestProvider::start().await;
    let server = server(&provider, |settings| settings.session.ttl_seconds = 3600).await;
    let mut phone = Visitor::new();
    let (_, authorize) = begun(&server, &mut phone).await;
    let answer = provider.log_in(&authorize);
    server.hands.advance_seconds(601);
    let shown = back(&server, &mut phone, &answer).await;
    assert_eq!((shown.status.as_u16(), shown.title()), (400, "This login is no longer valid"));
    server.stop().await;
}

#[test]
async fn id_token_that_is_not_for_this_login_is_refused() {
    let provider = TestProvider::start().await;
    let server = server(&provider, |_| {}).await;
    let changes: [(&str, ClaimsChange); 8] = [
        ("wrong nonce", |claims| claims["nonce"] = json!("other")),
        ("no nonce", |claims| drop(claims.as_object_mut().unwrap().remove("nonce"))),
        ("other client", |claims| claims["aud"] = json!("another client")),
        ("several clients", |claims| claims["aud"] = json!([CLIENT_ID, "another client"])),
        ("other issuer", |claims| claims["iss"] = json!("https://other.example")),
        ("expired", |claims| claims["exp"] = json!(START.as_seconds() - 1)),
        ("no user", |claims| claims["sub"] = json!("")),
        ("control character", |claims| claims["sub"] = json!("a\u{1b}nn")),
    ];
    for (what, change) in changes {
        provider.change_claims(change);
        let mut phone = Visitor::new();
        let (session, authorize) = begun(&server, &mut phone).await;
        let shown = back(&server, &mut phone, &provider.log_in(&authorize)).await;
        assert_eq!((shown.status.as_u16(), shown.title()), (400, "This login is no longer valid"), "{what}");
        assert!(!has_visit(&phone), "{what}");
        assert_eq!(server.status(&session).await.body["status"], "pending", "{what}");
    }
    provider.change_claims(|_| {});
    provider.set_unsigned(true);
    let mut phone = Visitor::new();
    let (_, authorize) = begun(&server, &mut phone).await;
    assert_eq!(back(&server, &mut phone, &provider.log_in(&authorize)).await.status, 400);
    assert!(!has_visit(&phone), "unsigned");
    server.stop().await;
}

#[test]
async fn response_of_another_provider_is_refused() {
    let (provider, other) = (TestProvider::start().await, TestProvider::start().await);
    let server = server(&provider, |_| {}).await;
    let mut phone = Visitor::new();
    let (_, authorize) = begun(&server, &mut phone).await;
    // A mix-up (RFC 9207): the other provider answers with the state of this login.
    let shown = back(&server, &mut phone, &other.log_in(&authorize)).await;
    assert_eq!(shown.status, 400);
    assert!(!has_visit(&phone) && !other.requests().contains(&"token".to_owned()));
    server.stop().await;
}

#[test]
async fn response_without_the_issuer_is_refused_if_the_provider_always_sends_it() {
    let provider = TestProvider::start().await;
    provider.promise_issuer();
    let server = server(&provider, |_| {}).await;
    let mut phone = Visitor::new();
    for is_refusal in [false, true] {
        let (_, authorize) = begun(&server, &mut phone).await;
        let state = super::provider::parameters(&authorize)["state"].clone();
        let granted = provider.log_in(&authorize);
        let code = super::provider::parameters(&format!("?{granted}"))["code"].clone();
        let answer = if is_refusal { ("error", "access_denied") } else { ("code", code.as_str()) };
        let shown = back(&server, &mut phone, &query(&[answer, ("state", &state)])).await;
        assert_eq!((shown.status.as_u16(), shown.title()), (400, "This login is no longer valid"));
        assert!(!has_visit(&phone) && !provider.requests().contains(&"token".to_owned()));
    }
    let (_, authorize) = begun(&server, &mut phone).await;
    assert_eq!(back(&server, &mut phone, &provider.log_in(&authorize)).await.title(), "Log in?");
    server.stop().await;
}

#[test]
async fn provider_that_refuses_the_user_has_a_page_with_a_way_back() {
    let provider = TestProvider::start().await;
    let server = server(&provider, |_| {}).await;
    for (error, title) in [("access_denied", "You did not log in"), ("server_error", "The login page does not answer")]
    {
        let mut phone = Visitor::new();
        let (session, authorize) = begun(&server, &mut phone).await;
        let state = super::provider::parameters(&authorize)["state"].clone();
        let shown = back(&server, &mut phone, &query(&[("error", error), ("state", &state)])).await;
        assert_eq!(shown.title(), title);
        assert!(shown.text.contains(&format!(r#"href="/q/{}""#, session.code)), "{}", shown.text);
    }
    server.stop().await;
}

#[test]
async fn form_of_another_site_user_or_code_is_refused() {
    let provider = TestProvider::start().await;
    let server = server(&provider, |_| {}).await;
    let mut phone = Visitor::new();
    let (one, other) = (server.generate().await, server.generate().await);
    let shown = opened(&server, &provider, &mut phone, &one.code).await;
    let form = shown.form_token();
    let path = format!("/q/{}", one.code);
    let body = |form: &str| query(&[("form", form), ("action", "confirm")]);
    for origin in ["https://evil.example", "null", "https://login.example.evil.example", "http://login.example"] {
        let shown = phone.post(&server, &path, body(&form), origin).await;
        assert_eq!((shown.status.as_u16(), shown.title()), (403, "Request refused"), "{origin}");
    }
    let mut bob = Visitor::new();
    provider.change_claims(|claims| claims["sub"] = json!("bob"));
    let bobs = server.generate().await;
    let bobs_form = opened(&server, &provider, &mut bob, &bobs.code).await.form_token();
    for (what, path, form) in [
        ("no form token", path.clone(), String::new()),
        ("form token of another user", path.clone(), bobs_form),
        ("form token of another code", format!("/q/{}", other.code), form.clone()),
        ("sealed value of another kind", path.clone(), phone.cookies["__Host-qrlogin-visit"].clone()),
    ] {
        let shown = phone.post(&server, &path, body(&form), PUBLIC_URL).await;
        assert_eq!(shown.status, 403, "{what}");
    }
    let unknown = query(&[("form", &form), ("action", "destroy")]);
    assert_eq!(phone.post(&server, &path, unknown, PUBLIC_URL).await.status, 403);
    assert_eq!(server.status(&one).await.body["status"], "scanned");
    assert_eq!(phone.post(&server, "/q/logout", String::new(), "https://evil.example").await.status, 403);
    assert!(has_visit(&phone));
    // Another user's phone does not decide what this one has scanned.
    let shown = bob.open(&server, &path).await;
    assert_eq!((shown.status.as_u16(), shown.title()), (409, "Already used"));
    server.stop().await;
}

#[test]
async fn pages_are_framed_by_none_and_run_no_script() {
    let provider = TestProvider::start().await;
    let server = server(&provider, |_| {}).await;
    let mut phone = Visitor::new();
    let session = server.generate().await;
    let question = opened(&server, &provider, &mut phone, &session.code).await;
    let refused = back(&server, &mut phone, "state=x&code=y").await;
    for shown in [question, refused] {
        let policy = shown.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(!policy.contains("script-src"), "{policy}");
        assert_eq!(shown.headers["x-frame-options"], "DENY");
        assert_eq!(shown.headers["cache-control"], "no-store");
        assert!(!shown.text.contains("<script"), "{}", shown.text);
    }
    server.stop().await;
}

#[test]
async fn names_of_users_and_pages_are_escaped() {
    let provider = TestProvider::start().await;
    provider.change_claims(|claims| claims["name"] = json!("<img src=x onerror=alert(1)>\"'"));
    let server = server(&provider, |_| {}).await;
    let generated = server.post("/v1/qr-login/generate", json!({ "client_info": "<b>TV</b>" })).await;
    let code = generated.body["code"].as_str().unwrap();
    let shown = opened(&server, &provider, &mut Visitor::new(), code).await;
    assert!(shown.text.contains("&lt;img src=x") && shown.text.contains("&lt;b&gt;TV"), "{}", shown.text);
    server.stop().await;
}

#[test]
async fn unknown_codes_are_counted_and_limited() {
    let provider = TestProvider::start().await;
    let server = server(&provider, |settings| settings.limits.enabled = true).await;
    let mut phone = Visitor::new();
    let session = server.generate().await;
    opened(&server, &provider, &mut phone, &session.code).await;
    let mut titles = Vec::new();
    for _ in 0..11 {
        titles.push(phone.open(&server, "/q/AAAAAAAAAAAAAAAAAAAAAAAAAAAA").await.title().to_owned());
    }
    assert_eq!(titles[0], "Unknown code");
    assert_eq!(titles[10], "Too many attempts");
    for path in ["/q/x", "/q/%2F%2Fevil.example", "/q/%0d%0aSet-Cookie:x"] {
        let shown = phone.open(&server, path).await;
        assert_eq!((shown.status.as_u16(), shown.elsewhere), (404, None), "{path}");
    }
    server.stop().await;
}
