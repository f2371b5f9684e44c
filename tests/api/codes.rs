//! Rotating codes and number matching.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use qrlogin_testing::harness::{Browser, Seen, Server, Session};
use qrlogin_testing::test;

async fn rotating() -> Server {
    Server::start_with(|settings| settings.session.rotate_seconds = 20).await
}

/// Returns the session with the code of this frame or answer.
fn showing(session: &Session, shown: &Value) -> Session {
    Session { code: shown["code"].as_str().unwrap().to_owned(), ..session.clone() }
}

async fn next_code(server: &Server, session: &Session, browser: &mut Browser) -> Session {
    server.hands.advance_seconds(20);
    let rotated = browser.frame("rotated").await;
    assert!(rotated["qr_image"].as_str().unwrap().starts_with("data:image/svg+xml;base64,"));
    let next = showing(session, &rotated);
    assert!(rotated["qr_url"].as_str().unwrap().ends_with(&format!("/q/{}", next.code)));
    assert_eq!(rotated.as_object().unwrap().len(), 4, "{rotated}");
    next
}

#[test]
async fn rotated_code_is_accepted_and_its_predecessor_for_one_more_period() {
    let server = rotating().await;
    let (first, mut browser) = server.waiting().await;
    let second = next_code(&server, &first, &mut browser).await;
    let third = next_code(&server, &first, &mut browser).await;
    assert_eq!(server.status(&first).await.body["code"], third.code.as_str());
    assert_eq!(HashSet::from([&first.code, &second.code, &third.code]).len(), 3);

    let ann = server.phone("ann");
    assert_eq!(ann.scan(&first).await.refusal(), "410 expired");
    assert_eq!(ann.confirm(&first).await.refusal(), "410 expired");
    assert_eq!(ann.reject(&first).await.refusal(), "410 expired");
    assert_eq!(server.status(&first).await.body["version"], 1, "nothing has changed");
    assert_eq!(ann.scan(&second).await.status, 200);
    browser.frame("scanned").await;

    // Codes do not rotate after the scan, and those that worked at the scan work to the end.
    for _ in 0..3 {
        server.hands.advance_seconds(20);
        browser.received_nothing().await;
    }
    let bob = server.phone("bob");
    assert_eq!(bob.scan(&first).await.refusal(), "410 expired");
    assert_eq!(bob.scan(&third).await.refusal(), "409 already_scanned");
    assert_eq!(ann.scan(&second).await.status, 200);
    assert_eq!(ann.confirm(&second).await.status, 200);
    browser.frame("confirmed").await;
    browser.closed(1000).await;
    server.stop().await;
}

#[test]
async fn reconnecting_browser_receives_the_current_code() {
    let server = rotating().await;
    let session = server.generate().await;
    server.hands.advance_seconds(50);
    let mut browser = server.browser(&session).await;
    browser.frame("pending").await;
    let shown = browser.frame("rotated").await;
    assert_eq!(shown["code"], server.status(&session).await.body["code"]);
    assert_eq!(server.phone("ann").scan(&showing(&session, &shown)).await.status, 200);
    browser.frame("scanned").await;

    let mut again = server.browser(&session).await;
    again.frame("scanned").await;
    again.received_nothing().await;
    assert!(server.status(&session).await.body["code"].is_string(), "the same phone can repeat its scan");
    server.stop().await;
}

#[test]
async fn rotation_does_not_access_the_store() {
    let server = rotating().await;
    let mut browsers = Vec::new();
    for _ in 0..20 {
        browsers.push(server.waiting().await);
    }
    let (reads, writes) = (server.store.reads.load(Ordering::SeqCst), server.store.writes.load(Ordering::SeqCst));
    for _ in 0..5 {
        server.hands.advance_seconds(20);
        for (_, browser) in &mut browsers {
            browser.frame("rotated").await;
            // A round trip: the answer to a heartbeat has arrived before the clock moves.
            browser.received_nothing().await;
        }
    }
    assert_eq!(server.store.reads.load(Ordering::SeqCst), reads);
    assert_eq!(server.store.writes.load(Ordering::SeqCst), writes);
    server.stop().await;
}

#[test]
async fn forged_code_is_not_found() {
    let server = Server::start().await;
    let (session, _browser) = server.waiting().await;
    let ann = server.phone("ann");
    for place in [0, 11, 14, 27] {
        let mut letters = session.code.clone().into_bytes();
        letters[place] = if letters[place] == b'A' { b'E' } else { b'A' };
        let forged = Session { code: String::from_utf8(letters).unwrap(), ..session.clone() };
        let answer = ann.scan(&forged).await;
        assert_eq!(answer.refusal(), "404 not_found");
        assert_eq!(answer.body["detail"], "there is no such session or code");
    }
    server.stop().await;
}

#[test]
async fn code_is_accepted_as_a_scanner_returns_it() {
    let server = Server::start_with(|settings| {
        settings.public_url = "https://login.example/qr/".to_owned();
        settings.limits.enabled = true;
        settings.limits.wrong_codes_per_minute = 1;
    })
    .await;
    let ann = server.phone("ann");
    for (before, after) in [
        ("", "\n"),
        (" ", "\r\n"),
        ("https://login.example/qr/q/", ""),
        ("\thttps://login.example/qr/q/", "?from=camera \n"),
    ] {
        for verdict in ["confirm", "reject"] {
            let session = server.generate().await;
            let scanned = Session { code: format!("{before}{}{after}", session.code), ..session.clone() };
            assert_eq!(ann.scan(&scanned).await.status, 200, "{scanned:?}");
            assert_eq!(ann.call(verdict, &scanned).await.status, 200, "{scanned:?}");
        }
    }
    // None of these scans counted as a wrong code. Text without a code does.
    let session = server.generate().await;
    let wrong = Session { code: "https://login.example/qr/q/\n".to_owned(), ..session.clone() };
    assert_eq!(ann.scan(&wrong).await.refusal(), "404 not_found");
    assert_eq!(ann.scan(&session).await.refusal(), "429 rate_limited");
    server.stop().await;
}

async fn number_matching() -> Server {
    Server::start_with(|settings| settings.session.number_matching = true).await
}

/// Scans the session. Returns the number that the browser shows and the other numbers that the phone offers.
async fn scanned(server: &Server, session: &Session, browser: &mut Browser) -> (String, Vec<String>) {
    let scan = server.phone("ann").scan(session).await;
    let number = browser.frame("scanned").await["number"].as_str().unwrap().to_owned();
    let choice: Vec<String> = serde_json::from_value(scan.body["numbers"].clone()).unwrap();
    assert_eq!(choice.len(), 3);
    assert!(choice.contains(&number) && choice.iter().all(|number| number.len() == 2), "{choice:?}");
    let mut rest = scan.body.clone();
    rest.as_object_mut().unwrap().remove("numbers");
    assert!(rest["number"].is_null());
    let others = choice.into_iter().filter(|other| *other != number).collect();
    (number, others)
}

#[test]
async fn displayed_number_confirms() {
    let server = number_matching().await;
    let (session, mut browser) = server.waiting().await;
    let ann = server.phone("ann");
    assert_eq!(ann.pick(&session, "42").await.refusal(), "409 not_scanned", "a confirmation needs a scan before it");
    let (number, _) = scanned(&server, &session, &mut browser).await;
    assert_eq!(server.status(&session).await.body["number"], number.as_str());
    let first = ann.scan(&session).await.body;
    assert_eq!(ann.scan(&session).await.body, first, "the same three in the same order");

    assert_eq!(server.phone("bob").scan(&session).await.refusal(), "409 already_scanned");
    assert_eq!(server.phone("bob").pick(&session, &number).await.refusal(), "403 wrong_user");
    for missing in [json!({ "code": session.code }), json!({ "code": session.code, "number": null })] {
        let answer =
            server.request(reqwest::Method::POST, "/v1/qr-login/confirm", Some(&ann.token), Some(missing)).await;
        assert_eq!(answer.refusal(), "400 invalid_request");
        assert!(answer.body["detail"].as_str().unwrap().contains("number"));
    }
    assert_eq!(server.status(&session).await.body["version"], 2, "nothing has changed");

    let confirm = ann.pick(&session, &number).await;
    assert_eq!((confirm.status.as_u16(), confirm.body), (200, json!({ "status": "confirmed" })));
    browser.frame("confirmed").await;
    browser.closed(1000).await;
    assert_eq!(ann.pick(&session, &number).await.status, 200, "repeated");
    server.stop().await;
}

#[test]
async fn wrong_number_rejects_permanently() {
    let server = number_matching().await;
    for wrong in ["decoy", "none of the three", "no number"] {
        let (session, mut browser) = server.waiting().await;
        let (number, others) = scanned(&server, &session, &mut browser).await;
        let picked = match wrong {
            "decoy" => others[1].as_str(),
            "none of the three" => "00",
            other => other,
        };
        let ann = server.phone("ann");
        assert_eq!(ann.pick(&session, picked).await.refusal(), "403 number_mismatch");
        let rejected = browser.next().await;
        assert_eq!(rejected, Seen::Frame(json!({ "status": "rejected", "message": "Login rejected by user" })));
        browser.closed(1000).await;
        assert_eq!(ann.pick(&session, picked).await.refusal(), "403 number_mismatch", "repeated");
        assert_eq!(ann.pick(&session, &number).await.refusal(), "409 already_decided");
        assert_eq!(server.status(&session).await.body["status"], "rejected");
    }
    server.stop().await;
}

#[test]
async fn number_matching_allows_rejecting_without_a_scan() {
    let server = number_matching().await;
    let (session, mut browser) = server.waiting().await;
    assert_eq!(server.phone("ann").reject(&session).await.status, 200);
    browser.frame("rejected").await;
    server.stop().await;
}
