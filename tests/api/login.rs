//! Complete logins, from the code to the token.

use std::sync::atomic::Ordering;

use qrlogin::session::Timestamp;
use reqwest::Method;
use serde_json::json;

use qrlogin_testing::harness::{START, Seen, Server, Session, token_in, verified};
use qrlogin_testing::real_time::until;
use qrlogin_testing::test;

#[test]
async fn confirmed_login_delivers_a_verifiable_token() {
    let server = Server::start().await;
    let session = server.generate().await;
    let mut browser = server.browser(&session).await;
    assert_eq!(browser.next().await, Seen::Frame(json!({ "status": "pending", "version": 1, "expires_in": 300 })));

    let ann = server.phone("ann");
    let scan = ann.scan(&session).await;
    assert_eq!(scan.status, 200);
    assert_eq!(scan.body["status"], "scanned");
    assert_eq!(scan.body["expires_in"], 300);
    assert_eq!(scan.body["client"]["ip"], "127.0.0.1");
    assert_eq!(
        browser.next().await,
        Seen::Frame(json!({ "status": "scanned", "version": 2, "user": { "name": "Name of ann" } }))
    );

    let confirm = ann.confirm(&session).await;
    assert_eq!((confirm.status.as_u16(), confirm.body), (200, json!({ "status": "confirmed" })));
    let confirmed = browser.frame("confirmed").await;
    assert_eq!(confirmed["token_type"], "Bearer");
    assert_eq!(confirmed["expires_in"], 3600);
    assert_eq!(confirmed["user"], json!({ "name": "Name of ann" }));
    assert_eq!(confirmed.as_object().unwrap().len(), 5, "{confirmed}");
    assert_eq!(browser.next().await, Seen::Close(1000, String::new()));

    let claims = verified(&server, confirmed["web_token"].as_str().unwrap()).await;
    assert_eq!(claims["sub"], "ann");
    assert_eq!(claims["iat"], START.as_seconds());
    assert_eq!(claims["exp"], START.as_seconds() + 3600);
    assert_eq!(claims["auth_time"], START.as_seconds());
    assert_eq!(claims["amr"], json!(["mca", "qr"]));
    server.until_active(0).await;
    assert_eq!(server.closed("decided").await, 1);
    assert_eq!(server.metric(r#"qrlogin_sessions_total{outcome="confirmed"}"#).await, 1);
    assert_eq!(server.metric("qrlogin_push_seconds_count").await, 2, "scanned and confirmed");
    server.stop().await;
}

#[test]
async fn generate_returns_the_session_id_the_code_and_its_image() {
    let server = Server::start_with(|settings| settings.public_url = "https://login.example/".to_owned()).await;
    let answer = server.post("/v1/qr-login/generate", json!({ "client_info": "Kiosk 7" })).await;
    assert_eq!(answer.status, 201);
    assert_eq!(answer.header("cache-control"), "no-store");
    let text = |field: &str| answer.body[field].as_str().unwrap();
    assert_eq!(text("session_id").len(), 43);
    assert_eq!(text("code").len(), 28);
    assert_eq!(text("qr_url"), format!("https://login.example/q/{}", text("code")));
    assert!(text("qr_image").starts_with("data:image/svg+xml;base64,"));
    assert_eq!(text("ws_path"), format!("/v1/ws/qr/{}", text("session_id")));
    assert_eq!(answer.body["expires_in"], 300);
    assert_eq!(text("expires_at"), "2030-01-01T00:05:00.000Z");
    server.stop().await;
}

#[test]
async fn generate_accepts_a_request_without_a_body() {
    let server = Server::start().await;
    let response = server.http.post(format!("{}/v1/qr-login/generate", server.base)).send().await.unwrap();
    assert_eq!(response.status(), 201);
    server.stop().await;
}

#[test]
async fn scan_returns_the_description_of_the_browser() {
    let server =
        Server::start_with(|settings| settings.allowed_origins = vec!["https://shop.example".to_owned()]).await;
    let agent = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36";
    let request = server.http.post(format!("{}/v1/qr-login/generate", server.base));
    let request = request.header("user-agent", agent).header("origin", "https://shop.example");
    let generated: serde_json::Value =
        request.json(&json!({ "client_info": "till 3" })).send().await.unwrap().json().await.unwrap();
    let token = server.app_token(json!({ "sub": "ann" }));
    let scan = server
        .request(reqwest::Method::POST, "/v1/qr-login/scan", Some(&token), Some(json!({ "code": generated["code"] })))
        .await;
    let expected = json!({
        "ip": "127.0.0.1", "browser": "Chrome 140", "os": "Linux", "origin": "https://shop.example", "client_info": "till 3",
        "time": "2030-01-01T00:00:00.000Z"
    });
    assert_eq!(scan.body["client"], expected);
    server.stop().await;
}

#[test]
async fn phone_may_confirm_without_a_scan() {
    let server = Server::start().await;
    let (session, mut browser) = server.waiting().await;
    assert_eq!(server.phone("ann").confirm(&session).await.status, 200);
    browser.frame("confirmed").await;
    browser.closed(1000).await;
    server.stop().await;
}

#[test]
async fn rejection_is_delivered_to_the_browser() {
    let server = Server::start().await;
    let (session, mut browser) = server.waiting().await;
    let ann = server.phone("ann");
    ann.scan(&session).await;
    browser.frame("scanned").await;
    let reject = ann.reject(&session).await;
    assert_eq!((reject.status.as_u16(), reject.body), (200, json!({ "status": "rejected" })));
    assert_eq!(browser.next().await, Seen::Frame(json!({ "status": "rejected", "message": "Login rejected by user" })));
    browser.closed(1000).await;
    server.stop().await;
}

#[test]
async fn cancellation_is_delivered_and_the_phone_is_refused() {
    let server = Server::start().await;
    let (session, mut browser) = server.waiting().await;
    let ann = server.phone("ann");
    ann.scan(&session).await;
    browser.frame("scanned").await;
    let cancel = server.cancel(&session).await;
    assert_eq!((cancel.status.as_u16(), cancel.body), (200, json!({ "status": "cancelled" })));
    assert_eq!(browser.next().await, Seen::Frame(json!({ "status": "cancelled" })));
    browser.closed(1000).await;
    assert_eq!(ann.confirm(&session).await.refusal(), "410 cancelled");
    server.until_active(0).await;
    assert_eq!(server.closed("cancelled").await, 1);
    server.stop().await;
}

#[test]
async fn status_returns_the_state_that_the_websocket_delivers() {
    let server = Server::start().await;
    let session = server.generate().await;
    let pending = server.status(&session).await.body;
    assert_eq!(
        (&pending["status"], &pending["version"], &pending["expires_in"]),
        (&json!("pending"), &json!(1), &json!(300))
    );
    assert_eq!(pending["code"], session.code.as_str());
    assert!(pending["qr_url"].as_str().unwrap().ends_with(&session.code));
    assert!(pending["qr_image"].as_str().unwrap().starts_with("data:"));

    let ann = server.phone("ann");
    ann.scan(&session).await;
    server.hands.advance_seconds(10);
    let scanned = server.status(&session).await.body;
    assert_eq!(
        (&scanned["status"], &scanned["version"], &scanned["expires_in"]),
        (&json!("scanned"), &json!(2), &json!(290))
    );
    assert_eq!(scanned["user"]["name"], "Name of ann");

    ann.confirm(&session).await;
    let confirmed = server.status(&session).await.body;
    assert_eq!(
        (&confirmed["status"], &confirmed["version"], &confirmed["expires_in"]),
        (&json!("confirmed"), &json!(3), &json!(3600))
    );
    let by_header = server.http.get(format!("{}/v1/qr-login/status", server.base)).header("x-qr-session", &session.id);
    let by_header: serde_json::Value = by_header.send().await.unwrap().json().await.unwrap();
    assert_eq!(by_header, confirmed);

    assert_eq!(server.ack(&session).await.status, 204);
    assert_eq!(
        server.status(&session).await.body,
        json!({ "status": "confirmed", "claimed": true, "version": 4, "expires_in": 0 })
    );
    server.stop().await;
}

#[test]
async fn status_costs_one_query_and_a_second_one_past_the_deadline() {
    let server = Server::start().await;
    let session = server.generate().await;
    let queries_of_status = async |session: &Session, expected: &str| {
        let before = server.store.reads.load(Ordering::SeqCst);
        assert_eq!(server.status(session).await.body["status"], expected);
        server.store.reads.load(Ordering::SeqCst) - before
    };
    assert_eq!(queries_of_status(&session, "pending").await, 1);
    server.hands.advance_seconds(300);
    assert_eq!(queries_of_status(&session, "expired").await, 2);
    let decided = server.generate().await;
    assert_eq!(server.phone("ann").reject(&decided).await.status, 200);
    server.hands.advance_seconds(300);
    assert_eq!(queries_of_status(&decided, "rejected").await, 1);
    server.stop().await;
}

#[test]
async fn first_frame_is_the_current_state() {
    let server = Server::start().await;
    let ann = server.phone("ann");

    let scanned = server.generate().await;
    ann.scan(&scanned).await;
    server.browser(&scanned).await.frame("scanned").await;

    let rejected = server.generate().await;
    ann.reject(&rejected).await;
    let mut browser = server.browser(&rejected).await;
    browser.frame("rejected").await;
    browser.closed(1000).await;

    let confirmed = server.generate().await;
    ann.confirm(&confirmed).await;
    let seen = server.browser(&confirmed).await.rest().await;
    assert!(token_in(&seen).is_some());
    assert_eq!(seen.last(), Some(&Seen::Close(1000, String::new())));
    server.stop().await;
}

#[test]
async fn repeated_scan_or_decision_has_the_same_answer() {
    let server = Server::start().await;
    let session = server.generate().await;
    let ann = server.phone("ann");
    let first = ann.scan(&session).await;
    assert_eq!(ann.scan(&session).await.body, first.body);
    for _ in 0..3 {
        let confirm = ann.confirm(&session).await;
        assert_eq!((confirm.status.as_u16(), confirm.body), (200, json!({ "status": "confirmed" })));
    }
    // The answer is the same past the session's end, until the row is swept.
    server.hands.advance_seconds(400);
    assert_eq!(ann.confirm(&session).await.status, 200);
    server.stop().await;
}

#[test]
async fn configured_claims_of_the_app_token_are_copied_to_the_web_token() {
    let server = Server::start_with(|settings| {
        settings.token.claims = vec!["email".to_owned(), "roles".to_owned(), "missing".to_owned()];
        settings.app_auth.user_claim = "uid".to_owned();
    })
    .await;
    let session = server.generate().await;
    let token =
        server.app_token(json!({ "uid": 4711, "email": "ann@example.com", "roles": ["a", "b"], "private": true }));
    let body = Some(json!({ "code": session.code }));
    server.request(reqwest::Method::POST, "/v1/qr-login/confirm", Some(&token), body).await;
    let web_token = server.status(&session).await.body["web_token"].as_str().unwrap().to_owned();
    let claims = verified(&server, &web_token).await;
    assert_eq!(claims["sub"], "4711");
    assert_eq!(claims["email"], "ann@example.com");
    assert_eq!(claims["roles"], json!(["a", "b"]));
    assert!(!claims.contains_key("private") && !claims.contains_key("missing"));
    server.stop().await;
}

#[test]
async fn ended_session_is_swept_after_ten_minutes_and_then_unknown() {
    let server = Server::start().await;
    // More sessions than one sweep deletes.
    for _ in 0..500 {
        server.generate().await;
    }
    let session = server.generate().await;
    server.hands.advance_seconds(300);
    assert_eq!(server.status(&session).await.body["status"], "expired");
    server.hands.advance_seconds(60 + 600);
    assert_eq!(server.clock.now(), Timestamp::from_millis(START.as_millis() + 960_000));
    assert_eq!(server.status(&session).await.body["status"], "expired", "kept for ten minutes after its end");
    server.hands.advance_seconds(11);
    until("the session is swept", async || server.status(&session).await.status == 404).await;
    assert_eq!(server.metric(r#"qrlogin_sessions_total{outcome="expired"}"#).await, 501);
    server.stop().await;
}

#[test]
async fn control_and_direction_characters_are_removed_from_displayed_text() {
    let server = Server::start().await;
    let info = json!({ "client_info": "till\u{202E} 7\u{0007}\r\n" });
    let generated = server.post("/v1/qr-login/generate", info).await.body;
    let text = |field: &str| generated[field].as_str().unwrap().to_owned();
    let session = Session { id: text("session_id"), code: text("code"), ws_path: text("ws_path") };
    let mut browser = server.browser(&session).await;
    browser.frame("pending").await;
    let token = server.app_token(json!({ "sub": "ann", "name": "Ada\u{202E}\u{0000} Love\u{2066}lace\n" }));
    let body = json!({ "code": session.code });
    let scan = server.request(Method::POST, "/v1/qr-login/scan", Some(&token), Some(body)).await;
    assert_eq!(scan.body["client"]["client_info"], "till 7");
    assert_eq!(browser.frame("scanned").await["user"]["name"], "Ada Lovelace");
    server.stop().await;
}
