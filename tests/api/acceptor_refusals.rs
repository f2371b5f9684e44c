//! Refusals are the same for the first request of a connection, which the acceptor reads, and for a later one, which
//! the general HTTP server reads.

use std::collections::BTreeMap;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use qrlogin_testing::harness::{Server, Settings};
use qrlogin_testing::real_time::within;
use qrlogin_testing::test;

const PAGE: &str = "https://site.example";
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// The status, the fields and the body of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    status: u16,
    fields: BTreeMap<String, String>,
    body: String,
}

impl Seen {
    /// Returns the answer without the fields that belong to this answer or its connection alone.
    fn shape(&self) -> (u16, Vec<(&str, &str)>, &str) {
        let alone = ["date", "connection", "content-length", "retry-after"];
        let fields = self.fields.iter().filter(|(name, _)| !alone.contains(&name.as_str()));
        (self.status, fields.map(|(name, value)| (name.as_str(), value.as_str())).collect(), &self.body)
    }
}

/// Reads one answer.
async fn answer(stream: &mut TcpStream) -> Seen {
    within("the server sends an answer", read_answer(stream)).await
}

async fn read_answer(stream: &mut TcpStream) -> Seen {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(bytes).unwrap();
    let mut lines = head.trim_end().lines();
    let status = lines.next().unwrap()[9..12].parse().unwrap();
    let fields: BTreeMap<_, _> = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let mut body = vec![0; fields.get("content-length").map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).await.unwrap();
    Seen { status, fields, body: String::from_utf8(body).unwrap() }
}

/// Asserts that the server closes the connection and sends nothing more.
async fn is_closed(stream: &mut TcpStream) {
    assert_eq!(within("the connection is closed", stream.read(&mut [0; 8])).await.unwrap(), 0);
}

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.address).await.unwrap()
}

/// Sends the request as the first of one connection, for the acceptor, and as the second of another, for hyper. Returns
/// both answers.
async fn both_servers(server: &Server, request: &str) -> [Seen; 2] {
    let mut first = connect(server).await;
    first.write_all(request.as_bytes()).await.unwrap();
    let mut second = connect(server).await;
    second.write_all(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert_eq!(answer(&mut second).await.status, 200);
    second.write_all(request.as_bytes()).await.unwrap();
    [answer(&mut first).await, answer(&mut second).await]
}

fn upgrade(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    )
}

async fn server(change: impl FnOnce(&mut Settings)) -> Server {
    Server::start_with(|settings| {
        settings.allowed_origins.push(PAGE.to_owned());
        change(settings);
    })
    .await
}

fn are_alike([first, second]: &[Seen; 2], status: u16) {
    assert_eq!(first.status, status, "{first:?}");
    assert_eq!(first.shape(), second.shape());
    for seen in [first, second] {
        for field in ["date", "content-security-policy", "x-content-type-options", "referrer-policy", "cache-control"] {
            assert!(seen.fields.contains_key(field), "{field} is missing: {seen:?}");
        }
        assert_eq!(seen.fields.contains_key("retry-after"), [429, 503].contains(&status), "{seen:?}");
    }
}

#[test]
async fn refusals_have_the_same_fields_for_first_and_later_requests() {
    let server = server(|settings| {
        settings.limits = Settings::default().limits;
        settings.limits.websocket_opens_per_minute = 6;
        settings.allow_missing_origin = false;
    })
    .await;
    let (key, page) = (format!("Sec-WebSocket-Key: {KEY}\r\n"), format!("Origin: {PAGE}\r\n"));
    let of_page = |more: &str| format!("{page}{more}");
    let unknown = format!("/v1/ws/qr/{}", "A".repeat(43));
    for (request, status) in [
        (upgrade(&unknown, &of_page("Sec-WebSocket-Key: short\r\n")), 400),
        (upgrade(&unknown, &key), 403),
        (upgrade(&unknown, &format!("{key}Origin: https://foreign.example\r\n")), 403),
        (upgrade(&unknown, &of_page(&key)), 404),
        (upgrade("/v1/ws/qr/nonsense", &of_page(&key)), 404),
        (format!("GET {unknown} HTTP/1.1\r\nHost: x\r\n{page}\r\n"), 426),
        (format!("POST {unknown} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n{page}\r\n"), 405),
        (format!("GET /nowhere HTTP/1.1\r\nHost: x\r\n{page}\r\n"), 404),
    ] {
        are_alike(&both_servers(&server, &request).await, status);
    }
    // More upgrades in a minute than the limit allows.
    let request = upgrade(&unknown, &of_page(&key));
    for _ in 0..6 {
        both_servers(&server, &request).await;
    }
    let refused = both_servers(&server, &request).await;
    are_alike(&refused, 429);
    assert_eq!(refused[0].fields["access-control-allow-origin"], PAGE);
    server.stop().await;

    // A store that does not answer.
    let server = self::server(|_| {}).await;
    server.store.fail(true);
    are_alike(&both_servers(&server, &request).await, 503);
    server.stop().await;
}

#[test]
async fn refusal_of_a_surplus_connection_has_the_same_fields_as_others() {
    let limits = |settings: &mut Settings| {
        settings.limits = Settings::default().limits;
        settings.limits.sockets_per_address = 2;
    };
    // The connection itself is one too many.
    let direct = server(limits).await;
    let held = [connect(&direct).await, connect(&direct).await];
    let request = |more: &str| upgrade(&format!("/v1/ws/qr/{}", "A".repeat(43)), &format!("{more}Origin: {PAGE}\r\n"));
    let mut one_too_many = connect(&direct).await;
    one_too_many.write_all(request(&format!("Sec-WebSocket-Key: {KEY}\r\n")).as_bytes()).await.unwrap();
    let first = answer(&mut one_too_many).await;
    assert_eq!(first.fields["connection"], "close");
    is_closed(&mut one_too_many).await;
    // Another request is refused in the same way.
    let mut another = connect(&direct).await;
    let post = format!("POST /v1/qr-login/generate HTTP/1.1\r\nHost: x\r\nOrigin: {PAGE}\r\nContent-Length: 0\r\n\r\n");
    another.write_all(post.as_bytes()).await.unwrap();
    let other = answer(&mut another).await;
    drop(held);

    // The browser is one too many, behind a trusted proxy whose own connections are not limited.
    let behind = server(|settings| {
        limits(settings);
        settings.trusted_proxies.push("127.0.0.1".to_owned());
    })
    .await;
    let mut waiting = Vec::new();
    let from = "X-Forwarded-For: 192.0.2.7\r\n";
    for _ in 0..2 {
        let session = behind.generate().await;
        let mut stream = connect(&behind).await;
        let request = upgrade(&session.ws_path, &format!("{from}Sec-WebSocket-Key: {KEY}\r\nOrigin: {PAGE}\r\n"));
        stream.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(answer(&mut stream).await.status, 101);
        waiting.push(stream);
    }
    let session = behind.generate().await;
    let request = upgrade(&session.ws_path, &format!("{from}Sec-WebSocket-Key: {KEY}\r\nOrigin: {PAGE}\r\n"));
    let [second, third] = both_servers(&behind, &request).await;
    for seen in [other, second, third] {
        are_alike(&[first.clone(), seen.clone()], 429);
        assert_eq!(seen.fields["access-control-allow-origin"], PAGE);
        assert_eq!(seen.fields["access-control-expose-headers"], "retry-after,www-authenticate");
        assert!(seen.body.contains("limits.sockets_per_address"), "{}", seen.body);
    }
    drop(waiting);
    behind.stop().await;
    direct.stop().await;
}

#[test]
async fn hundreds_of_surplus_connections_are_still_answered() {
    let server = server(|settings| {
        settings.limits = Settings::default().limits;
        settings.limits.sockets_per_address = 1;
    })
    .await;
    let _held = connect(&server).await;
    // More than the 256 surplus connections whose requests the server reads at a time.
    let mut surplus = Vec::new();
    for _ in 0..300 {
        surplus.push(connect(&server).await);
    }
    let last = answer(surplus.last_mut().unwrap()).await;
    assert_eq!(last.status, 429);
    for field in ["date", "content-security-policy", "retry-after"] {
        assert!(last.fields.contains_key(field), "{last:?}");
    }
    drop(surplus);
    server.stop().await;
}

#[test]
async fn slow_head_and_slow_body_are_refused_alike() {
    let server = server(|settings| settings.limits.header_seconds = 1).await;
    let mut head = connect(&server).await;
    head.write_all(format!("GET /v1/ws/qr/{} HTTP/1.1\r\nHost: x\r\nOrigin: {PAGE}\r\nX-", "A".repeat(43)).as_bytes())
        .await
        .unwrap();
    let slow_head = answer(&mut head).await;
    is_closed(&mut head).await;

    let mut body = connect(&server).await;
    let request = format!(
        "POST /v1/qr-login/generate HTTP/1.1\r\nHost: x\r\nOrigin: {PAGE}\r\nContent-Type: application/json\r\n\
         Content-Length: 20\r\n\r\n{{"
    );
    body.write_all(request.as_bytes()).await.unwrap();
    let passing = async {
        loop {
            server.hands.advance_seconds(1);
            server.active().await;
        }
    };
    let slow_body = tokio::select! {
        seen = answer(&mut body) => seen,
        () = passing => unreachable!("the loop does not end"),
    };
    are_alike(&[slow_head, slow_body], 408);
    server.stop().await;
}
