//! Floods: a browser receives its token whatever legal frames it sends on its own connection, and however many.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use qrlogin_testing::harness::{Server, Session, WEBSOCKET_KEY, masked_frame};
use qrlogin_testing::real_time::{now, sleep_millis, within};
use qrlogin_testing::test;

/// Number of tries of each kind. `FLOODS=100` sets the number for a full run.
const TRIES: usize = 3;
/// Time after which a blocked write ends a flood, in milliseconds.
const BLOCKED_WRITE_MILLIS: u64 = 3_000;
/// Time after which a token that has not arrived counts as lost, in milliseconds.
const LOST_MILLIS: u64 = 20_000;

/// The legal frames without meaning that a flood consists of.
#[derive(Debug, Clone, Copy)]
enum Flood {
    Pongs,
    Pings,
    EmptyFragments,
    Ignored,
}

impl Flood {
    const ALL: [Self; 4] = [Self::Pongs, Self::Pings, Self::EmptyFragments, Self::Ignored];

    /// Returns some kilobytes of these frames, which may be repeated.
    fn bytes(self) -> Vec<u8> {
        match self {
            Self::Pongs => masked_frame(0x8A, &[b'x'; 125]).repeat(64),
            Self::Pings => masked_frame(0x89, &[b'x'; 125]).repeat(64),
            // A whole message of empty fragments.
            Self::EmptyFragments => {
                [masked_frame(0x01, b""), masked_frame(0x00, b"").repeat(1000), masked_frame(0x80, b"")].concat()
            }
            Self::Ignored => masked_frame(0x81, &[b'x'; 100]).repeat(64),
        }
    }
}

/// Opens a raw WebSocket connection that has received `pending`.
async fn waiting(server: &Server, session: &Session, subprotocol: Option<&str>) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let subprotocol = subprotocol.map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n")).unwrap_or_default();
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {WEBSOCKET_KEY}\r\n{subprotocol}\r\n",
        session.ws_path
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let reading = async {
        let mut received = Vec::new();
        while !received.ends_with(b"\"expires_in\":300}") {
            assert!(stream.read_buf(&mut received).await.unwrap() > 0);
        }
    };
    within("the browser receives pending", reading).await;
    stream
}

/// Sends this flood: so many bytes, or as many as fit into half a second. Ends early when the system accepts no more,
/// because it may discard all segments of a connection whose receive buffer is full of small ones, window updates
/// included.
async fn flood(stream: &mut TcpStream, flood: Flood, bytes: Option<usize>) {
    let (some, until) = (flood.bytes(), now() + Duration::from_millis(500));
    let mut sent = 0;
    while bytes.map_or_else(|| now() < until, |bytes| sent < bytes) {
        tokio::select! {
            written = stream.write_all(&some) => written.unwrap(),
            () = sleep_millis(BLOCKED_WRITE_MILLIS) => return,
        }
        sent += some.len();
    }
}

/// Returns the statuses that the browser receives until `last` or the end of the connection, or none if that takes
/// longer than [`LOST_MILLIS`].
async fn received(mut stream: TcpStream, last: &str) -> Vec<String> {
    let mut bytes = Vec::new();
    let reading = async {
        loop {
            let statuses = statuses(&bytes);
            if statuses.iter().any(|status| status == last) || !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
                return statuses;
            }
        }
    };
    tokio::select! {
        statuses = reading => statuses,
        () = sleep_millis(LOST_MILLIS) => Vec::new(),
    }
}

fn statuses(mut bytes: &[u8]) -> Vec<String> {
    let mut statuses = Vec::new();
    while let [first, length, rest @ ..] = bytes {
        let (length, rest) = match (length, rest) {
            (126, [high, low, rest @ ..]) => (usize::from(u16::from_be_bytes([*high, *low])), rest),
            (126, _) => break,
            (length, rest) => (usize::from(*length), rest),
        };
        let Some((payload, rest)) = rest.split_at_checked(length) else { break };
        if *first == 0x81 {
            let frame: Value = serde_json::from_slice(payload).unwrap();
            statuses.push(frame["status"].as_str().unwrap().to_owned());
        }
        bytes = rest;
    }
    statuses
}

fn tries() -> usize {
    std::env::var("FLOODS").map_or(TRIES, |tries| tries.parse().unwrap())
}

/// Floods while the phone confirms, for each size and kind, with and without `qrlogin.ack`, and asserts that the
/// browser receives its token.
async fn token_is_delivered_during_floods(server: &Server, sizes: &[Option<usize>], meanwhile: impl AsyncFn(usize)) {
    for size in sizes {
        for kind in Flood::ALL {
            for subprotocol in [None, Some("qrlogin.ack")] {
                for number in 0..tries() {
                    let session = server.generate().await;
                    let mut stream = waiting(server, &session, subprotocol).await;
                    let (bob, flooding) = (server.phone("bob"), flood(&mut stream, kind, *size));
                    let confirming = async {
                        meanwhile(number).await;
                        bob.confirm(&session).await
                    };
                    let (confirmed, ()) = tokio::join!(confirming, flooding);
                    assert_eq!(confirmed.status, 200);
                    let statuses = received(stream, "confirmed").await;
                    assert_eq!(
                        statuses.last().map(String::as_str),
                        Some("confirmed"),
                        "{kind:?} {size:?} {subprotocol:?}"
                    );
                }
            }
        }
    }
    server.until_active(0).await;
}

#[test]
async fn token_is_delivered_to_a_browser_that_floods_during_the_confirmation() {
    let server = Server::start().await;
    let sizes = [Some(10_000), Some(200_000), Some(2_000_000), None];
    token_is_delivered_during_floods(&server, &sizes, async |_| {}).await;
    server.stop().await;
}

#[test]
async fn token_is_delivered_to_a_flooding_browser_while_codes_rotate() {
    let server = Server::start_with(|settings| settings.session.rotate_seconds = 10).await;
    let rotating = async |_| {
        server.hands.advance_seconds(10);
        server.active().await;
    };
    token_is_delivered_during_floods(&server, &[Some(200_000), Some(2_000_000)], rotating).await;
    server.stop().await;
}

#[test]
async fn token_is_delivered_to_a_flooding_browser_while_the_server_drains() {
    for kind in Flood::ALL {
        for subprotocol in [None, Some("qrlogin.ack")] {
            let server = Server::start().await;
            let session = server.generate().await;
            let mut stream = waiting(&server, &session, subprotocol).await;
            let (bob, flooding) = (server.phone("bob"), flood(&mut stream, kind, Some(2_000_000)));
            let confirming = async {
                let confirmed = bob.confirm(&session).await;
                server.begin_to_stop();
                confirmed
            };
            let (confirmed, ()) = tokio::join!(confirming, flooding);
            assert_eq!(confirmed.status, 200);
            assert_eq!(received(stream, "confirmed").await.last().map(String::as_str), Some("confirmed"), "{kind:?}");
            server.stop().await;
        }
    }
}
