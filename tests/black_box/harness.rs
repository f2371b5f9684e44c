//! A server in this process, a browser that waits, and a phone.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::{SinkExt as _, StreamExt as _};
use qrlogin::app::{self, Listeners, Parts, Reload, ServeError};
use qrlogin::bus::{Bus, LocalBus};
use qrlogin::clock::{Clock, Hands};
use qrlogin::config::Settings;
use qrlogin::geo::Geo;
use qrlogin::metrics::Metrics;
use qrlogin::session::Timestamp;
use qrlogin::shutdown::Shutdown;
use qrlogin::store::{SqliteStore, Store};
use qrlogin::token::{KeyRing, open_code_secret, sign_app_token};
use reqwest::{Method, StatusCode};
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Error, Message, http};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::failing_store::FailingStore;

pub const SECRET: &str = "a secret of at least thirty-two bytes, for tests";
/// When the tests' time begins: 2030-01-01T00:00:00Z.
pub const START: Timestamp = Timestamp::from_millis(1_893_456_000_000);

/// A server in this process.
pub struct Server {
    pub base: String,
    pub ops: String,
    pub address: std::net::SocketAddr,
    pub hands: Hands,
    pub clock: Clock,
    pub store: Arc<FailingStore>,
    pub http: reqwest::Client,
    shutdown: Shutdown,
    running: JoinHandle<Result<(), ServeError>>,
    dir: TempDir,
}

impl Server {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// The directory of its database, `test.db`, and of its keys.
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    pub async fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        let (dir, settings) = Self::settings(change);
        let (clock, hands) = Clock::manual(START);
        let store = Arc::new(SqliteStore::open(settings.database_url.expose(), clock.clone()).unwrap());
        Self::run(dir, settings, (clock, hands), store, Arc::new(LocalBus::default()), Arc::default()).await
    }

    /// One node of many, on this Postgres, and on this Redis if there is one; its bus as `wrap` makes it. Its time is
    /// Postgres's.
    pub async fn node(
        url: &str,
        bus_url: Option<&str>,
        keys: PathBuf,
        wrap: impl FnOnce(Arc<dyn Bus>) -> Arc<dyn Bus>,
    ) -> Self {
        let (dir, settings) = Self::settings(|settings| {
            settings.token.key_dir = keys;
            settings.database_url = url.into();
            settings.bus_url = bus_url.unwrap_or_default().into();
        });
        let clock = Clock::shared();
        let parts = Parts::open(settings.clone(), clock.clone(), None).await.unwrap();
        // Nobody moves this node's time.
        let (_, hands) = Clock::manual(START);
        Self::run(dir, settings, (parts.clock, hands), parts.store, wrap(parts.bus), parts.metrics).await
    }

    fn settings(change: impl FnOnce(&mut Settings)) -> (TempDir, Settings) {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.listen.set_port(0);
        settings.ops_listen.set_port(0);
        settings.database_url = format!("sqlite://{}", dir.path().join("test.db").display()).into();
        settings.token.key_dir = dir.path().join("keys");
        settings.app_auth.hmac_secret = SECRET.into();
        // Everybody here has one address. What has to do with limits turns them on.
        settings.limits.enabled = false;
        change(&mut settings);
        settings.check().unwrap();
        (dir, settings)
    }

    async fn run(
        dir: TempDir,
        settings: Settings,
        (clock, hands): (Clock, Hands),
        store: Arc<dyn Store>,
        bus: Arc<dyn Bus>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let listeners = Listeners::bind(&settings).unwrap();
        let address = listeners.public.local_addr().unwrap();
        let ops = format!("http://{}", listeners.ops.local_addr().unwrap());
        let store = Arc::new(FailingStore::new(store));
        let parts = Parts {
            keys: KeyRing::open(&settings.token.key_dir, clock.clone()).unwrap(),
            code_secret: open_code_secret(&settings.token.key_dir).unwrap(),
            app_auth: app::app_auth(&settings.app_auth, &clock).unwrap(),
            geo: Geo::open(&settings.geoip.city_file, &settings.geoip.asn_file).unwrap(),
            settings,
            clock: clock.clone(),
            metrics,
            store: store.clone(),
            bus,
            demo: None,
        };
        let shutdown = Shutdown::new();
        let running = tokio::spawn(app::run(parts, listeners, shutdown.clone(), Reload::default()));
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { base: format!("http://{address}"), ops, address, hands, clock, store, http, shutdown, running, dir }
    }

    /// Any request; `body` is sent as JSON.
    pub async fn request(&self, method: Method, path: &str, token: Option<&str>, body: Option<Value>) -> Answer {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        Answer::of(request.send().await.unwrap()).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.request(Method::GET, path, None, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.request(Method::POST, path, None, Some(body)).await
    }

    pub async fn generate(&self) -> Session {
        let answer = self.post("/v1/qr-login/generate", json!({})).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
        let text = |field: &str| answer.body[field].as_str().unwrap().to_owned();
        Session { id: text("session_id"), code: text("code"), ws_path: text("ws_path") }
    }

    pub async fn status(&self, session: &Session) -> Answer {
        self.get(&format!("/v1/qr-login/status/{}", session.id)).await
    }

    pub async fn ack(&self, session: &Session) -> Answer {
        self.post("/v1/qr-login/ack", json!({ "session_id": session.id })).await
    }

    pub async fn cancel(&self, session: &Session) -> Answer {
        self.post("/v1/qr-login/cancel", json!({ "session_id": session.id })).await
    }

    /// A browser that waits for this session.
    pub async fn browser(&self, session: &Session) -> Browser {
        Browser::open(self, &session.ws_path, None).await.unwrap()
    }

    /// A new session, and a browser that has been told `pending`.
    pub async fn waiting(&self) -> (Session, Browser) {
        let session = self.generate().await;
        let mut browser = self.browser(&session).await;
        browser.frame("pending").await;
        (session, browser)
    }

    /// A browser that acknowledges its token itself.
    pub async fn acknowledging_browser(&self, session: &Session) -> Browser {
        Browser::open(self, &session.ws_path, Some("qrlogin.ack")).await.unwrap()
    }

    /// The phone of this user.
    pub fn phone(&self, user: &str) -> Phone<'_> {
        Phone { server: self, token: self.app_token(json!({ "sub": user, "name": format!("Name of {user}") })) }
    }

    /// An app token of these claims, good for ten minutes more.
    pub fn app_token(&self, claims: Value) -> String {
        let Value::Object(mut claims) = claims else { panic!("claims are an object") };
        let expires = self.clock.wall().as_seconds() + 600;
        claims.entry("exp").or_insert(expires.into());
        sign_app_token(SECRET.as_bytes(), &claims).unwrap()
    }

    pub async fn metrics(&self) -> String {
        self.http.get(format!("{}/metrics", self.ops)).send().await.unwrap().text().await.unwrap()
    }

    /// The value of this line of `/metrics`.
    pub async fn metric(&self, name: &str) -> i64 {
        let metrics = self.metrics().await;
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is missing in:\n{metrics}")).parse().unwrap()
    }

    pub async fn closed(&self, reason: &str) -> i64 {
        self.metric(&format!("qrlogin_connections_closed_total{{reason=\"{reason}\"}}")).await
    }

    pub async fn active(&self) -> i64 {
        self.metric("qrlogin_active_connections").await
    }

    /// Waits until that many browsers wait: what the other end of a socket does is seen a moment later.
    pub async fn until_active(&self, expected: i64) {
        for _ in 0..20_000 {
            if self.active().await == expected {
                return;
            }
        }
        panic!("active connections stay at {} and do not become {expected}", self.active().await);
    }

    /// As the last, of several nodes together.
    pub async fn until_active_in_all(&self, nodes: &[Self], expected: i64) {
        for _ in 0..20_000 {
            let mut active = 0;
            for node in nodes {
                active += node.active().await;
            }
            if active == expected {
                return;
            }
        }
        panic!("active connections do not become {expected}");
    }

    /// Lets time pass, second by second, until this browser sees something that is not a ping.
    pub async fn let_time_pass_until_seen(&self, browser: &mut Browser) -> Seen {
        let passing = async {
            loop {
                self.hands.advance_seconds(1);
                // A round trip, in which the server has its turn.
                self.active().await;
            }
        };
        let seeing = async {
            loop {
                match browser.next().await {
                    Seen::Ping => {}
                    seen => return seen,
                }
            }
        };
        tokio::select! {
            biased;
            seen = seeing => seen,
            () = passing => unreachable!("time passes for ever"),
        }
    }

    /// Asks the server to stop, and waits until it has.
    pub async fn stop(self) {
        self.shutdown.stop();
        self.stopped().await.unwrap();
    }

    /// Waits until it has stopped; whether that was in order.
    pub async fn stopped(self) -> Result<(), ServeError> {
        self.running.await.unwrap()
    }

    pub fn begin_to_stop(&self) {
        self.shutdown.stop();
    }
}

/// A session, as the browser knows it.
#[derive(Debug, Clone)]
pub struct Session {
    pub id: String,
    pub code: String,
    pub ws_path: String,
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    pub async fn of(response: reqwest::Response) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.unwrap();
        Self { status, headers, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) }
    }

    /// Status and stable code, as in `409 already_decided`; of a success, the status alone.
    pub fn refusal(&self) -> String {
        match self.body["code"].as_str() {
            Some(code) if !self.status.is_success() => format!("{} {code}", self.status.as_u16()),
            _ => self.status.as_u16().to_string(),
        }
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// A phone on which somebody is logged in.
pub struct Phone<'a> {
    server: &'a Server,
    pub token: String,
}

impl Phone<'_> {
    pub async fn call(&self, verb: &str, session: &Session) -> Answer {
        let body = json!({ "code": session.code });
        self.server.request(Method::POST, &format!("/v1/qr-login/{verb}"), Some(&self.token), Some(body)).await
    }

    pub async fn scan(&self, session: &Session) -> Answer {
        self.call("scan", session).await
    }

    /// Confirms with this number.
    pub async fn pick(&self, session: &Session, number: &str) -> Answer {
        let body = json!({ "code": session.code, "number": number });
        self.server.request(Method::POST, "/v1/qr-login/confirm", Some(&self.token), Some(body)).await
    }

    pub async fn confirm(&self, session: &Session) -> Answer {
        self.call("confirm", session).await
    }

    pub async fn reject(&self, session: &Session) -> Answer {
        self.call("reject", session).await
    }
}

/// What a browser saw next.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    Frame(Value),
    Close(u16, String),
    Ping,
    /// The connection ended without a word.
    Cut,
}

/// A browser's WebSocket.
pub struct Browser {
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    pub subprotocol: Option<String>,
}

impl Browser {
    /// Opens a WebSocket; the status of the refusal if it is refused.
    pub async fn open(server: &Server, path: &str, subprotocol: Option<&str>) -> Result<Self, u16> {
        Self::send(Self::request(server, path, subprotocol)).await
    }

    /// A WebSocket's handshake.
    pub fn request(server: &Server, path: &str, subprotocol: Option<&str>) -> http::Request<()> {
        let mut request = format!("{}{path}", server.base.replace("http", "ws")).into_client_request().unwrap();
        if let Some(subprotocol) = subprotocol {
            request.headers_mut().insert("sec-websocket-protocol", subprotocol.parse().unwrap());
        }
        request
    }

    pub async fn send(request: http::Request<()>) -> Result<Self, u16> {
        match tokio_tungstenite::connect_async(request).await {
            Ok((socket, response)) => {
                let subprotocol = response.headers().get("sec-websocket-protocol");
                let subprotocol = subprotocol.map(|value| value.to_str().unwrap().to_owned());
                Ok(Self { socket, subprotocol })
            }
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    /// What comes next. Pings are answered and Closes returned, as browsers do.
    pub async fn next(&mut self) -> Seen {
        match self.socket.next().await {
            Some(Ok(Message::Text(text))) => Seen::Frame(serde_json::from_str(&text).unwrap()),
            Some(Ok(Message::Close(frame))) => {
                let frame = frame.expect("the server's Close has a code");
                // Reading on sends the Close back.
                while let Some(Ok(_)) = self.socket.next().await {}
                Seen::Close(frame.code.into(), frame.reason.to_string())
            }
            Some(Ok(Message::Ping(_))) => {
                self.socket.flush().await.unwrap();
                Seen::Ping
            }
            Some(Ok(other)) => panic!("unexpected: {other:?}"),
            Some(Err(_)) | None => Seen::Cut,
        }
    }

    /// The next frame, which has this status.
    pub async fn frame(&mut self, status: &str) -> Value {
        loop {
            match self.next().await {
                Seen::Frame(frame) if frame["status"] == status => return frame,
                Seen::Ping => {}
                other => panic!("expected {status}, saw {other:?}"),
            }
        }
    }

    /// Whatever the server had to say, and everything that was on its way to it, has arrived when this returns; there
    /// were only pings.
    pub async fn nothing_is_said(&mut self) {
        self.socket.send(Message::Ping("anything?".into())).await.unwrap();
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Ping(_))) => {}
                Some(Ok(Message::Pong(payload))) if payload == "anything?" => return,
                other => panic!("{other:?}"),
            }
        }
    }

    /// The next thing is a Close of this code.
    pub async fn closed(&mut self, code: u16) {
        loop {
            match self.next().await {
                Seen::Close(seen, _) if seen == code => return,
                Seen::Ping => {}
                other => panic!("expected Close {code}, saw {other:?}"),
            }
        }
    }

    /// Everything to the end.
    pub async fn rest(mut self) -> Vec<Seen> {
        let mut seen = Vec::new();
        loop {
            let next = self.next().await;
            let is_last = matches!(next, Seen::Close(..) | Seen::Cut);
            seen.push(next);
            if is_last {
                return seen;
            }
        }
    }

    /// Closes with this code, as a page does, and waits for the server to agree.
    pub async fn close(mut self, code: u16) {
        let frame = CloseFrame { code: CloseCode::from(code), reason: "".into() };
        drop(self.socket.close(Some(frame)).await);
        while let Some(Ok(_)) = self.socket.next().await {}
    }

    /// Cuts the connection with a reset, as a network that fails does.
    pub fn reset(self) {
        let stream = self.into_tcp();
        stream.set_zero_linger().unwrap();
    }

    pub fn into_tcp(self) -> TcpStream {
        match self.socket.into_inner() {
            MaybeTlsStream::Plain(stream) => stream,
            _ => unreachable!("no TLS here"),
        }
    }

    /// The same connection, spoken by hand.
    pub async fn raw(self) -> WebSocketStream<TcpStream> {
        WebSocketStream::from_raw_socket(self.into_tcp(), Role::Client, None).await
    }
}

/// An app token of these claims, good for ten minutes by the machine's own clock.
pub fn app_token(claims: Value) -> String {
    let Value::Object(mut claims) = claims else { panic!("claims are an object") };
    claims.entry("exp").or_insert((Clock::system().wall().as_seconds() + 600).into());
    sign_app_token(SECRET.as_bytes(), &claims).unwrap()
}

/// The token in the frames, if there is one.
pub fn token_in(seen: &[Seen]) -> Option<String> {
    seen.iter().find_map(|seen| match seen {
        Seen::Frame(frame) => frame["web_token"].as_str().map(ToOwned::to_owned),
        _ => None,
    })
}

/// What a `web_token` says, its signature verified against the server's published keys by another library than the
/// one that made it.
pub async fn verified(server: &Server, token: &str) -> Map<String, Value> {
    use jsonwebtoken::jwk::JwkSet;
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};

    let jwks: JwkSet = serde_json::from_value(server.get("/.well-known/jwks.json").await.body).unwrap();
    let kid = decode_header(token).unwrap().kid.unwrap();
    let key = DecodingKey::from_jwk(jwks.find(&kid).unwrap()).unwrap();
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.set_audience(&["http://localhost:8080"]);
    validation.set_issuer(&["http://localhost:8080"]);
    decode::<Map<String, Value>>(token, &key, &validation).unwrap().claims
}

/// What a token says, unverified.
pub fn claims_of(token: &str) -> Value {
    use base64::Engine as _;
    let part = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice(&part).unwrap()
}
