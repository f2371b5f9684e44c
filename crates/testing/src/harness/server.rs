//! A server that runs in this process.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use qrlogin::internals::app::{self, Listeners, Parts, Reload, ServeError};
use qrlogin::internals::cluster::bus::{Bus, LocalBus};
use qrlogin::internals::geo::Geo;
use qrlogin::internals::metrics::Metrics;
use qrlogin::internals::store::{SqliteStore, Store};
use qrlogin::internals::system::clock::{Clock, Hands};
use qrlogin::internals::system::shutdown::Shutdown;
use qrlogin::internals::token::{KeyRing, open_code_secret};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::{Answer, Browser, Phone, SECRET, START, Seen, Session, Settings, http_client};
use crate::failing_store::FailingStore;
use crate::keys::app_token_signed;
use crate::real_time::within;

/// A server that runs in this process.
pub struct Server {
    /// Base URL of the public port.
    pub base: String,
    /// Base URL of the operations port.
    pub ops: String,
    /// Address of the public port.
    pub address: std::net::SocketAddr,
    /// Moves the server's clock.
    pub hands: Hands,
    /// The server's clock.
    pub clock: Clock,
    /// The server's store.
    pub store: Arc<FailingStore>,
    /// The client with which the test calls the server.
    pub http: reqwest::Client,
    shutdown: Shutdown,
    running: JoinHandle<Result<(), ServeError>>,
    dir: TempDir,
}

impl Server {
    /// Starts a server with a SQLite database and the tests' settings.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Returns the server's own directory. It holds the SQLite database `test.db` and the keys, unless the server is a
    /// node on Postgres.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Like [`Self::start`], with settings that `change` has changed.
    pub async fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        let (dir, settings) = Self::settings(change);
        let (clock, hands) = Clock::manual(START);
        let store = Arc::new(SqliteStore::open(settings.database_url.expose(), clock.clone()).unwrap());
        Self::run(dir, settings, (clock, hands), store, Arc::new(LocalBus::default()), Arc::default()).await
    }

    /// Starts one of several nodes on the Postgres at `url`, with its keys in `keys`. The bus is Redis if `bus_url` is
    /// given, else Postgres. The node uses what `wrap` makes of the bus.
    pub async fn node(
        url: &str,
        bus_url: Option<&str>,
        keys: PathBuf,
        wrap: impl FnOnce(Arc<dyn Bus>) -> Arc<dyn Bus>,
    ) -> Self {
        Self::node_with(url, bus_url, keys, wrap, |_| {}).await
    }

    /// Starts a node as [`Server::node`] does, with changed settings.
    pub async fn node_with(
        url: &str,
        bus_url: Option<&str>,
        keys: PathBuf,
        wrap: impl FnOnce(Arc<dyn Bus>) -> Arc<dyn Bus>,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let (dir, settings) = Self::settings(|settings| {
            settings.token.key_dir = keys;
            settings.database_url = url.into();
            settings.bus_url = bus_url.unwrap_or_default().into();
            change(settings);
        });
        let clock = Clock::shared();
        let parts = Parts::open(settings.clone(), clock.clone(), None).await.unwrap();
        // The node follows Postgres's clock. These hands belong to a clock that nothing reads.
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
        // All test clients share one address, so limits are off unless a test turns them on.
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
        let keys = KeyRing::open(&settings.token.key_dir, clock.clone()).unwrap();
        let sealer = app::sealer(&settings).unwrap();
        let parts = Parts {
            code_secret: open_code_secret(&settings.token.key_dir).unwrap(),
            app_auth: app::app_auth(&settings, &clock).unwrap(),
            clients: app::clients(&settings, &keys).unwrap(),
            approval: app::approval(&settings, &clock, sealer.as_ref(), false).unwrap(),
            keys,
            sealer,
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
        let http = http_client();
        Self { base: format!("http://{address}"), ops, address, hands, clock, store, http, shutdown, running, dir }
    }

    /// Sends a request, with `token` as its bearer token and `body` as JSON.
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

    /// Sends a GET request without a token.
    pub async fn get(&self, path: &str) -> Answer {
        self.request(Method::GET, path, None, None).await
    }

    /// Sends a POST request without a token, with `body` as JSON.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.request(Method::POST, path, None, Some(body)).await
    }

    /// Creates a session.
    pub async fn generate(&self) -> Session {
        let answer = self.post("/v1/qr-login/generate", json!({})).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
        let text = |field: &str| answer.body[field].as_str().unwrap().to_owned();
        Session { id: text("session_id"), code: text("code"), ws_path: text("ws_path") }
    }

    /// Asks for the session's status.
    pub async fn status(&self, session: &Session) -> Answer {
        self.get(&format!("/v1/qr-login/status/{}", session.id)).await
    }

    /// Acknowledges the session's token.
    pub async fn ack(&self, session: &Session) -> Answer {
        self.post("/v1/qr-login/ack", json!({ "session_id": session.id })).await
    }

    /// Cancels the session, as its browser does.
    pub async fn cancel(&self, session: &Session) -> Answer {
        self.post("/v1/qr-login/cancel", json!({ "session_id": session.id })).await
    }

    /// Opens a WebSocket for the session.
    pub async fn browser(&self, session: &Session) -> Browser {
        Browser::open(self, &session.ws_path, None).await.unwrap()
    }

    /// Creates a session and opens a WebSocket for it that has received `pending`.
    pub async fn waiting(&self) -> (Session, Browser) {
        let session = self.generate().await;
        let mut browser = self.browser(&session).await;
        browser.frame("pending").await;
        (session, browser)
    }

    /// Opens a WebSocket with the subprotocol `qrlogin.ack`, on which the browser acknowledges its token by a message.
    pub async fn acknowledging_browser(&self, session: &Session) -> Browser {
        Browser::open(self, &session.ws_path, Some("qrlogin.ack")).await.unwrap()
    }

    /// Returns a phone on which `user` is logged in.
    pub fn phone(&self, user: &str) -> Phone<'_> {
        Phone { server: self, token: self.app_token(json!({ "sub": user, "name": format!("Name of {user}") })) }
    }

    /// Signs an app token with these claims. It expires in ten minutes unless the claims have an `exp`.
    pub fn app_token(&self, claims: Value) -> String {
        let mut claims = claims;
        let object = claims.as_object_mut().expect("claims are an object");
        object.entry("exp").or_insert((self.clock.wall().as_seconds() + 600).into());
        app_token_signed(SECRET.as_bytes(), &claims)
    }

    /// Returns the text of `/metrics`.
    pub async fn metrics(&self) -> String {
        self.http.get(format!("{}/metrics", self.ops)).send().await.unwrap().text().await.unwrap()
    }

    /// Returns the value of a metric. `name` includes the labels, as `/metrics` spells them.
    pub async fn metric(&self, name: &str) -> i64 {
        let metrics = self.metrics().await;
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is missing in:\n{metrics}")).parse().unwrap()
    }

    /// Returns the number of connections that have been closed for this reason.
    pub async fn closed(&self, reason: &str) -> i64 {
        self.metric(&format!("qrlogin_connections_closed_total{{reason=\"{reason}\"}}")).await
    }

    /// Returns the number of active connections. The request is also a round trip, which gives the server's tasks time
    /// to run.
    pub async fn active(&self) -> i64 {
        self.metric("qrlogin_active_connections").await
    }

    /// Waits until the server has `expected` active connections. The server notices what a client does to its socket a
    /// moment later.
    pub async fn until_active(&self, expected: i64) {
        for _ in 0..20_000 {
            if self.active().await == expected {
                return;
            }
        }
        panic!("active connections stay at {} and do not become {expected}", self.active().await);
    }

    /// Waits until `nodes` have `expected` active connections in total.
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

    /// Advances the clock second by second until the browser receives something other than a ping, and returns that.
    pub async fn advance_until_received(&self, browser: &mut Browser) -> Seen {
        let advancing = async {
            loop {
                self.hands.advance_seconds(1);
                self.active().await;
            }
        };
        let receiving = within("the browser receives something other than a ping", browser.skip_pings());
        tokio::select! {
            biased;
            seen = receiving => seen,
            () = advancing => unreachable!("the loop does not end"),
        }
    }

    /// Stops the server and waits until it has stopped. Panics if it failed.
    pub async fn stop(self) {
        self.shutdown.stop();
        self.stopped().await.unwrap();
    }

    /// Waits until the server has stopped. Returns its error if it failed.
    pub async fn stopped(self) -> Result<(), ServeError> {
        within("the server has stopped", self.running).await.unwrap()
    }

    /// Begins to stop the server, as SIGTERM does.
    pub fn begin_to_stop(&self) {
        self.shutdown.stop();
    }
}
