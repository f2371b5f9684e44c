//! Limits per client, which keep a flood of one client from locking out the others.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use qrlogin_testing::harness::{Answer, Browser, ProxyHeader, Server, Session, Settings};
use qrlogin_testing::real_time::{until, within};
use qrlogin_testing::test;

/// Starts a server with the default limits, changed by `change`. It trusts `X-Forwarded-For` from this machine.
async fn limited(change: impl FnOnce(&mut Settings)) -> Server {
    Server::start_with(|settings| {
        settings.limits = Settings::default().limits;
        settings.trusted_proxies = vec!["127.0.0.1".to_owned()];
        change(settings);
    })
    .await
}

async fn call_from(
    server: &Server,
    address: &str,
    method: Method,
    path: &str,
    token: Option<&str>,
    body: Value,
) -> Answer {
    let request = server.http.request(method, format!("{}{path}", server.base)).header("x-forwarded-for", address);
    let request = if let Some(token) = token { request.bearer_auth(token) } else { request };
    Answer::of(request.json(&body).send().await.unwrap()).await
}

async fn generate_from(server: &Server, address: &str) -> Answer {
    call_from(server, address, Method::POST, "/v1/qr-login/generate", None, json!({})).await
}

fn is_limited(answer: &Answer, key: &str) -> bool {
    if answer.status != 429 {
        return false;
    }
    assert_eq!(answer.refusal(), "429 rate_limited");
    assert!(answer.header("retry-after").parse::<u32>().unwrap() > 0);
    assert!(answer.body["detail"].as_str().unwrap().contains(key), "{}", answer.body);
    true
}

#[test]
async fn each_call_has_its_own_rate_per_address() {
    let server = limited(|settings| {
        settings.limits.generate_per_minute = 3;
        settings.limits.scan_per_minute = 4;
        settings.limits.status_per_minute = 5;
    })
    .await;
    for (path, share, key) in [
        ("generate", 3, "limits.generate_per_minute"),
        ("scan", 4, "limits.scan_per_minute"),
        ("ack", 5, "limits.status_per_minute"),
    ] {
        let path = format!("/v1/qr-login/{path}");
        let ask = async |address| call_from(&server, address, Method::POST, &path, None, json!({})).await;
        for _ in 0..share {
            assert_ne!(ask("192.0.2.1").await.status, 429, "{path}");
        }
        assert!(is_limited(&ask("192.0.2.1").await, key), "{path}");
        assert_ne!(ask("192.0.2.2").await.status, 429, "{path}");
        assert!(is_limited(&ask("192.0.2.1").await, key), "{path}");
    }
    assert!(is_limited(
        &call_from(&server, "192.0.2.1", Method::POST, "/v1/qr-login/confirm", None, json!({})).await,
        "limits.scan_per_minute"
    ));
    assert!(is_limited(
        &call_from(&server, "192.0.2.1", Method::GET, "/v1/qr-login/status", None, json!({})).await,
        "limits.status_per_minute"
    ));
    server.hands.advance_seconds(20);
    assert_eq!(generate_from(&server, "192.0.2.1").await.status, 201, "a third of a minute, a third of the share");
    assert!(is_limited(&generate_from(&server, "192.0.2.1").await, "limits.generate_per_minute"));
    server.stop().await;

    let unlimited = Server::start_with(|settings| settings.limits.generate_per_minute = 3).await;
    for _ in 0..10 {
        unlimited.generate().await;
    }
    unlimited.stop().await;
}

#[test]
async fn websocket_limits_apply_before_registration() {
    let server = limited(|settings| {
        settings.limits.websocket_opens_per_minute = 5;
        settings.limits.sockets_per_address = 3;
    })
    .await;
    let open = async |address: &str, session: &Session| {
        let mut request =
            format!("{}{}", server.base.replace("http", "ws"), session.ws_path).into_client_request().unwrap();
        request.headers_mut().insert("x-forwarded-for", address.parse().unwrap());
        Browser::send(request).await
    };
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.push(server.generate().await);
    }
    let mut waiting = Vec::new();
    for session in &sessions {
        waiting.push(open("192.0.2.1", session).await.unwrap());
    }
    let fourth = server.generate().await;
    assert_eq!(open("192.0.2.1", &fourth).await.err(), Some(429), "three at once");
    server.until_active(3).await;
    drop(open("192.0.2.2", &fourth).await.unwrap());
    waiting.pop().unwrap().close(1000).await;
    server.until_active(2).await;
    waiting.push(open("192.0.2.1", &fourth).await.unwrap());
    for browser in waiting {
        browser.close(1000).await;
    }
    server.until_active(0).await;
    assert_eq!(open("192.0.2.1", &fourth).await.err(), Some(429), "five in a minute");
    server.hands.advance_seconds(12);
    drop(open("192.0.2.1", &fourth).await.unwrap());
    server.stop().await;
}

async fn connect_from(source: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
    socket.connect(to).await.unwrap()
}

#[test(needs(LoopbackAddresses))]
async fn silent_connections_use_up_only_the_quota_of_their_address() {
    let server = limited(|settings| settings.limits.sockets_per_address = 10).await;
    let mut silent = Vec::new();
    for _ in 0..10 {
        let mut stream = connect_from("127.0.0.2", server.address).await;
        stream.write_all(b"GET /v1/ws/qr/").await.unwrap();
        silent.push(stream);
    }
    let mut answer = String::new();
    let mut surplus = connect_from("127.0.0.2", server.address).await;
    drop(within("the surplus connection is closed", surplus.read_to_string(&mut answer)).await);
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    assert!(answer.contains("\r\nretry-after: ") && answer.contains("limits.sockets_per_address"), "{answer}");
    let (_session, _browser) = server.waiting().await;
    drop(silent);
    // A connection is accepted again once the server has noticed that the others are closed.
    until("the next connection is accepted", async || {
        let mut stream = connect_from("127.0.0.2", server.address).await;
        let request = "GET /.well-known/jwks.json HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        drop(stream.write_all(request.as_bytes()).await);
        let mut answer = String::new();
        drop(within("the connection is closed", stream.read_to_string(&mut answer)).await);
        answer.starts_with("HTTP/1.1 200 ")
    })
    .await;
    server.stop().await;
}

#[test]
async fn guessed_codes_are_limited_per_user_and_per_address() {
    let server = limited(|settings| settings.limits.scan_per_minute = 10_000).await;
    let token = |user: &str| server.app_token(json!({ "sub": user }));
    let wrong = Session { id: String::new(), code: "AAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned(), ws_path: String::new() };
    let session = server.generate().await;
    let scan = async |user: &str, address: &str, session: &Session| {
        let body = json!({ "code": session.code });
        call_from(&server, address, Method::POST, "/v1/qr-login/scan", Some(&token(user)), body).await
    };
    let mut answers = Vec::new();
    for number in 0..50 {
        answers.push(scan("eve", &format!("192.0.2.{number}"), &wrong).await.status.as_u16());
    }
    assert_eq!(answers.iter().filter(|status| **status == 404).count(), 10, "{answers:?}");
    assert!(is_limited(&scan("eve", "198.51.100.1", &session).await, "limits.wrong_codes_per_minute"));
    assert_eq!(scan("ann", "192.0.2.1", &session).await.status, 200);

    let mut answers = Vec::new();
    for number in 0..100 {
        answers.push(scan(&format!("user {number}"), "203.0.113.1", &wrong).await.status.as_u16());
    }
    assert_eq!(answers.iter().filter(|status| **status == 404).count(), 60, "of one address: {answers:?}");
    assert!(is_limited(&scan("ann", "203.0.113.1", &session).await, "limits.wrong_codes_per_minute"));
    assert_eq!(scan("ann", "192.0.2.1", &session).await.status, 200);
    server.stop().await;
}

#[test]
async fn scanned_sessions_do_not_count_as_pending() {
    let server = limited(|settings| settings.limits.pending_sessions = 3).await;
    for _ in 0..6 {
        let session = server.generate().await;
        assert_eq!(server.phone("ann").scan(&session).await.status, 200);
        assert_eq!(server.phone("ann").confirm(&session).await.status, 200);
    }
    for _ in 0..3 {
        server.generate().await;
    }
    assert_eq!(
        server.store.largest_network_reads.load(Ordering::SeqCst),
        0,
        "the store was not asked for the heaviest address"
    );
    server.generate().await;
    assert_eq!(server.store.largest_network_reads.load(Ordering::SeqCst), 1);
    server.stop().await;
}

#[test]
async fn surplus_unscanned_sessions_of_the_busiest_address_are_cancelled_oldest_first() {
    let server = limited(|settings| {
        settings.limits.pending_sessions = 20;
        settings.limits.generate_per_minute = 1000;
    })
    .await;
    let generate = async |address: &str| {
        let body = generate_from(&server, address).await.body;
        let text = |field: &str| body[field].as_str().unwrap().to_owned();
        Session { id: text("session_id"), code: text("code"), ws_path: text("ws_path") }
    };
    let honest = generate("192.0.2.1").await;
    let mut honest_browser = server.browser(&honest).await;
    honest_browser.frame("pending").await;
    let scanned = generate("198.51.100.66").await;
    assert_eq!(server.phone("ann").scan(&scanned).await.status, 200);

    let first = generate("198.51.100.66").await;
    let mut browser = server.browser(&first).await;
    browser.frame("pending").await;
    let mut flood = Vec::new();
    for _ in 0..60 {
        server.hands.advance_millis(1);
        flood.push(generate("198.51.100.66").await);
    }
    assert_eq!(browser.frame("cancelled").await["reason"], "overload");
    browser.closed(1000).await;
    assert_eq!(server.status(&first).await.body["reason"], "overload");
    assert_eq!(server.phone("ann").scan(&first).await.refusal(), "410 cancelled");
    let mut left = 0;
    for (index, session) in flood.iter().enumerate() {
        let status = server.status(session).await.body["status"].clone();
        assert!(status == "cancelled" || index > 40, "{index} {status}: the oldest are cancelled");
        left += i32::from(status == "pending");
    }
    assert_eq!(left, 19, "20 pending sessions in total, one of them of another client");
    assert_eq!(server.status(&scanned).await.body["status"], "scanned");
    honest_browser.received_nothing().await;
    assert_eq!(server.phone("bob").confirm(&honest).await.status, 200);
    honest_browser.frame("confirmed").await;
    assert_eq!(generate_from(&server, "192.0.2.9").await.status, 201);
    server.stop().await;
}

#[test]
async fn forged_header_changes_neither_the_client_address_nor_the_url() {
    let server = Server::start().await;
    let request = server.http.post(format!("{}/v1/qr-login/generate", server.base));
    let request = request.header("x-forwarded-for", "203.0.113.66").header("forwarded", "for=203.0.113.66;host=evil");
    let request = request.header("x-forwarded-host", "evil.example").header("host", "evil.example");
    let body: Value = request.json(&json!({})).send().await.unwrap().json().await.unwrap();
    assert!(body["qr_url"].as_str().unwrap().starts_with("http://localhost:8080/q/"));
    let text = |field: &str| body[field].as_str().unwrap().to_owned();
    let session = Session { id: text("session_id"), code: text("code"), ws_path: text("ws_path") };
    assert_eq!(server.phone("ann").scan(&session).await.body["client"]["ip"], "127.0.0.1");
    server.stop().await;
}

#[test]
async fn phone_receives_the_address_that_a_trusted_proxy_reports() {
    let server = limited(|_| {}).await;
    let body = generate_from(&server, "203.0.113.66, 192.0.2.1").await.body;
    let session =
        Session { id: String::new(), code: body["code"].as_str().unwrap().to_owned(), ws_path: String::new() };
    assert_eq!(server.phone("ann").scan(&session).await.body["client"]["ip"], "192.0.2.1");
    server.stop().await;
}

#[test]
async fn text_quoted_by_a_proxy_does_not_change_the_client_address() {
    let server = limited(|settings| {
        settings.proxy_header = ProxyHeader::Forwarded;
        settings.limits.generate_per_minute = 3;
        settings.limits.websocket_opens_per_minute = 3;
    })
    .await;
    // Two `Forwarded` lines: one that the client has sent, and one that its proxy has added, which quotes the client's
    // `Host`.
    let sent = |host: &str| vec![r#"for=9.9.9.8;host=""#.to_owned(), format!(r#"for=203.0.113.7;host="{host}""#)];
    let copied = ["a, for=9.9.9.9;x=", r"a\, for=9.9.9.9, for=\"];
    let escaped = [r#"a\", for=9.9.9.9;x=\""#, r#"\\\", for=9.9.9.9"#];
    let lines: Vec<_> = copied.into_iter().chain(escaped).map(sent).collect();
    let generate = async |lines: &[String]| {
        let request = server.http.post(format!("{}/v1/qr-login/generate", server.base)).json(&json!({}));
        let request = lines.iter().fold(request, |request, line| request.header("forwarded", line));
        Answer::of(request.send().await.unwrap()).await
    };
    for lines in &lines[..3] {
        let answer = generate(lines).await;
        let code = answer.body["code"].as_str().unwrap().to_owned();
        let session = Session { id: String::new(), code, ws_path: String::new() };
        assert_eq!(server.phone("ann").scan(&session).await.body["client"]["ip"], "203.0.113.7", "{lines:?}");
    }
    assert!(is_limited(&generate(&lines[3]).await, "limits.generate_per_minute"), "all of one address");

    let session = server.generate().await;
    let open = async |lines: &[String]| {
        let mut request = Browser::request(&server, &session.ws_path, None);
        for line in lines {
            request.headers_mut().append("forwarded", line.parse().unwrap());
        }
        Browser::send(request).await.map(drop)
    };
    for lines in &lines[..3] {
        assert_eq!(open(lines).await, Ok(()), "{lines:?}");
    }
    assert_eq!(open(&lines[3]).await, Err(429), "all of one address");
    server.stop().await;
}
