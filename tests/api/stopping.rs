//! A server that stops answers the requests that it is handling, and waits for nothing else from its clients.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use qrlogin_testing::harness::Server;
use qrlogin_testing::real_time::{now, sleep_millis, until};
use qrlogin_testing::test;

/// Time within which the server must stop, well below the eight seconds after which it abandons what has not ended.
const PROMPT: Duration = Duration::from_secs(4);
const HALF_A_BODY: &str = "POST /v1/qr-login/generate HTTP/1.1\r\nHost: localhost\r\n\
                           Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{";

async fn connect(address: &str, bytes: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    stream
}

/// Returns what the server sends within ten seconds, in lower case.
async fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    tokio::select! {
        // A connection that is reset has no more bytes either.
        _ = stream.read_to_end(&mut bytes) => {}
        () = sleep_millis(10_000) => {}
    }
    String::from_utf8(bytes).unwrap().to_lowercase()
}

/// Stops the server and returns the time that this took.
async fn stop(server: Server) -> Duration {
    let asked = now();
    server.stop().await;
    asked.elapsed()
}

#[test]
async fn incomplete_body_is_refused_and_delays_the_stop_by_a_second() {
    let server = Server::start().await;
    let address = server.address.to_string();
    let half = connect(&address, HALF_A_BODY).await;
    // A round trip: the server has read the head.
    server.active().await;
    let answer = tokio::spawn(rest(half));
    let took = stop(server).await;
    let answer = answer.await.unwrap();
    assert!(answer.starts_with("http/1.1 503 "), "{answer}");
    for part in ["\r\nconnection: close\r\n", "\r\nretry-after: ", "\"code\":\"unavailable\""] {
        assert!(answer.contains(part), "{part} is missing in {answer}");
    }
    assert!(took < PROMPT, "{took:?}");
}

#[test]
async fn body_that_arrives_shortly_after_the_stop_has_begun_is_accepted() {
    let server = Server::start().await;
    let mut half = connect(&server.address.to_string(), HALF_A_BODY).await;
    server.active().await;
    server.begin_to_stop();
    sleep_millis(200).await;
    half.write_all(b"}").await.unwrap();
    let answer = rest(half).await;
    assert!(answer.starts_with("http/1.1 201 ") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
    server.stop().await;
}

#[test]
async fn clients_without_a_request_in_progress_do_not_delay_the_stop() {
    let server = Server::start().await;
    let (public, ops) = (server.address.to_string(), server.ops.trim_start_matches("http://").to_owned());
    let whole = "GET /.well-known/jwks.json HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let beginnings = [
        (&public, String::new()),
        (&public, "GET /v1/ws/qr/AAAA".to_owned()),
        (&public, "POST /v1/qr-login/generate HTTP/1.1\r\nHost:".to_owned()),
        (&public, whole.to_owned()),
        (&public, format!("{whole}GET /.well-known/jwks.json HTTP/1.1\r\nHost:")),
        // The client does not read these answers.
        (&public, "GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(200)),
        (&ops, String::new()),
        (&ops, "GET /metrics HTTP/1.1\r\nHost:".to_owned()),
        (&ops, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n".to_owned()),
        (&ops, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(300)),
    ];
    let mut clients = Vec::new();
    for (address, beginning) in &beginnings {
        clients.push(connect(address, beginning).await);
    }
    sleep_millis(300).await;
    let took = stop(server).await;
    assert!(took < PROMPT, "{took:?}");
    drop(clients);
}

#[test]
async fn request_in_progress_of_a_silent_client_is_answered() {
    let server = Server::start().await;
    let session = server.generate().await;
    let busy = server.store.read_gate.write().await;
    let request = format!("GET /v1/qr-login/status/{} HTTP/1.1\r\nHost: localhost\r\n\r\n", session.id);
    let reads = server.store.reads.load(std::sync::atomic::Ordering::SeqCst);
    let asked = connect(&server.address.to_string(), &request).await;
    until("the store is asked", async || server.store.reads.load(std::sync::atomic::Ordering::SeqCst) > reads).await;
    server.begin_to_stop();
    sleep_millis(2500).await;
    drop(busy);
    let answer = rest(asked).await;
    assert!(answer.starts_with("http/1.1 200 ") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
    server.stop().await;
}
