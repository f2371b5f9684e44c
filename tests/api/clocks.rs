//! Steps of the wall clock while browsers wait. Durations do not change, sessions keep their length within one part in
//! 200, and dates follow the new wall clock.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use qrlogin_testing::harness::{Browser, START, Seen, Server, Session, claims_of, token_in};
use qrlogin_testing::keys::app_token;
use qrlogin_testing::program::Program;
use qrlogin_testing::real_time::{now, sleep_millis, until, wall_millis, wall_seconds, within};
use qrlogin_testing::services;
use qrlogin_testing::test;

/// Steps of the wall clock, in milliseconds: ten minutes forward and ten minutes back.
const STEPS_MILLIS: [i64; 2] = [600_000, -600_000];

#[test]
async fn heartbeats_keep_their_interval_when_the_wall_clock_is_set() {
    for step_millis in STEPS_MILLIS {
        let server = Server::start().await;
        let (_session, mut browser) = server.waiting().await;
        let mut silent = server.waiting().await.1.into_tcp();
        server.hands.step_wall_millis(step_millis);
        browser.received_nothing().await;
        for beat in 1..=3 {
            server.hands.advance_millis(30_100);
            assert_eq!(browser.next().await, Seen::Ping);
            browser.received_nothing().await;
            let mut frame = [0; 2];
            within("the server sends a frame", silent.read_exact(&mut frame)).await.unwrap();
            assert_eq!(frame, if beat < 3 { [0x89, 0] } else { [0x88, 29] }, "two pings, then a Close");
        }
        let mut code = [0; 2];
        within("the server sends its Close", silent.read_exact(&mut code)).await.unwrap();
        assert_eq!(u16::from_be_bytes(code), 4408);
        server.hands.advance_seconds(1);
        server.until_active(1).await;
        browser.close(1000).await;
        server.stop().await;
    }
}

#[test]
async fn undecided_session_expires_within_half_a_percent_of_its_ttl_when_the_wall_clock_is_set() {
    for step_millis in STEPS_MILLIS {
        let server = Server::start_with(|settings| settings.session.heartbeat_seconds = 3600).await;
        let (session, mut browser) = server.waiting().await;
        server.hands.step_wall_millis(step_millis);
        for _ in 0..298 {
            server.hands.advance_seconds(1);
        }
        browser.received_nothing().await;
        assert_eq!(server.status(&session).await.body["status"], "pending");
        for _ in 0..36 {
            server.hands.advance_millis(100);
            server.active().await;
        }
        browser.frame("expired").await;
        browser.closed(1000).await;
        assert_eq!(server.phone("ann").scan(&session).await.refusal(), "410 expired");
        server.stop().await;
    }
}

#[test]
async fn login_completes_when_the_wall_clock_is_set_and_its_token_has_the_new_date() {
    for step_millis in STEPS_MILLIS {
        let server = Server::start().await;
        let (session, browser) = server.waiting().await;
        server.hands.advance_seconds(100);
        // Session time is compared with the wall clock when it is read.
        assert_eq!(server.status(&session).await.body["expires_in"], 200);
        server.hands.step_wall_millis(step_millis);
        let ann = server.phone("ann");
        let stepped_seconds = START.as_seconds() + 100 + step_millis / 1000;
        let scan = ann.scan(&session).await;
        assert_eq!(scan.body["expires_in"], 200);
        let asked_at = START.plus_millis(step_millis).to_string();
        assert_eq!(scan.body["client"]["time"], *asked_at, "by the new wall clock");
        assert_eq!(ann.confirm(&session).await.status, 200);
        let claims = claims_of(&token_in(&browser.rest().await).unwrap());
        assert_eq!((&claims["iat"], &claims["exp"]), (&json!(stepped_seconds), &json!(stepped_seconds + 3600)));

        let answer = server.post("/v1/qr-login/generate", json!({})).await;
        let expires_at = START.plus_millis(step_millis).plus_seconds(400).to_string();
        assert_eq!((&answer.body["expires_at"], &answer.body["expires_in"]), (&json!(expires_at), &json!(300)));
        server.stop().await;
    }
}

#[test]
async fn claim_period_keeps_its_length_when_the_wall_clock_is_set() {
    for step_millis in STEPS_MILLIS {
        let server = Server::start().await;
        let session = server.generate().await;
        assert_eq!(server.phone("ann").confirm(&session).await.status, 200);
        server.hands.step_wall_millis(step_millis);
        server.hands.advance_seconds(59);
        let status = server.status(&session).await.body;
        assert_eq!(status["status"], "confirmed");
        assert!([3541, 3542].map(Value::from).contains(&status["expires_in"]), "{status}");
        server.hands.advance_millis(1400);
        assert_eq!(server.status(&session).await.body["status"], "expired");
        server.stop().await;
    }
}

#[test]
async fn pushed_and_accepted_codes_stay_in_step_when_the_wall_clock_is_set() {
    for step_millis in STEPS_MILLIS {
        let server = Server::start_with(|settings| {
            settings.session.heartbeat_seconds = 3600;
            settings.session.ttl_seconds = 3600;
            settings.session.rotate_seconds = 5;
        })
        .await;
        let (mut session, mut browser) = server.waiting().await;
        server.hands.step_wall_millis(step_millis);
        // Session time gains or loses five seconds, one period, in these 1,000 seconds.
        for _ in 0..20 {
            for _ in 0..25 {
                server.hands.advance_seconds(2);
                server.active().await;
            }
            has_current_code(&server, &mut session, &mut browser).await;
        }
        assert_eq!(server.phone("ann").scan(&session).await.status, 200);
        browser.close(1000).await;
        server.stop().await;
    }
}

/// Reads frames until the browser has the server's current code.
async fn has_current_code(server: &Server, session: &mut Session, browser: &mut Browser) {
    for _ in 0..100 {
        browser.socket.send(Message::Ping("anything?".into())).await.unwrap();
        loop {
            match within("the browser receives a message", browser.socket.next()).await {
                Some(Ok(Message::Text(text))) => {
                    let frame: Value = serde_json::from_str(&text).unwrap();
                    frame["code"].as_str().unwrap().clone_into(&mut session.code);
                }
                Some(Ok(Message::Ping(_))) => {}
                Some(Ok(Message::Pong(_))) => break,
                other => panic!("{other:?}"),
            }
        }
        if server.status(session).await.body["code"] == *session.code {
            return;
        }
        // The new code may be due at the end of this tenth of a second.
        server.hands.advance_millis(10);
    }
    panic!("the browser does not have the current code");
}

/// Returns the path of the library that fakes a process's wall clock.
pub fn faketime() -> PathBuf {
    qrlogin_testing::faketime().expect("libfaketime is installed")
}

/// Sets the wall clock of the process that reads `file` to this offset from the machine's.
fn set_clock(file: &Path, offset: &str) {
    let draft = file.with_extension("draft");
    std::fs::write(&draft, offset).unwrap();
    std::fs::rename(draft, file).unwrap();
}

#[test(needs(Faketime))]
async fn clock_step_forward_leaves_heartbeats_closes_expiries_and_logins_unchanged() {
    clock_step_changes_nothing("+600s").await;
}

#[test(needs(Faketime))]
async fn clock_step_back_leaves_heartbeats_closes_expiries_and_logins_unchanged() {
    clock_step_changes_nothing("-600s").await;
}

async fn clock_step_changes_nothing(offset: &str) {
    let dir = tempfile::tempdir().unwrap();
    let clock = dir.path().join("faketimerc");
    set_clock(&clock, "+0s");
    let program = Program::serve_with(
        &dir,
        "info",
        &[
            ("LD_PRELOAD", faketime().to_str().unwrap()),
            ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("QRLOGIN_SESSION__TTL_SECONDS", "6"),
            ("QRLOGIN_SESSION__HEARTBEAT_SECONDS", "1"),
        ],
    );
    let waiting = async || {
        let session = program.generate().await;
        let url = format!("{}{}", program.base.replace("http", "ws"), session["ws_path"].as_str().unwrap());
        let mut browser = Browser::send(url.into_client_request().unwrap()).await.unwrap();
        browser.frame("pending").await;
        (session, browser)
    };
    let date = async || {
        let answer = program.http.get(format!("{}/livez", program.ops)).send().await.unwrap();
        answer.headers()["date"].to_str().unwrap().to_owned()
    };
    let (date_before, begun) = (date().await, now());
    let (expiring, mut browser) = waiting().await;
    let (deciding, decided) = waiting().await;
    let mut silent = waiting().await.1.into_tcp();
    set_clock(&clock, offset);
    until("the process has a new date", async || date().await[..22] != date_before[..22]).await;

    let close = async {
        let mut received = Vec::new();
        drop(within("the connection ends", silent.read_to_end(&mut received)).await);
        assert!(received.ends_with(b"no answer to two heartbeats"), "{received:?}");
        begun.elapsed()
    };
    let login = async {
        sleep_millis(500).await;
        let token = app_token(json!({ "sub": "ann", "exp": wall_seconds() + 3600 }));
        let code = json!({ "code": deciding["code"] });
        let scan = program.post("/v1/qr-login/scan", Some(&token), code.clone()).await.unwrap();
        assert_eq!(scan.status, 200, "{}", scan.body);
        assert_eq!(program.post("/v1/qr-login/confirm", Some(&token), code).await.unwrap().status, 200);
        let claims = claims_of(&token_in(&decided.rest().await).unwrap());
        let stepped = claims["iat"].as_i64().unwrap() - wall_seconds();
        let expected = offset.trim_end_matches('s').parse::<i64>().unwrap();
        assert!((stepped - expected).abs() <= 2, "{stepped}");
    };
    let expiry = async {
        let mut pings = 0;
        loop {
            match browser.next().await {
                Seen::Ping => pings += 1,
                Seen::Frame(frame) => break assert_eq!(frame["status"], "expired"),
                other => panic!("{other:?}"),
            }
        }
        assert!((4..=7).contains(&pings), "{pings}");
        begun.elapsed()
    };
    let (closed, (), expired) = tokio::join!(close, login, expiry);
    let after = program.status(&expiring).await;
    let (status, log) = program.terminate();
    assert!(status.success(), "{log}");
    assert_eq!(after["status"], "expired");
    // The first heartbeat is sent within the first second, and the third finds two unanswered.
    assert!(closed >= Duration::from_millis(2000) && closed < Duration::from_millis(5000), "{closed:?}");
    assert!(expired >= Duration::from_millis(5900) && expired < Duration::from_millis(7000), "{expired:?}: {log}");
}

#[test(needs(Postgres))]
async fn nodes_follow_a_step_of_the_database_clock_within_seconds() {
    let postgres = services::Postgres::shared().await;
    let database = postgres.database().await;
    let node = async || Server::node(&database, None, postgres.keys(), |bus| bus).await;
    let (asked, other) = (node().await, node().await);
    let follow = async |offset_millis: i64| {
        set_clock_of(&database, offset_millis).await;
        until("both nodes follow", async || {
            let wall = wall_millis();
            let ahead = |node: &Server| node.clock.now().as_millis() - wall - offset_millis;
            ahead(&asked).abs() < 1000 && ahead(&other).abs() < 1000
        })
        .await;
    };
    let logs_in = async |session: &Session, mut browser: Browser| {
        let ann = other.phone("ann");
        assert_eq!(ann.scan(session).await.status, 200);
        browser.frame("scanned").await;
        assert_eq!(ann.confirm(session).await.status, 200);
        assert!(token_in(&browser.rest().await).is_some());
    };

    let (session, mut browser) = asked.waiting().await;
    let begun = now();
    follow(600_000).await;
    browser.frame("expired").await;
    browser.closed(1000).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "delivered when the clock is set, not after five minutes");
    assert_eq!(other.phone("ann").scan(&session).await.refusal(), "410 expired");
    let (session, browser) = asked.waiting().await;
    logs_in(&session, browser).await;

    let (session, mut browser) = asked.waiting().await;
    follow(-600_000).await;
    browser.received_nothing().await;
    logs_in(&session, browser).await;
    let (session, browser) = asked.waiting().await;
    logs_in(&session, browser).await;
}

/// Sets the clock of a database that belongs to one test.
async fn set_clock_of(database: &str, offset_millis: i64) {
    let statement = format!(
        "CREATE OR REPLACE FUNCTION qrlogin.now_millis() RETURNS bigint LANGUAGE sql VOLATILE
             AS 'SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint + {offset_millis}'"
    );
    services::connect(database).await.unwrap().batch_execute(&statement).await.unwrap();
}
