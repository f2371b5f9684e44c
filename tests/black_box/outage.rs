//! A store that does not answer: nobody is told anything false, and all goes on when it is back.

use std::sync::atomic::Ordering;

use serde_json::json;

use crate::harness::{Browser, Seen, Server};
use crate::real_time::until;
use crate::services::{Postgres, connect};

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
async fn a_postgres_that_only_reads_is_noticed_and_that_it_writes_again() {
    let postgres = Postgres::shared().await;
    let url = postgres.database().await;
    let server = Server::node(&url, None, postgres.keys(), &|bus| bus).await;
    let session = server.generate().await;
    let client = connect(&url).await.unwrap();
    // It holds for new connections.
    let set_read_only = async |value: &str| {
        let database = url.rsplit('/').next().unwrap();
        let statements = format!(
            "ALTER DATABASE {database} SET default_transaction_read_only = {value};
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()"
        );
        client.batch_execute(&statements).await.unwrap();
    };
    set_read_only("on").await;
    let mut reason = String::new();
    until("it is not ready", async || {
        let ready = server.http.get(format!("{}/readyz", server.ops)).send().await.unwrap();
        reason = ready.text().await.unwrap();
        reason.contains("read-only")
    })
    .await;
    assert_eq!(reason, "the store does not answer: it is read-only\n");
    assert_eq!(server.post("/v1/qr-login/generate", json!({})).await.refusal(), "503 unavailable");
    assert_eq!(server.status(&session).await.body["status"], "pending");

    set_read_only("off").await;
    until("it is ready", async || {
        let ready = server.http.get(format!("{}/readyz", server.ops)).send().await.unwrap();
        ready.status() == 200
    })
    .await;
    assert_eq!(server.phone("ann").confirm(&session).await.status, 200);
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

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_whose_answer_was_lost_is_delivered_all_the_same() {
    let server = Server::start_with(|settings| settings.session.heartbeat_seconds = 3600).await;
    let (session, mut browser) = server.waiting().await;
    server.hands.advance_seconds(299);
    server.store.lose_answers(true);
    assert_eq!(server.phone("ann").confirm(&session).await.refusal(), "503 unavailable");
    server.store.lose_answers(false);
    let seen = server.let_time_pass_until_seen(&mut browser).await;
    assert!(matches!(&seen, Seen::Frame(frame) if frame["status"] == "confirmed"), "{seen:?}");
    drop(browser);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_scanned_in_time_is_told_so_also_after_the_deadline_until_the_store_says_that_it_has_expired() {
    let server = Server::start_with(|settings| settings.session.heartbeat_seconds = 3600).await;
    let (session, mut browser) = server.waiting().await;
    server.hands.advance_seconds(299);
    let ann = server.phone("ann");
    let scanning = async {
        let held = server.store.answers.write().await;
        let written = server.store.writes.load(Ordering::SeqCst);
        let scan = ann.scan(&session);
        let late = async {
            until("the scan is written", async || server.store.writes.load(Ordering::SeqCst) > written).await;
            server.store.fail(true);
            server.hands.advance_seconds(2);
            drop(held);
        };
        tokio::join!(scan, late).0
    };
    assert_eq!(scanning.await.status, 200);
    browser.frame("scanned").await;
    server.store.fail(false);
    let seen = server.let_time_pass_until_seen(&mut browser).await;
    assert!(matches!(&seen, Seen::Frame(frame) if frame["status"] == "expired"), "{seen:?}");
    drop(browser);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_comes_in_the_moment_of_the_decision_and_of_the_deadline_is_told_the_decision() {
    let server = Server::start().await;
    let session = server.generate().await;
    server.hands.advance_seconds(299);
    let held = server.store.arriving.write().await;
    let deciding = async {
        until("its session is read", async || server.store.arrivals.load(Ordering::SeqCst) == 1).await;
        assert_eq!(server.phone("ann").confirm(&session).await.status, 200);
        server.hands.advance_seconds(2);
        drop(held);
    };
    let (browser, ()) = tokio::join!(Browser::open(&server, &session.ws_path, None), deciding);
    browser.unwrap().frame("confirmed").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_comes_past_the_deadline_but_not_by_the_stores_clock_waits_on() {
    let server = Server::start_with(|settings| settings.session.heartbeat_seconds = 3600).await;
    let session = server.generate().await;
    server.store.lag(300);
    server.hands.advance_seconds(300);
    let mut browser = Browser::open(&server, &session.ws_path, None).await.unwrap();
    browser.frame("pending").await;
    let seen = server.let_time_pass_until_seen(&mut browser).await;
    assert!(matches!(&seen, Seen::Frame(frame) if frame["status"] == "expired"), "{seen:?}");
    drop(browser);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_clock_is_behind_is_asked_again_when_the_session_ends_by_that_clock() {
    let server = Server::start_with(|settings| settings.session.heartbeat_seconds = 3600).await;
    let (_session, mut browser) = server.waiting().await;
    server.store.lag(300);
    let reads = server.store.reads.load(Ordering::SeqCst);
    server.hands.advance_seconds(300);
    until("the store is asked", async || server.store.reads.load(Ordering::SeqCst) > reads).await;
    browser.nothing_is_said().await;
    // In steps, as its answer may not have been taken in yet; in less than the second after which all are asked again.
    let passing = async {
        for _ in 0..8 {
            server.hands.advance_millis(100);
            server.active().await;
        }
        for _ in 0..1000 {
            server.active().await;
        }
    };
    tokio::select! {
        _ = browser.frame("expired") => {}
        () = passing => panic!("it is not told that the session has expired"),
    }
    drop(browser);
    server.stop().await;
}
