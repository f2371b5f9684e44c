//! The device grant (RFC 8628).

use qrlogin_testing::harness::{Answer, Browser, Server, Session, claims_of};
use qrlogin_testing::test;
use serde_json::{Value, json};

use super::{DEVICE_CODE, error, phone, post, send, server, user_info};
use crate::approve::provider::query;
use crate::approve::visitor::{PUBLIC_URL, Visitor};

pub async fn begun(server: &Server) -> Value {
    let answer =
        send(server, "/oauth/device_authorization", None, &[("client_id", "tv"), ("scope", "openid profile")]).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

pub async fn polled(server: &Server, device: &Value) -> Answer {
    let code = device["device_code"].as_str().unwrap();
    let parameters = [("client_id", "tv"), ("grant_type", DEVICE_CODE), ("device_code", code)];
    send(server, "/oauth/token", None, &parameters).await
}

pub fn session(device: &Value) -> Session {
    let text = |name: &str| device[name].as_str().unwrap().to_owned();
    let ws_path = text("ws_uri").strip_prefix("wss://login.example").unwrap().to_owned();
    Session { id: text("device_code"), code: text("verification_uri_complete"), ws_path }
}

#[test]
async fn device_polls_until_the_user_confirms() {
    let server = server(|_| {}).await;
    let device = begun(&server).await;
    assert_eq!(device["verification_uri"], format!("{PUBLIC_URL}/device"));
    assert_eq!((&device["interval"], &device["expires_in"]), (&json!(5), &json!(300)));
    assert_eq!(error(&polled(&server, &device).await), (400, "authorization_pending"));
    server.hands.advance_seconds(5);
    let scanned = phone(&server).scan(&session(&device)).await;
    assert_eq!(scanned.body["application"], json!({ "name": "TV", "scopes": ["openid", "profile"] }));
    assert_eq!(error(&polled(&server, &device).await), (400, "authorization_pending"));
    phone(&server).confirm(&session(&device)).await;
    let tokens = polled(&server, &device).await;
    assert_eq!(tokens.status, 200, "{tokens:?}");
    let claims = claims_of(tokens.body["id_token"].as_str().unwrap());
    assert_eq!((&claims["sub"], &claims["aud"]), (&json!("ann"), &json!("tv")));
    assert_eq!(error(&polled(&server, &device).await), (400, "invalid_grant"), "a device code is used once");
    assert_eq!(user_info(&server, &tokens.body["access_token"]).await.status, 200);
    server.stop().await;
}

#[test]
async fn device_that_polls_too_fast_is_slowed_down_by_five_seconds_each_time() {
    let server = server(|_| {}).await;
    let device = begun(&server).await;
    assert_eq!(error(&polled(&server, &device).await), (400, "authorization_pending"));
    for interval in [10, 15] {
        server.hands.advance_seconds(3);
        assert_eq!(error(&polled(&server, &device).await), (400, "slow_down"));
        server.hands.advance_seconds(interval);
        assert_eq!(error(&polled(&server, &device).await), (400, "authorization_pending"));
    }
    // A decision is given to a device that still polls too fast.
    phone(&server).confirm(&session(&device)).await;
    assert_eq!(polled(&server, &device).await.status, 200);
    server.stop().await;
}

#[test]
async fn device_is_told_on_its_websocket_when_to_collect() {
    let server = server(|_| {}).await;
    let device = begun(&server).await;
    let mut socket = Browser::open(&server, &session(&device).ws_path, None).await.unwrap();
    socket.frame("pending").await;
    phone(&server).confirm(&session(&device)).await;
    assert_eq!(socket.frame("confirmed").await["collect"], true);
    socket.closed(1000).await;
    assert_eq!(polled(&server, &device).await.status, 200);
    server.until_active(0).await;
    server.stop().await;
}

#[test]
async fn rejected_and_expired_device_codes_are_refused_with_their_own_errors() {
    let server = server(|_| {}).await;
    let rejected = begun(&server).await;
    phone(&server).reject(&session(&rejected)).await;
    assert_eq!(error(&polled(&server, &rejected).await), (400, "access_denied"));
    let expired = begun(&server).await;
    server.hands.advance_seconds(300);
    assert_eq!(error(&polled(&server, &expired).await), (400, "expired_token"));
    server.stop().await;
}

#[test]
async fn device_code_is_good_for_its_client_only() {
    let server = server(|_| {}).await;
    let device = begun(&server).await;
    phone(&server).confirm(&session(&device)).await;
    let code = device["device_code"].as_str().unwrap();
    let foreign = post(&server, "/oauth/token", &[("grant_type", DEVICE_CODE), ("device_code", code)]).await;
    assert_eq!(error(&foreign), (400, "invalid_grant"));
    // The session of a web page is not one of a device.
    let plain = server.generate().await;
    let parameters = [("client_id", "tv"), ("grant_type", DEVICE_CODE), ("device_code", plain.id.as_str())];
    assert_eq!(error(&send(&server, "/oauth/token", None, &parameters).await), (400, "invalid_grant"));
    assert_eq!(polled(&server, &device).await.status, 200);
    server.stop().await;
}

#[test]
async fn user_types_the_code_in_any_case_and_is_sent_to_the_page_of_the_qr_code() {
    let server = server(|_| {}).await;
    let device = begun(&server).await;
    let user_code = device["user_code"].as_str().unwrap();
    let mut visitor = Visitor::new();
    let form = visitor.open(&server, "/device").await;
    assert_eq!(form.title(), "Connect a device");
    for typed in [user_code.to_owned(), user_code.to_lowercase().replace('-', ""), user_code.replace('-', " ")] {
        let shown = visitor.post(&server, "/device", query(&[("user_code", &typed)]), PUBLIC_URL).await;
        let url = device["verification_uri_complete"].as_str().unwrap();
        assert!(shown.text.contains(&format!(r#"content="0;url={url}""#)), "{shown:?}");
    }
    phone(&server).confirm(&session(&device)).await;
    let shown = visitor.post(&server, "/device", query(&[("user_code", user_code)]), PUBLIC_URL).await;
    assert_eq!(shown.status, 404, "a decided login cannot be found by its user code");
    server.stop().await;
}

#[test]
async fn guesses_of_user_codes_are_limited() {
    let server = server(|settings| settings.limits.enabled = true).await;
    let device = begun(&server).await;
    let mut visitor = Visitor::new();
    for _ in 0..10 {
        let shown = visitor.post(&server, "/device", query(&[("user_code", "BBBB-BBBB")]), PUBLIC_URL).await;
        assert_eq!((shown.status.as_u16(), shown.title()), (404, "Connect a device"));
    }
    let right = device["user_code"].as_str().unwrap();
    let shown = visitor.post(&server, "/device", query(&[("user_code", right)]), PUBLIC_URL).await;
    assert_eq!((shown.status.as_u16(), shown.title()), (429, "Too many attempts"));
    server.stop().await;
}

#[test]
async fn device_keeps_polling_while_the_store_does_not_answer() {
    let server = server(|_| {}).await;
    let device = begun(&server).await;
    phone(&server).confirm(&session(&device)).await;
    server.store.fail(true);
    assert_eq!(error(&polled(&server, &device).await), (400, "authorization_pending"));
    server.store.fail(false);
    assert_eq!(polled(&server, &device).await.status, 200);
    server.stop().await;
}

#[test]
async fn device_that_only_polls_has_a_code_that_stays_and_needs_no_number() {
    let server = server(|settings| {
        settings.session.rotate_seconds = 10;
        settings.session.number_matching = true;
    })
    .await;
    let device = begun(&server).await;
    server.hands.advance_seconds(100);
    let mut socket = Browser::open(&server, &session(&device).ws_path, None).await.unwrap();
    socket.frame("pending").await;
    server.hands.advance_seconds(20);
    let scanned = phone(&server).scan(&session(&device)).await;
    assert_eq!((scanned.status.as_u16(), &scanned.body["numbers"]), (200, &json!(null)));
    socket.frame("scanned").await;
    assert_eq!(phone(&server).confirm(&session(&device)).await.status, 200);
    assert_eq!(polled(&server, &device).await.status, 200);
    server.stop().await;
}

#[test]
async fn device_whose_address_exceeds_its_limit_is_slowed_down_and_gets_its_tokens_later() {
    let server = server(|settings| {
        settings.limits.enabled = true;
        settings.limits.status_per_minute = 2;
    })
    .await;
    let device = begun(&server).await;
    let mut last = polled(&server, &device).await;
    while error(&last) == (400, "authorization_pending") {
        server.hands.advance_seconds(5);
        last = polled(&server, &device).await;
    }
    assert_eq!(error(&last), (400, "slow_down"));
    phone(&server).confirm(&session(&device)).await;
    server.hands.advance_seconds(35);
    assert_eq!(polled(&server, &device).await.status, 200);
    server.stop().await;
}
