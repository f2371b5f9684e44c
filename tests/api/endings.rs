//! Ends of waiting connections. For each kind of end, the connection's entry is removed from the registry, and the end
//! is counted once under its own reason.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use qrlogin_testing::harness::{Browser, Seen, Server, token_in};
use qrlogin_testing::real_time::within;
use qrlogin_testing::test;

/// Reads the beginning of a Close. Returns its code.
async fn read_close(stream: &mut TcpStream) -> u16 {
    let mut close = [0; 4];
    within("the server sends a Close", stream.read_exact(&mut close)).await.unwrap();
    assert_eq!(close[0], 0x88, "the opcode of a Close");
    u16::from_be_bytes([close[2], close[3]])
}

#[test]
async fn connection_count_returns_to_zero_after_every_kind_of_end() {
    let server = Server::start().await;
    let mut browsers = Vec::new();
    for _ in 0..300 {
        browsers.push(server.waiting().await);
    }
    assert_eq!(server.active().await, 300);
    let ann = server.phone("ann");
    let mut expiring = Vec::new();
    for (index, (session, browser)) in browsers.into_iter().enumerate() {
        match index % 5 {
            0 => {
                ann.confirm(&session).await;
                assert!(browser.rest().await.len() == 2);
            }
            1 => browser.close(1001).await,
            2 => browser.reset(),
            3 => {
                server.cancel(&session).await;
                browser.rest().await;
            }
            _ => expiring.push(browser),
        }
    }
    server.until_active(60).await;
    server.hands.advance_seconds(29);
    server.hands.advance_seconds(271);
    for browser in expiring {
        let seen = browser.rest().await;
        assert!(matches!(seen.last(), Some(Seen::Close(1000, _))), "{seen:?}");
    }
    server.until_active(0).await;
    for reason in ["decided", "client", "network", "cancelled", "expired"] {
        assert_eq!(server.closed(reason).await, 60, "{reason}");
    }
    server.stop().await;
}

#[test]
async fn expiry_is_delivered_at_the_deadline_and_not_before() {
    let server = Server::start_with(|settings| settings.session.heartbeat_seconds = 3600).await;
    let (_session, mut first) = server.waiting().await;
    server.hands.advance_millis(250);
    let (_session, mut second) = server.waiting().await;
    server.hands.advance_millis(299_749);
    // One millisecond before the first deadline.
    first.received_nothing().await;
    server.hands.advance_millis(1);
    assert_eq!(first.frame("expired").await["message"], "QR code expired");
    first.closed(1000).await;
    server.until_active(1).await;
    assert_eq!(server.closed("expired").await, 1);
    server.hands.advance_millis(300);
    second.frame("expired").await;
    second.closed(1000).await;
    server.until_active(0).await;
    server.stop().await;
}

#[test]
async fn browser_that_answers_heartbeats_stays_connected() {
    let server = Server::start().await;
    let (_session, mut browser) = server.waiting().await;
    for _ in 0..9 {
        server.hands.advance_millis(30_100);
        assert_eq!(browser.next().await, Seen::Ping);
        // A round trip: the answer to the ping has arrived before the clock moves.
        browser.received_nothing().await;
    }
    assert_eq!(server.active().await, 1);
    server.stop().await;
}

#[test]
async fn two_unanswered_heartbeats_end_a_connection() {
    let server = Server::start().await;
    let (_session, browser) = server.waiting().await;
    // A browser that is gone without a Close: its socket accepts everything and answers nothing.
    let mut silent = browser.into_tcp();
    let mut frame = [0; 2];
    for _ in 0..2 {
        server.hands.advance_millis(30_100);
        within("the server sends a ping", silent.read_exact(&mut frame)).await.unwrap();
        assert_eq!(frame, [0x89, 0], "a ping");
        assert_eq!(server.active().await, 1);
    }
    server.hands.advance_millis(30_100);
    assert_eq!(read_close(&mut silent).await, 4408);
    // The browser does not answer the Close either. The server waits one second for that.
    server.hands.advance_seconds(1);
    server.until_active(0).await;
    assert_eq!(server.closed("heartbeat").await, 1);
    server.stop().await;
}

#[test]
async fn second_connection_supersedes_the_first_and_receives_the_decision() {
    let server = Server::start().await;
    let (session, mut older) = server.waiting().await;
    let mut newer = server.browser(&session).await;
    newer.frame("pending").await;
    assert!(matches!(older.next().await, Seen::Close(4409, _)));
    server.until_active(1).await;
    assert_eq!(server.closed("replaced").await, 1);
    server.phone("ann").confirm(&session).await;
    newer.frame("confirmed").await;
    newer.closed(1000).await;
    server.until_active(0).await;
    server.stop().await;
}

#[test]
async fn draining_closes_connections_with_1012_and_a_retry_delay() {
    let server = Server::start().await;
    let mut browsers = Vec::new();
    for _ in 0..50 {
        browsers.push(server.waiting().await.1);
    }
    server.begin_to_stop();
    for browser in browsers {
        let seen = browser.rest().await;
        let Some(Seen::Close(1012, reason)) = seen.last() else { panic!("{seen:?}") };
        let delay: u32 = reason.strip_prefix("retry_after_ms=").unwrap().parse().unwrap();
        assert!(delay < 3000);
    }
    server.stop().await;
}

#[test]
async fn unknown_messages_are_ignored() {
    let server = Server::start().await;
    let (session, mut browser) = server.waiting().await;
    for message in
        [Message::text("hello"), Message::text("ack"), Message::binary(vec![7; 1024]), Message::Pong("".into())]
    {
        browser.socket.send(message).await.unwrap();
    }
    server.phone("ann").confirm(&session).await;
    browser.frame("confirmed").await;
    browser.closed(1000).await;
    server.stop().await;
}

#[test]
async fn protocol_violation_is_closed_with_its_code() {
    let server = Server::start().await;
    let masked = |first: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).unwrap();
        let mut frame = vec![first, 0x80 | length, 0, 0, 0, 0];
        frame.extend_from_slice(payload);
        frame
    };
    let cases = [
        (vec![0x82, 0xFE, 0x04, 0x01, 0, 0, 0, 0], 1009, "a message of 1025 bytes"),
        (vec![0x82, 0xFF, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0], 1009, "a message of a terabyte"),
        (masked(0x81, &[0xC3, 0x28]), 1007, "text that is not UTF-8"),
        (vec![0x81, 0x02, b'h', b'i'], 1002, "a frame without a mask"),
        (masked(0x83, b"?"), 1002, "an opcode that is not known"),
        (masked(0xC1, b"?"), 1002, "a reserved bit"),
        (masked(0x09, b""), 1002, "a ping in fragments"),
        (masked(0x80, b"?"), 1002, "a continuation of nothing"),
    ];
    for (bytes, code, what) in &cases {
        let (_session, browser) = server.waiting().await;
        let mut raw = browser.into_tcp();
        raw.write_all(bytes).await.unwrap();
        assert_eq!(read_close(&mut raw).await, *code, "{what}");
        drop(raw);
    }
    server.until_active(0).await;
    assert_eq!(server.closed("protocol").await, i64::try_from(cases.len()).unwrap());
    server.stop().await;
}

#[test]
async fn protocol_violation_followed_by_three_mebibytes_still_receives_its_close_code() {
    let server = Server::start().await;
    let (_session, browser) = server.waiting().await;
    let mut raw = browser.into_tcp();
    let mut bytes = vec![0x83, 0x80, 0, 0, 0, 0];
    bytes.resize(3 * 1024 * 1024, 0);
    raw.write_all(&bytes).await.unwrap();
    assert_eq!(read_close(&mut raw).await, 1002);
    drop(raw);
    server.until_active(0).await;
    server.stop().await;
}

#[test]
async fn refused_connection_is_not_counted() {
    let server = Server::start().await;
    let session = server.generate().await;
    let unknown = "A".repeat(43);
    assert_eq!(Browser::open(&server, &format!("/v1/ws/qr/{unknown}"), None).await.err(), Some(404));
    assert_eq!(Browser::open(&server, &format!("/v1/ws/qr/{}", session.code), None).await.err(), Some(404));
    assert_eq!(server.active().await, 0);
    assert!(
        !server
            .metrics()
            .await
            .lines()
            .any(|line| line.starts_with("qrlogin_connections_closed_total") && !line.ends_with(" 0"))
    );
    server.stop().await;
}

#[test]
async fn waiting_causes_no_query_and_sessions_that_are_due_together_share_one() {
    let server = Server::start().await;
    let mut browsers = Vec::new();
    for _ in 0..200 {
        browsers.push(server.waiting().await.1);
    }
    let before = server.store.reads.load(Ordering::SeqCst);
    for _ in 0..2 {
        server.hands.advance_millis(30_100);
        for browser in &mut browsers {
            assert_eq!(browser.next().await, Seen::Ping);
            // A round trip: the answer to the ping has arrived before the clock moves.
            browser.received_nothing().await;
        }
    }
    assert_eq!(server.store.reads.load(Ordering::SeqCst), before, "queries while browsers wait");
    server.hands.advance_millis(300_000 - 60_200);
    let ended = join_all(browsers.into_iter().map(Browser::rest)).await;
    assert!(ended.iter().all(|seen| matches!(seen.last(), Some(Seen::Close(1000, _)))));
    let asked = server.store.reads.load(Ordering::SeqCst) - before;
    // All sessions are due at one instant. Those that are handled while the first query runs share a second one.
    assert!((1..=2).contains(&asked), "{asked} queries for 200 that are due together");
    server.until_active(0).await;
    server.stop().await;
}

#[test]
async fn draining_closes_connections_in_batches_and_still_delivers_to_the_others() {
    let server = Server::start().await;
    let (mut sessions, mut ends) = (Vec::new(), FuturesUnordered::new());
    for index in 0..510 {
        let (session, browser) = server.waiting().await;
        sessions.push(session);
        ends.push(async move { (index, browser.rest().await) });
    }
    server.begin_to_stop();
    let mut left: BTreeSet<usize> = (0..sessions.len()).collect();
    let is_drained = |seen: &[Seen]| matches!(seen.last(), Some(Seen::Close(1012, _)));
    while left.len() > 10 {
        let (index, seen) = within("a connection ends", ends.next()).await.unwrap();
        assert!(is_drained(&seen), "{seen:?}");
        left.remove(&index);
    }
    server.until_active(10).await;
    let decided = *left.first().unwrap();
    assert_eq!(server.phone("ann").confirm(&sessions[decided]).await.status, 200);
    let (index, seen) = within("a connection ends", ends.next()).await.unwrap();
    assert!(index == decided && token_in(&seen).is_some(), "{seen:?}");
    assert!(Browser::open(&server, &sessions[0].ws_path, None).await.is_err_and(|status| status == 503));

    server.hands.advance_millis(50);
    while let Some((_, seen)) = within("a connection ends", ends.next()).await {
        assert!(is_drained(&seen), "{seen:?}");
    }
    server.stop().await;
}
