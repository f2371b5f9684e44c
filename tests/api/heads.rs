//! Request heads of WebSocket upgrades. The division of a head into packets does not change whether its upgrade is
//! accepted.

use qrlogin::session::SessionId;
use tokio::io::AsyncWriteExt as _;

use qrlogin_testing::harness::{RawConnection, Server, WEBSOCKET_KEY, masked_frame, upgrade_request};
use qrlogin_testing::real_time::until;
use qrlogin_testing::test;

const PENDING: &str = r#"{"status":"pending","version":1,"expires_in":300}"#;

/// Asserts that the next frame is `pending`.
async fn is_pending(raw: &mut RawConnection) {
    assert_eq!(raw.frame().await, (0x81, PENDING.as_bytes().to_vec()));
}

const GENERATE: &str = "POST /v1/qr-login/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
const JWKS: &str = "GET /.well-known/jwks.json HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[test]
async fn upgrade_is_accepted_as_a_later_request_of_its_connection() {
    let server = Server::start().await;
    for before in [&[GENERATE][..], &[JWKS, GENERATE], &[JWKS, "GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n"]] {
        let session = server.generate().await;
        let mut raw = RawConnection::connect(&server).await;
        for request in before {
            raw.send(request).await;
            raw.status().await;
        }
        raw.send(upgrade_request(&session.ws_path)).await;
        let head = raw.head().await;
        assert!(
            head.starts_with("http/1.1 101 ")
                && head.contains("\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n")
        );
        is_pending(&mut raw).await;
        raw.send(masked_frame(0x89, b"still there?")).await;
        assert_eq!(raw.frame().await, (0x8A, b"still there?".to_vec()));
        server.phone("ann").reject(&session).await;
        assert!(raw.frame().await.1.starts_with(br#"{"status":"rejected""#));
    }
    server.until_active(0).await;
    server.stop().await;
}

#[test]
async fn pipelined_requests_are_answered_in_order_before_the_upgrade() {
    let server = Server::start().await;
    let session = server.generate().await;
    let mut raw = RawConnection::connect(&server).await;
    raw.send(
        [JWKS.as_bytes(), JWKS.as_bytes(), upgrade_request(&session.ws_path).as_bytes(), &masked_frame(0x89, b"early")]
            .concat(),
    )
    .await;
    assert_eq!(raw.status().await, 200);
    assert_eq!(raw.status().await, 200);
    assert!(raw.head().await.starts_with("http/1.1 101 "));
    let mut frames = [raw.frame().await, raw.frame().await];
    frames.sort();
    assert_eq!(frames, [(0x81, PENDING.as_bytes().to_vec()), (0x8A, b"early".to_vec())]);
    drop(raw);
    server.stop().await;
}

#[test]
async fn head_in_pieces_is_accepted() {
    let server = Server::start().await;
    let mut raws = Vec::new();
    for step in [1, 17, 150] {
        let session = server.generate().await;
        let mut raw = RawConnection::connect(&server).await;
        for piece in upgrade_request(&session.ws_path).as_bytes().chunks(step) {
            raw.send(piece).await;
            // A round trip: the server has read each piece as a packet of its own.
            server.active().await;
        }
        assert!(raw.head().await.starts_with("http/1.1 101 "));
        is_pending(&mut raw).await;
        raws.push(raw);
    }
    server.until_active(3).await;
    drop(raws);
    server.stop().await;
}

#[test]
async fn frames_in_the_same_packet_as_the_upgrade_are_read() {
    let server = Server::start().await;
    let session = server.generate().await;
    let mut raw = RawConnection::connect(&server).await;
    raw.send(
        [upgrade_request(&session.ws_path).as_bytes(), &masked_frame(0x89, b"1"), &masked_frame(0x81, b"hello")]
            .concat(),
    )
    .await;
    assert!(raw.head().await.starts_with("http/1.1 101 "));
    assert_eq!(raw.frame().await, (0x8A, b"1".to_vec()));
    is_pending(&mut raw).await;

    // Half a frame follows the request, and the other half is sent later.
    let session = server.generate().await;
    raw = RawConnection::connect(&server).await;
    let ping = masked_frame(0x89, b"in two");
    raw.send([upgrade_request(&session.ws_path).as_bytes(), &ping[..8]].concat()).await;
    assert!(raw.head().await.starts_with("http/1.1 101 "));
    is_pending(&mut raw).await;
    raw.send(&ping[8..]).await;
    assert_eq!(raw.frame().await, (0x8A, b"in two".to_vec()));

    // A Close that follows the request is read before the token is sent, so the connection ends without the token.
    let session = server.generate().await;
    server.phone("ann").confirm(&session).await;
    raw = RawConnection::connect(&server).await;
    raw.send([upgrade_request(&session.ws_path).as_bytes(), &masked_frame(0x88, &1000_u16.to_be_bytes())].concat())
        .await;
    assert!(raw.head().await.starts_with("http/1.1 101 "));
    assert_eq!(raw.frame().await, (0x88, 1000_u16.to_be_bytes().to_vec()));
    assert_eq!(raw.rest().await, b"");
    assert!(
        server.status(&session).await.body["web_token"].is_string(),
        "a Close before the token is no acknowledgement"
    );
    drop(raw);
    server.stop().await;
}

#[test]
async fn request_after_an_accepted_upgrade_is_a_protocol_error() {
    let server = Server::start().await;
    let session = server.generate().await;
    let mut raw = RawConnection::connect(&server).await;
    raw.send(upgrade_request(&session.ws_path) + JWKS).await;
    assert!(raw.head().await.starts_with("http/1.1 101 "));
    assert_eq!(raw.frame().await, (0x88, 1002_u16.to_be_bytes().to_vec()));
    server.hands.advance_seconds(2);
    server.until_active(0).await;
    assert_eq!(server.closed("protocol").await, 1);

    // After a refused upgrade, the next request is handled as usual.
    let unknown = SessionId::from_random([7; 32]).expose();
    let mut raw = RawConnection::connect(&server).await;
    raw.send(upgrade_request(&format!("/v1/ws/qr/{}", *unknown)) + JWKS).await;
    assert_eq!(raw.status().await, 404);
    assert_eq!(raw.status().await, 200);
    server.stop().await;
}

#[test]
async fn request_head_without_end_is_refused() {
    let server = Server::start_with(|settings| settings.limits.header_seconds = 1).await;
    let session = server.generate().await;
    let beginning = upgrade_request(&session.ws_path);
    let beginning = beginning.trim_end();

    // The head grows without end.
    let mut raw = RawConnection::connect(&server).await;
    raw.send(beginning).await;
    let line = format!("\r\nX-Filler: {}", "x".repeat(100));
    for _ in 0..200 {
        if raw.0.write_all(line.as_bytes()).await.is_err() {
            break;
        }
    }
    assert_eq!(raw.status().await, 431);

    // The head has more fields than browsers send, and is valid.
    raw = RawConnection::connect(&server).await;
    raw.send(format!("{beginning}{}\r\n\r\n", "\r\nX-Filler: x".repeat(70))).await;
    assert!(raw.head().await.starts_with("http/1.1 101 "));

    // The head stops at some byte.
    let mut stopped = Vec::new();
    for sent in [&b""[..], b"G", b"GET /v1/ws", beginning.as_bytes(), b"POST /v1/qr-login/generate HTTP/1.1\r\nHost:"] {
        let mut raw = RawConnection::connect(&server).await;
        raw.send(sent).await;
        stopped.push(raw);
    }
    for mut raw in stopped {
        let rest = String::from_utf8(raw.rest().await).unwrap();
        assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 408 ") && rest.contains("request_timeout"), "{rest}");
    }
    drop(raw);
    server.stop().await;
}

#[test]
async fn invalid_upgrades_are_refused_with_the_status_of_their_fault() {
    let server = Server::start().await;
    let session = server.generate().await;
    let good = upgrade_request(&session.ws_path);
    let unknown = SessionId::from_random([7; 32]).expose();
    let cases = [
        (good.replace("GET", "POST"), 405),
        (good.replace("HTTP/1.1", "HTTP/1.0"), 426),
        (good.replace("Upgrade: websocket\r\n", ""), 426),
        (good.replace("Connection: keep-alive, Upgrade\r\n", ""), 426),
        (good.replace("Version: 13", "Version: 8"), 426),
        (good.replace(WEBSOCKET_KEY, "dG9vIHNob3J0"), 400),
        (good.replace(WEBSOCKET_KEY, "!"), 400),
        (good.replace("Host", "Origin: https://evil.example\r\nHost"), 403),
        (good.replace("Host", "Sec-Fetch-Site: cross-site\r\nHost"), 403),
        (good.replace(&session.id, &unknown), 404),
        (good.replace(&session.id, &session.code), 404),
        (good.replace(&session.id, &format!("{}/", session.id)), 404),
        (good.replace("GET /v1", "GET  /v1"), 400),
        (good.replace("Host:", "Ho st:"), 400),
    ];
    for (request, status) in cases {
        let mut raw = RawConnection::connect(&server).await;
        raw.send(&request).await;
        assert_eq!(raw.status().await, status, "{request}");
    }
    for request in [
        good.replace("Host", "Origin: http://localhost:8080\r\nHost"),
        good.replace("Host", "HOST").replace("Upgrade: websocket", "upgrade:WebSocket"),
        good.replace("Host", "Sec-Fetch-Site: same-origin\r\nHost"),
        good.replace(" HTTP/1.1", "?x=1 HTTP/1.1"),
        good.replace("Connection: keep-alive, Upgrade", "Connection: keep-alive\r\nConnection: upgrade"),
        good.replace("GET /v1", "GET http://localhost/v1"),
        format!("\r\n{good}"),
    ] {
        let mut raw = RawConnection::connect(&server).await;
        raw.send(&request).await;
        assert!(raw.head().await.starts_with("http/1.1 101 "), "{request}");
    }
    server.stop().await;
}

#[test]
async fn malformed_session_id_causes_no_query() {
    use std::sync::atomic::Ordering::SeqCst;
    let server = Server::start().await;
    let before = server.store.reads.load(SeqCst);
    for id in ["x", "AAAAAAAAAAAAAAAAAAAAAA", &"A".repeat(42), &"A".repeat(44), &format!("{}B", "A".repeat(42))] {
        let mut raw = RawConnection::connect(&server).await;
        raw.send(upgrade_request(&format!("/v1/ws/qr/{id}"))).await;
        assert_eq!(raw.status().await, 404);
        assert_eq!(server.get(&format!("/v1/qr-login/status/{id}")).await.status, 404);
    }
    assert_eq!(server.store.reads.load(SeqCst), before);
    // A well-formed session id that is unknown causes one query.
    let unknown = SessionId::from_random([7; 32]).expose();
    let mut raw = RawConnection::connect(&server).await;
    raw.send(upgrade_request(&format!("/v1/ws/qr/{}", *unknown))).await;
    assert_eq!(raw.status().await, 404);
    assert_eq!(server.store.reads.load(SeqCst), before + 1);
    server.stop().await;
}

#[test]
async fn concurrent_upgrades_share_their_queries() {
    use std::sync::atomic::Ordering::SeqCst;
    let server = Server::start().await;
    let mut sessions = Vec::new();
    for _ in 0..300 {
        sessions.push(server.generate().await);
    }
    let before = server.store.reads.load(SeqCst);
    // All browsers send their upgrades while queries of the store are held back.
    let busy = server.store.read_gate.write().await;
    let mut raws = Vec::new();
    for session in &sessions {
        let mut raw = RawConnection::connect(&server).await;
        raw.send(upgrade_request(&session.ws_path)).await;
        raws.push(raw);
    }
    drop(busy);
    for raw in &mut raws {
        assert!(raw.head().await.starts_with("http/1.1 101 "));
        is_pending(raw).await;
    }
    server.until_active(300).await;
    let queries = server.store.reads.load(SeqCst) - before;
    assert!(queries <= 16, "{queries} queries for 300 browsers");
    drop(raws);
    server.stop().await;
}

/// Opens a WebSocket that sends these bytes, and then shuts its sending side down if `ends`, while its row is being
/// read. The poller does not yet watch its socket.
async fn send_before_upgrade_completes(server: &Server, bytes: &[u8], ends: bool) -> RawConnection {
    use std::sync::atomic::Ordering::SeqCst;
    let session = server.generate().await;
    let before = server.store.reads.load(SeqCst);
    let busy = server.store.read_gate.write().await;
    let mut raw = RawConnection::connect(server).await;
    raw.send(upgrade_request(&session.ws_path)).await;
    until("its row is being read", async || server.store.reads.load(SeqCst) > before).await;
    raw.send(bytes).await;
    if ends {
        raw.0.shutdown().await.unwrap();
    }
    drop(busy);
    raw
}

#[test]
async fn frames_sent_before_the_upgrade_completes_are_all_read() {
    let server = Server::start().await;
    let pongs = masked_frame(0x8A, &[b'p'; 125]).repeat(750);
    let mut raw =
        send_before_upgrade_completes(&server, &[pongs, masked_frame(0x89, b"still there?")].concat(), false).await;
    assert!(raw.head().await.starts_with("http/1.1 101 "));
    is_pending(&mut raw).await;
    assert_eq!(raw.frame().await, (0x8A, b"still there?".to_vec()));
    drop(raw);
    server.stop().await;
}

#[test]
async fn connection_that_ends_before_the_upgrade_completes_is_removed() {
    let server = Server::start().await;
    for _ in 0..20 {
        let mut raw = send_before_upgrade_completes(&server, &masked_frame(0x8A, b"pong"), true).await;
        assert!(raw.head().await.starts_with("http/1.1 101 "));
        server.until_active(0).await;
        drop(raw);
    }
    assert_eq!(server.closed("network").await, 20);
    server.stop().await;
}

#[test]
async fn session_id_is_accepted_as_a_subprotocol() {
    let server = Server::start().await;
    let session = server.generate().await;
    let ask = |words: &str| {
        format!(
            "GET /v1/ws/qr HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {WEBSOCKET_KEY}\r\n{words}\r\n"
        )
    };
    let offered = format!("Sec-WebSocket-Protocol: qrlogin.ack, qrlogin.session.{}\r\n", session.id);
    let two_lines =
        format!("Sec-WebSocket-Protocol: qrlogin.session.{}\r\nSec-WebSocket-Protocol: qrlogin.ack\r\n", session.id);
    for words in [&offered, &two_lines] {
        for is_kept_alive in [false, true] {
            let mut raw = RawConnection::connect(&server).await;
            if is_kept_alive {
                raw.send("GET /.well-known/jwks.json HTTP/1.1\r\nHost: x\r\n\r\n").await;
                assert_eq!(raw.status().await, 200);
            }
            raw.send(ask(words)).await;
            let head = raw.head().await;
            assert!(
                head.starts_with("http/1.1 101") && head.contains("sec-websocket-protocol: qrlogin.ack\r\n"),
                "{head}"
            );
            is_pending(&mut raw).await;
        }
    }
    let code = format!("Sec-WebSocket-Protocol: qrlogin.ack, qrlogin.session.{}\r\n", session.code);
    for words in ["", "Sec-WebSocket-Protocol: qrlogin.ack\r\n", "Sec-WebSocket-Protocol: qrlogin.session.x\r\n", &code]
    {
        let mut raw = RawConnection::connect(&server).await;
        raw.send(ask(words)).await;
        assert_eq!(raw.status().await, 404, "{words}");
    }
    server.until_active(0).await;
    server.stop().await;
}
