//! A store that does not answer, or that panics. No client receives a false state, and logins continue when the store
//! answers again.

use std::sync::atomic::Ordering;

use serde_json::json;

use qrlogin_testing::harness::{Browser, Seen, Server};
use qrlogin_testing::log::with_warnings;
use qrlogin_testing::program::Program;
use qrlogin_testing::real_time::until;
use qrlogin_testing::services::{Postgres, connect};
use qrlogin_testing::test;

#[test]
async fn calls_are_answered_with_503_and_retry_after() {
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
        assert!((1..=4).contains(&answer.header("retry-after").parse::<u32>().unwrap()), "retries are spread");
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

#[test(needs(Postgres))]
async fn read_only_postgres_is_detected_and_so_is_its_recovery() {
    let postgres = Postgres::shared().await;
    let url = postgres.database().await;
    let server = Server::node(&url, None, postgres.keys(), &|bus| bus).await;
    let session = server.generate().await;
    let client = connect(&url).await.unwrap();
    // The setting applies to new connections, so the present ones are terminated.
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
    until("the server is not ready", async || {
        let ready = server.http.get(format!("{}/readyz", server.ops)).send().await.unwrap();
        reason = ready.text().await.unwrap();
        reason.contains("read-only")
    })
    .await;
    assert_eq!(reason, "the store does not answer: it is read-only\n");
    assert_eq!(server.post("/v1/qr-login/generate", json!({})).await.refusal(), "503 unavailable");
    assert_eq!(server.status(&session).await.body["status"], "pending");

    set_read_only("off").await;
    until("the server is ready", async || {
        let ready = server.http.get(format!("{}/readyz", server.ops)).send().await.unwrap();
        ready.status() == 200
    })
    .await;
    assert_eq!(server.phone("ann").confirm(&session).await.status, 200);
    server.stop().await;
}

#[test]
async fn browser_at_its_deadline_waits_for_the_store_and_receives_expired() {
    let server = Server::start_with(|settings| settings.session.heartbeat_seconds = 3600).await;
    let (_session, mut browser) = server.waiting().await;
    server.store.fail(true);
    server.hands.advance_seconds(300);
    server.hands.advance_seconds(5);
    assert_eq!(server.active().await, 1);
    server.store.fail(false);
    // The next attempt may just have been postponed.
    let seen = server.advance_until_received(&mut browser).await;
    assert_eq!(seen, Seen::Frame(json!({ "status": "expired", "message": "QR code expired" })));
    server.stop().await;
}

#[test]
async fn browser_is_closed_with_1013_when_the_store_is_silent_long_past_its_deadline() {
    let server = Server::start_with(|settings| settings.session.heartbeat_seconds = 3600).await;
    let (_session, mut browser) = server.waiting().await;
    server.store.fail(true);
    server.hands.advance_seconds(300);
    let seen = server.advance_until_received(&mut browser).await;
    assert_eq!(seen, Seen::Close(1013, "the store does not answer".to_owned()));
    server.until_active(0).await;
    assert_eq!(server.closed("unavailable").await, 1);
    server.store.fail(false);
    server.stop().await;
}

#[test]
async fn decision_whose_answer_was_lost_is_delivered() {
    let server = Server::start_with(|settings| settings.session.heartbeat_seconds = 3600).await;
    let (session, mut browser) = server.waiting().await;
    server.hands.advance_seconds(299);
    server.store.lose_answers(true);
    assert_eq!(server.phone("ann").confirm(&session).await.refusal(), "503 unavailable");
    server.store.lose_answers(false);
    let seen = server.advance_until_received(&mut browser).await;
    assert!(matches!(&seen, Seen::Frame(frame) if frame["status"] == "confirmed"), "{seen:?}");
    drop(browser);
    server.stop().await;
}

#[test]
async fn scan_in_time_is_delivered_after_the_deadline_and_expired_only_when_the_store_confirms_it() {
    let server = Server::start_with(|settings| settings.session.heartbeat_seconds = 3600).await;
    let (session, mut browser) = server.waiting().await;
    server.hands.advance_seconds(299);
    let ann = server.phone("ann");
    let scanning = async {
        let held = server.store.change_gate.write().await;
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
    let seen = server.advance_until_received(&mut browser).await;
    assert!(matches!(&seen, Seen::Frame(frame) if frame["status"] == "expired"), "{seen:?}");
    drop(browser);
    server.stop().await;
}

#[test]
async fn browser_that_connects_during_the_decision_and_the_deadline_receives_the_decision() {
    let server = Server::start().await;
    let session = server.generate().await;
    server.hands.advance_seconds(299);
    let held = server.store.attach_gate.write().await;
    let deciding = async {
        until("its session is read", async || server.store.attached.load(Ordering::SeqCst) == 1).await;
        assert_eq!(server.phone("ann").confirm(&session).await.status, 200);
        server.hands.advance_seconds(2);
        drop(held);
    };
    let (browser, ()) = tokio::join!(Browser::open(&server, &session.ws_path, None), deciding);
    browser.unwrap().frame("confirmed").await;
    server.stop().await;
}

#[test]
async fn browser_that_connects_past_the_deadline_waits_until_the_clock_of_the_store_reaches_it() {
    let server = Server::start_with(|settings| settings.session.heartbeat_seconds = 3600).await;
    let session = server.generate().await;
    server.store.lag(300);
    server.hands.advance_seconds(300);
    let mut browser = Browser::open(&server, &session.ws_path, None).await.unwrap();
    browser.frame("pending").await;
    let seen = server.advance_until_received(&mut browser).await;
    assert!(matches!(&seen, Seen::Frame(frame) if frame["status"] == "expired"), "{seen:?}");
    drop(browser);
    server.stop().await;
}

#[test]
async fn store_whose_clock_is_behind_is_read_again_when_the_session_ends_by_that_clock() {
    let server = Server::start_with(|settings| settings.session.heartbeat_seconds = 3600).await;
    let (_session, mut browser) = server.waiting().await;
    server.store.lag(300);
    let reads = server.store.reads.load(Ordering::SeqCst);
    server.hands.advance_seconds(300);
    until("the store is asked", async || server.store.reads.load(Ordering::SeqCst) > reads).await;
    browser.received_nothing().await;
    // The clock moves in steps, because the store's answer may not have been handled yet. The steps add up to less than
    // the second after which all due sessions are read again.
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
        () = passing => panic!("the browser has not received expired"),
    }
    drop(browser);
    server.stop().await;
}

#[test]
async fn panicking_request_fails_alone_and_panicking_part_stops_the_server() {
    let server = Server::start().await;
    let (session, browser) = server.waiting().await;
    server.store.panic(true);
    let path = format!("{}/v1/qr-login/generate", server.base);
    let refused = server.http.post(&path).send().await;
    assert!(refused.is_err() || refused.unwrap().status().is_server_error());
    server.store.panic(false);
    assert_eq!(server.status(&session).await.status, 200, "the server still serves");

    server.store.panic(true);
    server.hands.advance_seconds(1);
    let seen = browser.rest().await;
    let Some(Seen::Close(1012, _)) = seen.last() else { panic!("no Close 1012: {seen:?}") };
    let failed = server.stopped().await.unwrap_err().to_string();
    // Two parts of the server query the store by themselves, and either may fail first.
    let part = failed.strip_prefix("a part of the server has failed: ");
    assert!(matches!(part, Some("store" | "undelivered changes")), "{failed}");
}

/// Returns the lines of this event.
fn lines_of<'a>(lines: &'a [String], event: &str) -> Vec<&'a String> {
    lines.iter().filter(|line| line.starts_with(event)).collect()
}

#[test]
fn store_outage_is_warned_of_once_a_minute_however_many_requests_meet_it() {
    // One thread, because warnings are collected per thread.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ((), lines) = with_warnings(|| {
        runtime.block_on(async {
            let server = Server::start_with(|settings| settings.session.heartbeat_seconds = 3600).await;
            let (session, browser) = server.waiting().await;
            server.store.fail(true);
            for _ in 0..20 {
                assert_eq!(server.post("/v1/qr-login/generate", json!({})).await.refusal(), "503 unavailable");
                assert_eq!(server.phone("ann").scan(&session).await.refusal(), "503 unavailable");
                assert_eq!(server.status(&session).await.refusal(), "503 unavailable");
                assert_eq!(Browser::open(&server, &session.ws_path, None).await.err(), Some(503));
            }
            // The store is swept every 10 seconds and asked for undelivered changes every 1.5 seconds.
            for _ in 0..55 {
                server.hands.advance_seconds(1);
                server.active().await;
            }
            for _ in 0..10 {
                server.hands.advance_seconds(1);
                server.active().await;
            }
            assert_eq!(server.status(&session).await.refusal(), "503 unavailable");
            drop(browser);
            server.stop().await;
        });
    });
    let unavailable = lines_of(&lines, "store unavailable");
    assert_eq!(unavailable.len(), 2, "{lines:#?}");
    for part in ["made to fail", "answered with 503", "count 1"] {
        assert!(unavailable[0].contains(part), "'{part}' is missing in {}", unavailable[0]);
    }
    let count: u64 = unavailable[1].rsplit_once("count ").unwrap().1.parse().unwrap();
    assert!(count >= 80, "79 requests and the server's own queries failed before the second warning: {count}");
    assert_eq!(lines_of(&lines, "sweep failed").len(), 1, "{lines:#?}");
}

#[test(needs(Postgres))]
async fn closed_connections_of_the_pool_are_logged_at_debug_only() {
    let postgres = Postgres::start().await;
    let url = postgres.database().await;
    let keys = postgres.keys();
    let environment = [("QRLOGIN_DATABASE_URL", url.as_str()), ("QRLOGIN_TOKEN__KEY_DIR", keys.to_str().unwrap())];
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let info = Program::serve_with(&dirs[0], "info", &environment);
    let debug = Program::serve_with(&dirs[1], "debug", &environment);
    for program in [&info, &debug] {
        futures_util::future::join_all((0..40).map(|_| program.generate())).await;
    }
    postgres.restart().await;
    for program in [&info, &debug] {
        for _ in 0..40 {
            drop(program.post("/v1/qr-login/generate", None, json!({})).await.unwrap());
        }
    }
    debug.until_logged("\"deadpool.postgres\"").await;
    let log = info.log();
    assert!(!log.contains("deadpool"), "{log}");
    assert!(log.matches("\"store unavailable\"").count() <= 1, "{log}");
}
