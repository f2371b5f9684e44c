//! A server under a path of `public_url`, behind a proxy that strips the path from requests and behind one that keeps
//! it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use reqwest::Method;
use reqwest::header::ORIGIN;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use qrlogin_testing::harness::{Answer, Browser, Server, Session, claims_of};
use qrlogin_testing::real_time::within;
use qrlogin_testing::test;

/// Path under which the proxy serves the server.
pub const BASE: &str = "/login";

/// A proxy in front of one server. It answers requests outside [`BASE`] itself and records their paths.
pub struct Proxy {
    listener: TcpListener,
    pub public_url: String,
    pub outside: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    pub async fn bind() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let public_url = format!("http://localhost:{}{BASE}", listener.local_addr().unwrap().port());
        Self { listener, public_url, outside: Arc::default() }
    }

    /// Forwards connections to `server` until the test ends.
    pub fn serve(self, server: SocketAddr, strips: bool) {
        tokio::spawn(async move {
            while let Ok((client, _)) = self.listener.accept().await {
                let outside = self.outside.clone();
                // An error of a connection concerns only its two ends.
                tokio::spawn(async move { drop(forward(client, server, strips, &outside).await) });
            }
        });
    }
}

/// Forwards one request and everything after it. Only an upgraded connection stays open after the answer.
async fn forward(
    mut client: TcpStream,
    server: SocketAddr,
    strips: bool,
    outside: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    let (line, fields) = head.split_once("\r\n").unwrap();
    let (method, rest) = line.split_once(' ').unwrap();
    let (target, version) = rest.rsplit_once(' ').unwrap();
    let stripped = target.strip_prefix(BASE).filter(|rest| rest.is_empty() || rest.starts_with(['/', '?']));
    let Some(stripped) = stripped else {
        outside.lock().unwrap().push(target.to_owned());
        return client.write_all(b"HTTP/1.1 418 Outside\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    };
    let slash = if stripped.starts_with('/') { "" } else { "/" };
    let target = if strips { format!("{slash}{stripped}") } else { target.to_owned() };
    let is_upgrade = fields.to_lowercase().contains("upgrade: websocket");
    let is_connection = |field: &str| field.to_lowercase().starts_with("connection:");
    let fields: String = fields.split_inclusive("\r\n").filter(|field| is_upgrade || !is_connection(field)).collect();
    let close = if is_upgrade { "" } else { "Connection: close\r\n" };
    let mut server = TcpStream::connect(server).await?;
    server.write_all(format!("{method} {target} {version}\r\n{close}{fields}").as_bytes()).await?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}

struct Site {
    server: Server,
    public_url: String,
    origin: String,
    outside: Arc<Mutex<Vec<String>>>,
}

impl Site {
    async fn start(strips: bool) -> Self {
        let proxy = Proxy::bind().await;
        let (public_url, outside) = (proxy.public_url.clone(), proxy.outside.clone());
        let origin = public_url.strip_suffix(BASE).unwrap().to_owned();
        let server = Server::start_with(|settings| settings.public_url = format!("{public_url}/")).await;
        proxy.serve(server.address, strips);
        Self { server, public_url, origin, outside }
    }

    /// Sends a request as a page of the site, to a URL that the server has handed out.
    async fn call(&self, method: Method, url: &str, body: Option<serde_json::Value>) -> Answer {
        let mut request = self.server.http.request(method, url).header(ORIGIN, &self.origin);
        if let Some(body) = body {
            request = request.json(&body);
        }
        Answer::of(request.send().await.unwrap()).await
    }

    async fn socket(&self, path: &str, subprotocol: Option<&str>) -> Result<Browser, u16> {
        let mut request = format!("{}{path}", self.origin.replace("http", "ws")).into_client_request().unwrap();
        request.headers_mut().insert("origin", self.origin.parse().unwrap());
        if let Some(subprotocol) = subprotocol {
            request.headers_mut().insert("sec-websocket-protocol", subprotocol.parse().unwrap());
        }
        Browser::send(request).await
    }
}

async fn handed_out_urls_work_behind_a_proxy(strips: bool) {
    let site = Site::start(strips).await;
    let Site { server, public_url, .. } = &site;
    let api = |path: &str| format!("{public_url}/v1/qr-login/{path}");
    let generated = site.call(Method::POST, &api("generate"), Some(json!({}))).await;
    assert_eq!(generated.refusal(), "201");
    let text = |field: &str| generated.body[field].as_str().unwrap().to_owned();
    let session = Session { id: text("session_id"), code: text("code"), ws_path: text("ws_path") };
    assert_eq!(text("qr_url"), format!("{public_url}/q/{}", session.code));
    assert_eq!(session.ws_path, format!("{BASE}/v1/ws/qr/{}", session.id));

    // Each way to wait, and the WebSocket's path without a session id.
    let mut browser = site.socket(&session.ws_path, None).await.unwrap();
    browser.frame("pending").await;
    let in_subprotocol = format!("qrlogin.ack, qrlogin.session.{}", session.id);
    let mut browser = site.socket(&format!("{BASE}/v1/ws/qr"), Some(&in_subprotocol)).await.unwrap();
    browser.frame("pending").await;
    let status = site.call(Method::GET, &api(&format!("status/{}?wait=5&version=0", session.id)), None).await;
    assert_eq!((status.status.as_u16(), &status.body["qr_url"]), (200, &generated.body["qr_url"]));
    let events = server.http.get(format!("{public_url}/v1/sse/qr/{}", session.id)).header(ORIGIN, &site.origin);
    let events = events.send().await.unwrap();
    assert_eq!(
        (events.status().as_u16(), &events.headers()["content-type"]),
        (200, &"text/event-stream".parse().unwrap())
    );
    drop(events);

    // The phone sends the whole URL that it has scanned.
    let scanned = Session { code: text("qr_url"), ..session.clone() };
    let mut browser = site.socket(&session.ws_path, None).await.unwrap();
    browser.frame("pending").await;
    let phone = server.http.post(api("scan")).bearer_auth(server.phone("ann").token);
    assert_eq!(phone.json(&json!({ "code": scanned.code })).send().await.unwrap().status(), 200);
    browser.frame("scanned").await;
    assert_eq!(server.phone("ann").confirm(&scanned).await.status, 200, "a phone that is not behind the proxy");
    let token = browser.frame("confirmed").await["web_token"].as_str().unwrap().to_owned();
    let issuer = claims_of(&token)["iss"].as_str().unwrap().to_owned();
    assert_eq!(issuer, *public_url);
    let keys = site.call(Method::GET, &format!("{issuer}/.well-known/jwks.json"), None).await;
    assert!(keys.body["keys"][0]["kid"].is_string(), "{keys:?}");

    let description = site.call(Method::GET, &format!("{public_url}/openapi.json"), None).await.body;
    assert_eq!(description["servers"], json!([{ "url": public_url }]));
    for (path, calls) in description["paths"].as_object().unwrap() {
        let url = format!("{public_url}{}", path.replace("{session_id}", &"A".repeat(43)));
        for method in calls.as_object().unwrap().keys() {
            let answer = site.call(method.to_uppercase().parse().unwrap(), &url, None).await;
            let is_of_a_route = ![404, 405].contains(&answer.status.as_u16()) || path.contains("{session_id}");
            assert!(is_of_a_route, "{method} {url}: {answer:?}");
        }
    }
    for module in ["js/qr-login.js", "js/core.js", concat!("js/", env!("CARGO_PKG_VERSION"), "/qr-login.js")] {
        assert_eq!(site.call(Method::GET, &format!("{public_url}/{module}"), None).await.status, 200, "{module}");
    }

    // Refusals of upgrades and of other requests.
    assert_eq!(site.socket(&format!("{BASE}/v1/ws/qr/{}", "A".repeat(43)), None).await.err(), Some(404));
    let plain = site.call(Method::GET, &format!("{public_url}/v1/ws/qr/x"), None).await;
    assert_eq!(plain.refusal(), "426 upgrade_required");
    assert_eq!(site.call(Method::GET, &format!("{public_url}/nowhere"), None).await.refusal(), "404 not_found");
    assert_eq!(site.outside.lock().unwrap().as_slice(), [""; 0], "URLs outside the server's path");

    let metrics = server.metrics().await;
    assert!(metrics.contains(r#"route="/v1/qr-login/generate",status="201""#), "{metrics}");
    assert!(metrics.contains(r#"route="/v1/ws/qr/{session_id}",status="101""#), "{metrics}");
    assert!(!metrics.contains(BASE), "{metrics}");
    site.server.stop().await;
}

#[test]
async fn handed_out_urls_work_behind_a_proxy_that_strips_the_path() {
    handed_out_urls_work_behind_a_proxy(true).await;
}

#[test]
async fn handed_out_urls_work_behind_a_proxy_that_keeps_the_path() {
    handed_out_urls_work_behind_a_proxy(false).await;
}

#[test]
async fn request_head_in_single_bytes_is_routed_with_the_path_and_without() {
    let server = Server::start_with(|settings| settings.public_url = "https://login.example/a/b".to_owned()).await;
    let unknown = format!("/v1/ws/qr/{}", "A".repeat(43));
    for (path, status) in [
        (unknown.clone(), 404),
        (format!("/a/b{unknown}"), 404),
        ("/openapi.json".to_owned(), 200),
        ("/a/b/openapi.json".to_owned(), 200),
        ("/a/c/openapi.json".to_owned(), 404),
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        for byte in head.bytes() {
            stream.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut answer = [0; 12];
        within("the request is answered", stream.read_exact(&mut answer)).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), format!("HTTP/1.1 {status}"), "{path}");
    }
    server.stop().await;
}
