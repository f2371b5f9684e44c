//! Long polls: a browser without a WebSocket or an event stream asks repeatedly, and is answered when there is news.

use std::sync::Arc;

use futures_util::future::join_all;
use reqwest::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::many_nodes::nodes;
use qrlogin_testing::harness::{Answer, Seen, Server, Session, verified};
use qrlogin_testing::real_time::within;
use qrlogin_testing::test;

/// Starts a poll without waiting for its answer.
fn poll(server: &Server, session: &Session, version: u32, wait: u32) -> JoinHandle<Answer> {
    let url = format!("{}/v1/qr-login/status?wait={wait}&version={version}", server.base);
    let request = server.http.get(url).header("x-qr-session", &session.id);
    let answer = async { Answer::of(request.send().await.unwrap()).await };
    tokio::spawn(within("the poll is answered", answer))
}

/// Starts a poll as the only active connection, and returns once the server has registered it.
async fn waiting(server: &Server, session: &Session, version: u32, wait: u32) -> JoinHandle<Answer> {
    server.until_active(0).await;
    let answer = poll(server, session, version, wait);
    server.until_active(1).await;
    answer
}

#[test]
async fn login_is_delivered_by_polling_and_acknowledged_by_a_call() {
    let server = Server::start().await;
    let session = server.generate().await;
    let first = poll(&server, &session, 0, 25).await.unwrap();
    assert_eq!((first.body["status"].as_str(), first.body["version"].as_u64()), (Some("pending"), Some(1)));
    assert_eq!(first.body["code"], session.code.as_str());

    let answer = waiting(&server, &session, 1, 25).await;
    let ann = server.phone("ann");
    ann.scan(&session).await;
    let scanned = answer.await.unwrap();
    assert_eq!((scanned.body["status"].as_str(), scanned.body["version"].as_u64()), (Some("scanned"), Some(2)));
    assert_eq!(scanned.body, server.status(&session).await.body, "the answer that status gives now");
    assert_eq!(scanned.header("content-type"), "application/json");
    assert_eq!(scanned.header("cache-control"), "no-store");
    server.until_active(0).await;
    assert_eq!(server.closed("answered").await, 1);

    let answer = waiting(&server, &session, 2, 25).await;
    ann.confirm(&session).await;
    let confirmed = answer.await.unwrap();
    assert_eq!(verified(&server, confirmed.body["web_token"].as_str().unwrap()).await["sub"], "ann");
    server.until_active(0).await;
    assert_eq!(server.closed("decided").await, 1);

    // Without an acknowledgement the token is delivered again, and at once, because no change can follow.
    let again = poll(&server, &session, 3, 25).await.unwrap();
    assert_eq!(again.body["web_token"], confirmed.body["web_token"]);
    assert_eq!(server.ack(&session).await.status, 204);
    assert_eq!(poll(&server, &session, 4, 25).await.unwrap().body["claimed"], true);
    server.stop().await;
}

#[test]
async fn poll_is_answered_when_its_wait_is_over_and_at_the_session_deadline() {
    let server = Server::start().await;
    let session = server.generate().await;
    let answer = waiting(&server, &session, 1, 25).await;
    server.hands.advance_seconds(24);
    assert_eq!(server.active().await, 1);
    server.hands.advance_millis(1100);
    let unchanged = answer.await.unwrap();
    assert_eq!((unchanged.status.as_u16(), unchanged.body["version"].as_u64()), (200, Some(1)));
    assert_eq!(unchanged.body["expires_in"], 274);
    assert_eq!(unchanged.body["qr_url"], format!("http://localhost:8080/q/{}", session.code));

    server.hands.advance_seconds(274);
    let answer = waiting(&server, &session, 1, 25).await;
    server.hands.advance_seconds(1);
    let expired = answer.await.unwrap();
    assert_eq!((expired.body["status"].as_str(), expired.body["expires_in"].as_u64()), (Some("expired"), Some(0)));
    assert_eq!(expired.body, server.status(&session).await.body);
    assert_eq!(
        poll(&server, &session, 1, 25).await.unwrap().body["status"],
        "expired",
        "an ended session is answered at once"
    );
    server.until_active(0).await;
    assert_eq!((server.closed("answered").await, server.closed("expired").await), (1, 1));
    server.stop().await;
}

#[test]
async fn rotation_answers_a_poll() {
    let server = Server::start_with(|settings| settings.session.rotate_seconds = 20).await;
    let session = server.generate().await;
    let answer = waiting(&server, &session, 1, 25).await;
    server.hands.advance_seconds(20);
    let rotated = answer.await.unwrap();
    assert_eq!((rotated.body["status"].as_str(), rotated.body["version"].as_u64()), (Some("pending"), Some(1)));
    assert_ne!(rotated.body["code"], session.code.as_str());
    let next = waiting(&server, &session, 1, 15).await;
    server.hands.advance_millis(15_100);
    assert_eq!(next.await.unwrap().body["code"], rotated.body["code"]);
    server.stop().await;
}

#[test]
async fn invalid_polls_are_refused_and_polls_without_a_wait_answered_at_once() {
    let server = Server::start().await;
    let session = server.generate().await;
    let path = |query: &str| format!("/v1/qr-login/status/{}?{query}", session.id);
    for query in ["wait=26&version=1", "wait=-1&version=1", "wait=soon", "wait=1&version=x", "version=1.5"] {
        let answer = server.get(&path(query)).await;
        assert_eq!(answer.refusal(), "400 invalid_request", "{query}");
        let named = if query.starts_with("wait=1&") || query.starts_with("version") { "version" } else { "wait" };
        assert!(answer.body["detail"].as_str().unwrap().starts_with(named), "{query}: {}", answer.body);
    }
    for query in ["", "wait=0&version=1", "wait=25", "version=1", "wait=25&version=2", "other=1"] {
        assert_eq!(server.get(&path(query)).await.body["status"], "pending", "{query}");
    }
    let head = server.http.head(format!("{}{}", server.base, path("wait=25&version=1"))).send().await.unwrap();
    assert_eq!(head.status(), 200);
    let unknown = Session { id: "A".repeat(43), ..session.clone() };
    assert_eq!(poll(&server, &unknown, 1, 25).await.unwrap().refusal(), "404 not_found");
    server.store.fail(true);
    assert_eq!(poll(&server, &session, 1, 25).await.unwrap().refusal(), "503 unavailable");
    server.store.fail(false);
    assert_eq!(server.active().await, 0);
    let answer = waiting(&server, &session, 1, 20).await;
    server.store.fail(true);
    server.hands.advance_millis(20_100);
    assert_eq!(answer.await.unwrap().refusal(), "503 unavailable", "the state is unknown without the store");
    server.store.fail(false);
    server.stop().await;
}

#[test]
async fn newer_connection_supersedes_a_poll_and_draining_sends_retry_after() {
    let server = Server::start().await;
    let (session, mut socket) = server.waiting().await;
    let older = poll(&server, &session, 1, 25);
    assert!(matches!(socket.next().await, Seen::Close(4409, _)));
    let newer = poll(&server, &session, 1, 25);
    let replaced = older.await.unwrap();
    assert_eq!(replaced.refusal(), "409 replaced");
    assert_eq!(replaced.header("content-type"), "application/problem+json");
    server.until_active(1).await;
    server.begin_to_stop();
    let stopped = newer.await.unwrap();
    assert_eq!(stopped.refusal(), "503 unavailable");
    assert!((1..=3).contains(&stopped.header("retry-after").parse::<u32>().unwrap()));
    server.stop().await;
}

#[test]
async fn allowed_origins_may_read_the_answer() {
    let server =
        Server::start_with(|settings| settings.allowed_origins = vec!["https://shop.example".to_owned()]).await;
    let session = server.generate().await;
    let url = format!("{}/v1/qr-login/status?wait=10&version=1", server.base);
    let request = server.http.get(url).header("x-qr-session", &session.id).header("origin", "https://shop.example");
    let answer = tokio::spawn(async move { Answer::of(request.send().await.unwrap()).await });
    server.until_active(1).await;
    server.cancel(&session).await;
    let answer = answer.await.unwrap();
    assert_eq!(answer.header("access-control-allow-origin"), "https://shop.example");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert_eq!(answer.body["status"], "cancelled");
    let foreign = server.http.get(format!("{}/v1/qr-login/status?wait=10&version=1", server.base));
    let foreign = foreign.header("x-qr-session", &session.id).header("origin", "https://evil.example");
    assert_eq!(Answer::of(foreign.send().await.unwrap()).await.refusal(), "403 forbidden_origin");
    server.stop().await;
}

#[test]
async fn poll_count_returns_to_zero_after_every_kind_of_end() {
    let server = Arc::new(Server::start().await);
    let mut polls = Vec::new();
    for index in 0..200 {
        let session = server.generate().await;
        if index % 4 == 1 {
            let mut raw = TcpStream::connect(server.address).await.unwrap();
            let request =
                format!("GET /v1/qr-login/status/{}?wait=25&version=1 HTTP/1.1\r\nHost: x\r\n\r\n", session.id);
            raw.write_all(request.as_bytes()).await.unwrap();
            polls.push((session, None, Some(raw)));
        } else {
            polls.push((session.clone(), Some(poll(&server, &session, 1, if index % 4 == 3 { 10 } else { 25 })), None));
        }
    }
    server.until_active(200).await;
    let ann = server.phone("ann");
    let mut waiting_on = Vec::new();
    for (index, (session, answer, raw)) in polls.into_iter().enumerate() {
        match index % 4 {
            0 => {
                ann.confirm(&session).await;
                assert_eq!(answer.unwrap().await.unwrap().body["status"], "confirmed");
            }
            1 => {
                // Half of these connections are reset, as by a failing network, and half are closed.
                if index % 8 == 1 {
                    raw.as_ref().unwrap().set_zero_linger().unwrap();
                }
                drop(raw);
            }
            2 => {
                server.cancel(&session).await;
                assert_eq!(answer.unwrap().await.unwrap().body["status"], "cancelled");
            }
            _ => waiting_on.push(answer.unwrap()),
        }
    }
    server.until_active(50).await;
    server.hands.advance_millis(10_100);
    for answer in join_all(waiting_on).await {
        assert_eq!(answer.unwrap().body["status"], "pending");
    }
    server.until_active(0).await;
    for (reason, count) in [("decided", 50), ("client", 25), ("network", 25), ("cancelled", 50), ("answered", 50)] {
        assert_eq!(server.closed(reason).await, count, "{reason}");
    }
}

#[test]
async fn answer_of_a_poll_closes_its_connection() {
    let server = Server::start().await;
    let session = server.generate().await;
    let mut raw = TcpStream::connect(server.address).await.unwrap();
    let ask = |query: &str| format!("GET /v1/qr-login/status/{}{query} HTTP/1.1\r\nHost: x\r\n\r\n", session.id);
    // The connection has carried an ordinary answer before.
    raw.write_all(ask("").as_bytes()).await.unwrap();
    let mut scratch = [0; 8192];
    let read = within("the first request is answered", raw.read(&mut scratch)).await.unwrap();
    assert!(scratch[..read].starts_with(b"HTTP/1.1 200 OK"));
    raw.write_all(ask("?wait=25&version=1").as_bytes()).await.unwrap();
    server.until_active(1).await;
    server
        .request(Method::POST, "/v1/qr-login/cancel", None, Some(serde_json::json!({ "session_id": session.id })))
        .await;
    let mut answer = String::new();
    within("the connection is closed", raw.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("connection: close") && head.contains("\r\ndate: "), "{head}");
    assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
    drop(raw);
    server.until_active(0).await;
    server.stop().await;
}

#[test(needs(Postgres))]
async fn change_at_another_node_answers_a_poll() {
    let (_postgres, nodes) = nodes(2, None).await;
    let [here, there] = nodes.as_slice() else { unreachable!() };
    let session = here.generate().await;
    let answer = waiting(here, &session, 1, 25).await;
    there.phone("ann").scan(&session).await;
    assert_eq!(answer.await.unwrap().body["version"], 2);
    // A change between two polls is in the answer of the next one, which comes at once.
    there.phone("ann").confirm(&session).await;
    let confirmed = poll(there, &session, 2, 25).await.unwrap();
    assert!(confirmed.body["web_token"].is_string());
    here.until_active_in_all(&nodes, 0).await;
}
