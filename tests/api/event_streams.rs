//! Event streams: a browser without a WebSocket waits on one, with the same guarantees.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::many_nodes::nodes;
use qrlogin_testing::harness::{Answer, Browser, Seen, Server, Session, verified};
use qrlogin_testing::real_time::within;
use qrlogin_testing::test;

/// One event of a stream, by its fields.
#[derive(Debug, Default, PartialEq)]
pub struct Event {
    id: Option<String>,
    kind: Option<String>,
    retry: Option<String>,
    data: Value,
}

/// The next part of a stream.
#[derive(Debug, PartialEq)]
enum Read {
    Event(Event),
    Comment,
    End,
}

struct Stream {
    response: reqwest::Response,
    unread: String,
}

impl Stream {
    async fn open(server: &Server, session: &Session, last_event_id: Option<&str>) -> Self {
        match Self::request(server, session, last_event_id).await {
            Ok(stream) => stream,
            Err(answer) => panic!("{answer:?}"),
        }
    }

    async fn request(server: &Server, session: &Session, last_event_id: Option<&str>) -> Result<Self, Answer> {
        let mut request = server.http.get(format!("{}/v1/sse/qr", server.base)).header("x-qr-session", &session.id);
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let response = request.send().await.unwrap();
        if response.status() != StatusCode::OK {
            return Err(Answer::of(response).await);
        }
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut stream = Self { response, unread: String::new() };
        assert_eq!(stream.read().await, Read::Comment, "a comment is sent at once");
        Ok(stream)
    }

    async fn read(&mut self) -> Read {
        within("the stream has an event, a comment or its end", self.read_block()).await
    }

    async fn read_block(&mut self) -> Read {
        loop {
            if let Some((block, rest)) = self.unread.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.unread = rest;
                return if block == ":" { Read::Comment } else { Read::Event(event(&block)) };
            }
            match self.response.chunk().await {
                Ok(Some(bytes)) => self.unread.push_str(std::str::from_utf8(&bytes).unwrap()),
                Ok(None) | Err(_) => return Read::End,
            }
        }
    }

    /// Returns the next event, skipping comments.
    async fn event(&mut self) -> Event {
        loop {
            match self.read().await {
                Read::Event(event) => return event,
                Read::Comment => {}
                Read::End => panic!("the stream ended"),
            }
        }
    }

    /// Returns the frame of the next event. Panics if its status or its id is another.
    async fn frame(&mut self, status: &str, id: &str) -> Value {
        let event = self.event().await;
        assert_eq!((event.data["status"].as_str(), event.id.as_deref()), (Some(status), Some(id)), "{event:?}");
        event.data
    }

    /// Reads a `close` event with this code, after which the stream must end.
    async fn closed(&mut self, code: u16) -> Event {
        let event = self.event().await;
        assert_eq!((event.kind.as_deref(), event.data["code"].as_u64()), (Some("close"), Some(code.into())));
        assert_eq!(self.read().await, Read::End);
        event
    }
}

fn event(block: &str) -> Event {
    let mut event = Event::default();
    for line in block.lines() {
        let (field, value) = line.split_once(": ").unwrap();
        match field {
            "id" => event.id = Some(value.to_owned()),
            "event" => event.kind = Some(value.to_owned()),
            "retry" => event.retry = Some(value.to_owned()),
            "data" => event.data = serde_json::from_str(value).unwrap(),
            other => panic!("{other}"),
        }
    }
    event
}

#[test]
async fn login_is_delivered_over_a_stream_and_acknowledged_by_a_call() {
    let server = Server::start().await;
    let session = server.generate().await;
    let mut stream = Stream::open(&server, &session, None).await;
    assert_eq!(stream.response.headers()["x-accel-buffering"], "no", "proxies must not buffer events");
    assert_eq!(stream.response.headers()["cache-control"], "no-store");
    assert_eq!(stream.frame("pending", "1").await["expires_in"], 300);
    assert_eq!(server.active().await, 1);
    let ann = server.phone("ann");
    ann.scan(&session).await;
    assert_eq!(stream.frame("scanned", "2").await["user"]["name"], "Name of ann");
    ann.confirm(&session).await;
    let confirmed = stream.frame("confirmed", "3").await;
    assert_eq!(verified(&server, confirmed["web_token"].as_str().unwrap()).await["sub"], "ann");
    stream.closed(1000).await;
    server.until_active(0).await;
    assert_eq!(server.closed("decided").await, 1);

    // Without an acknowledgement the token is delivered again, whatever `Last-Event-ID` says.
    let mut again = Stream::open(&server, &session, Some("3")).await;
    assert_eq!(again.frame("confirmed", "3").await["web_token"], confirmed["web_token"]);
    again.closed(1000).await;
    assert_eq!(server.ack(&session).await.status, 204);
    let mut late = Stream::open(&server, &session, Some("3")).await;
    assert_eq!(late.frame("confirmed", "4").await["claimed"], true);
    late.closed(1000).await;
    let answer = Stream::request(&server, &session, Some("4")).await.err().unwrap();
    assert_eq!(answer.status, 204, "a browser that has received the end must not reconnect");
    server.until_active(0).await;
    server.stop().await;
}

#[test]
async fn reconnecting_stream_receives_only_what_it_has_missed() {
    let server = Server::start().await;
    let session = server.generate().await;
    let mut stream = Stream::open(&server, &session, None).await;
    stream.frame("pending", "1").await;
    drop(stream);
    server.until_active(0).await;
    assert_eq!(server.closed("client").await, 1);

    let mut stream = Stream::open(&server, &session, Some("1")).await;
    server.phone("ann").scan(&session).await;
    stream.frame("scanned", "2").await;
    drop(stream);
    server.phone("ann").reject(&session).await;
    // An id that this session never had is ignored.
    let mut stream = Stream::open(&server, &session, Some("7")).await;
    stream.frame("rejected", "3").await;
    stream.closed(1000).await;
    assert_eq!(Stream::request(&server, &session, Some("3")).await.err().unwrap().status, 204);

    let session = server.generate().await;
    let mut stream = Stream::open(&server, &session, None).await;
    stream.frame("pending", "1").await;
    server.hands.advance_seconds(301);
    stream.frame("expired", "expired").await;
    stream.closed(1000).await;
    let mut stream = Stream::open(&server, &session, Some("1")).await;
    stream.frame("expired", "expired").await;
    assert_eq!(Stream::request(&server, &session, Some("expired")).await.err().unwrap().status, 204);
    drop(stream);
    server.until_active(0).await;
    server.stop().await;
}

#[test]
async fn stream_carries_heartbeat_comments_and_rotated_codes() {
    let server = Server::start_with(|settings| settings.session.rotate_seconds = 20).await;
    let session = server.generate().await;
    let mut stream = Stream::open(&server, &session, None).await;
    stream.frame("pending", "1").await;
    server.hands.advance_seconds(20);
    let rotated = loop {
        match stream.read().await {
            Read::Event(event) => break event,
            Read::Comment => {}
            Read::End => panic!("the stream ended"),
        }
    };
    assert_eq!((rotated.data["status"].as_str(), rotated.id), (Some("rotated"), None));
    assert_eq!(server.status(&session).await.body["code"], rotated.data["code"]);
    // A reconnecting browser receives the current code, whatever it has received before.
    let mut stream = Stream::open(&server, &session, Some("1")).await;
    assert_eq!(stream.event().await.data["code"], rotated.data["code"]);
    server.phone("ann").reject(&Session { code: rotated.data["code"].as_str().unwrap().to_owned(), ..session }).await;
    stream.frame("rejected", "2").await;

    let session = server.generate().await;
    server.phone("ann").scan(&session).await;
    let mut stream = Stream::open(&server, &session, None).await;
    stream.frame("scanned", "2").await;
    for _ in 0..5 {
        server.hands.advance_millis(30_100);
        assert_eq!(stream.read().await, Read::Comment);
    }
    drop(stream);
    server.until_active(0).await;
    server.stop().await;
}

#[test]
async fn newest_connection_supersedes_older_ones_of_any_kind() {
    let server = Server::start().await;
    let (session, mut socket) = server.waiting().await;
    let mut stream = Stream::open(&server, &session, None).await;
    stream.frame("pending", "1").await;
    assert!(matches!(socket.next().await, Seen::Close(4409, _)));
    let mut newer = Stream::open(&server, &session, None).await;
    newer.frame("pending", "1").await;
    assert_eq!(stream.closed(4409).await.data["reason"], "a newer connection took over");
    let mut socket = server.browser(&session).await;
    socket.frame("pending").await;
    newer.closed(4409).await;
    server.until_active(1).await;
    assert_eq!(server.closed("replaced").await, 3);
    server.stop().await;
}

#[test]
async fn stream_closes_with_1013_without_a_store_and_with_1012_and_retry_while_draining() {
    let server = Server::start().await;
    let session = server.generate().await;
    let mut stream = Stream::open(&server, &session, None).await;
    stream.frame("pending", "1").await;
    server.store.fail(true);
    let answer = Stream::request(&server, &session, None).await.err().unwrap();
    assert_eq!(answer.refusal(), "503 unavailable");
    assert!(answer.headers.contains_key("retry-after"));
    for _ in 0..400 {
        server.hands.advance_seconds(1);
        // A round trip, which gives the server's tasks time to run.
        server.active().await;
    }
    let event = stream.event().await;
    assert_eq!(event.kind.as_deref(), Some("close"));
    assert_eq!(event.data, json!({ "code": 1013, "reason": "the store does not answer" }));
    server.store.fail(false);

    let session = server.generate().await;
    let mut stream = Stream::open(&server, &session, None).await;
    stream.frame("pending", "1").await;
    server.begin_to_stop();
    let event = stream.closed(1012).await;
    let delay: u32 = event.retry.unwrap().parse().unwrap();
    assert!(delay < 3000);
    assert_eq!(event.data["reason"], format!("retry_after_ms={delay}"));
    server.stop().await;
}

#[test]
async fn stream_is_refused_like_a_websocket() {
    let server = Server::start_with(|settings| {
        settings.limits.enabled = true;
        settings.limits.websocket_opens_per_minute = 5;
        settings.allowed_origins = vec!["https://shop.example".to_owned()];
    })
    .await;
    let session = server.generate().await;
    let ask = async |method: Method, path: &str, origin: &str| {
        let request = server.http.request(method, format!("{}{path}", server.base)).header("origin", origin);
        request.send().await.unwrap()
    };
    let path = format!("/v1/sse/qr/{}", session.id);
    assert_eq!(
        Answer::of(ask(Method::GET, &path, "https://evil.example").await).await.refusal(),
        "403 forbidden_origin"
    );
    for unknown in ["A".repeat(43), session.code.clone(), "x".to_owned()] {
        assert_eq!(server.get(&format!("/v1/sse/qr/{unknown}")).await.refusal(), "404 not_found");
    }
    assert_eq!(server.get("/v1/sse/qr").await.refusal(), "400 invalid_request");
    assert_eq!(ask(Method::HEAD, &path, "https://shop.example").await.status(), 200, "a HEAD does not wait");
    assert_eq!(server.active().await, 0);
    let allowed = ask(Method::GET, &path, "https://shop.example").await;
    assert_eq!(allowed.headers()["access-control-allow-origin"], "https://shop.example");
    server.until_active(1).await;
    drop(allowed);
    server.until_active(0).await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(ask(Method::GET, &path, "https://shop.example").await.status().as_u16());
    }
    assert!(statuses.contains(&429), "{statuses:?}");
    server.stop().await;
}

#[test]
async fn stream_count_returns_to_zero_after_every_kind_of_end() {
    let server = Server::start().await;
    let (mut streams, ann) = (Vec::new(), server.phone("ann"));
    for _ in 0..200 {
        let session = server.generate().await;
        let stream = Stream::open(&server, &session, None).await;
        streams.push((session, stream));
    }
    assert_eq!(server.active().await, 200);
    let mut expiring = Vec::new();
    for (index, (session, mut stream)) in streams.into_iter().enumerate() {
        stream.frame("pending", "1").await;
        match index % 4 {
            0 => {
                ann.confirm(&session).await;
                stream.frame("confirmed", "2").await;
                stream.closed(1000).await;
            }
            1 => drop(stream),
            2 => {
                server.cancel(&session).await;
                stream.frame("cancelled", "2").await;
            }
            _ => expiring.push(stream),
        }
    }
    server.until_active(50).await;
    server.hands.advance_seconds(301);
    for mut stream in expiring {
        stream.frame("expired", "expired").await;
        stream.closed(1000).await;
    }
    server.until_active(0).await;
    for reason in ["decided", "client", "cancelled", "expired"] {
        assert_eq!(server.closed(reason).await, 50, "{reason}");
    }
    server.stop().await;
}

#[test]
async fn bytes_sent_into_a_stream_are_ignored_up_to_a_limit() {
    let server = Server::start().await;
    let session = server.generate().await;
    let mut raw = tokio::net::TcpStream::connect(server.address).await.unwrap();
    raw.write_all(format!("GET /v1/sse/qr/{} HTTP/1.0\r\n\r\n", session.id).as_bytes()).await.unwrap();
    server.until_active(1).await;
    raw.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let (session, browser) = server.waiting().await;
    server.until_active(2).await;
    drop((session, browser));
    server.until_active(1).await;
    raw.write_all(&vec![b'x'; 4096]).await.unwrap();
    server.until_active(0).await;
    assert_eq!(server.closed("protocol").await, 1);
    server.stop().await;
}

#[test(needs(Postgres))]
async fn change_at_another_node_is_delivered_and_a_newer_stream_there_supersedes() {
    let (_postgres, nodes) = nodes(2, None).await;
    let [here, there] = nodes.as_slice() else { unreachable!() };
    let session = here.generate().await;
    let mut stream = Stream::open(here, &session, None).await;
    stream.frame("pending", "1").await;
    there.phone("ann").scan(&session).await;
    stream.frame("scanned", "2").await;
    let mut newer = Stream::open(there, &session, Some("2")).await;
    stream.closed(4409).await;
    here.phone("ann").confirm(&session).await;
    let confirmed = newer.frame("confirmed", "3").await;
    assert_eq!(here.status(&session).await.body["web_token"], confirmed["web_token"]);
    assert_eq!(here.post("/v1/qr-login/ack", json!({ "session_id": session.id })).await.status, 204);
    here.until_active_in_all(&nodes, 0).await;
}

#[test]
async fn websocket_supersedes_a_stream_on_a_kept_alive_connection() {
    let server = Server::start().await;
    // The client reuses its kept-alive connection for the stream, and the connection ends with the stream.
    for _ in 0..3 {
        let session = server.generate().await;
        let mut stream = Stream::open(&server, &session, None).await;
        stream.frame("pending", "1").await;
        let mut socket = Browser::open(&server, &session.ws_path, None).await.unwrap();
        socket.frame("pending").await;
        stream.closed(4409).await;
        assert_eq!(server.status(&session).await.body["status"], "pending");
    }
    server.until_active(0).await;
    server.stop().await;
}
