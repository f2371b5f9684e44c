//! Statements of SECURITY.md about attackers that no other test covers.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::json;

use qrlogin_testing::harness::{Browser, Seen, Server, Session};
use qrlogin_testing::real_time::until;
use qrlogin_testing::test;

#[test]
async fn code_alone_can_neither_watch_nor_claim_nor_cancel_a_session() {
    let server = Server::start().await;
    let (session, mut browser) = server.waiting().await;
    let by_code = Session { id: session.code.clone(), ..session.clone() };
    assert_eq!(server.status(&by_code).await.refusal(), "404 not_found");
    assert_eq!(server.ack(&by_code).await.refusal(), "404 not_found");
    assert_eq!(server.cancel(&by_code).await.refusal(), "404 not_found");
    let path = format!("/v1/ws/qr/{}", session.code);
    assert_eq!(Browser::open(&server, &path, None).await.err(), Some(404));
    let answer = server.phone("eve").scan(&session).await.body.to_string();
    assert!(!answer.contains(&session.id) && !answer.contains("token"));
    browser.frame("scanned").await;
    server.stop().await;
}

#[test]
async fn first_phone_is_named_on_the_page_and_a_second_one_is_refused() {
    let server = Server::start().await;
    let (session, mut browser) = server.waiting().await;
    let (eve, ann) = (server.phone("eve"), server.phone("ann"));
    assert_eq!(eve.scan(&session).await.status, 200);
    assert_eq!(browser.frame("scanned").await["user"]["name"], "Name of eve");
    assert_eq!(ann.scan(&session).await.refusal(), "409 already_scanned");
    assert_eq!(ann.confirm(&session).await.refusal(), "403 wrong_user");
    assert_eq!(eve.confirm(&session).await.status, 200);
    assert_eq!(browser.frame("confirmed").await["user"]["name"], "Name of eve");
    server.stop().await;

    // Number matching also prevents the confirmation, because the attacker does not see the page.
    let server = Server::start_with(|settings| settings.session.number_matching = true).await;
    let (session, mut browser) = server.waiting().await;
    let numbers = server.phone("eve").scan(&session).await.body["numbers"].clone();
    let number = browser.frame("scanned").await["number"].clone();
    let guess = numbers.as_array().unwrap().iter().find(|guess| **guess != number).unwrap();
    assert_eq!(server.phone("eve").pick(&session, guess.as_str().unwrap()).await.refusal(), "403 number_mismatch");
    assert!(matches!(browser.next().await, Seen::Frame(frame) if frame["status"] == "rejected"));
    server.stop().await;
}

#[test]
async fn unknown_and_swept_sessions_have_the_same_refusals() {
    let server = Server::start().await;
    let swept = server.generate().await;
    server.hands.advance_seconds(300 + 60 + 600 + 11);
    until("the session is swept", async || {
        server.hands.advance_seconds(1);
        server.status(&swept).await.status == 404
    })
    .await;
    let never = Session {
        id: "A".repeat(43),
        code: "AAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned(),
        ws_path: format!("/v1/ws/qr/{}", "A".repeat(43)),
    };
    let ann = server.phone("ann");
    for verb in ["scan", "confirm", "reject"] {
        let [one, other] = [ann.call(verb, &swept).await, ann.call(verb, &never).await];
        assert_eq!((one.status, &one.body, one.headers.len()), (other.status, &other.body, other.headers.len()));
    }
    let asks = [server.status(&swept).await, server.ack(&swept).await, server.cancel(&swept).await];
    let others = [server.status(&never).await, server.ack(&never).await, server.cancel(&never).await];
    for (one, other) in asks.iter().zip(&others) {
        assert_eq!((one.status, &one.body, one.headers.len()), (other.status, &other.body, other.headers.len()));
    }
    for session in [&swept, &never] {
        assert_eq!(Browser::open(&server, &session.ws_path, None).await.err(), Some(404));
    }
    server.stop().await;
}

#[test]
async fn every_response_forbids_framing_caching_and_sniffing() {
    let server = Server::start().await;
    let session = server.generate().await;
    let ann = server.phone("ann");
    let mut answers = vec![server.status(&session).await, ann.scan(&session).await, ann.confirm(&session).await];
    let document = server.get("/openapi.json").await.body;
    let described = document["paths"].as_object().unwrap().keys().map(String::as_str);
    let others = ["/openapi.json", "/v1/ws/qr", "/v1/ws/qr/{session_id}", "/nowhere", "/", "/q/code"];
    let bodies =
        [None, Some(json!({})), Some(json!({ "code": session.code })), Some(json!({ "session_id": session.id }))];
    for path in described.chain(others) {
        // The session does not exist, so that no answer is a stream without end.
        let path = path.replace("{session_id}", &"A".repeat(43));
        for method in [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            for (token, body) in
                [None, Some(&*ann.token)].into_iter().flat_map(|token| bodies.clone().map(|body| (token, body)))
            {
                answers.push(server.request(method.clone(), &path, token, body).await);
            }
        }
    }
    let statuses: BTreeSet<_> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    for status in [200, 201, 204, 400, 401, 404, 405, 415, 426] {
        assert!(statuses.contains(&status), "{status} is missing in {statuses:?}");
    }
    for answer in answers {
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{answer:?}");
        // A page with forms tells its own origin where they come from.
        let is_page = answer.header("content-type").starts_with("text/html");
        let policy = if is_page { "same-origin" } else { "no-referrer" };
        assert_eq!(answer.header("referrer-policy"), policy, "{answer:?}");
        assert_eq!(answer.header("cache-control"), "no-store", "{answer:?}");
        assert!(answer.header("content-security-policy").contains("frame-ancestors 'none'"), "{answer:?}");
    }
    server.stop().await;
}

#[test]
async fn get_requests_change_nothing() {
    let server = Server::start().await;
    let session = server.generate().await;
    let ann = server.phone("ann");
    for call in ["scan", "confirm", "reject", "ack", "cancel", "generate"] {
        let path = format!("/v1/qr-login/{call}?code={}&session_id={}", session.code, session.id);
        let answer = server.request(Method::GET, &path, Some(&ann.token), None).await;
        assert_eq!(answer.refusal(), "405 method_not_allowed", "{call}");
        assert_eq!(answer.header("allow"), "POST");
    }
    assert_eq!(server.status(&session).await.body["version"], 1);
    server.stop().await;
}

#[test]
async fn openapi_document_describes_every_call() {
    let server = Server::start().await;
    let document = server.get("/openapi.json").await.body;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let paths: Vec<_> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    for call in ["generate", "status", "status/{session_id}", "ack", "cancel", "scan", "confirm", "reject"] {
        assert!(paths.contains(&format!("/v1/qr-login/{call}").as_str()), "{call} is not in {paths:?}");
    }
    assert!(document["paths"]["/v1/qr-login/scan"]["post"]["responses"]["429"].is_object());
    server.stop().await;
}
