//! A store that does not answer: nobody is told anything false, and all goes on when it is back.

use serde_json::json;

use crate::harness::{Browser, Seen, Server};

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_is_told_to_come_back() {
    let server = Server::start().await;
    let session = server.generate().await;
    server.store.fail(true);
    let ann = server.phone("ann");
    for answer in [
        server.post("/v1/qr-login/generate", json!({})).await,
        server.status(&session).await,
        ann.scan(&session).await,
        ann.confirm(&session).await,
        server.cancel(&session).await,
    ] {
        assert_eq!(answer.refusal(), "503 unavailable");
        assert!((1..=4).contains(&answer.header("retry-after").parse::<u32>().unwrap()), "not all at the same time");
    }
    assert_eq!(Browser::open(&server, &session.ws_path, None).await.err(), Some(503));
    let ready = server.http.get(format!("{}/readyz", server.ops)).send().await.unwrap();
    assert_eq!(ready.status(), 503);
    let live = server.http.get(format!("{}/livez", server.ops)).send().await.unwrap();
    assert_eq!(live.status(), 200);

    server.store.fail(false);
    assert_eq!(ann.confirm(&session).await.status, 200);
    let ready = server.http.get(format!("{}/readyz", server.ops)).send().await.unwrap();
    assert_eq!(ready.status(), 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_its_deadline_a_browser_waits_for_the_store_and_is_told_the_truth() {
    let server = Server::start_with(|settings| settings.session.heartbeat_seconds = 3600).await;
    let (_session, mut browser) = server.waiting().await;
    server.store.fail(true);
    server.hands.advance_seconds(300);
    server.hands.advance_seconds(5);
    assert_eq!(server.active().await, 1);
    server.store.fail(false);
    // The next attempt may only just have been put off.
    let seen = server.let_time_pass_until_seen(&mut browser).await;
    assert_eq!(seen, Seen::Frame(json!({ "status": "expired", "message": "QR code expired" })));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_is_sent_away_when_the_store_stays_silent_long_past_its_deadline() {
    let server = Server::start_with(|settings| settings.session.heartbeat_seconds = 3600).await;
    let (_session, mut browser) = server.waiting().await;
    server.store.fail(true);
    server.hands.advance_seconds(300);
    let seen = server.let_time_pass_until_seen(&mut browser).await;
    assert!(matches!(seen, Seen::Close(1013, _)), "{seen:?}");
    server.until_active(0).await;
    assert_eq!(server.closed("unavailable").await, 1);
    server.store.fail(false);
    server.stop().await;
}
