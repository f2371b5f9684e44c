//! Answers that a client does not read are bounded in bytes and in time. A client that reads slowly receives all of its
//! answers.

use std::net::SocketAddr;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use qrlogin_testing::harness::Server;
use qrlogin_testing::real_time::{now, sleep_millis, within};
use qrlogin_testing::test;

/// Maximum number of bytes of answers that the server makes for a client that reads none: what is queued for one
/// connection, and what the client's own system accepts.
const MAX_UNREAD_BYTES: usize = 512 * 1024;
const OPENAPI: &str = "GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n";

async fn server() -> Server {
    Server::start_with(|settings| settings.limits.header_seconds = 1).await
}

/// Connects a client whose system accepts about two kilobytes that the client does not read.
async fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(address).await.unwrap()
}

/// Sends this request repeatedly, without reading, until the connection is closed. Returns the seconds that this took,
/// at most ten.
async fn send_until_closed(mut stream: TcpStream, request: String) -> f32 {
    let started = now();
    tokio::select! {
        () = async { while stream.write_all(request.as_bytes()).await.is_ok() {} } => {}
        () = sleep_millis(10_000) => {}
    }
    started.elapsed().as_secs_f32()
}

/// Returns the number of requests of this route that have been answered.
async fn answered_count(metrics: &str, route: &str) -> usize {
    let lines = metrics.lines().filter(|line| line.starts_with("qrlogin_http_request_seconds_count{"));
    let lines = lines.filter(|line| line.contains(&format!("route=\"{route}\"")));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap()).sum()
}

#[test]
async fn client_that_pipelines_requests_and_reads_no_answer_is_disconnected() {
    let server = server().await;
    let session = server.generate().await;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let upgrade = format!(
        "GET /v1/ws/qr/{} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        "A".repeat(43)
    );
    let requests = [
        OPENAPI.to_owned(),
        OPENAPI.replace("GET", "HEAD"),
        get("/js/qr-login.js"),
        get("/.well-known/jwks.json"),
        get("/nowhere"),
        get(&format!("/v1/qr-login/status/{}", session.id)),
        "POST /v1/qr-login/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".to_owned(),
        format!(
            "POST /v1/qr-login/scan HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000\r\n\r\n{}",
            " ".repeat(20_000)
        ),
        "OPTIONS /v1/qr-login/generate HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost:8080\r\n\
         Access-Control-Request-Method: POST\r\n\r\n"
            .to_owned(),
        upgrade,
    ];
    let mut clients = Vec::new();
    for request in &requests {
        clients.push(send_until_closed(connect(server.address).await, request.repeat(20)));
    }
    for (seconds, request) in join_all(clients).await.into_iter().zip(&requests) {
        assert!(seconds < 9.0, "{seconds} s: {}", &request[..60]);
    }
    server.stop().await;
}

#[test]
async fn client_of_the_second_port_that_reads_no_answer_is_disconnected() {
    let server = server().await;
    let address = server.ops.trim_start_matches("http://").parse().unwrap();
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(20);
    let seconds = send_until_closed(connect(address).await, request).await;
    assert!(seconds < 9.0, "{seconds} s");
    server.stop().await;
}

#[test]
async fn queued_answers_of_one_connection_are_bounded_in_bytes() {
    let server = server().await;
    let answer_bytes = server.http.get(format!("{}/openapi.json", server.base)).send().await.unwrap();
    let answer_bytes = answer_bytes.bytes().await.unwrap().len();
    let mut stream = connect(server.address).await;
    within("the server reads", stream.write_all(OPENAPI.repeat(200).as_bytes())).await.unwrap();
    sleep_millis(500).await;
    let unread = answered_count(&server.metrics().await, "/openapi.json").await - 1;
    assert!((1..=MAX_UNREAD_BYTES / answer_bytes).contains(&unread), "{unread} answers of {answer_bytes} bytes");
    drop(stream);
    server.stop().await;
}

#[test]
async fn unread_answer_is_discarded_after_its_connection_is_closed() {
    let server = server().await;
    let mut stream = connect(server.address).await;
    stream.write_all(OPENAPI.as_bytes()).await.unwrap();
    // The server closes a connection without a request after one second. The system then still has the answer.
    sleep_millis(5000).await;
    let read = within("the connection ends", stream.read_to_end(&mut Vec::new())).await;
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    server.stop().await;
}

#[test]
async fn slow_client_receives_all_answers_to_its_pipelined_requests() {
    let server = server().await;
    let mut stream = connect(server.address).await;
    let requests = [OPENAPI.repeat(15), OPENAPI.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")].concat();
    within("the server reads", stream.write_all(requests.as_bytes())).await.unwrap();
    let (mut answers, mut some, started) = (Vec::new(), [0; 4096], now());
    loop {
        match within("the server sends more", stream.read(&mut some)).await.unwrap() {
            0 => break,
            read => answers.extend_from_slice(&some[..read]),
        }
        sleep_millis(40).await;
    }
    assert!(started.elapsed().as_secs() >= 3, "it reads for longer than the server waits for a client that does not");
    let answers = String::from_utf8(answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 16);
    assert!(answers.ends_with('}'));
    server.stop().await;
}

#[test]
async fn browser_that_reads_no_codes_is_disconnected_and_they_are_discarded() {
    let server = Server::start_with(|settings| {
        settings.session.rotate_seconds = 1;
        settings.session.heartbeat_seconds = 3600;
        settings.session.ttl_seconds = 3600;
    })
    .await;
    let session = server.generate().await;
    let mut stream = connect(server.address).await;
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        session.ws_path
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    server.until_active(1).await;
    // A frame with a code has about four kilobytes.
    let mut codes = 0;
    while server.active().await == 1 {
        server.hands.advance_seconds(1);
        codes += 1;
        assert!(codes < 2 * MAX_UNREAD_BYTES / 4096, "the browser is still connected");
    }
    assert_eq!(server.closed("slow").await, 1);
    let read = within("the connection ends", stream.read_to_end(&mut Vec::new())).await;
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    server.stop().await;
}
